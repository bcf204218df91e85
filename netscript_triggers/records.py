"""The records of events and triggers, as they are read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from netscript_triggers.events import EventStatus
from netscript_workers.records import plain


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord:
    """An event as it is now.

    Attributes:
        attempt: Failed attempts of its handler so far plus one.
        executions: What its actions became, in their order.
        conflict: One of its idempotency keys was used before, with another payload.
        reason: Why it waits (`retry`, `deferred`, `replay`), or `filtered` if it was not handled.
        note: Why somebody fired or replayed it, in their words.
        by_hand: Its body is JSON that somebody gave, not what a sender sent.
        replays: How often it was run again.
        due_at: When its handler runs again.
    """

    id: str
    trigger_id: str
    kind: str
    event_type: str | None
    status: EventStatus
    idempotency_key: str | None
    executions: tuple[str, ...]
    attempt: int
    conflict: bool
    error: str | None
    reason: str | None
    note: str | None
    traceparent: str | None
    by_hand: bool
    replays: int
    replayed_from: str | None
    received_at: datetime
    due_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRecord:
    """A failed attempt of an event's handler."""

    attempt: int
    at: datetime
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRecord:
    """An execution that an event has led to; what is None is past retention."""

    execution_id: str
    job_id: str | None
    status: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitRecord:
    """What an event waits for: a code for programs, a sentence for people."""

    code: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventDetail:
    """The whole record of an event.

    Attributes:
        body: As text, with what is not UTF-8 escaped.
        payload: The body as JSON; None if it is none.
        failures: The last attempts that failed, oldest first.
        actions: What its executions are.
        replayed_as: Events that are other runs of it, oldest first; a hundred at most.
        waits_for: None if it has ended.
    """

    event: EventRecord
    headers: Mapping[str, str]
    body: str
    payload: Any = None
    failures: tuple[FailureRecord, ...] = ()
    actions: tuple[ActionRecord, ...] = ()
    replayed_as: tuple[str, ...] = ()
    waits_for: WaitRecord | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the sender of a delivery is told."""

    event_id: str
    status: EventStatus
    executions: tuple[str, ...] = ()
    duplicate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitRecord:
    """How a trigger's circuit stands.

    Attributes:
        state: `closed`; `open`, while events wait; `half-open`, when one is about to be tried.
        failures: Failed attempts in a row.
        opened_at: Since when it is open.
        next_try_at: When one event is tried.
        error: Of the last failed attempt.
    """

    state: str
    failures: int
    opened_at: datetime | None
    next_try_at: datetime | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerRecord:
    """A trigger that some process has registered.

    Attributes:
        definition: Its options, as far as they can be told.
        payload_schema: JSON Schema of its payloads; None where any are taken.
    """

    id: str
    kind: str
    description: str | None
    enabled: bool
    circuit: CircuitRecord
    definition: Mapping[str, Any]
    payload_schema: Mapping[str, Any] | None
    source: str
    registered_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class InstantRecord:
    """An instant of a schedule.

    Attributes:
        local_time: In the schedule's zone, with its offset.
        note: What a clock change has to do with it, or why it was passed over.
        outcome: `fired` or `skipped`; None if it is to come.
        event_id: The event that it became.
    """

    scheduled_for: datetime
    local_time: str
    note: str | None = None
    outcome: str | None = None
    event_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewRecord:
    """When a schedule is due.

    Attributes:
        words: The same for people.
        next: Instants to come.
        recent: Those that came last, the last one first.
    """

    trigger_id: str
    words: str
    timezone: str
    next: tuple[InstantRecord, ...]
    recent: tuple[InstantRecord, ...]


def shown(record: TriggerRecord) -> dict[str, Any]:
    """Return a trigger and its options as one object."""
    facts: dict[str, Any] = plain(record)
    return {**facts.pop("definition"), **facts}


def whole(detail: EventDetail) -> dict[str, Any]:
    """Return an event, and what belongs to it, as one object."""
    rest: dict[str, Any] = plain(detail)
    return {**rest.pop("event"), **rest}
