"""What makes two deliveries the same one."""

from __future__ import annotations

import hashlib
from typing import Any

from netscript_triggers.definitions import WebhookDefinition
from netscript_triggers.events import CloudEvent
from netscript_triggers.verifiers import Verified

_MAX_ID = 200
_MAX_KEY = 400


def key_of(
    trigger: WebhookDefinition[Any],
    verified: Verified,
    body: bytes,
    body_digest: str,
    *,
    about: CloudEvent | None = None,
    path: str | None = None,
) -> str | None:
    """Return under what a second delivery is known as one.

    Args:
        trigger: Who took it; keys are its own.
        verified: What is proven.
        body: As it came.
        body_digest: The SHA-256 of the body, in hex.
        about: The attributes of a CloudEvent: its source and id together are its id.
        path: As it came, where it has parameters: what one tenant sends is no other one's.
    """
    if trigger.dedupe is None:
        return None
    if about is None:
        key = _of_delivery(trigger, verified, body, body_digest)
    else:
        # In the body the id is signed if the body is; in a header nothing covers it.
        signed = about.structured and bool(body) and body in verified.signed
        key = _of_id(about.key, body_digest, signed=signed)
    if key is None or path is None:
        return key
    whole = f"{path} {key}"
    return whole if len(whole) <= _MAX_KEY else hashlib.sha256(whole.encode()).hexdigest()


def _of_delivery(
    trigger: WebhookDefinition[Any], verified: Verified, body: bytes, body_digest: str
) -> str | None:
    if verified.delivery_id:
        return _of_id(verified.delivery_id, body_digest, signed=verified.id_signed)
    if trigger.dedupe != "auto":
        return None
    if verified.signed is body:
        return body_digest
    return hashlib.sha256(verified.signed).hexdigest()


def _of_id(given: str, body_digest: str, *, signed: bool) -> str:
    if len(given) > _MAX_ID or "\0" in given or not given.isascii():
        given = hashlib.sha256(given.encode("utf-8", "surrogatepass")).hexdigest()
    # Whoever replays a signed body could change an id that is not signed, so alone it proves
    # nothing.
    return given if signed else f"{given}:{body_digest}"
