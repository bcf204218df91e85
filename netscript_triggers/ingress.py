"""The webhook edge: bare ASGI in front of the API, for this is where machines pour in.

Route, method, address, rate, size, signature, content type, payload, duplicate, handler, commit,
202: in this order, so that who proves nothing costs little and learns nothing.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from netscript_triggers import cloudevents
from netscript_triggers.answers import App, Receive, Refusal, Scope, Send, later, refuse, respond
from netscript_triggers.coordinator import Coordinator, Delivery
from netscript_triggers.definitions import WebhookDefinition
from netscript_triggers.events import EventStatus, WebhookEvent
from netscript_triggers.filters import type_of_event
from netscript_triggers.gates import RETRY_AFTER_SECONDS, Gates
from netscript_triggers.keys import key_of
from netscript_triggers.media import InflatedTooLargeError, UnsupportedError, check_media
from netscript_triggers.paths import PATH_HEADER, Routes, raw_path
from netscript_triggers.payloads import read_payload, weight_of
from netscript_triggers.records import Accepted
from netscript_triggers.refusals import Refusals
from netscript_triggers.secrets import NOBODYS, secrets_of
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
from netscript_workers.telemetry import spans
from netscript_workers.telemetry.w3c import accepted as accepted_context

if TYPE_CHECKING:
    from netscript_workers.telemetry.recorder import Recorder
    from netscript_workers.telemetry.serving import Request

logger = logging.getLogger(__name__)

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]

# A sender's own credentials have no business in our tables.
_PRIVATE = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})
# Of a length that a sender declares: no body has more.
_MAX_DIGITS = 18
# Of a model's faults, those that a sender is told.
_MAX_FAULTS = 20
# What may stand in a log; a verifier that is not ours could quote its sender.
_REASON = re.compile(r"[A-Za-z0-9_-]{1,64}")
_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_RETRY_LATER = later(RETRY_AFTER_SECONDS)


class Ingress:
    """An ASGI application that answers declared webhook paths and passes on all others."""

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
        gates: Gates | None = None,
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
            gates: Who may come in; by default whoever the webhooks let in.
        """
        self._app = app
        self._routes = Routes(routes.values())
        self._coordinator = coordinator
        self._states = states or TriggerStates()
        self._environment = environment
        self._public_url = public_url
        self._now = now
        self._gates = gates or Gates()
        self._refusals = Refusals(logger, "webhook %s refused a delivery: %s (%d so far)")

    @property
    def refused(self) -> Counter[tuple[str, str]]:
        """How many deliveries were refused, by trigger and reason."""
        return self._refusals.counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        found = self._routes.find(scope) if scope["type"] == "http" else None
        if found is None or not self._states.is_enabled(found[0].id):
            await self._app(scope, receive, send)
            return
        if spans.recorder is None:
            await self._serve(*found, scope, receive, send, None)
            return
        request = _traced(spans.recorder, found[0], scope)
        told: tuple[int | None, str | None] = (None, None)
        try:
            told = await self._serve(*found, scope, receive, send, request)
        finally:
            request.end(*told)

    async def _serve(
        self,
        trigger: WebhookDefinition[Any],
        parameters: Mapping[str, str],
        scope: Scope,
        receive: Receive,
        send: Send,
        request: Request | None,
    ) -> tuple[int | None, str | None]:
        """Answer a request; return the status, and why it was refused."""
        try:
            if _asks_for_leave(trigger, scope):
                self._gates.check(trigger, scope)
                await _give_leave(trigger, scope, send)
                return 200, None
            answer = await self._deliver(trigger, parameters, scope, receive, request)
        except Refusal as refusal:
            self._refusals.note(trigger.id, refusal.reason)
            await refuse(send, refusal)
            return refusal.status, refusal.reason
        except ConnectionError:  # the sender went away before the end of its body
            self._refusals.note(trigger.id, "broken-off")
            return None, "broken-off"
        if isinstance(answer, Answer):
            await _respond_handshake(send, answer)
            return answer.status, None
        await respond(send, 202, b"application/json", answer)
        return 202, None

    async def _deliver(
        self,
        trigger: WebhookDefinition[Any],
        parameters: Mapping[str, str],
        scope: Scope,
        receive: Receive,
        traced: Request | None,
    ) -> bytes | Answer:
        method: str = scope["method"]
        if method not in trigger.methods and method not in _asked_by(trigger):
            raise _wrong_method(trigger)
        self._gates.check(trigger, scope)
        headers: Headers = scope["headers"]
        body = await _read_body(headers, receive, trigger.max_body)
        request = RawRequest(
            method,
            scope["path"],
            headers,
            body,
            scope["query_string"],
            scope.get("raw_path") or b"",
            self._public_url,
            parameters,
        )
        encoding = _encoding(headers)
        # Some verifiers read the body, too; but nothing is unpacked that nobody has signed.
        async with self._gates.room(0 if encoding else weight_of(trigger, body)):
            verified = await self._verify(trigger, request)
            if isinstance(verified, Answer):
                return verified
            self._gates.enter(trigger, len(body))
            try:
                weight = weight_of(trigger, body, encoding) if encoding else 0
                async with self._gates.room(weight):
                    delivery = self._read(trigger, request, verified, scope, traced)
                    return await self._accept(delivery, traced)
            finally:
                self._gates.leave(len(body))

    def _read(
        self,
        trigger: WebhookDefinition[Any],
        request: RawRequest,
        verified: Verified,
        scope: Scope,
        traced: Request | None,
    ) -> Delivery:
        """Make an event of a verified request."""
        headers, body = request.headers, request.body
        kept = _kept_headers(trigger, headers)
        if request.path_params:
            kept[PATH_HEADER] = raw_path(scope).decode("latin-1")
        try:
            also: Collection[str] = getattr(trigger.verifier, "media_types", ())
            check_media(headers, trigger.parse, decompress=trigger.decompress, also=also)
            payload, about = read_payload(trigger, body, kept, request)
        except UnsupportedError as error:
            raise Refusal(415, error.reason, error.detail) from None
        except InflatedTooLargeError as error:
            raise Refusal(413, "too-large", str(error)) from None
        except PayloadInvalidError as error:
            faults = error.details[:_MAX_FAULTS]
            extra: dict[str, Any] = {"errors": faults} if faults else {}
            raise Refusal(400, "malformed", str(error), **extra) from None
        fingerprint = hashlib.sha256(body).hexdigest()
        received_at = SYSTEM_CLOCK.now()
        # Whatever comes of it goes on in the trace of its request, or else in its sender's.
        traceparent, tracestate = (
            _trace_of(headers) if traced is None else (traced.traceparent, traced.tracestate)
        )
        event = WebhookEvent(
            id=new_id(),
            trigger_id=trigger.id,
            kind=trigger.kind,
            status=EventStatus.PROCESSING,
            payload=payload,
            headers=kept,
            body=body,
            idempotency_key=key_of(
                trigger, verified, body, fingerprint, about=about, path=kept.get(PATH_HEADER)
            ),
            attempt=1,
            received_at=from_micros(received_at),
            traceparent=traceparent,
            tracestate=tracestate,
            event_type=type_of_event(payload, about, verified.event_type),
            path_params=request.path_params,
            cloudevent=about,
        )
        return Delivery(trigger, event, fingerprint=fingerprint, received_at=received_at)

    async def _verify(
        self, trigger: WebhookDefinition[Any], request: RawRequest
    ) -> Verified | Answer:
        missing = "secret-missing"
        try:
            secrets = secrets_of(trigger, self._environment, request)
        except Exception as error:  # noqa: BLE001 - a callable of the user's, given a sender's path
            secrets, missing = None, f"secret-env-raised-{type(error).__name__}"
        try:
            # Without a secret, one that nobody has is tried, so that it takes as long as a wrong
            # one; whatever comes of that, the answer is no.
            tried = NOBODYS if secrets is None else secrets
            verified = await _converse(trigger, request, tried, self._now())
            if secrets is not None:
                return verified
            reason = missing
        except Refusal:
            raise
        except VerificationError as error:
            reason = error.reason if _REASON.fullmatch(error.reason) else "refused"
            reason = missing if secrets is None else reason
        except Exception as error:  # noqa: BLE001 - a broken verifier must not open the door
            reason = f"verifier-raised-{type(error).__name__}"
        # Whatever failed, the sender is told the same.
        raise Refusal(401, reason, "The signature could not be verified.")

    async def _accept(self, delivery: Delivery, traced: Request | None) -> bytes:
        try:
            accepted = await self._coordinator.accept(delivery)
        except StoreUnavailableError:
            raise Refusal(
                503,
                "store-unavailable",
                "Nothing was stored; send it again.",
                _RETRY_LATER,
                code="store-unavailable",
            ) from None
        except NetscriptError as error:
            raise Refusal(400, error.code, error.message) from None
        if traced is not None:
            count = len(accepted.executions)
            traced.became(accepted.event_id, duplicate=accepted.duplicate, executions=count)
        return _answer(accepted)


