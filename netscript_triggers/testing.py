"""Testing triggers: without a server and a database, or with deliveries signed for a real one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from netscript_triggers.definitions import WebhookDefinition
from netscript_triggers.events import EventStatus, WebhookEvent
from netscript_triggers.handlers import Handlers
from netscript_triggers.media import FORM, Parse
from netscript_triggers.paths import fill
from netscript_triggers.payloads import read_payload
from netscript_triggers.secrets import secrets_of
from netscript_triggers.verifiers import RawRequest
from netscript_workers.batches import Action
from netscript_workers.clock import SYSTEM_CLOCK, from_micros
from netscript_workers.errors import ConfigurationError
from netscript_workers.ids import new_id

__all__ = ["SignedRequest", "fire", "signed_request"]

FIRE_SECONDS = 30.0
_TYPES: dict[Parse, str] = {
    "json": "application/json",
    "form": FORM,
    "raw": "application/octet-stream",
    "cloudevents": "application/cloudevents+json",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRequest:
    """A delivery as its sender would make it; pass the parts to any HTTP client."""

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
) -> SignedRequest:
    """Sign a delivery the way the trigger's verifier expects.

    Args:
        trigger: Who is to accept it.
        payload: Its body: bytes as they are, anything else as the trigger reads it: JSON, a form,
            a whole CloudEvent.
        secret: By default the first one in the trigger's own environment variable.
        headers: More headers.
        path_params: What stands in the places of the path's parameters.

    Raises:
        ConfigurationError: There is no secret to sign with, or a parameter is missing.
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
            hint=f"Set {' or '.join(named) or 'its variable'}, or pass secret=...",
        )
    signature = trigger.verifier.sign(body, known[0] if known else b"", time.time())
    return SignedRequest(
        method=trigger.methods[0],
        path=path,
        headers={"Content-Type": _TYPES[trigger.parse], **signature, **(headers or {})},
        body=body,
    )


def _body(trigger: WebhookDefinition[Any], payload: Any) -> bytes:
    if isinstance(payload, bytes):
        return payload
    if trigger.parse == "form":
        return urlencode(payload, doseq=True).encode()
    return json.dumps(payload).encode()


async def fire(
    trigger: WebhookDefinition[Any],
    payload: Any,
    *,
    headers: Mapping[str, str] | None = None,
    path_params: Mapping[str, str] | None = None,
) -> list[Action]:
    """Call a trigger's handler with an event made of `payload`, and return its actions.

    Args:
        trigger: Whose handler.
        payload: The body: bytes as they are, anything else as the trigger reads it.
        headers: The event's headers; names in any case.
        path_params: What stands in the places of the path's parameters.

    Raises:
        PayloadInvalidError: The body can't be read, or the trigger's model refuses it.
        HandlerError: The handler raised; the cause is chained.
        ConfigurationError: It returned something that is no action.
    """
    body = _body(trigger, payload)
    given = {name.lower(): value for name, value in (headers or {}).items()}
    value, about = read_payload(trigger, body, {"content-type": _TYPES[trigger.parse], **given})
    event: WebhookEvent[Any] = WebhookEvent(
        id=new_id(),
        trigger_id=trigger.id,
        kind=trigger.kind,
        status=EventStatus.PROCESSING,
        payload=value,
        headers=given,
        body=body,
        idempotency_key=None,
        attempt=1,
        received_at=from_micros(SYSTEM_CLOCK.now()),
        path_params=path_params or {},
        cloudevent=about,
    )
    handlers = Handlers(threads=1)
    try:
        return [*await handlers.run(trigger, event, limit=FIRE_SECONDS)]
    finally:
        handlers.close()
