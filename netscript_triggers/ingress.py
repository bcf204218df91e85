"""The webhook edge: bare ASGI in front of the API, for this is where machines pour in.

Route, method, size, signature, content type, payload, duplicate, handler, commit, 202: in this
order, so that who proves nothing costs little and learns nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from netscript_triggers.coordinator import Coordinator, Delivery
from netscript_triggers.definitions import WebhookDefinition
from netscript_triggers.events import EventStatus, WebhookEvent
from netscript_triggers.filters import shown_type, type_of
from netscript_triggers.payloads import read_payload
from netscript_triggers.records import Accepted
from netscript_triggers.secrets import secrets_of
from netscript_triggers.states import TriggerStates
from netscript_triggers.verifiers import Answer, RawRequest, Scheme, Verified
from netscript_workers.clock import SYSTEM_CLOCK, from_micros
from netscript_workers.errors import (
    NetscriptError,
    PayloadInvalidError,
    StoreUnavailableError,
    VerificationError,
)
from netscript_workers.ids import new_id
from netscript_workers.problems import PROBLEM_TYPE, problem, to_bytes

logger = logging.getLogger(__name__)

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = Sequence[tuple[bytes, bytes]]

BODY_SECONDS = 30.0
RETRY_AFTER_SECONDS = 5
_SWEEP_SECONDS = 1.0
# A sender's own credentials have no business in our tables.
_PRIVATE = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})
# One line a second for each trigger and reason, however many deliveries are refused.
_LOG_EVERY_SECONDS = 1.0
_MAX_ID = 200
_MAX_TRACE = 512
_TRACEPARENT = (b"traceparent",)
_TRACESTATE = (b"tracestate",)


class _Refusal(Exception):  # noqa: N818 - an answer, not an error
    """What the sender is told, and the reason that only we are told."""

    def __init__(
        self,
        status: int,
        reason: str,
        detail: str | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        **extra: Any,
    ) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers
        self.body = to_bytes(problem(status, _CODES[status], detail, **extra))


_CODES = {
    400: "malformed",
    401: "signature",
    405: "method",
    408: "timeout",
    413: "too-large",
    415: "content-type",
    503: "store-unavailable",
}


class Ingress:
    """An ASGI application that answers declared webhook paths and passes on all others.

    Attributes:
        refused: How many deliveries were refused, by trigger and reason.
    """

    def __init__(
        self,
        app: App,
        routes: Mapping[str, WebhookDefinition[Any]],
        coordinator: Coordinator,
        *,
        states: TriggerStates | None = None,
        environment: Mapping[str, str] = os.environ,
        public_url: str = "",
        now: Callable[[], float] = time.time,
    ) -> None:
        """Stand in front of `app`.

        Args:
            app: Gets every other request.
            routes: The webhooks by path.
            coordinator: Takes verified deliveries.
            states: Which webhooks are disabled: of those nobody learns that they are there.
            environment: Where secrets are read, at each request.
            public_url: What senders call us by, for signatures of the URL.
            now: Seconds since the epoch, for signed timestamps.
        """
        self._app = app
        self._routes = routes
        self._coordinator = coordinator
        self._states = states or TriggerStates()
        self._environment = environment
        self._public_url = public_url
        self._now = now
        self._reading: dict[asyncio.Task[Any], float] = {}
        self._sweeping = False
        self._logged: dict[tuple[str, str], float] = {}
        self.refused: Counter[tuple[str, str]] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        trigger = self._routes.get(scope["path"]) if scope["type"] == "http" else None
        if trigger is None or not self._states.is_enabled(trigger.id):
            await self._app(scope, receive, send)
            return
        try:
            answer = await self._deliver(trigger, scope, receive)
        except _Refusal as refusal:
            self._note(trigger, refusal.reason)
            kind = PROBLEM_TYPE.encode()
            await _respond(send, refusal.status, kind, refusal.body, refusal.headers)
        except ConnectionError:  # the sender went away before the end of its body
            return
        else:
            if isinstance(answer, Answer):
                await _respond_handshake(send, answer)
            else:
                await _respond(send, 202, b"application/json", answer)

    async def _deliver(
        self, trigger: WebhookDefinition[Any], scope: Scope, receive: Receive
    ) -> bytes | Answer:
        method: str = scope["method"]
        if method not in trigger.methods and method not in _asked_by(trigger):
            raise _wrong_method(trigger)
        headers: Headers = scope["headers"]
        body = await self._read_body(headers, receive, trigger.max_body)
        request = RawRequest(
            method,
            scope["path"],
            headers,
            body,
            scope["query_string"],
            scope.get("raw_path") or b"",
            self._public_url,
        )
        verified = await self._verify(trigger, request)
        if isinstance(verified, Answer):
            return verified
        _check_content(headers, getattr(trigger.verifier, "media_types", ()))
        try:
            payload = read_payload(trigger, body)
        except PayloadInvalidError as error:
            extra: dict[str, Any] = {"errors": error.details} if error.details else {}
            raise _Refusal(400, "malformed", str(error), **extra) from None
        fingerprint = hashlib.sha256(body).hexdigest()
        received_at = SYSTEM_CLOCK.now()
        event = WebhookEvent(
            id=new_id(),
            trigger_id=trigger.id,
            kind=trigger.kind,
            status=EventStatus.PROCESSING,
            payload=payload,
            headers=_kept_headers(trigger, headers),
            body=body,
            idempotency_key=_key(trigger, verified, body, fingerprint),
            attempt=1,
            received_at=from_micros(received_at),
            traceparent=_trace(request, _TRACEPARENT),
            tracestate=_trace(request, _TRACESTATE),
            event_type=shown_type(verified.event_type) or type_of(payload),
        )
        return await self._accept(
            Delivery(trigger, event, fingerprint=fingerprint, received_at=received_at)
        )

    async def _read_body(self, headers: Headers, receive: Receive, limit: int) -> bytes:
        declared = [value for name, value in headers if name == b"content-length"]
        if declared and declared[0].isdigit() and int(declared[0][:20]) > limit:
            raise _too_large(limit)
        reader = asyncio.current_task()
        assert reader is not None
        self._reading[reader] = time.monotonic()
        if not self._sweeping:
            self._sweep()
        try:
            return await _read_chunks(receive, limit)
        except asyncio.CancelledError:
            if reader in self._reading:  # somebody else wants this to end
                raise
            reader.uncancel()
            raise _Refusal(408, "slow-body", "The body took too long.") from None
        finally:
            self._reading.pop(reader, None)

    def _sweep(self) -> None:
        """End the reading of bodies that takes too long; a timer for each body would cost more."""
        oldest = time.monotonic() - BODY_SECONDS
        for reader, since in list(self._reading.items()):
            if since > oldest:
                break
            del self._reading[reader]
            reader.cancel()
        self._sweeping = bool(self._reading)
        if self._sweeping:
            loop = asyncio.get_running_loop()
            loop.call_later(min(_SWEEP_SECONDS, BODY_SECONDS), self._sweep)

    async def _verify(
        self, trigger: WebhookDefinition[Any], request: RawRequest
    ) -> Verified | Answer:
        secrets = secrets_of(trigger, self._environment)
        now = self._now()
        try:
            if isinstance(trigger.verifier, Scheme):
                return await _converse(trigger, trigger.verifier, request, secrets, now)
            return trigger.verifier.verify(request, secrets, now)
        except _Refusal:
            raise
        except VerificationError as error:
            reason = error.reason
        except Exception as error:  # noqa: BLE001 - a broken verifier must not open the door
            reason = f"verifier-raised-{type(error).__name__}"
        # Whatever failed, the sender is told the same.
        raise _Refusal(401, reason, "The signature could not be verified.")

    async def _accept(self, delivery: Delivery) -> bytes:
        try:
            accepted = await self._coordinator.accept(delivery)
        except StoreUnavailableError:
            later = ((b"retry-after", str(RETRY_AFTER_SECONDS).encode()),)
            raise _Refusal(
                503, "store-unavailable", "Nothing was stored; send it again.", later
            ) from None
        except NetscriptError as error:
            raise _Refusal(400, error.code, error.message) from None
        return _answer(accepted)

    def _note(self, trigger: WebhookDefinition[Any], reason: str) -> None:
        counted = (trigger.id, reason)
        self.refused[counted] += 1
        now = time.monotonic()
        if now - self._logged.get(counted, float("-inf")) >= _LOG_EVERY_SECONDS:
            self._logged[counted] = now
            total = self.refused[counted]
            logger.warning("webhook %s refused a delivery: %s (%d so far)", *counted, total)


async def _converse(
    trigger: WebhookDefinition[Any],
    scheme: Scheme,
    request: RawRequest,
    secrets: Sequence[bytes],
    now: float,
) -> Verified | Answer:
    """Verify a delivery, or answer a sender that only asks; what it signs, once it is proven."""
    answer = scheme.handshake(request, None, secrets, now)
    if answer is None:
        if request.method not in trigger.methods:
            raise _wrong_method(trigger)
        await scheme.prepare(request, secrets, now)
        verified = scheme.verify(request, secrets, now)
        answer = scheme.handshake(request, verified, secrets, now)
        if answer is None:
            return verified
    if answer.first is not None:
        await answer.first()
    return answer


def _asked_by(trigger: WebhookDefinition[Any]) -> frozenset[str]:
    verifier = trigger.verifier
    return verifier.handshake_methods if isinstance(verifier, Scheme) else frozenset()


def _wrong_method(trigger: WebhookDefinition[Any]) -> _Refusal:
    allowed = ", ".join([*trigger.methods, *sorted(_asked_by(trigger))]).encode()
    return _Refusal(405, "method", headers=((b"allow", allowed),))


async def _read_chunks(receive: Receive, limit: int) -> bytes:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ConnectionResetError
    first: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(first) > limit:
            raise _too_large(limit)
        return first
    chunks, size = [first], len(first)
    while message.get("more_body", False):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > limit:
            raise _too_large(limit)
    return b"".join(chunks)


def _too_large(limit: int) -> _Refusal:
    return _Refusal(413, "too-large", f"The body may have {limit:,} bytes.")


def _check_content(headers: Headers, also: Collection[str] = ()) -> None:
    """Take JSON as JSON's media types, the sender's own or none; the rest would be a guess."""
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise _Refusal(415, "content-encoding", "Send the body without compression.")
        if name != b"content-type":
            continue
        kind, _, parameters = value.decode("latin-1").lower().partition(";")
        kind = kind.strip()
        charset = parameters.partition("charset=")[2].strip().strip('"')
        json_like = kind in ("", "application/json", "text/json", *also) or kind.endswith("+json")
        if not json_like or charset not in ("", "utf-8", "utf8", "us-ascii"):
            raise _Refusal(415, "content-type", "Send application/json in UTF-8.")


def _key(
    trigger: WebhookDefinition[Any], verified: Verified, body: bytes, body_digest: str
) -> str | None:
    """Return what makes this delivery the same as another one."""
    if trigger.dedupe is None:
        return None
    given = verified.delivery_id
    if given:
        if len(given) > _MAX_ID or "\0" in given or not given.isascii():
            given = hashlib.sha256(given.encode("utf-8", "surrogatepass")).hexdigest()
        # Whoever replays a signed body could change an id that is not signed, so alone it
        # proves nothing.
        return given if verified.id_signed else f"{given}:{body_digest}"
    if trigger.dedupe != "auto":
        return None
    if verified.signed is body:
        return body_digest
    return hashlib.sha256(verified.signed).hexdigest()


def _kept_headers(trigger: WebhookDefinition[Any], headers: Headers) -> dict[str, str]:
    """Return the headers by name, which ASGI gives in lower case, without credentials."""
    hidden = _hidden(trigger.verifier.private_headers)
    shown = [header for header in headers if header[0] not in hidden]
    kept = {name.decode("latin-1"): value.decode("latin-1") for name, value in shown}
    return kept if len(kept) == len(shown) else _joined(shown)


def _joined(headers: Headers) -> dict[str, str]:
    joined: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


@lru_cache(maxsize=256)
def _hidden(private: frozenset[str]) -> frozenset[bytes]:
    return frozenset(name.encode("latin-1") for name in _PRIVATE | private)


def _trace(request: RawRequest, name: tuple[bytes]) -> str | None:
    try:
        value = request.header(name)
    except VerificationError:  # which of two is meant can't be known
        return None
    if value is None or len(value) > _MAX_TRACE or not value.isascii():
        return None
    return value.decode("ascii")


def _answer(accepted: Accepted) -> bytes:
    """Write what the sender is told, as JSON; ids and statuses need no escaping."""
    executions = ",".join([f'"{id_}"' for id_ in accepted.executions])
    duplicate = "true" if accepted.duplicate else "false"
    return (
        f'{{"event_id":"{accepted.event_id}","status":"{accepted.status}",'
        f'"duplicate":{duplicate},"executions":[{executions}]}}'
    ).encode()


async def _respond(
    send: Send,
    status: int,
    kind: bytes,
    body: bytes,
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> None:
    length = str(len(body)).encode()
    fixed = [(b"content-type", kind), (b"content-length", length)]
    try:
        await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
        await send({"type": "http.response.body", "body": body})
    except (OSError, RuntimeError):
        # The sender is gone, which uvloop tells by a RuntimeError. What is stored is stored.
        return


async def _respond_handshake(send: Send, answer: Answer) -> None:
    headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers]
    fixed = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"), *headers)
    await _respond(send, answer.status, answer.content_type.encode(), answer.body, fixed)
