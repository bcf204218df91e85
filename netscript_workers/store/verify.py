"""Checks the promises over a database's own rows: executions, keys, slots, workers, changes.

It only reads, beside whatever runs: a stretch of rows at a time, each in one snapshot, so that
nothing is taken for broken because it moved from one table to the other between two looks.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, TextClause, text

from netscript_workers.domain import FINAL_STATUSES
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.engine import Store
from netscript_workers.store.findings import (
    CHUNK,
    CLOCK_ERROR,
    Report,
    Terms,
    made_at,
    seconds,
)
from netscript_workers.store.idempotency import Name
from netscript_workers.store.retention import CHANGES_KEPT
from netscript_workers.store.verify_batches import check_batches
from netscript_workers.store.verify_fires import check_fires
from netscript_workers.store.verify_live import check_live

_FINAL = {status.value for status in FINAL_STATUSES}
_FIRST_ID = "00000000-0000-0000-0000-000000000000"
# Executions of a key that ended this long before the next ids were made can't overlap those.
_HORIZON = 3600 * 1_000_000
# Near the end of their time, rows go in another order than they were numbered.
_PRUNING = 600 * 1_000_000
# Where nobody follows along, commits get their numbers when a worker prunes: once a minute.
_NUMBERED_WITHIN = 180 * 1_000_000

Rows = Sequence[Row[Any]]


def verify(store: Store, terms: Terms, report: Report) -> None:
    """Check executions and what belongs to them.

    Args:
        store: The database.
        terms: What it is held to.
        report: Where findings go.
    """
    runs = _Runs(report)
    check_live(store, terms, report, runs.add_running, check_keys)
    for conn, rows, now in chunks(store, _HISTORY):
        report.checked["history"] += len(rows)
        runs.forget(made_at(str(rows[0].id)) - _HORIZON)
        for row in rows:
            _check_finished(row, report)
            runs.add(row)
        check_keys(conn, store.dialect, rows, terms, report, now)
    _check_references(store, terms, report)
    _check_changes(store, terms, report)
    check_fires(store, terms, report)
    check_batches(store, terms, report, existing)


def chunks(store: Store, select: TextClause) -> Iterator[tuple[Connection, Rows, int]]:
    """Yield stretches of a table by id, each with the snapshot that it was read in."""
    after = _FIRST_ID
    while True:
        with store.snapshot() as conn:
            now = store.now(conn)
            rows = conn.execute(select, {"after": after, "limit": CHUNK}).all()
            if rows:
                yield conn, rows, now
        if len(rows) < CHUNK:
            return
        after = str(rows[-1].id)


def existing(conn: Connection, dialect: Dialect, ids: set[str]) -> set[str]:
    """Return which of these executions there are, live or finished."""
    if not ids:
        return set()
    found = conn.execute(_existing(dialect), {"ids": json.dumps(sorted(ids))})
    return {str(id_) for id_ in found.scalars()}


def check_keys(
    conn: Connection, dialect: Dialect, rows: Rows, terms: Terms, report: Report, now: int
) -> None:
    """Each execution that has an idempotency key is the one that the key stands for."""
    due = [
        ((f"job:{row.job_id}", row.idempotency_key), str(row.id))
        for row in rows
        if row.idempotency_key is not None and terms.key_is_due(row.created_at, now)
    ]
    for (scope, key), id_ in missing_keys(conn, dialect, due):
        report.add("key-lost", id_, f"the key {key!r} of {scope} is not, or not only, its own")


def missing_keys(
    conn: Connection, dialect: Dialect, due: list[tuple[Name, str]]
) -> list[tuple[Name, str]]:
    """Return which of these keys do not stand for the id that is given with them.

    One that was handed on (`idempotency="replace"` and the like) stands for another one, which need
    not have been made later: an id is made before its execution is stored, perhaps long before.
    """
    if not due:
        return []
    names = sorted({name for name, _ in due})
    asked = json.dumps([{"scope": scope, "key": key} for scope, key in names])
    rows = conn.execute(_keys(dialect), {"rows": asked})
    held = {(row.scope, row.key): (str(row.ref), row.handed_on) for row in rows}
    missing: list[tuple[Name, str]] = []
    for name, id_ in due:
        ref, handed_on = held.get(name, ("", False))
        if not (ref == id_ or handed_on):
            missing.append((name, id_))
    return missing


def _check_finished(row: Row[Any], report: Report) -> None:
    if row.status not in _FINAL:
        report.add("status-impossible", row.id, f"it is finished and {row.status!r}")
    elif row.status != "completed" and not row.reason:
        report.add("reason-missing", row.id, f"it is {row.status}, and nothing says why")
    if row.status == "completed" and (row.started_at is None or row.token is None):
        report.add("never-started", row.id, "it is completed, and nobody ever claimed it")
    if row.started_at is not None and row.started_at > row.finished_at + CLOCK_ERROR:
        early = seconds(row.started_at - row.finished_at)
        report.add("ends-before-start", row.id, f"it ended {early} before it was started")
    if row.attempt > row.max_attempts:
        report.add("attempts-exceeded", row.id, f"attempt {row.attempt} of {row.max_attempts}")


class _Runs:
    """The last run of each execution, by concurrency key, as long as another may overlap it.

    A run is (token, start, end, id); tokens grow with every claim, so they tell the order.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._by_key: defaultdict[str, list[tuple[int, int, int, str]]] = defaultdict(list)

    def add_running(self, row: Row[Any]) -> None:
        """Add one that runs; when it will end is not known, and it may have ended since."""
        self._add(row.concurrency_key, (row.token, row.started_at, row.started_at, str(row.id)))

    def add(self, row: Row[Any]) -> None:
        if row.concurrency_key is not None and row.token is not None and row.started_at is not None:
            run = (row.token, row.started_at, row.finished_at, str(row.id))
            self._add(row.concurrency_key, run)

    def _add(self, key: str, run: tuple[int, int, int, str]) -> None:
        for other in self._by_key[key]:
            earlier, later = sorted((run, other))
            if earlier[3] != later[3] and later[1] < earlier[2] - CLOCK_ERROR:
                by = seconds(earlier[2] - later[1])
                self._report.add("key-overlap", later[3], f"it overlaps {earlier[3]} by {by}")
        self._by_key[key].append(run)

    def forget(self, horizon: int) -> None:
        """Forget what ended before `horizon`: what comes now was made, so begun, after it."""
        for key, runs in list(self._by_key.items()):
            kept = [run for run in runs if run[2] >= horizon]
            if kept:
                self._by_key[key] = kept
            else:
                del self._by_key[key]


