"""Fires: each instant of a schedule is dealt with once, whoever and how many look at it.

The cursor moves, the instants are recorded and what they set off is stored in one transaction.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TypeAlias

from sqlalchemy import Connection, TextClause, text

from netscript_workers.clock import from_micros, to_micros
from netscript_workers.errors import NetscriptError
from netscript_workers.instants import Instant
from netscript_workers.schedules import Plan, told_late
from netscript_workers.store import outbox
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.engine import Store
from netscript_workers.store.idempotency import DEFAULT_WINDOW
from netscript_workers.store.outbox import Receipt, Submission
from netscript_workers.store.schedules import StoredSchedule

FIRED = "fired"
SKIPPED = "skipped"
# So many fires back, something unfinished counts as an overlap.
_LOOKED_AT = 20


@dataclass(frozen=True, slots=True)
class Start:
    """What an instant sets off.

    Attributes:
        ref: The id of the execution or event.
        submission: What is stored for it.
    """

    ref: str
    submission: Submission


# Says what instants of a schedule set off. It may read, and a NetscriptError refuses all of them.
Target: TypeAlias = Callable[[Connection, StoredSchedule, Sequence[Instant]], Sequence[Start]]
# Tells whether some of what a schedule has set off, by its refs, is unfinished.
Unfinished: TypeAlias = Callable[[Connection, Dialect, Sequence[str]], bool]


def unfinished_executions(conn: Connection, dialect: Dialect, refs: Sequence[str]) -> bool:
    """Tell whether some of these executions have not ended."""
    asked = {"ids": json.dumps(refs)}
    return conn.execute(_live(dialect), asked).first() is not None


def fire(
    store: Store,
    due: StoredSchedule,
    plan: Plan,
    target: Target,
    unfinished: Unfinished = unfinished_executions,
    *,
    window: int = DEFAULT_WINDOW,
) -> list[str]:
    """Do what a plan says, unless somebody else has; return the ids of what was set off.

    Args:
        store: Where.
        due: The schedule as it was when the plan was made.
        plan: What to do.
        target: Says what its instants set off.
        unfinished: Tells whether some of what it has set off before is unfinished.
        window: How long idempotency keys are kept, in microseconds.
    """
    with store.begin() as conn:
        fired = _fire(conn, store, due, plan, target, unfinished, window)
    for start, receipt in fired:
        if start.submission.trace is not None and receipt.duplicate_of is None:
            start.submission.trace.stored(receipt.enqueued)
    return [start.ref for start, _ in fired]


def _fire(
    conn: Connection,
    store: Store,
    due: StoredSchedule,
    plan: Plan,
    target: Target,
    unfinished: Unfinished,
    window: int,
) -> list[tuple[Start, Receipt]]:
    now = store.now(conn)
    present = from_micros(now)
    cursor = {
        "id": due.id,
        "version": due.version,
        "cursor": _micros(due.next_at),
        "next_at": _micros(plan.next_at),
    }
    if conn.execute(_MOVE, cursor).rowcount == 0:
        return []
    fires, skipped = _without_overlaps(conn, store.dialect, due, plan, unfinished)
    starts: Sequence[Start] = ()
    try:
        starts = target(conn, due, fires) if fires else ()
    except NetscriptError as error:
        skipped = [*skipped, *(one.noted(f"refused: {error.code}") for one in fires)]
        fires = []
    rows = [
        _row(told_late(one, present), FIRED, start.ref)
        for one, start in zip(fires, starts, strict=True)
    ]
    rows += [_row(one, SKIPPED, None) for one in skipped]
    if not rows:
        return []
    asked = {"rows": json.dumps(rows), "id": due.id, "version": due.version, "now": now}
    taken = set(conn.execute(_record(store.dialect), asked).scalars())
    own = [start for one, start in zip(fires, starts, strict=True) if to_micros(one.at) in taken]
    if not own:
        return []
    receipts = outbox.store(
        conn, store.dialect, [start.submission for start in own], now=now, window=window
    )
    for start, receipt in zip(own, receipts, strict=True):
        if receipt.duplicate_of is not None:  # somebody has had this instant run by hand
            held = {"id": due.id, "ref": start.ref, "first": receipt.duplicate_of}
            conn.execute(_REFER, held)
    return list(zip(own, receipts, strict=True))


@dataclass(frozen=True, slots=True)
class Fire:
    """What became of an instant that has come.

    Attributes:
        outcome: `fired` or `skipped`.
        note: Why, or what a clock change had to do with it.
        ref: What it set off.
    """

    at: datetime
    outcome: str
    note: str | None
    ref: str | None


def recent(conn: Connection, schedule_id: str, limit: int) -> list[Fire]:
    """Return what became of a schedule's last instants, the last one first."""
    rows = conn.execute(_RECENT, {"id": schedule_id, "limit": limit})
    return [
        Fire(from_micros(row.nominal_at), row.outcome, row.note, row.ref and str(row.ref))
        for row in rows
    ]


