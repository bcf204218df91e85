"""Handler runs: events whose handler is due are claimed, and end under the token of their claim."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, TextClause, text

from netscript_triggers.events import EventStatus
from netscript_triggers.store.inbox import DIED, Disposition, Failure, ended
from netscript_workers.clock import MICROSECONDS
from netscript_workers.domain import Enqueued, NewExecution, NewWork
from netscript_workers.store import outbox
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.outbox import Submission

_LOST = {EventStatus.FAILED, EventStatus.DEAD, EventStatus.PENDING}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """An event that was claimed, as it was stored.

    Attributes:
        executions: What its handler has enqueued before.
        failures: How its handler has failed before, as JSON.
        by_hand: Its body is JSON that somebody gave, not what a sender sent.
        probe: It is the one event that an open circuit lets through.
        replays: How often somebody has had it run again.
    """

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
    event_type: str | None = None
    replayed_from: str | None = None
    note: str | None = None
    by_hand: bool = False
    executions: tuple[str, ...] = ()
    failures: str | None = None
    probe: bool = False
    replays: int = 0

    @property
    def runs_anew(self) -> bool:
        """Whether this is a retry or a replay, and no first run that was put off."""
        return self.attempt > 1 or self.replays > 0 or self.replayed_from is not None


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of one handler run, to be stored under the token of its claim."""

    event: StoredEvent
    disposition: Disposition
    work: NewWork = field(default_factory=NewWork)


def waiting(conn: Connection, dialect: Dialect, triggers: Sequence[str]) -> dict[str, int]:
    """Return when the next handler of each trigger is due, in microseconds since the epoch."""
    rows = conn.execute(_waiting(dialect), {"triggers": json.dumps(triggers)})
    return {row.trigger_id: row.due_at for row in rows if row.due_at is not None}


def running(conn: Connection, trigger_id: str, now: int) -> int:
    """Return how many events of a trigger are claimed, by whatever process."""
    return int(conn.execute(_RUNNING, {"trigger": trigger_id, "now": now}).scalar_one())


def claim(
    conn: Connection,
    dialect: Dialect,
    *,
    trigger: str,
    token: str,
    limit: int,
    lease: float,
    now: int,
) -> list[StoredEvent]:
    """Claim events of a trigger whose handler is due, for so many seconds.

    One that is claimed again because its lease ran out has cost its handler an attempt. Of a
    trigger that is disabled nothing is claimed.
    """
    bound = {
        "trigger": trigger,
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
    reused = _reused(conn, dialect, ours)
    submissions = [_submission(end.work, kept) for end, kept in zip(ours, reused, strict=True)]
    receipts = outbox.store(conn, dialect, submissions, now=now, window=window)
    rows = [
        {
            "id": end.event.id,
            "held": end.event.token,
            **_row(end, _together(receipt.enqueued, kept), now),
        }
        for end, receipt, kept in zip(ours, receipts, reused, strict=True)
    ]
    if rows:
        conn.execute(_FINISH, rows)
    kept_ids = {end.event.id for end in ours}
    return [end.event.id in kept_ids for end in finishes]


def release(conn: Connection, events: Sequence[StoredEvent], now: int) -> None:
    """Give claimed events back without a failed attempt."""
    for event in events:
        conn.execute(_RELEASE, {"id": event.id, "token": event.token, "now": now})


def _row(end: Finish, enqueued: tuple[Enqueued, ...], now: int) -> dict[str, Any]:
    event, disposition = end.event, end.disposition
    row = ended(disposition, enqueued, now)
    ids = [one.execution_id for one in enqueued]
    # What an earlier run has enqueued stays its own, also where this one asked for nothing of it.
    lost = disposition.status in _LOST
    named = [*event.executions] if lost else [*ids, *(i for i in event.executions if i not in ids)]
    return {**row, "executions": json.dumps(named), "failures": _failures(end, now)}


def _failures(end: Finish, now: int) -> str | None:
    event = end.event
    before = Failure.read(event.failures)
    attempt = before[-1].attempt + 1 if before else 1
    # Of an attempt whose process died nobody else tells.
    died = [
        Failure(attempt=n, at=event.received_at if not before else before[-1].at, error=DIED)
        for n in range(attempt, event.attempt)
    ]
    failures = [*before, *died]
    if end.disposition.error is not None:
        failures.append(Failure(attempt=event.attempt, at=now, error=end.disposition.error))
    return Failure.write(failures)


# What a run asks for that an earlier run of the same event has enqueued.


def _reused(conn: Connection, dialect: Dialect, ends: Sequence[Finish]) -> list[list[str | None]]:
    """Return, for each run and each execution it asks for, the one that it has had before.

    Keys hold as long as their event is there, explicit ones and the implied ones of actions that
    have none: of those the first that an event asks of a job is the first it has had of it.
    """
    asked = {one for end in ends if end.work.executions for one in end.event.executions}
    if not asked:
        return [[None] * len(end.work.executions) for end in ends]
    rows = conn.execute(_had(dialect), {"ids": json.dumps(sorted(asked))})
    had = {str(row.id): (row.job_id, row.idempotency_key) for row in rows}
    return [_match(end.event.executions, end.work.executions, had) for end in ends]


def _match(
    before: Sequence[str],
    wanted: Sequence[NewExecution],
    had: Mapping[str, tuple[str, str | None]],
) -> list[str | None]:
    unkeyed: defaultdict[str, deque[str]] = defaultdict(deque)
    keyed: dict[tuple[str, str], str] = {}
    for id_ in before:
        job, key = had.get(id_, ("", None))
        if key is None:
            unkeyed[job].append(id_)
        else:
            keyed[job, key] = id_
    found: list[str | None] = []
    for place, new in enumerate(wanted):
        if new.idempotency_key is not None:
            held = keyed.get((new.job_id, new.idempotency_key))
            found.append(held if new.idempotency == "once" else None)
        elif unkeyed[new.job_id]:
            found.append(unkeyed[new.job_id].popleft())
        else:  # one that is past retention was the one at this place
            past = place < len(before) and before[place] not in had
            found.append(before[place] if past else None)
    return found


def _submission(work: NewWork, kept: Sequence[str | None]) -> Submission:
    if not any(kept):
        return Submission(executions=work.executions, batches=work.batches)
    left = tuple(new for new, id_ in zip(work.executions, kept, strict=True) if id_ is None)
    members = {new.batch_id for new in left}
    batches = tuple(batch for batch in work.batches if batch.id in members)
    return Submission(executions=left, batches=batches)


def _together(enqueued: tuple[Enqueued, ...], kept: Sequence[str | None]) -> tuple[Enqueued, ...]:
    fresh = iter(enqueued)
    return tuple(next(fresh) if id_ is None else Enqueued(id_, duplicate=True) for id_ in kept)


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
        event_type=row.event_type,
        replayed_from=None if row.replayed_from is None else str(row.replayed_from),
        note=row.note,
        by_hand=bool(row.by_hand),
        executions=tuple(json.loads(row.executions)),
        failures=row.failures,
        replays=row.replays,
    )


