"""Batches: who of them is final is a set, and whoever completes the set stores the callback.

A counter that is raised twice for one execution fires twice or never; a set can't be. The
transaction that ends an execution puts it into the set and, where it was not in it, leaves a note
for whoever ticks next. So ends never wait for each other, a worker that is killed right after its
commit leaves the note, and the batch's own row is locked only by those who take notes of it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from typing import Any

from sqlalchemy import Connection, TextClause, text

from netscript_workers.domain import NewBatch, NewExecution, load_execution
from netscript_workers.store.admissions import NoteKind
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.inserts import Row
from netscript_workers.store.schema import admissions

SWEPT_AT_A_TIME = 20


def row(new: NewBatch, expected: int, now: int) -> Row:
    """Return the row of a new batch that waits for so many executions; for none, it is complete."""
    complete = expected == 0
    callback = new.callback
    return {
        "id": new.id,
        "expected": expected,
        "done": 0,
        "callback": None if callback is None else json.dumps(asdict(callback)),
        "callback_id": callback.id if complete and callback is not None else None,
        "created_at": now,
        "completed_at": now if complete else None,
    }


def record_done(conn: Connection, dialect: Dialect, ended: Iterable[tuple[str, str, str]]) -> bool:
    """Put executions into the sets of their batches; tell whether that left a note.

    Args:
        conn: The transaction that makes them final.
        dialect: The database's own ways.
        ended: Batch, execution and final status of each.
    """
    rows = [
        {"batch_id": batch, "execution_id": execution, "status": status}
        for batch, execution, status in sorted(ended)
    ]
    added = conn.execute(_add_done(dialect), {"rows": json.dumps(rows)}).scalars()
    counted = Counter(str(batch) for batch in added)
    _leave_notes(conn, dialect, counted)
    return bool(counted)


def take_back(conn: Connection, dialect: Dialect, again: Iterable[tuple[str, str]]) -> None:
    """Take executions that run again out of the sets of batches that are not complete.

    A batch that is complete stays so: nothing is repeated.

    Args:
        conn: The transaction that has them run again.
        dialect: The database's own ways.
        again: Batch and execution of each.
    """
    members = sorted(again)
    # Those who complete a batch have its row locked while they look at its set.
    asked = {"ids": json.dumps(sorted({batch for batch, _ in members}))}
    still_open = {str(row.id) for row in conn.execute(_lock(dialect), asked)}
    rows = [
        {"batch_id": batch, "execution_id": execution}
        for batch, execution in members
        if batch in still_open
    ]
    if rows:
        gone = conn.execute(_remove_done(dialect), {"rows": json.dumps(rows)}).scalars()
        counted = Counter(str(batch) for batch in gone)
        _leave_notes(conn, dialect, {batch: -count for batch, count in counted.items()})


def count(
    conn: Connection, dialect: Dialect, added: Mapping[str, int], now: int
) -> list[NewExecution]:
    """Count what notes have told, and complete the batches whose set is full.

    Args:
        conn: The transaction that took the notes.
        dialect: The database's own ways.
        added: By batch, how many executions were put into its set, less those taken out.
        now: The database's present.

    Returns:
        The callbacks of those that are complete, to be stored in this transaction.
    """
    locked = conn.execute(_lock(dialect), {"ids": json.dumps(sorted(added))}).all()
    callbacks: list[NewExecution] = []
    rows: list[dict[str, Any]] = []
    for one in locked:
        done = one.done + added[str(one.id)]
        row: dict[str, Any] = {"id": str(one.id), "done": done, "callback_id": None, "at": None}
        # A note of one that was taken out again may still be to come: the set decides.
        if done >= one.expected and _size(conn, one.id) >= one.expected:
            row["at"] = now
            if one.callback is not None:
                callback = load_execution(json.loads(one.callback))
                row["callback_id"] = callback.id
                callbacks.append(callback)
        rows.append(row)
    if rows:
        conn.execute(_write(dialect), {"rows": json.dumps(rows)})
    return callbacks


def sweep(conn: Connection, dialect: Dialect, after: str) -> tuple[int, str]:
    """Compare a few open batches with their sets; have those that don't fit looked at again.

    Args:
        conn: A write transaction.
        dialect: The database's own ways.
        after: The id where the last call ended; "" to begin with.

    Returns:
        How many don't fit, and the id to go on after ("" at the end).
    """
    bound = {"after": after or _FIRST, "limit": SWEPT_AT_A_TIME}
    found = conn.execute(_OPEN, bound).all()
    # One statement has seen the row, the set and the notes: together they are always exact.
    wrong = {
        str(one.id): one.size - one.done - one.noted
        for one in found
        if one.size != one.done + one.noted or (one.size >= one.expected and not one.notes)
    }
    _leave_notes(conn, dialect, wrong)
    return len(wrong), str(found[-1].id) if len(found) == SWEPT_AT_A_TIME else ""


def prune(conn: Connection, dialect: Dialect, *, before: int, limit: int) -> int:
    """Forget up to `limit` batches that were complete before this; return how many."""
    bound = {"before": before, "limit": limit}
    ids = [str(id_) for id_ in conn.execute(_prune(dialect), bound).scalars()]
    if ids:
        conn.execute(_forget_done(dialect), {"ids": json.dumps(ids)})
    return len(ids)


def _size(conn: Connection, batch_id: Any) -> int:
    return int(conn.execute(_SIZE, {"id": batch_id}).scalar_one())


def _leave_notes(conn: Connection, dialect: Dialect, added: Mapping[str, int]) -> None:
    if added:
        notes = [
            {"kind": NoteKind.BATCH.value, "key": batch, "added": number}
            for batch, number in sorted(added.items())
        ]
        dialect.insert(conn, admissions, notes)


_FIRST = "00000000-0000-0000-0000-000000000000"
# What each batch's set holds, and what the notes that nobody has taken tell of it. They may cancel
# each other out, so their number counts as well. All notes are read once, not for each batch.
COUNTED = """
    (SELECT count(*) FROM netscript_batch_done d WHERE d.batch_id = b.id) AS size,
    coalesce(n.noted, 0) AS noted, coalesce(n.notes, 0) AS notes"""
NOTED = """
    LEFT JOIN (SELECT key, sum(added) AS noted, count(*) AS notes FROM netscript_admissions
               WHERE kind = 'batch' GROUP BY key) n ON n.key = CAST(b.id AS text)"""
_OPEN = text(
    f"""
    SELECT b.id, b.expected, b.done, {COUNTED}
    FROM (SELECT id, expected, done FROM netscript_batches
          WHERE completed_at IS NULL AND id > :after
          ORDER BY completed_at, id LIMIT :limit) b {NOTED}
    ORDER BY b.id
    """
)
_SIZE = text("SELECT count(*) FROM netscript_batch_done WHERE batch_id = :id")


@cache
def _add_done(dialect: Dialect) -> TextClause:
    source = dialect.records(batch_id="id", execution_id="id", status="text")
    # Of a batch that is complete, or forgotten, nobody asks any more.
    return text(
        f"""
        INSERT INTO netscript_batch_done (batch_id, execution_id, status)
        SELECT r.batch_id, r.execution_id, r.status
        FROM {source} JOIN netscript_batches b ON b.id = r.batch_id
        WHERE b.completed_at IS NULL
        ON CONFLICT (batch_id, execution_id) DO NOTHING
        RETURNING batch_id
        """
    )


@cache
def _remove_done(dialect: Dialect) -> TextClause:
    source = dialect.records(batch_id="id", execution_id="id")
    return text(
        f"""
        DELETE FROM netscript_batch_done WHERE (batch_id, execution_id) IN (
            SELECT r.batch_id, r.execution_id FROM {source})
        RETURNING batch_id
        """
    )


@cache
def _lock(dialect: Dialect) -> TextClause:
    return text(
        f"""
        SELECT id, expected, done, callback FROM netscript_batches
        WHERE id IN {dialect.members("ids", "id")} AND completed_at IS NULL
        ORDER BY id {dialect.for_update}
        """
    )


@cache
def _write(dialect: Dialect) -> TextClause:
    source = dialect.records(id="id", done="int", callback_id="id", at="bigint")
    return text(
        f"""
        UPDATE netscript_batches
        SET done = r.done, callback_id = r.callback_id, completed_at = r.at
        FROM {source} WHERE netscript_batches.id = r.id
        """
    )


@cache
def _prune(dialect: Dialect) -> TextClause:
    return text(
        f"""
        DELETE FROM netscript_batches WHERE id IN (
            SELECT id FROM netscript_batches WHERE completed_at < :before
            ORDER BY completed_at LIMIT :limit {dialect.skip_locked})
        RETURNING id
        """
    )


@cache
def _forget_done(dialect: Dialect) -> TextClause:
    return text(
        f"DELETE FROM netscript_batch_done WHERE batch_id IN {dialect.members('ids', 'id')}"
    )
