"""Retention: finished work is forgotten after a while, a few rows at a time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

from sqlalchemy import Connection, TextClause, text

from netscript_workers.clock import MICROSECONDS
from netscript_workers.store import audit, batches, changes, fires, idempotency
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.engine import Store

DAY = 24 * 3600 * MICROSECONDS
CHUNK = 500
# Nobody's clock is set back by that much, and an instant that came must not come again.
FIRES_KEPT = 2 * DAY
CHANGES_KEPT = 3600 * MICROSECONDS


@dataclass(frozen=True, slots=True)
class Retention:
    """How long finished executions are kept, in days; cancelled ones as long as completed ones."""

    completed: float = 7.0
    failed: float = 90.0


def prune(store: Store, retention: Retention) -> int:
    """Forget one chunk of everything that is past its time; return how many rows went.

    What an execution leaves besides its row (attempts, steps, log lines) goes with it. An
    idempotency key has its own window and stays. What people did is kept as long as failures.
    """
    gone = 0
    for status, days in (
        ("completed", retention.completed),
        ("cancelled", retention.completed),
        ("failed", retention.failed),
    ):
        with store.begin() as conn:
            before = store.now(conn) - round(days * DAY)
            gone += _prune_history(conn, store.dialect, status, before)
    number_changes(store)
    with store.begin() as conn:
        now = store.now(conn)
        gone += idempotency.prune(conn, store.dialect, now=now, limit=CHUNK)
        gone += changes.prune(conn, before=now - CHANGES_KEPT, limit=CHUNK)
        kept = max(FIRES_KEPT, round(retention.completed * DAY))
        gone += fires.prune(conn, store.dialect, before=now - kept, limit=CHUNK)
        before = now - round(retention.completed * DAY)
        gone += batches.prune(conn, store.dialect, before=before, limit=CHUNK)
        below = oldest_id(now - round(retention.failed * DAY))
        gone += audit.prune(conn, below=below, limit=CHUNK)
    return gone


def number_changes(store: Store) -> None:
    """Number all that was committed, however much it is: what has no number is never forgotten."""
    limit = stamped = changes.STAMPED_AT_A_TIME
    while stamped == limit:
        with store.begin() as conn:
            stamped = changes.stamp(conn, store.dialect, limit=limit)


def oldest_id(micros: int) -> str:
    """Return the smallest id that can have been made at an instant: ids begin with the time."""
    millis = max(micros // 1000, 0)
    text_of = f"{millis:012x}"
    return f"{text_of[:8]}-{text_of[8:]}-0000-0000-000000000000"


def _prune_history(conn: Connection, dialect: Dialect, status: str, before: int) -> int:
    # Ids grow with time, so (status, id) serves: what began before the limit comes first.
    bound = {"status": status, "before": before, "below": oldest_id(before), "limit": CHUNK}
    ids = [str(id_) for id_ in conn.execute(_delete_history(dialect), bound).scalars()]
    if ids:
        asked = {"ids": json.dumps(ids)}
        for statement in _delete_rest(dialect):
            conn.execute(statement, asked)
    return len(ids)


@cache
def _delete_history(dialect: Dialect) -> TextClause:
    return text(
        f"""
        DELETE FROM netscript_execution_history WHERE id IN (
            SELECT id FROM netscript_execution_history
            WHERE status = :status AND id < :below AND finished_at < :before
            ORDER BY id LIMIT :limit {dialect.skip_locked})
        RETURNING id
        """
    )


@cache
def _delete_rest(dialect: Dialect) -> tuple[TextClause, ...]:
    ids = dialect.members("ids", "id")
    return tuple(
        text(f"DELETE FROM {table} WHERE execution_id IN {ids}")
        for table in (
            "netscript_execution_attempts",
            "netscript_execution_steps",
            "netscript_execution_logs",
        )
    )
