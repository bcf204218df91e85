"""The inbox: verified events, and how each one ends. Every change of an event is in this room."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic_core import to_json
from sqlalchemy import Connection, Row, Table, TextClause, text

from netscript_triggers.events import EventStatus, TriggerEvent
from netscript_triggers.records import Accepted
from netscript_triggers.store.schema import trigger_events
from netscript_workers.clock import MICROSECONDS
from netscript_workers.domain import Enqueued, NewWork
from netscript_workers.store import idempotency, outbox
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.idempotency import Name
from netscript_workers.store.outbox import Companion, Submission


@dataclass(frozen=True, slots=True, kw_only=True)
class Disposition:
    """Where an event stands after its handler ran, or did not.

    Attributes:
        status: `completed`, `failed`, `dead`, or `pending` where the handler runs later.
        error: Why it failed, as one line.
        delay: Seconds until the handler runs again; None for never.
        attempt: Failed attempts so far plus one.
    """

    status: EventStatus
    error: str | None = None
    delay: float | None = None
    attempt: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """An event that was claimed, as it was stored."""

    id: str
    trigger_id: str
    token: str
    attempt: int
    idempotency_key: str | None
    headers: Mapping[str, str]
    body: bytes
    traceparent: str | None
    tracestate: str | None
    received_at: int


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of one handler run, to be stored under the token of its claim."""

    event: StoredEvent
    disposition: Disposition
    work: NewWork = field(default_factory=NewWork)


def companion(event: TriggerEvent[Any], disposition: Disposition, received_at: int) -> Companion:
    """Return what makes the row of a new event once its executions are known.

    Args:
        event: As its handler saw it.
        disposition: Where it stands.
        received_at: Its `received_at` in microseconds since the epoch.
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
            **_ended(disposition, enqueued, now),
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
    rows = conn.execute(_accepted(dialect), {"ids": json.dumps(sorted(ids))})
    found = {
        str(row.id): Accepted(
            str(row.id), EventStatus(row.status), tuple(json.loads(row.executions)), duplicate=True
        )
        for row in rows
    }
    # A key outlives its event: what was pruned had ended.
    gone = {id_: Accepted(id_, EventStatus.COMPLETED, (), duplicate=True) for id_ in ids}
    return {**gone, **found}


def next_due(conn: Connection) -> int | None:
    """Return when the next handler is due, in microseconds since the epoch."""
    return conn.execute(_NEXT_DUE).scalar()


def claim(
    conn: Connection,
    dialect: Dialect,
    *,
    triggers: Sequence[str],
    token: str,
    limit: int,
    lease: float,
    now: int,
) -> list[StoredEvent]:
    """Claim events whose handler is due, for so many seconds.

    One that is claimed again because its lease ran out has cost its handler an attempt.
    """
    bound = {
        "triggers": json.dumps(triggers),
        "token": token,
        "limit": limit,
        "until": now + round(lease * MICROSECONDS),
        "now": now,
    }
    return [_stored(row) for row in conn.execute(_claim(dialect), bound)]


def finish(
    conn: Connection, dialect: Dialect, finishes: Sequence[Finish], *, now: int, window: int
) -> list[bool]:
    """Store how handler runs ended, with their executions; False where the claim was lost."""
    asked = json.dumps(sorted(end.event.id for end in finishes))
    held = {
        (str(row.id), str(row.token))
        for row in conn.execute(_lock(dialect), {"ids": asked})
        if row.token is not None
    }
    ours = [end for end in finishes if (end.event.id, end.event.token) in held]
    submissions = [
        Submission(executions=end.work.executions, batches=end.work.batches) for end in ours
    ]
    receipts = outbox.store(conn, dialect, submissions, now=now, window=window)
    rows = [
        {
            "id": end.event.id,
            "held": end.event.token,
            **_ended(end.disposition, receipt.enqueued, now),
        }
        for end, receipt in zip(ours, receipts, strict=True)
    ]
    if rows:
        conn.execute(_FINISH, rows)
    kept = {end.event.id for end in ours}
    return [end.event.id in kept for end in finishes]


def release(conn: Connection, events: Sequence[StoredEvent], now: int) -> None:
    """Give claimed events back without a failed attempt."""
    for event in events:
        conn.execute(_RELEASE, {"id": event.id, "token": event.token, "now": now})


def _ended(disposition: Disposition, enqueued: tuple[Enqueued, ...], now: int) -> dict[str, Any]:
    due = None if disposition.delay is None else now + round(disposition.delay * MICROSECONDS)
    return {
        "status": disposition.status.value,
        "executions": _list_of([one.execution_id for one in enqueued]),
        "attempt": disposition.attempt,
        "conflict": any(one.conflict for one in enqueued),
        "error": disposition.error,
        "due_at": due,
        "finished_at": now if due is None else None,
    }


def _stored(row: Row[Any]) -> StoredEvent:
    return StoredEvent(
        id=str(row.id),
        trigger_id=row.trigger_id,
        token=str(row.token),
        attempt=row.attempt,
        idempotency_key=row.idempotency_key,
        headers=json.loads(row.headers),
        body=bytes(row.body),
        traceparent=row.traceparent,
        tracestate=row.tracestate,
        received_at=row.received_at,
    )


def _list_of(ids: Sequence[str]) -> str:
    """Write ids as JSON; they need no escaping."""
    return '["' + '","'.join(ids) + '"]' if ids else "[]"


_NEXT_DUE = text(
    "SELECT due_at FROM netscript_trigger_events WHERE due_at IS NOT NULL ORDER BY due_at LIMIT 1"
)
_FINISH = text(
    """
    UPDATE netscript_trigger_events
    SET status = :status, executions = :executions, attempt = :attempt, conflict = :conflict,
        error = :error, due_at = :due_at, finished_at = :finished_at, token = NULL
    WHERE id = :id AND token = :held
    """
)
_RELEASE = text(
    """
    UPDATE netscript_trigger_events SET status = 'pending', due_at = :now, token = NULL
    WHERE id = :id AND token = :token AND status = 'processing'
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


@cache
def _claim(dialect: Dialect) -> TextClause:
    return text(
        f"""
        UPDATE netscript_trigger_events
        SET attempt = attempt + CASE WHEN status = 'processing' THEN 1 ELSE 0 END,
            status = 'processing', token = :token, due_at = :until
        WHERE id IN (
            SELECT id FROM netscript_trigger_events
            WHERE due_at IS NOT NULL AND due_at <= :now
              AND trigger_id IN {dialect.members("triggers")}
            ORDER BY due_at, id LIMIT :limit {dialect.skip_locked})
        RETURNING id, trigger_id, token, attempt, idempotency_key, headers, body, traceparent,
            tracestate, received_at
        """
    )


@cache
def _lock(dialect: Dialect) -> TextClause:
    return text(
        f"""
        SELECT id, token FROM netscript_trigger_events
        WHERE id IN {dialect.members("ids", "id")} AND status = 'processing'
        ORDER BY id {dialect.for_update}
        """
    )
