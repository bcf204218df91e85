"""The guard: HTTP/1.1 off the wire, and nothing that two readers could understand differently.

llhttp, which parses, refuses two lengths, a length beside chunks, bare line ends and folded lines.
What it lets pass and RFC 9112 forbids, or what costs a server more than its sender, is refused
here, before the application hears of it: the connection is told once, then whatever it sends is
thrown away.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Any, ClassVar

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from netscript_triggers.watch import Watch
from netscript_workers.problems import PROBLEM_TYPE, problem, to_bytes

MAX_HEAD = 32 * 1024
MAX_HEADERS = 100
# Requests that one connection may send before it has the answer to the first.
MAX_PIPELINED = 32
# What chunks may add to a body: their sizes, and whatever else is sent between them.
_MAX_FRAMING = 64 * 1024
_FRAMING_PER_BYTE = 16
# What is still taken, and thrown away, from somebody who has had the answer.
_MAX_IGNORED = 8 * 1_048_576
_ORIGIN = "a request"


class _Part(Enum):
    """How much of a request has come."""

    HEAD = "head"
    BODY = "body"
    DONE = "done"


_HEAD, _BODY, _DONE = _Part.HEAD, _Part.BODY, _Part.DONE


class _RefusedError(Exception):
    """Stops the parser; what is answered stands in `_fault`."""


def guarded(watch: Watch) -> type[Guard]:
    """Return the protocol for a server's `http=`, under this watch."""
    return type("Guard", (Guard,), {"watch": watch})