def as_probe(events: Sequence[StoredEvent]) -> list[StoredEvent]:
    """Mark events as those that an open circuit lets through."""
    return [replace(event, probe=True) for event in events]


_RUNNING = text(
    """
    SELECT count(*) FROM netscript_trigger_events
    WHERE trigger_id = :trigger AND token IS NOT NULL AND due_at > :now
    """
)
_FINISH = text(
    """
    UPDATE netscript_trigger_events
    SET status = :status, executions = :executions, attempt = :attempt,
        conflict = (conflict OR :conflict), error = :error, reason = :reason,
        failures = :failures, due_at = :due_at, finished_at = :finished_at, token = NULL
    WHERE id = :id AND token = :held
    """
)
_RELEASE = text(
    """
    UPDATE netscript_trigger_events
    SET status = 'pending', reason = NULL, due_at = :now, token = NULL
    WHERE id = :id AND token = :token AND status = 'processing'
    """
)


@cache
def _waiting(dialect: Dialect) -> TextClause:
    return text(
        f"""
        SELECT m.value AS trigger_id, (
            SELECT e.due_at FROM netscript_trigger_events e
            WHERE e.trigger_id = m.value AND e.due_at IS NOT NULL
            ORDER BY e.trigger_id, e.due_at, e.id LIMIT 1) AS due_at
        FROM {dialect.members("triggers")} AS m
        """
    )


@cache
def _claim(dialect: Dialect) -> TextClause:
    return text(
        f"""
        UPDATE netscript_trigger_events
        SET attempt = attempt + CASE WHEN status = 'processing' THEN 1 ELSE 0 END,
            status = 'processing', reason = NULL, token = :token, due_at = :until
        WHERE id IN (
            SELECT id FROM netscript_trigger_events
            WHERE due_at IS NOT NULL AND due_at <= :now AND trigger_id = :trigger
              AND NOT EXISTS (
                SELECT 1 FROM netscript_trigger_state s
                WHERE s.trigger_id = :trigger AND NOT s.enabled)
            ORDER BY due_at, id LIMIT :limit {dialect.skip_locked})
        RETURNING id, trigger_id, token, attempt, idempotency_key, headers, body, traceparent,
            tracestate, received_at, event_type, replayed_from, note, by_hand, executions, failures,
            replays
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


@cache
def _had(dialect: Dialect) -> TextClause:
    one = "SELECT id, job_id, idempotency_key FROM {table} WHERE id IN {ids}"
    ids = dialect.members("ids", "id")
    return text(
        " UNION ALL ".join(
            one.format(table=table, ids=ids)
            for table in ("netscript_executions", "netscript_execution_history")
        )
    )
