"""The outbox: how executions, and whatever must exist together with them, are stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sqlalchemy import Connection, Table

from netscript_workers.clock import MICROSECONDS
from netscript_workers.domain import Enqueued, ExecutionStatus, NewExecution, Reason
from netscript_workers.store import changes, idempotency
from netscript_workers.store.dialects import Dialect, Row
from netscript_workers.store.idempotency import DEFAULT_WINDOW, Key
from netscript_workers.store.schema import admissions, executions

# What one point of priority is worth in waiting: priority 0 waits at most 10 minutes behind an
# endless flood of priority 100, and no row is ever rewritten for it.
PRIORITY_STEP = 6 * MICROSECONDS

Companion: TypeAlias = Callable[[tuple[Enqueued, ...], int], tuple[Table, Row]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What is stored whole or not at all.

    Attributes:
        executions: To enqueue.
        guard: If its key is taken, nothing of this submission is stored.
        companion: Makes a row of another table, given what became of the executions and the
            database's present; an event is stored so.
    """

    executions: tuple[NewExecution, ...] = ()
    guard: Key | None = None
    companion: Companion | None = None


@dataclass(frozen=True, slots=True)
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
    keys: set[str] = field(default_factory=set[str])
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
    guards = [sub.guard for sub in submissions if sub.guard is not None]
    holders = _take(conn, dialect, guards, now, window)
    fresh = [sub for sub in submissions if sub.guard is None or _is_ours(sub.guard, holders)]
    keyed = [
        Key(f"job:{new.job_id}", new.idempotency_key, new.fingerprint, new.id)
        for sub in fresh
        for new in sub.executions
        if new.idempotency_key is not None
    ]
    owners = _take(conn, dialect, keyed, now, window)
    batch = _Batch()
    receipts = [
        _add(batch, sub, owners, now)
        if sub.guard is None or _is_ours(sub.guard, holders)
        else _duplicate(sub.guard, holders)
        for sub in submissions
    ]
    _write(conn, dialect, batch, now)
    return receipts


def _take(
    conn: Connection, dialect: Dialect, keys: Sequence[Key], now: int, window: int
) -> dict[idempotency.Name, Key]:
    return idempotency.take(conn, dialect, keys, now=now, window=window) if keys else {}


def _is_ours(key: Key, owners: dict[idempotency.Name, Key]) -> bool:
    return owners[key.name].ref == key.ref


def _duplicate(guard: Key, holders: dict[idempotency.Name, Key]) -> Receipt:
    holder = holders[guard.name]
    return Receipt(duplicate_of=holder.ref, conflict=holder.fingerprint != guard.fingerprint)


def _add(batch: _Batch, sub: Submission, owners: dict[idempotency.Name, Key], now: int) -> Receipt:
    enqueued = tuple(_add_execution(batch, new, owners, now) for new in sub.executions)
    if sub.companion is not None:
        table, row = sub.companion(enqueued, now)
        batch.companions.setdefault(table, []).append(row)
    return Receipt(enqueued)


def _add_execution(
    batch: _Batch, new: NewExecution, owners: dict[idempotency.Name, Key], now: int
) -> Enqueued:
    if new.idempotency_key is not None:
        owner = owners[f"job:{new.job_id}", new.idempotency_key]
        if owner.ref != new.id:
            conflict = owner.fingerprint != new.fingerprint
            return Enqueued(owner.ref, duplicate=True, conflict=conflict)
    row = execution_row(new, now)
    batch.executions.append(row)
    batch.changed.append((new.id, row["status"]))
    if row["status"] == ExecutionStatus.BLOCKED and new.concurrency_key is not None:
        batch.keys.add(new.concurrency_key)
    return Enqueued(new.id)


def execution_row(new: NewExecution, now: int) -> dict[str, Any]:
    """Return the row of a new execution: due later, waiting for its key, or ready."""
    run_at = max(now, now + new.delay if new.run_at is None else new.run_at)
    status, reason = ExecutionStatus.QUEUED, None
    if run_at > now:
        status, reason = ExecutionStatus.SCHEDULED, Reason.DELAY
    elif new.concurrency_key is not None:
        status, reason = ExecutionStatus.BLOCKED, Reason.CONCURRENCY_KEY
    return {
        "id": new.id,
        "kind": new.kind,
        "job_id": new.job_id,
        "topic": new.topic,
        "status": status.value,
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
        "triggered_by": str(new.triggered_by),
        "trigger_event_id": new.trigger_event_id,
        "retried_from": new.retried_from,
        "created_at": now,
        "run_at": run_at,
        "reason": None if reason is None else reason.value,
        "sort_at": run_at - new.priority * PRIORITY_STEP,
        "holds_key": False,
        "parked": False,
        "cancel_requested": False,
    }


def _write(conn: Connection, dialect: Dialect, batch: _Batch, now: int) -> None:
    if batch.executions:
        dialect.insert(conn, executions, batch.executions)
    if batch.keys:
        # Only a note "look at this key" is written here: no shared row is locked in a
        # transaction that may be a user's.
        dialect.insert(conn, admissions, [{"key": key} for key in sorted(batch.keys)])
    for table, rows in batch.companions.items():
        dialect.insert(conn, table, rows)
    changes.record(conn, dialect, batch.changed, now)
