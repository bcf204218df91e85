"""The inbox: how events come to be stored, and how one is known that comes again."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic_core import to_json
from sqlalchemy import Connection, Table, TextClause, text

from netscript_triggers.actions import SOONEST_SECONDS
from netscript_triggers.events import EventStatus, TriggerEvent
from netscript_triggers.records import Accepted
from netscript_triggers.store.schema import trigger_events
from netscript_workers.clock import MICROSECONDS
from netscript_workers.domain import Enqueued
from netscript_workers.store import idempotency
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.idempotency import Name
from netscript_workers.store.outbox import Companion


@dataclass(frozen=True, slots=True, kw_only=True)
class Disposition:
    """Where an event stands after its handler ran, or did not.

    Attributes:
        status: `completed`, `failed`, `dead`, or `pending` or `deferred` where the handler runs
            later.
        error: Why it failed, as one line.
        delay: Seconds until the handler runs again; None for never.
        attempt: Failed attempts so far plus one.
        reason: Why it waits, or was not handled.
        until: Instead of `delay`: when, in microseconds since the epoch.
    """

    status: EventStatus
    error: str | None = None
    delay: float | None = None
    attempt: int = 1
    reason: str | None = None
    until: int | None = None


PENDING = Disposition(status=EventStatus.PENDING, delay=0.0)

# Of these an event keeps the last.
MOST_FAILURES = 20
DIED = "The process that ran its handler died."


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failed attempt of an event's handler; `at` in microseconds since the epoch."""

    attempt: int
    at: int
    error: str

    @staticmethod
    def read(stored: str | None) -> list[Failure]:
        """Read failures as they are stored, oldest first."""
        return [
            Failure(attempt=n, at=at, error=error) for n, at, error in json.loads(stored or "[]")
        ]

    @staticmethod
    def write(failures: Sequence[Failure]) -> str | None:
        """Write the last of them; None for none."""
        if not failures:
            return None
        return json.dumps([[one.attempt, one.at, one.error] for one in failures[-MOST_FAILURES:]])


def companion(
    event: TriggerEvent[Any], disposition: Disposition, received_at: int, *, by_hand: bool = False
) -> Companion:
    """Return what makes the row of a new event once its executions are known.

    Args:
        event: As its handler saw it.
        disposition: Where it stands.
        received_at: Its `received_at` in microseconds since the epoch.
        by_hand: Whether its body is JSON that somebody gave, not what a sender sent.
    """

    def make(enqueued: tuple[Enqueued, ...], now: int) -> tuple[Table, dict[str, Any]]:
        return trigger_events, {
            "id": event.id,
            "trigger_id": event.trigger_id,
            "kind": event.kind,
            "idempotency_key": event.idempotency_key,
            "headers": to_json(event.headers).decode(),
            "body": event.body,
            "traceparent": event.traceparent,
            "tracestate": event.tracestate,
            "replayed_from": None,
            "received_at": received_at,
            "token": None,
            "event_type": event.event_type,
            "note": event.note,
            "by_hand": by_hand,
            "failures": None if disposition.error is None else _first_failure(disposition, now),
            **ended(disposition, enqueued, now),
        }

    return make


@dataclass(frozen=True, slots=True)
class Known:
    """What came first under a key, and the fingerprint of its body."""

    accepted: Accepted
    fingerprint: str


def find(
    conn: Connection, dialect: Dialect, names: Collection[Name], now: int
) -> dict[Name, Known]:
    """Return what came first under those keys that are known."""
    holders = idempotency.find(conn, dialect, names, now=now)
    if not holders:
        return {}
    by_id = get_accepted(conn, dialect, {key.ref for key in holders.values()})
    return {name: Known(by_id[key.ref], key.fingerprint) for name, key in holders.items()}


def get_accepted(conn: Connection, dialect: Dialect, ids: Collection[str]) -> dict[str, Accepted]:
    """Return, for each id, what a second delivery of that event is told."""
    # A key outlives its event: what was pruned had ended.
    gone = {id_: Accepted(id_, EventStatus.COMPLETED, (), duplicate=True) for id_ in ids}
    return {**gone, **read_accepted(conn, dialect, ids)}


def read_accepted(conn: Connection, dialect: Dialect, ids: Collection[str]) -> dict[str, Accepted]:
    """Return the same for those events that there are."""
    rows = conn.execute(_accepted(dialect), {"ids": json.dumps(sorted(ids))})
    return {
        str(row.id): Accepted(
            str(row.id), EventStatus(row.status), tuple(json.loads(row.executions)), duplicate=True
        )
        for row in rows
    }


def read_keys(
    conn: Connection, dialect: Dialect, ids: Collection[str]
) -> dict[str, tuple[str, str | None]]:
    """Return trigger and idempotency key of those of these events that there are."""
    rows = conn.execute(_keys(dialect), {"ids": json.dumps(sorted(ids))})
    return {str(row.id): (row.trigger_id, row.idempotency_key) for row in rows}


def _first_failure(disposition: Disposition, now: int) -> str | None:
    assert disposition.error is not None
    return Failure.write([Failure(attempt=1, at=now, error=disposition.error)])


def ended(disposition: Disposition, enqueued: tuple[Enqueued, ...], now: int) -> dict[str, Any]:
    """Return what a disposition makes of an event's row."""
    due = disposition.until
    if due is not None:
        due = max(due, now + round(SOONEST_SECONDS * MICROSECONDS))
    elif disposition.delay is not None:
        due = now + round(disposition.delay * MICROSECONDS)
    return {
        "status": disposition.status.value,
        "executions": _list_of([one.execution_id for one in enqueued]),
        "attempt": disposition.attempt,
        "conflict": any(one.conflict for one in enqueued),
        "error": disposition.error,
        "reason": disposition.reason,
        "due_at": due,
        "finished_at": now if due is None else None,
    }


def _list_of(ids: Sequence[str]) -> str:
    """Write ids as JSON; they need no escaping."""
    return '["' + '","'.join(ids) + '"]' if ids else "[]"


@cache
def _keys(dialect: Dialect) -> TextClause:
    return text(
        f"""
        SELECT id, trigger_id, idempotency_key FROM netscript_trigger_events
        WHERE id IN {dialect.members("ids", "id")}
        """
    )


@cache
def _accepted(dialect: Dialect) -> TextClause:
    return text(
        f"""
        SELECT id, status, executions FROM netscript_trigger_events
        WHERE id IN {dialect.members("ids", "id")}
        """
    )
