"""What is given by hand: a payload that fires a trigger, or stands in for an event's own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeAlias

from netscript_triggers.definitions import AnyTrigger, FileWatchDefinition, ScheduleDefinition
from netscript_triggers.events import EventStatus
from netscript_triggers.files.facts import payload_given
from netscript_triggers.records import TriggerRecord
from netscript_triggers.restoring import check_given, class_of
from netscript_triggers.schedules import at_instant, complete_time, instant_name
from netscript_triggers.store import inbox
from netscript_triggers.store.inbox import PENDING
from netscript_triggers.store.schedules import find_instant
from netscript_workers.clock import SYSTEM_CLOCK, from_micros
from netscript_workers.errors import PayloadInvalidError, StateError
from netscript_workers.ids import new_id
from netscript_workers.payloads import to_stored_json
from netscript_workers.store.definitions import check_schema
from netscript_workers.store.engine import Store
from netscript_workers.store.idempotency import Key
from netscript_workers.store.outbox import Submission

TraceContext: TypeAlias = tuple[str | None, str | None]


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


class DisabledError(StateError):
    """The trigger is disabled."""

    code = "disabled"

    def __init__(self, trigger_id: str) -> None:
        """Name the trigger."""
        super().__init__(
            f'Trigger "{trigger_id}" is disabled.',
            hint=f"Enable it: netscript triggers enable {trigger_id}",
        )


def check_payload(record: TriggerRecord, triggers: Mapping[str, AnyTrigger], payload: Any) -> bytes:
    """Return a payload as it is stored, once its trigger's model has taken it.

    Args:
        record: The trigger, as it is registered.
        triggers: Those this process has code for; of others the registered schema decides.
        payload: Any JSON. Of a schedule, what is left out is filled in; of a file watch it is an
            object with the path of a file, which is looked at.

    Raises:
        PayloadInvalidError: The model refuses it, or there is no such file.
    """
    if record.kind == ScheduleDefinition.kind:
        now = from_micros(SYSTEM_CLOCK.now())
        payload = complete_time(payload, record.definition["timezone"], now)
    elif record.kind == FileWatchDefinition.kind:
        payload = payload_given(payload, record.definition["paths"])
    elif (trigger := triggers.get(record.id)) is not None:
        check_given(trigger, payload)
    elif record.payload_schema is not None:
        check_schema(f'{record.kind} "{record.id}"', record.payload_schema, payload)
    try:
        return to_stored_json(payload).encode()
    except ValueError as error:
        raise PayloadInvalidError(f"The payload: {error}") from None


def new_event(
    store: Store,
    record: TriggerRecord,
    triggers: Mapping[str, AnyTrigger],
    payload: Any,
    *,
    key: str | None = None,
    instant: datetime | None = None,
    note: str | None = None,
    trace: TraceContext = (None, None),
) -> tuple[str, Submission | None]:
    """Return the id of a new event that somebody wants, and what stores it.

    Nothing to store means that the event is there already: the one of that instant.

    Args:
        store: Where it is to be stored; no transaction of it waits for a payload to be looked at.
        record: The trigger, as it is registered.
        triggers: Those this process has code for.
        payload: Any JSON that the trigger's model takes.
        key: A second fire with it is the same one, within the window of idempotency keys.
        instant: Of a schedule: it is run for this one, unless it was run already.
        note: Why, in somebody's words.
        trace: `traceparent` and `tracestate` of who wants it.

    Raises:
        PayloadInvalidError: The model refuses the payload.
        StateError: The trigger is disabled, or it has no such instant.
    """
    if instant is not None:
        if key is not None:
            raise PayloadInvalidError(
                "scheduled_for and idempotency_key don't go together: an instant is a key itself."
            )
        with store.read() as conn:
            instant, before = find_instant(conn, record, instant, from_micros(store.now(conn)))
        if before is not None:
            return before, None
        payload = at_instant(payload, instant)
    body = check_payload(record, triggers, payload)
    return _fired(record, body, key=key, instant=instant, note=note, trace=trace)


def _fired(
    record: TriggerRecord,
    body: bytes,
    *,
    key: str | None = None,
    instant: datetime | None = None,
    note: str | None = None,
    trace: TraceContext = (None, None),
) -> tuple[str, Submission]:
    if not record.enabled:
        raise DisabledError(record.id)
    received_at, id_ = SYSTEM_CLOCK.now(), new_id()
    guard = None
    if instant is not None:
        guard = instant_key(record.id, instant, id_)
    elif key is not None:  # not to be taken for a sender's delivery
        fingerprint = hashlib.sha256(body).hexdigest()
        guard = Key(f"trigger:{record.id}", f"fire:{key}", fingerprint, id_)
    event = class_of(record.kind)(
        id=id_,
        trigger_id=record.id,
        kind=record.kind,
        status=EventStatus.PENDING,
        payload=None,
        headers={},
        body=body,
        idempotency_key=None if guard is None else guard.key,
        attempt=1,
        received_at=from_micros(received_at),
        traceparent=trace[0],
        tracestate=trace[1],
        note=note,
    )
    companion = inbox.companion(event, PENDING, received_at, by_hand=True)
    return event.id, Submission(guard=guard, companion=companion)


def instant_key(trigger_id: str, at: datetime, event_id: str) -> Key:
    """Return what an event takes that is the one of an instant of a schedule.

    Args:
        trigger_id: The schedule's trigger.
        at: The instant.
        event_id: Of the event.
    """
    name = instant_name(at)
    return Key(f"trigger:{trigger_id}", name, hashlib.sha256(name.encode()).hexdigest(), event_id)
