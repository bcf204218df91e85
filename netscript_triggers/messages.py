"""From a broker's message to an event: its payload, its key, and what is kept of its headers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from netscript_triggers.definitions import QueueDefinition
from netscript_triggers.events import EventStatus, QueueEvent
from netscript_triggers.filters import type_of_event
from netscript_triggers.sources import Message
from netscript_workers.clock import from_micros
from netscript_workers.errors import PayloadInvalidError
from netscript_workers.ids import new_id
from netscript_workers.options import MAX_KEY_LENGTH
from netscript_workers.payloads import invalid_payload
from netscript_workers.strict_json import MalformedError, parse

# Under which names an event keeps what came beside its message's headers; a broker has no such.
_ID = "netscript-message-id"
_ADDRESS = "netscript-address"
# A publisher's own credentials have no business in our tables.
_PRIVATE = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})
_MAX_HEADERS = 16_384
_MAX_TRACE = 512


def read_message(trigger: QueueDefinition[Any], body: bytes) -> Any:
    """Return the payload of a message.

    Raises:
        PayloadInvalidError: It can't be read, or the trigger's model refuses it.
    """
    if len(body) > trigger.max_body:
        raise PayloadInvalidError(f"The message is longer than {trigger.max_body:,} bytes.")
    if trigger.parse == "raw":
        return body
    try:
        value = parse(body)
    except MalformedError as error:
        raise PayloadInvalidError(str(error).replace("The body", "The message")) from None
    if trigger.model is None:
        return value
    owner = f'queue trigger "{trigger.id}"'
    try:
        return trigger.model.validate_python(value)
    except ValueError as error:
        raise _refused(owner, error) from None
    except Exception as error:
        raise PayloadInvalidError(f"The payload of {owner} could not be read.") from error


def _refused(owner: str, error: ValueError) -> PayloadInvalidError:
    if isinstance(error, ValidationError):
        return invalid_payload(owner, error)
    return PayloadInvalidError(f"The payload of {owner} could not be read.")


def event_from(
    trigger: QueueDefinition[Any], message: Message, payload: Any, *, received_at: int
) -> QueueEvent[Any]:
    """Return the event that a message is.

    Args:
        trigger: Whose it is.
        message: As its broker has delivered it.
        payload: What was read of its body; None of a message that can't be read.
        received_at: In microseconds since the epoch.
    """
    headers = kept_headers(message)
    return QueueEvent(
        id=new_id(),
        trigger_id=trigger.id,
        kind=trigger.kind,
        status=EventStatus.PROCESSING,
        payload=payload,
        headers=headers,
        body=message.body[: trigger.max_body],
        idempotency_key=key_of(trigger, message),
        attempt=1,
        received_at=from_micros(received_at),
        traceparent=_trace(headers.get("traceparent")),
        tracestate=_trace(headers.get("tracestate")),
        event_type=type_of_event(payload, None, headers.get("type")),
        **message_facts(trigger, headers),
    )


def key_of(trigger: QueueDefinition[Any], message: Message) -> str | None:
    """Return under which key a message is known again.

    That is its id, or a hash of what it says and where it was published, for a broker that has no
    ids delivers again what it is not sure of. `dedupe` goes without the hash, or without any.
    """
    if trigger.dedupe is None:
        return None
    if message.id is not None:
        key = f"id:{message.id}"
        hashed = hashlib.sha256(message.id.encode()).hexdigest()
        return key if len(key) <= MAX_KEY_LENGTH and key.isprintable() else f"id-sha256:{hashed}"
    if trigger.dedupe == "id":
        return None
    digest = hashlib.sha256(message.address.encode() + b"\0" + message.body)
    return f"sha256:{digest.hexdigest()}"


def kept_headers(message: Message) -> dict[str, str]:
    """Return what an event keeps of a message beside its body."""
    kept: dict[str, str] = {}
    size = 0
    own = {_ID: message.id, _ADDRESS: message.address or None}
    given = {name: value for name, value in message.headers.items() if name not in _PRIVATE}
    for name, value in [*own.items(), *given.items()]:
        if value is None:
            continue
        size += len(name) + len(value)
        if size > _MAX_HEADERS:
            break
        kept[_text(name)] = _text(value)
    return kept


def message_facts(trigger: QueueDefinition[Any], headers: Mapping[str, str]) -> dict[str, Any]:
    """Return what an event of a queue tells beside what all events do."""
    return {
        "queue": trigger.queue,
        "message_id": headers.get(_ID),
        "address": headers.get(_ADDRESS, ""),
    }


def _trace(given: str | None) -> str | None:
    return given if given is not None and len(given) <= _MAX_TRACE else None


def _text(given: str) -> str:
    """Return text that every database can hold."""
    return given.encode("utf-8", "replace").decode().replace("\0", " ")
