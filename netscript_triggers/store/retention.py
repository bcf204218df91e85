"""Retention: events that have ended are forgotten after a while, a few rows at a time."""

from __future__ import annotations

from functools import cache

from sqlalchemy import TextClause, text

from netscript_triggers.events import EventStatus
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.engine import Store
from netscript_workers.store.retention import CHUNK, DAY, Retention, oldest_id


def prune(store: Store, retention: Retention) -> int:
    """Forget a chunk of the completed and one of the dead events past their time; return how many.

    The key that an event came under has its own window and stays: what is delivered again within it
    is still known.
    """
    gone = 0
    for status, days in (
        (EventStatus.COMPLETED, retention.completed),
        (EventStatus.DEAD, retention.failed),
    ):
        with store.begin() as conn:
            before = store.now(conn) - round(days * DAY)
            # Ids grow with time, so (status, id) serves: what began before the limit comes first.
            bound = {
                "status": status.value,
                "before": before,
                "below": oldest_id(before),
                "limit": CHUNK,
            }
            gone += conn.execute(_prune(store.dialect), bound).rowcount
    return gone


@cache
def _prune(dialect: Dialect) -> TextClause:
    return text(
        f"""
        DELETE FROM netscript_trigger_events WHERE id IN (
            SELECT id FROM netscript_trigger_events
            WHERE status = :status AND id < :below AND finished_at < :before
            ORDER BY id LIMIT :limit {dialect.skip_locked})
        """
    )