def _encoding(headers: Headers) -> str:
    for name, value in headers:
        if name == b"content-encoding":
            return value.decode("latin-1")
    return ""


def _asks_for_leave(trigger: WebhookDefinition[Any], scope: Scope) -> bool:
    return trigger.parse == "cloudevents" and scope["method"] == "OPTIONS"


async def _give_leave(trigger: WebhookDefinition[Any], scope: Scope, send: Send) -> None:
    """Answer a CloudEvents sender that asks whether it may deliver here."""
    per_minute = None if trigger.rate is None else max(60_000_000 // trigger.rate.interval, 1)
    leave = cloudevents.permission(dict(scope["headers"]), per_minute)
    allowed = (b"allow", ", ".join(trigger.methods).encode())
    await respond(send, 200, b"text/plain", b"", (allowed, *leave))


async def _read_body(headers: Headers, receive: Receive, limit: int) -> bytes:
    declared = [value for name, value in headers if name == b"content-length"]
    if declared:
        # The guard's parser has seen to it; behind another server nobody may have.
        if len(declared) > 1 or not declared[0].isdigit():
            raise Refusal(400, "content-length", "Send one Content-Length.")
        length = declared[0].lstrip(b"0")
        if len(length) > _MAX_DIGITS or int(length or b"0") > limit:
            raise _too_large(limit)
    return await _read_chunks(receive, limit)


async def _converse(
    trigger: WebhookDefinition[Any], request: RawRequest, secrets: Sequence[bytes], now: float
) -> Verified | Answer:
    """Verify a delivery, or answer a sender that only asks; what it signs, once it is proven."""
    scheme = trigger.verifier
    if not isinstance(scheme, Scheme):
        return scheme.verify(request, secrets, now)
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


def _wrong_method(trigger: WebhookDefinition[Any]) -> Refusal:
    allowed = ", ".join([*trigger.methods, *sorted(_asked_by(trigger))]).encode()
    return Refusal(405, "method", headers=((b"allow", allowed),))


async def _respond_handshake(send: Send, answer: Answer) -> None:
    headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers]
    fixed = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"), *headers)
    await respond(send, answer.status, answer.content_type.encode(), answer.body, fixed)


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


