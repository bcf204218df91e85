"""Checks what is live, in one snapshot: it is little, and all of it must fit together."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, TextClause, text

from netscript_workers.domain import FINAL_STATUSES, ExecutionStatus
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.engine import Store
from netscript_workers.store.findings import CHUNK, Report, Terms, named, seconds
from netscript_workers.store.verify_gates import check_gates

_LIVE = {status.value for status in ExecutionStatus if status not in FINAL_STATUSES}
_WAITING = ("scheduled", "blocked")


@dataclass(slots=True)
class _Seen:
    """What the live rows say about keys, and about the workers that run them."""

    holders: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    running: Counter[str] = field(default_factory=Counter[str])
    waiting_since: dict[str, int] = field(default_factory=dict[str, int])
    reserved: set[str] = field(default_factory=set[str])


def check_live(
    store: Store,
    terms: Terms,
    report: Report,
    add_running: Callable[[Row[Any]], None],
    check_keys: Callable[..., None],
) -> None:
    """Check live executions, slots and workers.

    Args:
        store: The database.
        terms: What it is held to.
        report: Where findings go.
        add_running: Is told of keyed executions that run.
        check_keys: Checks the idempotency keys of rows.
    """
    seen, after = _Seen(), "00000000-0000-0000-0000-000000000000"
    with store.snapshot() as conn:
        now = store.now(conn)
        leases = {str(row.id): row.lease_until for row in conn.execute(_WORKERS)}
        paused = set(conn.execute(_PAUSED).scalars())
        while True:
            rows = conn.execute(_EXECUTIONS, {"after": after, "limit": CHUNK}).all()
            report.checked["live"] += len(rows)
            for row in rows:
                _check_row(row, terms, report, now)
                _check_worker(row, leases, terms, report, now)
                _look_at_key(row, seen, paused, add_running)
            _check_twice(conn, store.dialect, [str(row.id) for row in rows], report)
            check_keys(conn, store.dialect, rows, terms, report, now)
            if len(rows) < CHUNK:
                break
            after = str(rows[-1].id)
        _check_slots(conn, seen, terms, report, now)
        check_gates(conn, terms, report, now)
        if any(lease > now for lease in leases.values()):
            _check_due(conn, terms, report, now)


def _check_row(row: Row[Any], terms: Terms, report: Report, now: int) -> None:
    if row.status not in _LIVE:
        report.add("status-impossible", row.id, f"it is live and {row.status!r}")
    elif (row.status in _WAITING or (row.parked and row.status == "queued")) and not row.reason:
        report.add("reason-missing", row.id, f"it is {row.status}, and nothing says why")
    if row.cancel_requested and row.status != "running":
        report.add("cancel-forgotten", row.id, f"it is {row.status}, and somebody has cancelled it")
    if row.attempt > row.max_attempts:
        report.add("attempts-exceeded", row.id, f"attempt {row.attempt} of {row.max_attempts}")


def _check_worker(
    row: Row[Any], leases: dict[str, int], terms: Terms, report: Report, now: int
) -> None:
    if row.status != "running":
        return
    if row.worker_id is None or row.token is None or row.started_at is None:
        report.add("worker-unknown", row.id, "it runs, and no claim of it is on record")
        return
    lease = leases.get(str(row.worker_id))
    for_long = seconds(now - row.started_at)
    if lease is None and row.started_at < now - terms.grace:
        report.add("worker-unknown", row.id, f"its worker is on no list; it runs for {for_long}")
    elif lease is not None and lease < now - terms.grace:
        over = seconds(now - lease)
        report.add("lease-over", row.id, f"its worker's lease is over for {over}; it is stuck")


def _look_at_key(
    row: Row[Any], seen: _Seen, paused: set[str], add_running: Callable[[Row[Any]], None]
) -> None:
    key = row.concurrency_key
    if key is None:
        return
    if row.holds_key:
        seen.holders[key].append(str(row.id))
    if row.status == "running":
        seen.running[key] += 1
        if row.token is not None and row.started_at is not None:
            add_running(row)
    if row.status in ("running", "queued") and not row.holds_key:
        seen.holders[key].append(str(row.id))  # it goes on as if it did
    # Whoever waits at the gate of its job has its key's turn, and nobody passes it.
    if row.status == "blocked" and row.wants_job:
        seen.reserved.add(key)
    elif row.status == "blocked" and row.topic not in paused:
        since = max(row.created_at, row.run_at)
        seen.waiting_since[key] = min(since, seen.waiting_since.get(key, since))


def _check_twice(conn: Connection, dialect: Dialect, ids: list[str], report: Report) -> None:
    if ids:
        found = conn.execute(_finished(dialect), {"ids": json.dumps(ids)}).scalars()
        for id_ in found:
            report.add("execution-twice", id_, "it is live, and it is finished")


def _check_slots(conn: Connection, seen: _Seen, terms: Terms, report: Report, now: int) -> None:
    """Each slot counts exactly those that hold its key; nobody waits for a key that is free."""
    slots = {row.key: row for row in conn.execute(_SLOTS)}
    report.checked["slots"] += len(slots)
    for key, count in seen.running.items():
        if count > 1:
            report.add("key-runs-twice", key, f"{count} executions of it run")
    for key in sorted(slots.keys() | seen.holders.keys()):
        holders, slot = seen.holders.get(key, []), slots.get(key)
        used, most = (0, 1) if slot is None else (slot.used, slot.max_used)
        if len(holders) > most:
            report.add("key-held-twice", key, f"held by {named(holders)}")
        if used != len(holders):
            report.add("slot-drift", key, f"{used} in use, {len(holders)} hold it")
        elif used == 1 and slot is not None and str(slot.holder) not in holders:
            report.add("slot-drift", key, f"its holder is {slot.holder}, but {holders[0]} holds it")
    noted = set(conn.execute(_NOTED).scalars()) | seen.reserved
    for key, since in seen.waiting_since.items():
        if since < now - terms.grace and key not in noted and key not in seen.holders:
            waits = seconds(now - since)
            report.add("key-overlooked", key, f"nobody holds it, and it is waited for: {waits}")


def _check_due(conn: Connection, terms: Terms, report: Report, now: int) -> None:
    for row in conn.execute(_OVERDUE, {"then": now - terms.grace}):
        late = seconds(now - row.run_at)
        report.add("overdue", row.id, f"it was due {late} ago, and a worker is there")


_EXECUTIONS = text(
    """
    SELECT id, job_id, topic, status, reason, attempt, max_attempts, token, worker_id,
        concurrency_key, holds_key, wants_job, parked, cancel_requested, idempotency_key,
        created_at, run_at, started_at
    FROM netscript_executions WHERE id > :after ORDER BY id LIMIT :limit
    """
)
_WORKERS = text("SELECT id, lease_until FROM netscript_workers")
_PAUSED = text("SELECT name FROM netscript_topics WHERE paused")
_SLOTS = text("SELECT key, used, max_used, holder FROM netscript_concurrency_slots")
_NOTED = text("SELECT DISTINCT key FROM netscript_admissions WHERE kind = 'key'")
_OVERDUE = text(
    """
    SELECT id, run_at FROM netscript_executions WHERE status = 'scheduled' AND run_at < :then
    ORDER BY run_at LIMIT 100
    """
)


@cache
def _finished(dialect: Dialect) -> TextClause:
    return text(
        f"SELECT id FROM netscript_execution_history WHERE id IN {dialect.members('ids', 'id')}"
    )
