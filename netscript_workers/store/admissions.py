"""Concurrency keys: which blocked execution may come next.

A keyed execution is stored as `blocked` beside a note that names its key. Whoever takes the note
locks the key's slot, in the order of the keys, and moves the oldest blocked execution to `queued`.
So a claim never looks at blocked rows, however many there are, and nobody's own transaction locks
a row that others need.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache

from sqlalchemy import Connection, Row, TextClause, text

from netscript_workers.store.dialects import Dialect
from netscript_workers.store.gates import READY_REASON, unlocked, waits_for
from netscript_workers.store.schema import admissions

NOTES_AT_A_TIME = 500


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


def note(conn: Connection, dialect: Dialect, kind: NoteKind, keys: Iterable[str]) -> None:
    """Have these looked at by whoever ticks next."""
    rows = [{"kind": kind.value, "key": key} for key in sorted(keys)]
    if rows:
        dialect.insert(conn, admissions, rows)


def note_topic(conn: Connection, topic: str) -> None:
    """Have all looked at that somebody waits for in a topic that was just resumed."""
    conn.execute(_NOTE_KEYS, {"topic": topic})
    conn.execute(_NOTE_JOBS, {"topic": topic})


def keys_in_topic(conn: Connection, topic: str) -> set[str]:
    """Return the keys that are held in a topic by what has not begun."""
    return set(conn.execute(_HELD_IN_TOPIC, {"topic": topic}).scalars())


@dataclass(slots=True)
class Slots:
    """The slots of some keys, locked by this transaction.

    Attributes:
        stored: How many executions held each key, as it is stored.
        most: How many may hold it.
        used: How many do, as it is to be stored.
        holder: Who has got the key in this transaction.
    """

    stored: dict[str, int] = field(default_factory=dict[str, int])
    most: dict[str, int] = field(default_factory=dict[str, int])
    used: dict[str, int] = field(default_factory=dict[str, int])
    holder: dict[str, str] = field(default_factory=dict[str, str])

    def free(self) -> list[str]:
        """Return the keys that somebody may take."""
        return [key for key, count in self.used.items() if count < self.most[key]]

    def full(self) -> list[str]:
        """Return the keys that nobody may take."""
        return [key for key, count in self.used.items() if count >= self.most[key]]

    def take(self, key: str, id_: str) -> None:
        """Give a key to an execution."""
        self.used[key] += 1
        self.holder[key] = id_


@dataclass(slots=True)
class Turns:
    """Whose turn it is for some keys, now that each was looked at.

    Attributes:
        changed: What was let in (`queued`) or gave way (`blocked`).
        heads: By key, who may have it as soon as its job's gate lets it in; nobody passes it.
        arrived: Those of the heads that have come to the gate just now: id, job, key, sort_at.
        jobs: Jobs whose gate is to be looked at.
        gave_up: How many have given up a place of each job.
    """

    changed: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    heads: dict[str, str] = field(default_factory=dict[str, str])
    arrived: list[tuple[str, str, str, int]] = field(
        default_factory=list[tuple[str, str, str, int]]
    )
    jobs: set[str] = field(default_factory=set[str])
    gave_up: Counter[str] = field(default_factory=Counter[str])


def take_turns(
    conn: Connection, dialect: Dialect, slots: Slots, gates: Collection[str] = ()
) -> Turns:
    """Let the next of each key in, or have it wait at the gate of its job.

    Args:
        conn: The transaction that has locked the slots.
        dialect: The database's own ways.
        slots: Every key in them is looked at.
        gates: The jobs whose gate this transaction has locked too.
    """
    turns = Turns()
    full = slots.full()
    if full:  # whoever waits in a paused topic lets others pass
        _let_pass(conn, dialect, slots, turns, full, gates)
    free = slots.free()
    if not free:
        return turns
    found = conn.execute(_oldest(dialect), {"keys": json.dumps(free)}).all()
    heads = [row for row in found if row.id is not None]
    ready = {row.id: row.concurrency_key for row in heads if not row.limited}
    coming = [row for row in heads if row.limited and not row.wants_job]
    moved: set[str] = set()
    if ready:
        for row in conn.execute(_queue(dialect), {"ids": json.dumps(sorted(ready))}):
            moved.add(row.id)
            slots.take(row.concurrency_key, row.id)
            turns.changed.append((row.id, "queued"))
    if coming:
        ids = json.dumps(sorted(row.id for row in coming))
        moved |= set(conn.execute(_to_gate(dialect), {"ids": ids, "yes": True}).scalars())
    turns.heads = {row.concurrency_key: row.id for row in heads if row.limited}
    turns.arrived = [
        (row.id, row.job_id, row.concurrency_key, row.sort_at) for row in coming if row.id in moved
    ]
    # Somebody's own transaction holds it: it keeps its turn, and is looked at again.
    late = [row.concurrency_key for row in heads if not row.wants_job and row.id not in moved]
    late += [row.key for row in found if row.passed_by]
    note(conn, dialect, NoteKind.KEY, late)
    return turns


def _let_pass(
    conn: Connection,
    dialect: Dialect,
    slots: Slots,
    turns: Turns,
    full: list[str],
    gates: Collection[str],
) -> None:
    stuck = held_up(conn, dialect, full)
    if not stuck:
        return
    # To give back a place too, its gate must be locked before any slot is: another tick does it.
    turns.jobs |= {row.job_id for row in stuck if row.holds_job and row.job_id not in gates}
    passing = {row.id: row for row in stuck if row.job_id not in turns.jobs}
    bound = {"ids": json.dumps(sorted(passing)), "no": False}
    for id_ in conn.execute(_give_way(dialect), bound).scalars():
        row = passing[id_]
        slots.used[row.key] -= 1
        turns.changed.append((id_, "blocked"))
        turns.gave_up[row.job_id] += row.holds_job


def lock_slots(
    conn: Connection, dialect: Dialect, keys: Collection[str], released: Mapping[str, int]
) -> Slots:
    """Lock a slot for every key, in order, making those that don't exist.

    Args:
        conn: A write transaction.
        dialect: The database's own ways.
        keys: All keys that this transaction will touch: it must lock no slot after this.
        released: How many holders of each key have ended.
    """
    bound = {"keys": json.dumps(sorted(keys))}
    locked: list[Row[tuple[str, int, int]]] = []
    # Another transaction may remove an idle slot between our insert and our lock.
    while len(locked) < len(keys):
        conn.execute(_make(dialect), bound)
        locked = list(conn.execute(_lock(dialect), bound))
    return Slots(
        stored={row.key: row.used for row in locked},
        most={row.key: row.max_used for row in locked},
        used={row.key: row.used - released.get(row.key, 0) for row in locked},
    )


def lock_existing(conn: Connection, dialect: Dialect, keys: Collection[str]) -> set[str]:
    """Lock the slots that there are of these keys, in order; return their keys."""
    return set(conn.execute(_lock(dialect), {"keys": json.dumps(sorted(keys))}).scalars())


def held_up(
    conn: Connection, dialect: Dialect, keys: Collection[str]
) -> Sequence[Row[tuple[str, str, str, bool]]]:
    """Return the holders of keys that can't begin, because their topic is paused."""
    return conn.execute(_held_up(dialect), {"keys": json.dumps(sorted(keys))}).all()


