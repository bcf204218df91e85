"""The outbox: how executions, and whatever must exist together with them, are stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sqlalchemy import Connection, Table

from netscript_workers.clock import MICROSECONDS
from netscript_workers.domain import (
    Enqueued,
    ExecutionStatus,
    NewBatch,
    NewExecution,
    Reason,
)
from netscript_workers.store import batches, changes, idempotency, modes
from netscript_workers.store.admissions import NoteKind
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.idempotency import DEFAULT_WINDOW, Key
from netscript_workers.store.inserts import Row
from netscript_workers.store.modes import Decisions
from netscript_workers.store.schema import admissions, executions
from netscript_workers.store.schema import batches as batches_table

# What one point of priority is worth in waiting: priority 0 waits at most 10 minutes behind an
# endless flood of priority 100, and no row is ever rewritten for it.
PRIORITY_STEP = 6 * MICROSECONDS

# The text of each, once: an enum's `value` costs a call.
_QUEUED = ExecutionStatus.QUEUED.value
_SCHEDULED = ExecutionStatus.SCHEDULED.value
_BLOCKED = ExecutionStatus.BLOCKED.value
_DELAY = Reason.DELAY.value
_CONCURRENCY_KEY = Reason.CONCURRENCY_KEY.value

Companion: TypeAlias = Callable[[tuple[Enqueued, ...], int], tuple[Table, Row]]


@dataclass(slots=True, kw_only=True)
class Submission:
    """What is stored whole or not at all.

    Attributes:
        executions: To enqueue.
        batches: The batches that some of them belong to.
        guard: If its key is taken, nothing of this submission is stored.
        companion: Makes a row of another table, given what became of the executions and the
            database's present; an event is stored so.
        trace: What is told once it is stored, where somebody traces it.
    """

    executions: tuple[NewExecution, ...] = ()
    batches: tuple[NewBatch, ...] = ()
    guard: Key | None = None
    companion: Companion | None = None
    trace: Any = None


@dataclass(slots=True)
class Receipt:
    """What became of a submission.

    Attributes:
        enqueued: One for each execution, in their order; empty for a duplicate.
        duplicate_of: Who holds the guard's key, if somebody else does.
        conflict: The holder's content was another one.
    """

    enqueued: tuple[Enqueued, ...] = ()
    duplicate_of: str | None = None
    conflict: bool = False


@dataclass(slots=True)
class _Batch:
    executions: list[Row] = field(default_factory=list[Row])
    batches: list[Row] = field(default_factory=list[Row])
    keys: set[str] = field(default_factory=set[str])
    jobs: set[str] = field(default_factory=set[str])
    companions: dict[Table, list[Row]] = field(default_factory=dict[Table, list[Row]])
    changed: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


def store(
    conn: Connection,
    dialect: Dialect,
    submissions: Sequence[Submission],
    *,
    now: int,
    window: int = DEFAULT_WINDOW,
) -> list[Receipt]:
    """Store submissions in the caller's transaction, with a statement per table, not per item.

    The same rules hold between the submissions of one call as between calls: the first one that
    names a key takes it.
    """
    keys = [sub.guard for sub in submissions if sub.guard is not None]
    keys += [key for sub in submissions for key in _job_keys(sub, now, window)]
    owners = idempotency.take(conn, dialect, keys, now=now, window=window)
    late = [sub for sub in submissions if sub.guard is not None and not _is_ours(sub.guard, owners)]
    if late:
        owners |= _retake(conn, dialect, submissions, late, owners, now, window)
    batch = _Batch()
    decided = _decide(conn, dialect, batch, submissions, owners, now, window) if keys else None
    receipts = [
        _add(batch, sub, owners, decided, now)
        if sub.guard is None or _is_ours(sub.guard, owners)
        else _duplicate(sub.guard, owners)
        for sub in submissions
    ]
    _write(conn, dialect, batch, now)
    return receipts


def _job_keys(sub: Submission, now: int, window: int) -> list[Key]:
    return [
        Key(
            f"job:{new.job_id}",
            new.idempotency_key,
            new.fingerprint,
            new.id,
            None if new.idempotency == "once" else modes.keep_until(new, now, window),
        )
        for new in sub.executions
        if new.idempotency_key is not None
    ]


def _retake(
    conn: Connection,
    dialect: Dialect,
    submissions: Sequence[Submission],
    late: Sequence[Submission],
    owners: Mapping[idempotency.Name, Key],
    now: int,
    window: int,
) -> dict[idempotency.Name, Key]:
    """Give back what was taken for submissions that are not stored, and take it for the others."""
    vain = [key for sub in late for key in _job_keys(sub, now, window) if _is_ours(key, owners)]
    if not vain:
        return {}
    idempotency.release(conn, dialect, vain)
    names = {key.name for key in vain}
    stored = [sub for sub in submissions if sub not in late]
    wanted = [key for sub in stored for key in _job_keys(sub, now, window) if key.name in names]
    return idempotency.take(conn, dialect, wanted, now=now, window=window)


def _decide(
    conn: Connection,
    dialect: Dialect,
    batch: _Batch,
    submissions: Sequence[Submission],
    owners: dict[idempotency.Name, Key],
    now: int,
    window: int,
) -> Decisions | None:
    """Have modes other than `once` decide, if any is named."""
    if all(new.idempotency == "once" for sub in submissions for new in sub.executions):
        return None
    arriving = [
        new
        for sub in submissions
        if sub.guard is None or _is_ours(sub.guard, owners)
        for new in sub.executions
        if new.idempotency_key is not None
    ]
    decided = modes.decide(
        conn, dialect, arriving, owners, now=now, window=window, step=PRIORITY_STEP
    )
    batch.changed += decided.changed
    batch.keys |= decided.keys
    batch.jobs |= decided.jobs
    return decided


def _is_ours(key: Key, owners: Mapping[idempotency.Name, Key]) -> bool:
    return owners[key.name].ref == key.ref


def _duplicate(guard: Key, owners: Mapping[idempotency.Name, Key]) -> Receipt:
    holder = owners[guard.name]
    return Receipt(duplicate_of=holder.ref, conflict=holder.fingerprint != guard.fingerprint)


def _add(
    batch: _Batch,
    sub: Submission,
    owners: dict[idempotency.Name, Key],
    decided: Decisions | None,
    now: int,
) -> Receipt:
    enqueued = tuple(_add_execution(batch, new, owners, decided, now) for new in sub.executions)
    for one in sub.batches:
        _add_batch(batch, one, sub.executions, enqueued, now)
    if sub.companion is not None:
        table, row = sub.companion(enqueued, now)
        batch.companions.setdefault(table, []).append(row)
    return Receipt(enqueued)


def _add_batch(
    batch: _Batch,
    new: NewBatch,
    members: Sequence[NewExecution],
    enqueued: Sequence[Enqueued],
    now: int,
) -> None:
    expected = sum(
        member.batch_id == new.id and not told.duplicate
        for member, told in zip(members, enqueued, strict=True)
    )
    batch.batches.append(batches.row(new, expected, now))
    if expected == 0 and new.callback is not None:
        _add_execution(batch, new.callback, {}, None, now)


def _add_execution(
    batch: _Batch,
    new: NewExecution,
    owners: dict[idempotency.Name, Key],
    decided: Decisions | None,
    now: int,
) -> Enqueued:
    if new.idempotency_key is not None:
        name = (f"job:{new.job_id}", new.idempotency_key)
        owner = owners[name]
        if decided is not None and name in decided.names:
            if new.id in decided.answers:
                return decided.answers[new.id]
            new = decided.contents.get(new.id, new)
        elif owner.ref != new.id:
            conflict = owner.fingerprint != new.fingerprint
            return Enqueued(owner.ref, duplicate=True, conflict=conflict)
    row = execution_row(new, now)
    status: str = row["status"]
    batch.executions.append(row)
    batch.changed.append((new.id, status))
    if status == _BLOCKED:
        if new.concurrency_key is not None:
            batch.keys.add(new.concurrency_key)
        if new.limited:
            batch.jobs.add(new.job_id)
    return Enqueued(new.id)


def execution_row(new: NewExecution, now: int) -> dict[str, Any]:
    """Return the row of a new execution: due later, waiting for its key or its job, or ready."""
    run_at = modes.due_at(new, now, now)
    status: str = _QUEUED
    reason: str | None = None
    if run_at > now:
        status, reason = _SCHEDULED, _DELAY
    elif new.concurrency_key is not None:
        status, reason = _BLOCKED, _CONCURRENCY_KEY
    elif new.limited:
        status, reason = _BLOCKED, new.limited
    return {
        "id": new.id,
        "kind": new.kind,
        "job_id": new.job_id,
        "topic": new.topic,
        "status": status,
        "priority": new.priority,
        "payload": new.payload,
        "fingerprint": new.fingerprint,
        "attempt": 1,
        "max_attempts": new.max_attempts,
        "losses": 0,
        "strict_order": new.strict_order,
        "idempotency_key": new.idempotency_key,
        "concurrency_key": new.concurrency_key,
        "correlation_id": new.correlation_id,
        "traceparent": new.traceparent,
        "tracestate": new.tracestate,
        "triggered_by": new.triggered_by.value,
        "trigger_event_id": new.trigger_event_id,
        "retried_from": new.retried_from,
        "batch_id": new.batch_id,
        "created_at": now,
        "run_at": run_at,
        "reason": reason,
        "sort_at": run_at - new.priority * PRIORITY_STEP,
        "holds_key": False,
        "parked": False,
        "cancel_requested": False,
        "limited": bool(new.limited),
        "wants_job": status == _BLOCKED and new.concurrency_key is None,
    }


def _write(conn: Connection, dialect: Dialect, batch: _Batch, now: int) -> None:
    parts: list[tuple[Table, Sequence[Row]]] = []
    if batch.executions:
        parts.append((executions, batch.executions))
    if batch.keys:
        # Only a note "look at this key" is written here: no shared row is locked in a
        # transaction that may be a user's.
        parts.append((admissions, [{"key": key} for key in sorted(batch.keys)]))
    if batch.jobs:
        notes = [{"kind": NoteKind.JOB.value, "key": job} for job in sorted(batch.jobs)]
        parts.append((admissions, notes))
    if batch.batches:
        parts.append((batches_table, batch.batches))
    parts += batch.companions.items()
    parts += changes.rows(batch.changed, now)
    dialect.insert_all(conn, parts)
