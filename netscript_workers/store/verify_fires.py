"""Checks what schedules promise: each instant that fired led to one execution, and to no other."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from sqlalchemy import Connection, TextClause, text

from netscript_workers.clock import to_rfc3339
from netscript_workers.domain import TriggeredBy
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.engine import Store
from netscript_workers.store.findings import CHUNK, Report, Terms
from netscript_workers.store.fires import FIRED


def check_fires(store: Store, terms: Terms, report: Report) -> None:
    """Look at all instants that are on record, a stretch of them in one snapshot.

    Args:
        store: The database.
        terms: What it is held to.
        report: Where findings go.
    """
    for conn, some, now in chunks_of_fires(store, "job"):
        report.checked["fires"] += len(some)
        fires = [(one.ref, f"{one.schedule_id}@{to_rfc3339(one.nominal_at)}") for one in some]
        found = _executions(conn, store.dialect, fires)
        for ref, name in fires:
            if found[ref] == 0:
                tell_lost(report, terms, ref, name, now)
            if found[name] > 1:
                report.add("fired-twice", name, f"{found[name]} executions are of this instant")


@dataclass(frozen=True, slots=True)
class FiredInstant:
    """An instant that fired; `nominal_at` in microseconds since the epoch."""

    schedule_id: str
    nominal_at: int
    ref: str


def chunks_of_fires(
    store: Store, kind: str
) -> Iterator[tuple[Connection, list[FiredInstant], int]]:
    """Yield instants that fired, some at a time, with a snapshot to look around in and its present.

    Args:
        store: The database.
        kind: What the ids of the schedules begin with.
    """
    # Ids of a kind are what lies between the colon and the character after it.
    bounds = {"first": f"{kind}:", "last": f"{kind};", "limit": CHUNK}
    after = {"id": "", "at": 0}
    while True:
        with store.snapshot() as conn:
            now = store.now(conn)
            rows = conn.execute(_FIRES, {**after, **bounds}).all()
            if rows:
                some = [FiredInstant(row.schedule_id, row.nominal_at, str(row.ref)) for row in rows]
                yield conn, some, now
        if len(rows) < CHUNK:
            return
        after = {"id": rows[-1].schedule_id, "at": rows[-1].nominal_at}


def tell_lost(report: Report, terms: Terms, ref: str, name: str, now: int) -> None:
    """Report what an instant led to and is not there any more, unless its time is over."""
    if terms.may_be_pruned(ref, now):
        report.pruned += 1
    else:
        report.add("fire-lost", name, f"it led to {ref}, which is nowhere")


def _executions(conn: Connection, dialect: Dialect, fires: list[tuple[str, str]]) -> Counter[str]:
    """Count executions by their ids, and those that schedules set off by their instants."""
    ids = {"ids": json.dumps([ref for ref, _ in fires])}
    found = Counter(str(id_) for id_ in conn.execute(_by_id(dialect), ids).scalars())
    names = {"names": json.dumps([name for _, name in fires])}
    found.update(str(name) for name in conn.execute(_by_instant(dialect), names).scalars())
    return found


_FIRES = text(
    f"""
    SELECT schedule_id, nominal_at, ref FROM netscript_schedule_fires
    WHERE (schedule_id, nominal_at) > (:id, :at) AND outcome = '{FIRED}'
      AND schedule_id >= :first AND schedule_id < :last
    ORDER BY schedule_id, nominal_at LIMIT :limit
    """
)


@cache
def _by_id(dialect: Dialect) -> TextClause:
    ids = dialect.members("ids", "id")
    return text(
        f"""
        SELECT id FROM netscript_executions WHERE id IN {ids}
        UNION ALL SELECT id FROM netscript_execution_history WHERE id IN {ids}
        """
    )


@cache
def _by_instant(dialect: Dialect) -> TextClause:
    asked = (
        f"triggered_by = '{TriggeredBy.CRON.value}' AND retried_from IS NULL "
        f"AND correlation_id IN {dialect.members('names')}"
    )
    return text(
        f"""
        SELECT correlation_id FROM netscript_executions WHERE {asked}
        UNION ALL SELECT correlation_id FROM netscript_execution_history WHERE {asked}
        """
    )