def event_of(conn: Connection, schedule_id: str, at: datetime) -> str | None:
    """Return what an instant has set off, if it has fired and that is still on record."""
    found = conn.execute(_REF, {"id": schedule_id, "at": to_micros(at)}).scalar_one_or_none()
    return None if found is None else str(found)


def prune(conn: Connection, dialect: Dialect, *, before: int, limit: int) -> int:
    """Forget instants that came and were recorded before this; return how many.

    The last one of a schedule that fired stays: what it led to may still run.
    """
    bound = {"before": before, "limit": limit}
    return conn.execute(_prune(dialect), bound).rowcount


def is_busy(conn: Connection, dialect: Dialect, schedule_id: str, unfinished: Unfinished) -> bool:
    """Tell whether some of what a schedule has set off last is unfinished."""
    bound = {"id": schedule_id, "limit": _LOOKED_AT}
    refs = [str(ref) for ref in conn.execute(_LAST, bound).scalars()]
    return bool(refs) and unfinished(conn, dialect, refs)


def _without_overlaps(
    conn: Connection, dialect: Dialect, due: StoredSchedule, plan: Plan, unfinished: Unfinished
) -> tuple[list[Instant], list[Instant]]:
    if due.schedule.overlap == "allow" or not plan.fires:
        return plan.fires, plan.skipped
    *before, last = plan.fires
    busy = is_busy(conn, dialect, due.id, unfinished)
    passed = [one.noted("would overlap; overlap=skip") for one in before]
    if busy:
        passed.append(last.noted("the one before is unfinished; overlap=skip"))
    return ([] if busy else [last]), [*plan.skipped, *passed]


def _row(instant: Instant, outcome: str, ref: str | None) -> dict[str, object]:
    facts = {"at": to_micros(instant.at), "outcome": outcome}
    return {**facts, "note": instant.note, "ref": ref}


def _micros(at: datetime | None) -> int | None:
    return None if at is None else to_micros(at)


_MOVE = text(
    """
    UPDATE netscript_schedules SET next_at = :next_at
    WHERE id = :id AND version = :version AND next_at = :cursor AND enabled
    """
)


@cache
def _record(dialect: Dialect) -> TextClause:
    source = dialect.records(at="bigint", outcome="text", note="text", ref="id")
    return text(
        f"""
        INSERT INTO netscript_schedule_fires
            (schedule_id, nominal_at, version, outcome, note, ref, recorded_at)
        SELECT :id, r.at, :version, r.outcome, r.note, r.ref, :now FROM {source} WHERE true
        ON CONFLICT (schedule_id, nominal_at) DO NOTHING RETURNING nominal_at
        """
    )


_LAST = text(
    """
    SELECT ref FROM netscript_schedule_fires WHERE schedule_id = :id AND ref IS NOT NULL
    ORDER BY nominal_at DESC LIMIT :limit
    """
)
_RECENT = text(
    """
    SELECT nominal_at, outcome, note, ref FROM netscript_schedule_fires
    WHERE schedule_id = :id ORDER BY nominal_at DESC LIMIT :limit
    """
)
_REF = text("SELECT ref FROM netscript_schedule_fires WHERE schedule_id = :id AND nominal_at = :at")
_REFER = text(
    "UPDATE netscript_schedule_fires SET ref = :first WHERE schedule_id = :id AND ref = :ref"
)


@cache
def _live(dialect: Dialect) -> TextClause:
    ids = dialect.members("ids", "id")
    return text(f"SELECT 1 FROM netscript_executions WHERE id IN {ids} LIMIT 1")


@cache
def _prune(dialect: Dialect) -> TextClause:
    return text(
        f"""
        DELETE FROM netscript_schedule_fires WHERE (schedule_id, nominal_at) IN (
            SELECT f.schedule_id, f.nominal_at FROM netscript_schedule_fires f
            WHERE f.recorded_at < :before AND f.nominal_at < :before
              AND (f.outcome <> '{FIRED}' OR EXISTS (
                SELECT 1 FROM netscript_schedule_fires l WHERE l.schedule_id = f.schedule_id
                  AND l.nominal_at > f.nominal_at AND l.outcome = '{FIRED}'))
            ORDER BY f.recorded_at LIMIT :limit {dialect.skip_locked})
        """
    )
