"""What is given by hand: a payload that fires a trigger, or stands in for an event's own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from netscript_triggers.definitions import AnyTrigger, FileWatchDefinition
from netscript_triggers.events import EventStatus
from netscript_triggers.file_facts import payload_given
from netscript_triggers.records import TriggerRecord
from netscript_triggers.restoring import check_given, class_of
from netscript_triggers.store import inbox
from netscript_triggers.store.inbox import Disposition
from netscript_workers.clock import SYSTEM_CLOCK, from_micros
from netscript_workers.errors import PayloadInvalidError, StateError
from netscript_workers.ids import new_id
from netscript_workers.payloads import to_stored_json
from netscript_workers.store.definitions import check_schema
from netscript_workers.store.idempotency import Key
from netscript_workers.store.outbox import Submission


class FireConflictError(StateError):
    """The idempotency key was used before, with another payload."""

    code = "idempotency-conflict"

    def __init__(self, trigger_id: str, key: str, event_id: str) -> None:
        """Name the trigger, the key, and the event that came first."""
        super().__init__(
            f'The idempotency key "{key}" of trigger "{trigger_id}" was used with another payload '
            f"by event {event_id}.",
            hint="Fire with the payload of the first time, or with a new key.",
        )


PENDING = Disposition(status=EventStatus.PENDING, delay=0.0)


def check_payload(record: TriggerRecord, triggers: Mapping[str, AnyTrigger], payload: Any) -> bytes:
    """Return a payload as it is stored, once its trigger's model has taken it.

    Args:
        record: The trigger, as it is registered.
        triggers: Those this process has code for; of others the registered schema decides.
        payload: Any JSON; of a file watch an object with the path of a file, which is looked at.

    Raises:
        PayloadInvalidError: The model refuses it, or there is no such file.
    """
    if record.kind == FileWatchDefinition.kind:
        payload = payload_given(payload, record.definition["paths"])
    elif (trigger := triggers.get(record.id)) is not None:
        check_given(trigger, payload)
    elif record.payload_schema is not None:
        check_schema(f'{record.kind} "{record.id}"', record.payload_schema, payload)
    try:
        return to_stored_json(payload).encode()
    except ValueError as error:
        raise PayloadInvalidError(f"The payload: {error}") from None


def fired(
    record: TriggerRecord, body: bytes, *, key: str | None = None, note: str | None = None
) -> tuple[str, Submission]:
    """Return the id of a new event of a trigger, and what stores it; its handler is due at once.

    Args:
        record: The trigger.
        body: What `check_payload` has made of the payload.
        key: A second fire with it is the same one, within the window of idempotency keys.
        note: Why, in somebody's words.

    Raises:
        StateError: The trigger is disabled.
    """
    if not record.enabled:
        raise StateError(
            f'Trigger "{record.id}" is disabled.',
            hint=f"Enable it: netscript triggers enable {record.id}",
        )
    received_at = SYSTEM_CLOCK.now()
    # Not to be taken for a sender's delivery.
    name = None if key is None else f"fire:{key}"
    event = class_of(record.kind)(
        id=new_id(),
        trigger_id=record.id,
        kind=record.kind,
        status=EventStatus.PENDING,
        payload=None,
        headers={},
        body=body,
        idempotency_key=name,
        attempt=1,
        received_at=from_micros(received_at),
        note=note,
    )
    guard = None
    if name is not None:
        guard = Key(f"trigger:{record.id}", name, hashlib.sha256(body).hexdigest(), event.id)
    companion = inbox.companion(event, PENDING, received_at, by_hand=True)
    return event.id, Submission(guard=guard, companion=companion)
