"""The record of an event, as it is read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from netscript_triggers.events import EventStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord:
    """An event as it is now.

    Attributes:
        attempt: Failed attempts of its handler so far plus one.
        executions: What its actions became, in their order.
        conflict: One of its idempotency keys was used before, with another payload.
        due_at: When its handler runs again.
    """

    id: str
    trigger_id: str
    kind: str
    status: EventStatus
    idempotency_key: str | None
    executions: tuple[str, ...]
    attempt: int
    conflict: bool
    error: str | None
    traceparent: str | None
    replayed_from: str | None
    received_at: datetime
    due_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventDetail:
    """The whole record of an event; `body` as text, with what is not UTF-8 escaped."""

    event: EventRecord
    headers: Mapping[str, str]
    body: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the sender of a delivery is told."""

    event_id: str
    status: EventStatus
    executions: tuple[str, ...] = ()
    duplicate: bool = False
