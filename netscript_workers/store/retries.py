"""Running finished executions again, and putting dead letters away."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, TextClause, text

from netscript_workers.actions import Cause, JobCatalog, enqueue_job, resolve
from netscript_workers.domain import ExecutionStatus, Reason, TriggeredBy
from netscript_workers.errors import ExecutionNotFoundError, StateError
from netscript_workers.ids import is_id
from netscript_workers.store import admissions, batches, changes, outbox
from netscript_workers.store.admissions import NoteKind
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.engine import Store
from netscript_workers.store.gates import waits_for
from netscript_workers.store.outbox import PRIORITY_STEP, Submission
from netscript_workers.store.schema import COMMON, history


def retry(store: Store, execution_id: str) -> None:
    """Move a failed or cancelled execution from history back to the queue.

    It keeps its id and its steps, goes on counting attempts, and gets as many more as its policy
    gave it at first. Its concurrency key is asked for like anybody's. What was ended for killing
    its process gets the whole budget of crashes again, and goes on running alone.

    Raises:
        ExecutionNotFoundError: There is none with this id.
        StateError: It is not failed or cancelled.
    """
    with store.begin() as conn:
        row = _lock_finished(conn, store.dialect, execution_id, "retried")
        _move(conn, store, [row])


def retry_chunk(store: Store, ids: Sequence[str]) -> int:
    """Retry those of these executions that are failed or cancelled; return how many."""
    with store.begin() as conn:
        rows = conn.execute(_find_some(store.dialect), {"ids": json.dumps(sorted(ids))}).all()
        if rows:
            _move(conn, store, rows)
    return len(rows)


def retry_edited(store: Store, execution_id: str, payload: Any, catalog: JobCatalog) -> str:
    """Run a failed or cancelled execution's job with another payload; return the new id.

    The new execution names the old one in `retried_from` and has its topic, priority, concurrency
    key and correlation id, but no idempotency key. The old one stays as it is.

    Args:
        store: Where it is.
        execution_id: The old one.
        payload: What to run its job with.
        catalog: Where the job is looked up.

    Raises:
        ExecutionNotFoundError: There is none with this id.
        StateError: It is not failed or cancelled.
        JobNotFoundError: Its job is not registered any more.
        PayloadInvalidError: The job refuses the payload, or is disabled.
        PayloadTooLargeError: The payload is longer than 1 MiB of JSON.
    """
    with store.begin() as conn:
        old = _lock_finished(conn, store.dialect, execution_id, "retried")
    action = enqueue_job(
        old.job_id,
        payload,
        concurrency_key=old.concurrency_key,
        priority=old.priority,
        correlation_id=old.correlation_id,
        topic=old.topic,
    )
    cause = Cause(
        triggered_by=TriggeredBy.API, traceparent=old.traceparent, tracestate=old.tracestate
    )
    new = replace(resolve(action, catalog, cause), retried_from=execution_id)
    with store.begin() as conn:
        # It may have been retried as itself meanwhile.
        _lock_finished(conn, store.dialect, execution_id, "retried")
        now = store.now(conn)
        outbox.store(conn, store.dialect, [Submission(executions=(new,))], now=now)
    return new.id


def discard(store: Store, execution_id: str) -> None:
    """Put a dead letter away: what has failed is `cancelled`, reason `discarded`.

    Its error, its attempts and the time of its end stay.

    Raises:
        ExecutionNotFoundError: There is none with this id.
        StateError: It has not failed.
    """
    with store.begin() as conn:
        row = _lock_finished(conn, store.dialect, execution_id, "discarded")
        if row.status != ExecutionStatus.FAILED:
            raise StateError(
                f"Execution {execution_id} is {row.status}; only failed ones can be discarded."
            )
        status = ExecutionStatus.CANCELLED.value
        changed = {"status": status, "reason": Reason.DISCARDED.value}
        conn.execute(_DELETE, {"id": execution_id})
        store.dialect.insert(conn, history, [{**row._mapping, **changed}])  # noqa: SLF001 - SQLAlchemy's public name for it
        changes.record(conn, store.dialect, [(execution_id, status)], store.now(conn))


def _lock_finished(conn: Connection, dialect: Dialect, execution_id: str, wish: str) -> Row[Any]:
    """Return the row of a failed or cancelled execution, which is nobody else's until the end."""
    if not is_id(execution_id):
        raise ExecutionNotFoundError(f"There is no execution {execution_id[:100]!r}.")
    for _ in range(2):  # it may finish between two looks
        row = conn.execute(_find(dialect), {"id": execution_id}).one_or_none()
        if row is not None and row.status != ExecutionStatus.COMPLETED:
            return row
        status = conn.execute(_STATUS, {"id": execution_id}).scalar() if row is None else row.status
        if status is not None:
            raise StateError(f"Execution {execution_id} is {status}, so it can't be {wish}.")
    raise ExecutionNotFoundError(f"There is no execution {execution_id}.")


