"""A TCP proxy in front of PostgreSQL whose connections can be cut, stalled and slowed down."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import make_url

Direction = Literal["to_server", "to_client"]
Moment = Literal["before", "within", "after", "stall"]

# Closing with this sends RST, as a crashed machine or a firewall does, instead of a polite FIN.
_RESET = struct.pack("ii", 1, 0)
_CHUNK = 65536
# The statement that commits, to its end: BEGIN ISOLATION LEVEL READ COMMITTED is another one.
COMMIT = b"COMMIT\0"


@dataclass(eq=False)
class _Link:
    """One connection: the client's socket and the server's."""

    client: socket.socket
    server: socket.socket
    # The server's next answer is swallowed, and the link cut.
    lose_answer: bool = False
    directions: int = 2
    cut: bool = False

    def reset(self) -> None:
        self.cut = True  # first: the threads that wake now must not say a polite goodbye
        for sock in (self.client, self.server):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            # Wakes the thread that reads; the close after it is what sends the RST.
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RD)
            sock.close()

    def finish(self, sock: socket.socket) -> None:
        """Pass on that one side has said its last word."""
        if not self.cut:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.client.close()
        self.server.close()


@dataclass
class _Plan:
    """Cuts the link on which something happens first."""

    pattern: bytes
    moment: Moment
    skip: int
    done: threading.Event


@dataclass
class _Budget:
    """Cuts the link on which so many bytes went in a direction, counted over all links."""

    direction: Direction
    left: int
    done: threading.Event


class Proxy:
    """Listens at a port of its own; every connection is passed on to the target.

    Attributes:
        delay: Seconds that every chunk waits, in each direction.
        links: How many connections were ever passed on.
        passed: How many bytes went in each direction, roughly: threads count without a lock.
    """

    def __init__(self, host: str, port: int) -> None:
        """Start in front of `host:port`."""
        self.delay = 0.0
        self.links = 0
        self.passed: dict[Direction, int] = {"to_server": 0, "to_client": 0}
        self._target = (host, port)
        self._lock = threading.Lock()
        self._live: set[_Link] = set()
        self._plan: _Plan | None = None
        self._budget: _Budget | None = None
        self._flowing = threading.Event()
        self._flowing.set()
        self._closed = False
        self.port = 0
        self._listener: socket.socket | None = None
        self._listen()

    # What tests do.

    def cut(self) -> None:
        """Reset every connection now, and refuse new ones until `heal()`."""
        with self._lock:
            listener, self._listener = self._listener, None
            live, self._live = self._live, set()
        if listener is not None:
            _stop_listening(listener)
        for link in live:
            link.reset()

    def cut_live(self) -> None:
        """Reset every connection now; new ones are welcome."""
        with self._lock:
            live, self._live = self._live, set()
        for link in live:
            link.reset()

    def stall(self) -> None:
        """Accept connections and pass on nothing more, in either direction, until `heal()`."""
        self._flowing.clear()

    def heal(self) -> None:
        """Pass on again whatever waits, and accept new connections."""
        with self._lock:
            self._plan = self._budget = None
        self.delay = 0.0
        self._flowing.set()
        if self._listener is None:
            self._listen()

    def cut_at(self, pattern: bytes, moment: Moment, *, skip: int = 0) -> threading.Event:
        """Reset the connection whose client sends `pattern`; return what is set when it is done.

        Args:
            pattern: As it stands in the protocol, such as `COMMIT`.
            moment: `before` it reaches the server, in the middle of it (`within`), or `after` the
                server has answered, whose answer is lost; `stall` keeps the connection, and
                nothing passes on any of them from here on.
            skip: How many times to let it pass first.
        """
        done = threading.Event()
        with self._lock:
            self._plan = _Plan(pattern, moment, skip, done)
        return done

    def cut_after(self, count: int, direction: Direction) -> threading.Event:
        """Reset the connection that carries the byte after so many, counted from now on."""
        done = threading.Event()
        with self._lock:
            self._budget = _Budget(direction, count, done)
        return done

    @property
    def connections(self) -> int:
        """How many connections there are."""
        with self._lock:
            return len(self._live)

    def close(self) -> None:
        """End everything."""
        self._closed = True
        self._flowing.set()
        self.cut()

    # On threads of its own.

    def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(128)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._start(lambda: self._accept(listener))

    def _start(self, work: Callable[[], None]) -> None:
        threading.Thread(target=work, name="proxy", daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self._start(lambda client=client: self._open(client, listener))  # type: ignore[misc]

    def _open(self, client: socket.socket, listener: socket.socket) -> None:
        try:
            server = socket.create_connection(self._target, 5)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        for sock in (client, server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = _Link(client, server)
        with self._lock:
            welcome = self._listener is listener
            if welcome:
                self._live.add(link)
                self.links += 1
        if not welcome:  # it was cut meanwhile
            link.reset()
            return
        self._start(lambda: self._pass_on(link, link.server, link.client, "to_client"))
        self._pass_on(link, link.client, link.server, "to_server")

    def _pass_on(
        self, link: _Link, source: socket.socket, sink: socket.socket, direction: Direction
    ) -> None:
        try:
            while chunk := source.recv(_CHUNK):
                self._flowing.wait()
                if self.delay:
                    time.sleep(self.delay)
                if self._cut_by_plan(link, chunk, direction):
                    return
                self._flowing.wait()
                sink.sendall(chunk)
                self.passed[direction] += len(chunk)
            self._flowing.wait()
            link.finish(sink)
        except OSError:
            self._cut_link(link)
            return
        with self._lock:
            link.directions -= 1
            over = link.directions == 0
        if over:
            self._forget(link)
            link.close()

    def _cut_by_plan(self, link: _Link, chunk: bytes, direction: Direction) -> bool:
        if direction == "to_client" and link.lose_answer:
            self._cut_link(link)
            return True
        part, done = self._allowed(link, chunk, direction)
        if done is None:
            return False
        if direction == "to_server":
            link.lose_answer = True  # a quick one must not slip through before the cut
        with contextlib.suppress(OSError):
            (link.server if direction == "to_server" else link.client).sendall(part)
        self._cut_link(link)
        done.set()
        return True

    def _allowed(
        self, link: _Link, chunk: bytes, direction: Direction
    ) -> tuple[bytes, threading.Event | None]:
        """Return how much of a chunk may still pass, and what to set if that is not all."""
        with self._lock:
            budget, plan = self._budget, self._plan
            if budget is not None and budget.direction == direction:
                budget.left -= len(chunk)
                if budget.left < 0:
                    self._budget = None
                    return chunk[: budget.left], budget.done
            if plan is None or direction != "to_server" or plan.pattern not in chunk:
                return chunk, None
            if plan.skip > 0:
                plan.skip -= 1
                return chunk, None
            self._plan = None
            if plan.moment == "stall":
                self._flowing.clear()
                plan.done.set()
                return chunk, None
            if plan.moment == "after":
                link.lose_answer = True
                plan.done.set()
                return chunk, None
            start = chunk.index(plan.pattern)
            end = start + (len(plan.pattern) // 2 if plan.moment == "within" else 0)
            return chunk[:end], plan.done

    def _cut_link(self, link: _Link) -> None:
        self._forget(link)
        link.reset()

    def _forget(self, link: _Link) -> None:
        with self._lock:
            self._live.discard(link)


def _stop_listening(listener: socket.socket) -> None:
    # Without it the thread that accepts would take one connection more.
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@contextlib.contextmanager
def proxy_of(url: str) -> Generator[tuple[Proxy, str]]:
    """Open a proxy in front of a PostgreSQL database; yield it and the database's URL behind it."""
    parsed = make_url(url)
    proxy = Proxy(parsed.host or "127.0.0.1", parsed.port or 5432)
    through = parsed.set(host="127.0.0.1", port=proxy.port)
    try:
        yield proxy, through.render_as_string(hide_password=False)
    finally:
        proxy.close()
