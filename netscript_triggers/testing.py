"""Testing triggers: without a server and a database, or with deliveries signed for a real one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, cast
from urllib.parse import urlencode

from netscript_triggers.actions import TriggerAction
from netscript_triggers.definitions import (
    AnyTrigger,
    FileWatchDefinition,
    QueueDefinition,
    WebhookDefinition,
)
from netscript_triggers.events import EventStatus
from netscript_triggers.files.facts import FileFacts, event_facts
from netscript_triggers.files.settling import Stamp
from netscript_triggers.filters import type_of_event
from netscript_triggers.handlers import Handlers
from netscript_triggers.media import FORM, Parse
from netscript_triggers.messages import message_facts
from netscript_triggers.paths import fill
from netscript_triggers.restoring import class_of, payload_of
from netscript_triggers.secrets import secrets_of
from netscript_triggers.verifiers import RawRequest, sign_delivery
from netscript_triggers.verifiers.conformance import ConformanceError, check_verifier, mutations
from netscript_workers.clock import SYSTEM_CLOCK, from_micros
from netscript_workers.errors import ConfigurationError
from netscript_workers.ids import new_id

__all__ = [
    "ConformanceError",
    "SignedRequest",
    "check_verifier",
    "fire",
    "mutations",
    "signed_request",
]

FIRE_SECONDS = 30.0
_TYPES: dict[Parse, str] = {
    "json": "application/json",
    "form": FORM,
    "raw": "application/octet-stream",
    "cloudevents": "application/cloudevents+json",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRequest:
    """A delivery as its sender would make it; pass the parts to any HTTP client.

    Attributes:
        method: In upper case.
        path: With the query, if there is one.
        headers: All that the delivery needs.
        body: As it is signed.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


def signed_request(
    trigger: WebhookDefinition[Any],
    payload: Any,
    *,
    secret: str | None = None,
    headers: Mapping[str, str] | None = None,
    path_params: Mapping[str, str] | None = None,
    public_url: str | None = None,
    query: str = "",
    now: float | None = None,
) -> SignedRequest:
    """Sign a delivery the way the trigger's verifier expects.

    Args:
        trigger: Who is to accept it.
        payload: Its body: bytes as they are, anything else as the trigger reads it: JSON, a form,
            a whole CloudEvent. Where the signature belongs into the body, it is written there.
        secret: By default the first one in the trigger's own environment variable. Where a scheme
            is asymmetric, the private key, which only the sender has otherwise.
        headers: More headers; some schemes sign a form as such by its `Content-Type`.
        path_params: What stands in the places of the path's parameters.
        public_url: What the server is called by, where the URL is signed; by default
            `NETSCRIPT_PUBLIC_URL`.
        query: What follows the question mark.
        now: When it is signed, in seconds since the epoch; by default now.

    Raises:
        ConfigurationError: There is nothing to sign with, the payload can't be signed, or a
            parameter is missing.
    """
    body = _body(trigger, payload)
    path = fill(trigger.path, path_params or {})
    if secret is not None:
        known: tuple[bytes, ...] = (secret.encode(),)
    else:
        request = RawRequest(trigger.methods[0], path, (), body, path_params=path_params or {})
        known = secrets_of(trigger, os.environ, request) or ()
    if trigger.verifier.needs_secret and not known:
        named = () if callable(trigger.secret_env) else trigger.secret_env
        raise ConfigurationError(
            f'There is no secret to sign for webhook "{trigger.id}".',
            hint=f"Set {' or '.join(named) or 'its variable'} in the environment or in .env; in a "
            "test, pass secret=...",
        )
    given = {"Content-Type": _type_of(trigger), **(headers or {})}
    origin = os.environ.get("NETSCRIPT_PUBLIC_URL", "") if public_url is None else public_url
    request = RawRequest(
        trigger.methods[0],
        path,
        [(name.lower().encode(), value.encode("latin-1")) for name, value in given.items()],
        body,
        query.encode(),
        origin=origin,
        path_params=path_params or {},
    )
    secret_bytes = known[0] if known else b""
    made = sign_delivery(
        trigger.verifier, request, secret_bytes, time.time() if now is None else now
    )
    asked = made.query.decode("latin-1")
    return SignedRequest(
        method=trigger.methods[0],
        path=f"{path}?{asked}" if asked else path,
        headers={**given, **made.headers, **(headers or {})},
        body=made.body,
    )


def _type_of(trigger: AnyTrigger) -> str:
    return _TYPES[trigger.parse] if isinstance(trigger, WebhookDefinition) else _TYPES["json"]


def _file_payload(payload: Any) -> Any:
    """Make up what is missing of a file, if it has a path."""
    path = _path_in(payload)
    if path is None:
        return payload
    facts = FileFacts(
        path=path,
        root=path.rpartition("/")[0],
        stamp=Stamp(0, SYSTEM_CLOCK.now() * 1000, 0),
        sha256=sha256().hexdigest(),
    )
    return {**facts.payload("create"), **payload}


def _path_in(payload: Any) -> str | None:
    given = cast("dict[str, Any]", payload) if isinstance(payload, dict) else {}
    path = given.get("path")
    return path if isinstance(path, str) else None


def _body(trigger: AnyTrigger, payload: Any) -> bytes:
    if isinstance(payload, bytes):
        return payload
    if isinstance(trigger, WebhookDefinition) and trigger.parse == "form":
        return urlencode(payload, doseq=True).encode()
    return json.dumps(payload).encode()


async def fire(
    trigger: AnyTrigger,
    payload: Any,
    *,
    headers: Mapping[str, str] | None = None,
    path_params: Mapping[str, str] | None = None,
) -> list[TriggerAction]:
    """Call a trigger's handler with an event made of `payload`, and return its actions.

    Args:
        trigger: Whose handler.
        payload: The body: bytes as they are, anything else as the trigger reads it. Of a file watch
            an object with a `path`; what is missing of the rest is made up, for there need be no
            such file.
        headers: The event's headers; names in any case.
        path_params: What stands in the places of the path's parameters.

    Raises:
        PayloadInvalidError: The body can't be read, or the trigger's model refuses it.
        HandlerError: The handler raised; the cause is chained.
        ConfigurationError: It returned something that is no action.
    """
    if isinstance(trigger, FileWatchDefinition):
        payload = _file_payload(payload)
    body = _body(trigger, payload)
    given = {name.lower(): value for name, value in (headers or {}).items()}
    kinds = {"content-type": _type_of(trigger), **given}
    read, about = payload_of(trigger, body, kinds, by_hand=False)
    facts: dict[str, Any] = {}
    if isinstance(trigger, WebhookDefinition):
        facts = {"path_params": path_params or {}, "cloudevent": about}
    elif isinstance(trigger, FileWatchDefinition):
        facts = event_facts(read)
    elif isinstance(trigger, QueueDefinition):
        facts = message_facts(trigger, given)
    event = class_of(trigger.kind)(
        id=new_id(),
        trigger_id=trigger.id,
        kind=trigger.kind,
        status=EventStatus.PROCESSING,
        payload=read,
        headers=given,
        body=body,
        idempotency_key=None,
        attempt=1,
        received_at=from_micros(SYSTEM_CLOCK.now()),
        event_type=type_of_event(read, about),
        **facts,
    )
    handlers = Handlers(threads=1)
    try:
        return [*await handlers.run(trigger, event, limit=FIRE_SECONDS)]
    finally:
        handlers.close()
