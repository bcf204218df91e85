"""Running a finished execution again, as the same execution."""

from __future__ import annotations

from functools import cache

from sqlalchemy import Connection, TextClause, text

from netscript_workers.errors import ExecutionNotFoundError, StateError
from netscript_workers.ids import is_id
from netscript_workers.store import batches, changes
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.engine import Store
from netscript_workers.store.outbox import PRIORITY_STEP
from netscript_workers.store.schema import COMMON, admissions


def retry(store: Store, execution_id: str) -> None:
    """Move a failed or cancelled execution from history back to the queue.

    It keeps its id and its steps, goes on counting attempts, and gets as many more as its policy
    gave it at first. Its concurrency key is asked for like anybody's. What was ended for killing
    its process gets the whole budget of crashes again, and goes on running alone.

    Raises:
        ExecutionNotFoundError: There is none with this id.
        StateError: It is not failed or cancelled.
    """
    if not is_id(execution_id):
        raise ExecutionNotFoundError(f"There is no execution {execution_id}.")
    with store.begin() as conn:
        now = store.now(conn)
        row = conn.execute(_find(store.dialect), {"id": execution_id}).one_or_none()
        if row is None:
            _refuse(conn, execution_id)
            return
        if row.status == "completed":
            raise StateError(
                f"Execution {execution_id} is completed, so there is nothing to retry."
            )
        failures = row.attempt if row.status == "failed" else row.attempt - 1
        keyed = row.concurrency_key is not None
        status = "blocked" if keyed else "queued"
        conn.execute(
            _MOVE,
            {
                "id": execution_id,
                "status": status,
                "reason": "concurrency key" if keyed else None,
                "attempt": failures + 1,
                "most": failures + max(row.policy_attempts, 1),
                "now": now,
                "step": PRIORITY_STEP,
                "no": False,
            },
        )
        conn.execute(_DELETE, {"id": execution_id})
        if row.batch_id is not None:
            batches.take_back(conn, store.dialect, [execution_id])
        if keyed:
            store.dialect.insert(conn, admissions, [{"key": row.concurrency_key}])
        changes.record(conn, store.dialect, [(execution_id, status)], now)


def _refuse(conn: Connection, execution_id: str) -> None:
    live = conn.execute(_LIVE, {"id": execution_id}).scalar()
    if live is None:
        raise ExecutionNotFoundError(f"There is no execution {execution_id}.")
    raise StateError(f"Execution {execution_id} is {live}, so it can't be retried.")


_LIVE = text("SELECT status FROM netscript_executions WHERE id = :id")
_DELETE = text("DELETE FROM netscript_execution_history WHERE id = :id")
_CHANGED = {
    "status": "CAST(:status AS text)",
    "reason": "CAST(:reason AS text)",
    "attempt": "CAST(:attempt AS integer)",
    "max_attempts": "CAST(:most AS integer)",
    "run_at": "CAST(:now AS bigint)",
    "losses": "CASE WHEN reason = 'crashed' THEN losses ELSE 0 END",
    "started_at": "NULL",
    "worker_id": "NULL",
    "progress_percent": "NULL",
    "progress_message": "NULL",
}
_MOVE = text(
    f"""
    INSERT INTO netscript_executions
        ({", ".join(COMMON)}, sort_at, holds_key, parked, cancel_requested)
    SELECT {", ".join(_CHANGED.get(name, name) for name in COMMON)},
        :now - priority * CAST(:step AS bigint), CAST(:no AS boolean),
        coalesce(reason, '') = 'crashed', CAST(:no AS boolean)
    FROM netscript_execution_history WHERE id = :id
    """
)


@cache
def _find(dialect: Dialect) -> TextClause:
    lock = f"{dialect.for_update} OF h" if dialect.for_update else ""
    return text(
        f"""
        SELECT h.status, h.attempt, h.concurrency_key, h.batch_id, coalesce(
            (SELECT d.max_attempts FROM netscript_job_definitions d WHERE d.id = h.job_id),
            h.max_attempts) AS policy_attempts
        FROM netscript_execution_history h WHERE h.id = :id {lock}
        """
    )