def _move(conn: Connection, store: Store, rows: Sequence[Row[Any]]) -> None:
    """Move locked rows from history to the queue."""
    now, dialect = store.now(conn), store.dialect
    ids = json.dumps([str(row.id) for row in rows])
    bound = {"ids": ids, "now": now, "step": PRIORITY_STEP, "no": False}
    moved = conn.execute(_to_live(dialect), bound).all()
    conn.execute(_delete_some(dialect), {"ids": ids})
    members = [(str(row.batch_id), str(row.id)) for row in rows if row.batch_id is not None]
    if members:
        batches.take_back(conn, dialect, members)
    keys = {row.concurrency_key for row in moved if row.concurrency_key is not None}
    admissions.note(conn, dialect, NoteKind.KEY, keys)
    jobs = {row.job_id for row in moved if row.limited}
    admissions.note(conn, dialect, NoteKind.JOB, jobs)
    changes.record(conn, dialect, [(str(row.id), row.status) for row in moved], now)


_STATUS = text("SELECT status FROM netscript_executions WHERE id = :id")
_DELETE = text("DELETE FROM netscript_execution_history WHERE id = :id")

_FAILURES = "(CASE WHEN h.status = 'failed' THEN h.attempt ELSE h.attempt - 1 END)"
_POLICY = (
    "coalesce((SELECT d.max_attempts FROM netscript_job_definitions d WHERE d.id = h.job_id), "
    "h.max_attempts)"
)
_LIMITED = (
    "EXISTS (SELECT 1 FROM netscript_job_definitions d WHERE d.id = h.job_id "
    "AND (d.max_concurrency IS NOT NULL OR d.rate IS NOT NULL))"
)
_CHANGED = {
    "status": f"CASE WHEN h.concurrency_key IS NULL AND NOT {_LIMITED} THEN 'queued' "
    "ELSE 'blocked' END",
    "reason": "CASE WHEN h.concurrency_key IS NOT NULL THEN 'concurrency key' "
    f"WHEN {_LIMITED} THEN {waits_for('h.job_id')} "
    f"WHEN h.reason = 'crashed' THEN '{Reason.ALONE.value}' END",
    "attempt": f"{_FAILURES} + 1",
    "max_attempts": f"{_FAILURES} + CASE WHEN {_POLICY} > 1 THEN {_POLICY} ELSE 1 END",
    "run_at": "CAST(:now AS bigint)",
    "losses": "CASE WHEN h.reason = 'crashed' THEN h.losses ELSE 0 END",
    "started_at": "NULL",
    "worker_id": "NULL",
    "progress_percent": "NULL",
    "progress_message": "NULL",
}


@cache
def _to_live(dialect: Dialect) -> TextClause:
    return text(
        f"""
        INSERT INTO netscript_executions
            ({", ".join(COMMON)}, sort_at, holds_key, parked, cancel_requested,
             limited, wants_job)
        SELECT {", ".join(_CHANGED.get(name, f"h.{name}") for name in COMMON)},
            :now - h.priority * CAST(:step AS bigint), CAST(:no AS boolean),
            coalesce(h.reason, '') = 'crashed', CAST(:no AS boolean),
            {_LIMITED}, h.concurrency_key IS NULL AND {_LIMITED}
        FROM netscript_execution_history h WHERE h.id IN {dialect.members("ids", "id")}
        RETURNING id, job_id, status, concurrency_key, limited
        """
    )


@cache
def _delete_some(dialect: Dialect) -> TextClause:
    return text(
        f"DELETE FROM netscript_execution_history WHERE id IN {dialect.members('ids', 'id')}"
    )


@cache
def _find(dialect: Dialect) -> TextClause:
    columns = ", ".join(column.name for column in history.columns)
    return text(
        f"SELECT {columns} FROM netscript_execution_history WHERE id = :id {dialect.for_update}"
    )


@cache
def _find_some(dialect: Dialect) -> TextClause:
    return text(
        f"""
        SELECT id, concurrency_key, batch_id FROM netscript_execution_history
        WHERE id IN {dialect.members("ids", "id")} AND status IN ('failed', 'cancelled')
        ORDER BY id {dialect.skip_locked}
        """
    )
