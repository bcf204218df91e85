"""Sweeping: repairs what concurrency keys and gates of jobs count, and finds who was overlooked.

There should be nothing to repair; what is found is a fault to be reported.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache

from sqlalchemy import Connection, TextClause, text

from netscript_workers.clock import MICROSECONDS
from netscript_workers.store import admissions, changes, entrance, gates
from netscript_workers.store.admissions import NoteKind
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.entrance import Asked

SWEPT_AT_A_TIME = 500
# A tick that is late is no fault.
_LATE = 5 * MICROSECONDS


def sweep_keys(conn: Connection, dialect: Dialect, after: str, now: int) -> tuple[int, str]:
    """Repair a stretch of keys: slots whose holder is gone, keys that nobody looked at.

    The latter get a note, for a tick to look at them.

    A holder that waits in a topic that was paused meanwhile is none to be repaired: it gives way
    without being counted.

    Args:
        conn: A write transaction.
        dialect: The database's own ways.
        after: The key where the last call ended; "" to begin with.
        now: The database's present.

    Returns:
        How much was repaired, and the key to go on after ("" at the end).
    """
    bound = {"after": after, "limit": SWEPT_AT_A_TIME}
    keys = [key for key in conn.execute(_KEYS, bound).scalars() if key is not None]
    if not keys:
        return 0, ""
    asked = {"keys": json.dumps(keys)}
    # Judged by a statement of its own, after the lock: a snapshot from before it would take a
    # holder that was let in meanwhile for one that is gone.
    locked = admissions.lock_existing(conn, dialect, keys)
    orphaned = conn.execute(_orphaned(dialect), asked)
    gone = Counter({row.key: row.used for row in orphaned if row.key in locked})
    # A tick lets them in: their slots are not locked, and to make them now is out of order.
    waiting = set(conn.execute(_overlooked(dialect), asked).scalars())
    admissions.note(conn, dialect, NoteKind.KEY, waiting)
    found = entrance.let_in(conn, dialect, Asked(released_keys=gone), now)
    queued = sum(status == "queued" for _, status in found.changed)
    paused = {row.key for row in admissions.held_up(conn, dialect, locked)}
    found.changed += entrance.let_in(conn, dialect, Asked(keys=paused), now).changed
    changes.record(conn, dialect, found.changed, now)
    end = keys[-1] if len(keys) == SWEPT_AT_A_TIME else ""
    return sum(gone.values()) + len(waiting) + queued + found.arrived, end


def sweep_gates(conn: Connection, dialect: Dialect, now: int) -> int:
    """Repair what gates count, and look at those that nobody looked at; return how much it was.

    What has a place in a topic that was paused meanwhile gives way without being counted.
    """
    locked = gates.lock_gates(conn, dialect, gates.all_gates(conn))
    if not locked:
        return 0
    drift = gates.drifted(conn, dialect, locked)
    for job_id, by in drift.items():
        locked[job_id].used -= by
    gates.write_gates(conn, dialect, locked)
    paused = {row.job_id for row in gates.held_up(conn, dialect, locked)}
    jobs = (gates.overlooked(conn, now - _LATE) & locked.keys()) | drift.keys()
    found = entrance.let_in(conn, dialect, Asked(jobs=jobs | paused), now)
    changes.record(conn, dialect, found.changed, now)
    entered = sum(found.entered[job_id] for job_id in jobs - paused)
    return sum(map(abs, drift.values())) + entered


# The next keys that anybody holds or waits for: a loose index scan on both.
_KEYS = text(
    """
    WITH RECURSIVE b(key) AS (
        SELECT (SELECT concurrency_key FROM netscript_executions
                WHERE status = 'blocked' AND concurrency_key > :after
                ORDER BY concurrency_key LIMIT 1)
        UNION ALL
        SELECT (SELECT e.concurrency_key FROM netscript_executions e
                WHERE e.status = 'blocked' AND e.concurrency_key > b.key
                ORDER BY e.concurrency_key LIMIT 1)
        FROM b WHERE b.key IS NOT NULL),
    few AS (SELECT key FROM b WHERE key IS NOT NULL LIMIT :limit)
    SELECT key FROM few
    UNION
    SELECT key FROM (SELECT key FROM netscript_concurrency_slots WHERE key > :after
                     ORDER BY key LIMIT :limit) AS s
    ORDER BY key LIMIT :limit
    """
)


@cache
def _orphaned(dialect: Dialect) -> TextClause:
    """Select slots in use whose holder is finished, or waits without holding the key."""
    return text(
        f"""
        SELECT s.key, s.used FROM netscript_concurrency_slots s
        WHERE s.key IN {dialect.members("keys")} AND s.used > 0 AND NOT EXISTS (
            SELECT 1 FROM netscript_executions e WHERE e.id = s.holder AND e.holds_key)
        """
    )


@cache
def _overlooked(dialect: Dialect) -> TextClause:
    """Select keys that nobody has, nobody was told of, and whose next one waits for nothing else.

    A note that a tick takes and the holder that it lets in are seen together, or neither.
    """
    return text(
        f"""
        SELECT k.value FROM {dialect.members("keys")} k
        WHERE NOT EXISTS (SELECT 1 FROM netscript_concurrency_slots s
                          WHERE s.key = k.value AND s.used > 0)
          AND k.value NOT IN (SELECT a.key FROM netscript_admissions a WHERE a.kind = 'key')
          AND NOT (SELECT e.wants_job FROM netscript_executions e
                   WHERE e.status = 'blocked' AND e.concurrency_key = k.value AND NOT EXISTS (
                       SELECT 1 FROM netscript_topics t WHERE t.name = e.topic AND t.paused)
                   ORDER BY e.id LIMIT 1)
        """
    )