class Guard(HttpToolsProtocol):
    """A connection.

    Attributes:
        watch: Over all of the server's connections.
        held: Bytes of its unfinished body.
    """

    watch: ClassVar[Watch]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Take a connection of this server."""
        super().__init__(config, server_state, app_state, _loop)
        self.held = 0
        self._part = _DONE
        self._fault: tuple[int, str] = (400, "malformed")
        # What is said once those before it have been answered.
        self._last_words: tuple[int, str] | None = None
        self._refused = False
        self._watched = False
        self._unanswered = 0
        self._begun = 0
        self._fed = 0
        self._segment = 0
        self._size = 0
        self._known_headers = 0
        # The request that the application has; others may wait behind it.
        self._running: RequestResponseCycle | None = None

    # What the transport calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn narrows it
        """Make room for it, and wait for its first request."""
        super().connection_made(transport)
        if len(self.connections) > self.watch.limits.connections and not self.watch.make_room():
            self._refused = True
            self._say(503, "too-many-connections")
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._get_on()
        self._hang_up()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        size = self._segment = len(data)
        if self._refused:
            self._fed += size
            if self._fed > _MAX_IGNORED:
                self._abort()
            return
        self._unset_keepalive_if_required()
        was, self._begun = self._part, 0
        assert self.parser is not None
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refused = True  # answered as any other request is, and the last one here
        except httptools.HttpParserError:
            self._refuse(*self._fault)
            return
        if self._part is not _DONE:
            # What came before the message in the same segment is not its own.
            if not self._begun or (was is _DONE and self._begun == 1):
                self._fed += size
            self._check_unfinished()
            self._wait()
        elif self._unanswered and not self.flow.write_paused:
            self._get_on()
        else:
            self._wait()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def eof_received(self) -> bool:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride] - asyncio's protocol says so
        """Answer who has ended its own side after a whole request, then end it; end others now."""
        waits = self._part is _DONE and self._unanswered > 0
        if not waits or self._running is None or self._running.response_started:
            return False
        self.cycle.keep_alive = False
        return True

    def pause_writing(self) -> None:
        """Wait for it to take what it was sent."""
        super().pause_writing()
        self._wait()

    def resume_writing(self) -> None:
        """It takes it."""
        super().resume_writing()
        if self._part is _DONE and self._unanswered:
            self._get_on()

    def on_response_complete(self) -> None:
        """Go on with the next request, or say the last words."""
        self._unanswered -= 1
        super().on_response_complete()
        if self._last_words is not None and not self._unanswered:
            self._say(*self._last_words)
        if not self._unanswered and not self.transport.is_closing():
            self._wait()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Count anew."""
        super().on_message_begin()
        self._part = _HEAD
        self._begun += 1
        self._fed = self._size = 0

    def on_headers_complete(self) -> None:
        """Let the application have the request, if there is nothing against it."""
        fault = self._fault_of_head()
        if fault is not None:
            self._fault = fault
            raise _RefusedError
        super().on_headers_complete()
        self._part = _BODY
        self._unanswered += 1
        self._known_headers = len(self.headers)
        assert self.parser is not None
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Count it."""
        self._size += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole, unless fields follow that would change what its head says."""
        if len(self.headers) != self._known_headers:
            self._fault = (400, "trailers")
            raise _RefusedError
        self._part = _DONE
        super().on_message_complete()

    # What the watch calls.

    def expire(self, reason: str) -> None:
        """End it: with an answer where a request has begun and none has been given."""
        idle = self._refused or self._part is _DONE or self._answered_early()
        if idle or self.flow.write_paused:
            self._abort()
        else:
            self._refuse(408, reason)
            if self._last_words is None:
                self.transport.close()
        self._get_on()

    def _fault_of_head(self) -> tuple[int, str] | None:
        """Return what is wrong with a head (RFC 9112, sections 2.3, 3.2 and 6.1)."""
        if len(self.headers) > MAX_HEADERS or self._is_long():
            return 431, "head-too-large"
        assert self.parser is not None
        version = self.parser.get_http_version()
        hosts, told, has_body = 0, b"", False
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
            elif name == b"content-length":
                has_body = value.strip(b"0 ") != b""
            elif name == b"transfer-encoding":
                told, has_body = value.strip().lower(), True
        fault = None
        if told and (version != "1.1" or told != b"chunked"):
            fault = "transfer-encoding"
        elif hosts != 1 and (version == "1.1" or hosts):
            fault = "host"
        elif version not in ("1.1", "1.0"):
            fault = "version"
        elif b"#" in self.url:
            fault = "target"
        elif len(self.pipeline) >= MAX_PIPELINED:
            fault = "pipelined"
        elif has_body and self.parser.should_upgrade():
            fault = "upgrade"  # the parser takes the body for the other protocol's
        return None if fault is None else (400, fault)

    def _is_long(self) -> bool:
        if self._fed + self._segment <= MAX_HEAD:
            return False
        fields = sum(len(name) + len(value) + 4 for name, value in self.headers)
        return len(self.url) + fields > MAX_HEAD

    def _check_unfinished(self) -> None:
        """Refuse what grows out of sight: a head without an end, or what stands between chunks."""
        if self._part is _HEAD:
            if self._fed > MAX_HEAD or len(self.headers) > MAX_HEADERS:
                self._refuse(431, "head-too-large")
            return
        if len(self.headers) != self._known_headers:
            self._refuse(400, "trailers")
        elif self._fed - self._size > _MAX_FRAMING + _FRAMING_PER_BYTE * self._size:
            self._refuse(400, "chunks")
        elif self._answered_early():
            if self._size > _MAX_IGNORED:
                self._abort()
        else:
            more, self.held = self._size - self.held, self._size
            self._wait()
            self.watch.hold(more)

    def _answered_early(self) -> bool:
        """Tell whether the request whose body comes has had its answer."""
        return self._part is _BODY and self.cycle.response_complete

    def _refuse(self, status: int, reason: str) -> None:
        """Answer, after those that came before, and hear no more."""
        self._refused = True
        if self._part is _BODY and not self.cycle.response_complete:
            self._take_back()
        elif self._part is _BODY:  # the answer is given already
            self.watch.refusals.note(_ORIGIN, reason)
            self.transport.close()
            return
        if self._unanswered:
            self._last_words = (status, reason)
        else:
            self._say(status, reason)

    def _take_back(self) -> None:
        """Let the application know that the rest of this request will never come."""
        cycle = self.cycle
        self._unanswered -= 1
        if self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline.popleft()
        self.watch.hold(-self.held)
        self.held = 0
        cycle.disconnected = True
        cycle.message_event.set()
        if cycle.response_started:  # half an answer can't be mended
            self._abort()

    def _abort(self) -> None:
        self._hang_up()
        self.transport.abort()

    def _hang_up(self) -> None:
        """Let the application know that nobody reads its answer any more.

        Of several requests on one connection uvicorn tells only the last.
        """
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()

    def _say(self, status: int, reason: str) -> None:
        """Write an answer and end our side; the sender may be about to read it still."""
        self._last_words = None
        self.watch.refusals.note(_ORIGIN, reason)
        if self.transport.is_closing():
            return
        body = to_bytes(problem(status, _CODES[status]))
        retry = "retry-after: 1\r\n" if status == 503 else ""
        head = (
            f"HTTP/1.1 {status} {_PHRASES[status]}\r\ncontent-type: {PROBLEM_TYPE}\r\n"
            f"content-length: {len(body)}\r\n{retry}connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._fed = 0
        self._wait()

    def _wait(self) -> None:
        if not self._watched:
            self._watched = True
            self.watch.begin(self, self.loop)

    def _get_on(self) -> None:
        if self._watched:
            self._watched = False
            self.watch.end(self, self.held)
            self.held = 0


_CODES = {
    400: "malformed",
    408: "timeout",
    431: "head-too-large",
    503: "too-many-connections",
}
_PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}