def write_slots(conn: Connection, dialect: Dialect, slots: Slots) -> None:
    """Store what has become of locked slots."""
    idle = [key for key, count in slots.used.items() if count <= 0]
    if idle:
        conn.execute(_drop(dialect), {"keys": json.dumps(idle)})
    rows = [
        {"key": key, "used": count, "holder": slots.holder.get(key)}
        for key, count in slots.used.items()
        if count > 0 and (key in slots.holder or count != slots.stored[key])
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
    # One that an enqueue with its idempotency key holds is passed by; that one leaves a note, if it
    # is not rolled back.
    lock = f"{dialect.for_update} OF e SKIP LOCKED" if dialect.for_update else ""
    blocked = """
        FROM netscript_executions e WHERE e.status = 'blocked' AND e.concurrency_key = {key}
        AND NOT EXISTS (SELECT 1 FROM netscript_topics t WHERE t.name = e.topic AND t.paused)"""
    return text(
        f"""
        WITH first AS (
            SELECT k.value AS key, (
                SELECT e.id {blocked.format(key="k.value")} ORDER BY e.id LIMIT 1 {lock}) AS id
            FROM {dialect.members("keys")} k)
        SELECT first.key, h.id, h.job_id, h.concurrency_key, h.limited, h.wants_job, h.sort_at,
            h.id IS NULL AND EXISTS (SELECT 1 {blocked.format(key="first.key")}) AS passed_by
        FROM first LEFT JOIN netscript_executions h ON h.id = first.id
        """
    )


# Whose holder can't run now, because its topic is paused. One that has begun and keeps its order
# strictly has the key until it is finished.
_PAUSED_HOLDER = """
    FROM netscript_concurrency_slots s JOIN netscript_executions e ON e.id = s.holder
    WHERE e.status = 'queued' AND NOT (e.strict_order AND e.token IS NOT NULL)
      AND EXISTS (SELECT 1 FROM netscript_topics t WHERE t.name = e.topic AND t.paused)"""


@cache
def _held_up(dialect: Dialect) -> TextClause:
    return text(
        f"""
        SELECT e.id, s.key, e.job_id, e.holds_job {_PAUSED_HOLDER}
          AND s.key IN {dialect.members("keys")}
        """
    )


@cache
def _give_way(dialect: Dialect) -> TextClause:
    # Not one that is being claimed at this instant.
    return text(
        f"""
        UPDATE netscript_executions
        SET status = 'blocked', holds_key = :no, holds_job = :no, reason = 'concurrency key'
        WHERE id IN {unlocked(dialect)} AND status = 'queued' RETURNING id
        """
    )


@cache
def _queue(dialect: Dialect) -> TextClause:
    return text(
        f"""
        UPDATE netscript_executions
        SET status = 'queued', holds_key = true, reason = {READY_REASON}
        WHERE id IN {unlocked(dialect)} AND status = 'blocked'
        RETURNING id, concurrency_key
        """
    )


@cache
def _to_gate(dialect: Dialect) -> TextClause:
    return text(
        f"""
        UPDATE netscript_executions SET wants_job = :yes, reason = {waits_for("job_id")}
        WHERE id IN {unlocked(dialect)} AND status = 'blocked' RETURNING id
        """
    )


_HELD_IN_TOPIC = text(
    """
    SELECT s.key FROM netscript_concurrency_slots s JOIN netscript_executions e ON e.id = s.holder
    WHERE e.status = 'queued' AND e.topic = :topic
    """
)
_NOTE_KEYS = text(
    """
    INSERT INTO netscript_admissions (key)
    SELECT DISTINCT concurrency_key FROM netscript_executions
    WHERE status = 'blocked' AND topic = :topic AND concurrency_key IS NOT NULL
    """
)
_NOTE_JOBS = text(
    """
    INSERT INTO netscript_admissions (kind, key)
    SELECT DISTINCT 'job', job_id FROM netscript_executions
    WHERE status = 'blocked' AND wants_job AND topic = :topic
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
