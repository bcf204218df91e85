"""Concurrency keys: which blocked execution may come next.

A keyed execution is stored as `blocked` beside a note that names its key. Whoever takes the note
locks the key's slot, in the order of the keys, and moves the oldest blocked execution to `queued`.
So a claim never looks at blocked rows, however many there are, and nobody's own transaction locks
a row that others need.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache

from sqlalchemy import Connection, Row, TextClause, text

from netscript_workers.store import changes
from netscript_workers.store.dialects import Dialect

NOTES_AT_A_TIME = 500
SWEPT_AT_A_TIME = 500


class NoteKind(StrEnum):
    """What a note asks to be looked at."""

    KEY = "key"
    JOB = "job"
    BATCH = "batch"


@dataclass(slots=True)
class Notes:
    """Notes that were taken, each of which asks for a look.

    Attributes:
        keys: Concurrency keys.
        jobs: Jobs, at whose gate somebody waits.
        batches: How many executions of each batch have finished.
        more: There are likely more notes.
    """

    keys: set[str] = field(default_factory=set[str])
    jobs: set[str] = field(default_factory=set[str])
    batches: Counter[str] = field(default_factory=Counter[str])
    more: bool = False


def take_notes(conn: Connection, dialect: Dialect) -> Notes:
    """Take the oldest notes that nobody else is taking."""
    taken = conn.execute(_take(dialect), {"limit": NOTES_AT_A_TIME}).all()
    notes = Notes(more=len(taken) == NOTES_AT_A_TIME)
    for kind, key, added in taken:
        if kind == NoteKind.KEY:
            notes.keys.add(key)
        elif kind == NoteKind.JOB:
            notes.jobs.add(key)
        else:
            notes.batches[key] += added
    return notes


def admit(
    conn: Connection,
    dialect: Dialect,
    keys: Iterable[str],
    released: Counter[str] | None = None,
) -> list[tuple[str, str]]:
    """Give back released slots and let the next of each key in.

    Args:
        conn: The transaction that also stores why the slots are free.
        dialect: The database's own ways.
        keys: Keys to look at.
        released: How many holders of each key have ended.

    Returns:
        The ids let in, as `queued`, and of those that gave way, as `blocked`.
    """
    gone = released or Counter()
    wanted = sorted({*keys, *gone})
    if not wanted:
        return []
    locked = _lock_slots(conn, dialect, wanted)
    used = {row.key: row.used - gone[row.key] for row in locked}
    full = [row.key for row in locked if used[row.key] >= row.max_used]
    gave_way: list[Row[tuple[str, str]]] = []
    if full:  # whoever waits in a paused topic lets others pass
        gave_way = list(conn.execute(_give_way(dialect), {"keys": json.dumps(full)}))
    for row in gave_way:
        used[row.concurrency_key] -= 1
    free = [row.key for row in locked if used[row.key] < row.max_used]
    bound = {"keys": json.dumps(free)}
    oldest = [row.id for row in conn.execute(_oldest(dialect), bound) if row.id] if free else []
    admitted: list[Row[tuple[str, str]]] = []
    if oldest:
        queued = conn.execute(_queue(dialect), {"ids": json.dumps(oldest)})
        admitted = list(queued)
    holder = {row.concurrency_key: row.id for row in admitted}
    for row in admitted:
        used[row.concurrency_key] += 1
    _write_slots(conn, dialect, used, holder, before={row.key: row.used for row in locked})
    return [(row.id, "blocked") for row in gave_way] + [(row.id, "queued") for row in admitted]


def let_pass(conn: Connection, dialect: Dialect, topic: str) -> list[tuple[str, str]]:
    """Have the queued executions of a topic that was just paused give way; return as `admit`."""
    return admit(conn, dialect, conn.execute(_HELD_IN_TOPIC, {"topic": topic}).scalars())


def note_topic(conn: Connection, topic: str) -> None:
    """Have every key looked at that somebody waits for in a topic that was just resumed."""
    conn.execute(_NOTE_TOPIC, {"topic": topic})


def sweep(conn: Connection, dialect: Dialect, after: str, now: int) -> tuple[int, str]:
    """Repair a stretch of keys: slots whose holder is gone, keys that nobody looked at.

    There should be nothing to repair; what is found is a fault to be reported. A holder that
    waits in a topic that was paused meanwhile is none: it gives way without being counted.

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
    conn.execute(_lock(dialect), asked).all()
    gone = Counter({row.key: row.used for row in conn.execute(_orphaned(dialect), asked)})
    waiting = set(conn.execute(_overlooked(dialect), asked).scalars())
    changed = admit(conn, dialect, waiting, gone)
    repaired = sum(gone.values()) + sum(status == "queued" for _, status in changed)
    changed += admit(conn, dialect, conn.execute(_held_up(dialect), asked).scalars())
    changes.record(conn, dialect, changed, now)
    return repaired, keys[-1] if len(keys) == SWEPT_AT_A_TIME else ""


def _lock_slots(
    conn: Connection, dialect: Dialect, keys: list[str]
) -> list[Row[tuple[str, int, int]]]:
    """Lock a slot for every key, in order, making those that don't exist."""
    bound = {"keys": json.dumps(keys)}
    locked: list[Row[tuple[str, int, int]]] = []
    # Another transaction may remove an idle slot between our insert and our lock.
    while len(locked) < len(keys):
        conn.execute(_make(dialect), bound)
        locked = list(conn.execute(_lock(dialect), bound))
    return locked