def _check_references(store: Store, terms: Terms, report: Report) -> None:
    """Each idempotency key of a job stands for an execution that exists, or may be pruned."""
    after = {"scope": "job:", "key": ""}
    while True:
        with store.snapshot() as conn:
            now = store.now(conn)
            rows = conn.execute(_ALL_KEYS, {**after, "limit": CHUNK}).all()
            found = existing(conn, store.dialect, {str(row.ref) for row in rows})
        report.checked["idempotency keys"] += len(rows)
        for row in rows:
            if str(row.ref) in found or row.expires_at <= now:
                continue
            if terms.may_be_pruned(str(row.ref), now):
                report.pruned += 1
            else:
                report.add("key-dangling", row.key, f"it stands for {row.ref}, which is nowhere")
        if len(rows) < CHUNK:
            return
        after = {"scope": rows[-1].scope, "key": rows[-1].key}


def _check_changes(store: Store, terms: Terms, report: Report) -> None:
    """Commits are numbered without gaps, and soon, where a worker is there to do it."""
    before: int | None = None
    while True:
        with store.snapshot() as conn:
            now = store.now(conn)
            oldest = now - CHANGES_KEPT + _PRUNING
            rows = conn.execute(_NUMBERED, {"after": before or 0, "limit": CHUNK}).all()
        report.checked["changes"] += len(rows)
        for row in rows:
            if before is not None and row.seq != before + 1 and row.at > oldest:
                report.add("changes-gap", row.seq, f"the number before it is {before}")
            before = row.seq
        if len(rows) < CHUNK:
            break
    with store.snapshot() as conn:
        now = store.now(conn)
        then = now - max(3 * terms.grace, _NUMBERED_WITHIN)
        if conn.execute(_WORKED_SINCE, {"then": then, "now": now}).scalar():
            for row in conn.execute(_UNNUMBERED, {"then": then}):
                report.add("changes-unnumbered", row.id, f"for {seconds(now - row.at)}")


_CHECKED = "id, job_id, status, reason, attempt, max_attempts, token, concurrency_key, started_at"
_HISTORY = text(
    f"""
    SELECT {_CHECKED}, idempotency_key, created_at, finished_at
    FROM netscript_execution_history WHERE id > :after ORDER BY id LIMIT :limit
    """
)
_ALL_KEYS = text(
    """
    SELECT scope, key, ref, expires_at FROM netscript_idempotency_keys
    WHERE (scope, key) > (:scope, :key) AND scope < 'job;' ORDER BY scope, key LIMIT :limit
    """
)
_NUMBERED = text(
    "SELECT seq, at FROM netscript_changes WHERE seq > :after ORDER BY seq LIMIT :limit"
)
_UNNUMBERED = text(
    "SELECT id, at FROM netscript_changes WHERE seq IS NULL AND at < :then ORDER BY id LIMIT 10"
)
_WORKED_SINCE = text(
    "SELECT 1 FROM netscript_workers WHERE started_at < :then AND lease_until > :now LIMIT 1"
)


@cache
def _existing(dialect: Dialect) -> TextClause:
    ids = dialect.members("ids", "id")
    return text(
        f"""
        SELECT id FROM netscript_executions WHERE id IN {ids}
        UNION ALL SELECT id FROM netscript_execution_history WHERE id IN {ids}
        """
    )


@cache
def _keys(dialect: Dialect) -> TextClause:
    source = dialect.records(scope="text", key="text")
    return text(
        f"""
        SELECT k.scope, k.key, k.ref, k.handed_on FROM {source}
        JOIN netscript_idempotency_keys k ON k.scope = r.scope AND k.key = r.key
        """
    )