def _too_large(limit: int) -> Refusal:
    return Refusal(413, "too-large", f"The body may have {limit:,} bytes.")


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


def _trace_of(headers: Headers) -> tuple[str | None, str | None]:
    """Return a sender's `traceparent` and `tracestate`, where they can be meant."""
    parents = [value for name, value in headers if name == b"traceparent"]
    if len(parents) != 1:  # which of two is meant can't be known
        return None, None
    states = [value for name, value in headers if name == b"tracestate"]
    state = b",".join(states).decode("latin-1") if states else None
    return accepted_context(parents[0].decode("latin-1"), state)


def _traced(recorder: Recorder, trigger: WebhookDefinition[Any], scope: Scope) -> Request:
    # A method that nobody has declared is anybody's text.
    method: str = scope["method"]
    known = method in trigger.methods or method in _METHODS
    return recorder.request(
        method if known else "_OTHER", trigger.path, trigger.id, *_trace_of(scope["headers"])
    )


def _answer(accepted: Accepted) -> bytes:
    """Write what the sender is told, as JSON; ids and statuses need no escaping."""
    executions = ",".join([f'"{id_}"' for id_ in accepted.executions])
    duplicate = "true" if accepted.duplicate else "false"
    return (
        f'{{"event_id":"{accepted.event_id}","status":"{accepted.status}",'
        f'"duplicate":{duplicate},"executions":[{executions}]}}'
    ).encode()