def _write_slots(
    conn: Connection,
    dialect: Dialect,
    used: dict[str, int],
    holder: dict[str, str],
    before: dict[str, int],
) -> None:
    idle = [key for key, count in used.items() if count <= 0]
    if idle:
        conn.execute(_drop(dialect), {"keys": json.dumps(idle)})
    rows = [
        {"key": key, "used": count, "holder": holder.get(key)}
        for key, count in used.items()
        if count > 0 and (key in holder or count != before[key])
    ]
    if rows:
        conn.execute(_update(dialect), {"rows": json.dumps(rows)})


@cache
def _take(dialect: Dialect) -> TextClause:
    return text(
        f"""
        DELETE FROM netscript_admissions WHERE id IN (
            SELECT id FROM netscript_admissions ORDER BY id LIMIT :limit {dialect.skip_locked})
        RETURNING kind, key, added
        """
    )


@cache
def _make(dialect: Dialect) -> TextClause:
    return text(
        f"""
        INSERT INTO netscript_concurrency_slots (key, max_used, used)
        SELECT k.value, 1, 0 FROM {dialect.members("keys")} k WHERE true
        ON CONFLICT (key) DO NOTHING
        """
    )


@cache
def _lock(dialect: Dialect) -> TextClause:
    return text(
        f"""
        SELECT key, used, max_used FROM netscript_concurrency_slots
        WHERE key IN {dialect.members("keys")} ORDER BY key {dialect.for_update}
        """
    )


@cache
def _oldest(dialect: Dialect) -> TextClause:
    # One that an enqueue with its idempotency key holds is passed by; that one leaves a note.
    lock = f"{dialect.for_update} OF e SKIP LOCKED" if dialect.for_update else ""
    return text(
        f"""
        SELECT (
            SELECT e.id FROM netscript_executions e
            WHERE e.status = 'blocked' AND e.concurrency_key = k.value AND NOT EXISTS (
                SELECT 1 FROM netscript_topics t WHERE t.name = e.topic AND t.paused)
            ORDER BY e.id LIMIT 1 {lock}
        ) AS id FROM {dialect.members("keys")} k
        """
    )


# Whose holder can't run now, because its topic is paused. One that has begun and keeps its order
# strictly has the key until it is finished.
_PAUSED_HOLDER = """
    FROM netscript_concurrency_slots s JOIN netscript_executions e ON e.id = s.holder
    WHERE e.status = 'queued' AND NOT (e.strict_order AND e.token IS NOT NULL)
      AND EXISTS (SELECT 1 FROM netscript_topics t WHERE t.name = e.topic AND t.paused)"""


@cache
def _give_way(dialect: Dialect) -> TextClause:
    # Not one that is being claimed at this instant.
    lock = f"{dialect.for_update} OF e SKIP LOCKED" if dialect.for_update else ""
    return text(
        f"""
        UPDATE netscript_executions
        SET status = 'blocked', holds_key = false, reason = 'concurrency key'
        WHERE id IN (
            SELECT e.id {_PAUSED_HOLDER} AND s.key IN {dialect.members("keys")} {lock})
        RETURNING id, concurrency_key
        """
    )


@cache
def _held_up(dialect: Dialect) -> TextClause:
    return text(f"SELECT s.key {_PAUSED_HOLDER} AND s.key IN {dialect.members('keys')}")


@cache
def _queue(dialect: Dialect) -> TextClause:
    return text(
        f"""
        UPDATE netscript_executions SET status = 'queued', holds_key = true, reason = NULL
        WHERE id IN {dialect.members("ids", "id")} AND status = 'blocked'
        RETURNING id, concurrency_key
        """
    )


_HELD_IN_TOPIC = text(
    """
    SELECT s.key FROM netscript_concurrency_slots s JOIN netscript_executions e ON e.id = s.holder
    WHERE e.status = 'queued' AND e.topic = :topic
    """
)
_NOTE_TOPIC = text(
    """
    INSERT INTO netscript_admissions (key)
    SELECT DISTINCT concurrency_key FROM netscript_executions
    WHERE status = 'blocked' AND topic = :topic
    """
)


@cache
def _drop(dialect: Dialect) -> TextClause:
    return text(f"DELETE FROM netscript_concurrency_slots WHERE key IN {dialect.members('keys')}")


@cache
def _update(dialect: Dialect) -> TextClause:
    source = dialect.records(key="text", used="int", holder="id")
    return text(
        f"""
        UPDATE netscript_concurrency_slots SET used = r.used, holder = r.holder
        FROM {source} WHERE netscript_concurrency_slots.key = r.key
        """
    )


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
    return text(
        f"""
        SELECT k.value FROM {dialect.members("keys")} k
        WHERE NOT EXISTS (SELECT 1 FROM netscript_concurrency_slots s
                          WHERE s.key = k.value AND s.used > 0)
          AND EXISTS (SELECT 1 FROM netscript_executions e
                      WHERE e.status = 'blocked' AND e.concurrency_key = k.value)
        """
    )
