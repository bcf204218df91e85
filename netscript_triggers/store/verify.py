"""Checks the promises over a whole database: events here, executions in the room below."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, TextClause, text

from netscript_triggers.events import EventStatus
from netscript_triggers.store import inbox, states, verify_fires
from netscript_triggers.store.verify_files import check_files
from netscript_workers.store import verify as executions
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.engine import Store
from netscript_workers.store.findings import CLOCK_ERROR, Report, Terms, named, seconds
from netscript_workers.store.verify import chunks, existing, missing_keys

_FINAL = {status.value for status in EventStatus if status.is_final}
_KNOWN = {status.value for status in EventStatus}


def verify(store: Store, terms: Terms | None = None) -> Report:
    """Check everything, beside whatever runs; nothing is written.

    Args:
        store: The database.
        terms: What it is held to; by default what the settings are by default.
    """
    report, held_to = Report(), terms or Terms()
    executions.verify(store, held_to, report)
    verify_fires.check_fires(store, held_to, report)
    for conn, rows, now in chunks(store, _EVENTS):
        report.checked["events"] += len(rows)
        kept = _kept_waiting(conn, now)
        for row in rows:
            _check_status(row, held_to, report, now, waits=row.trigger_id in kept)
        _check_replays(conn, store.dialect, rows, held_to, report, now)
        _check_executions(conn, store.dialect, rows, held_to, report, now)
        _check_keys(conn, store.dialect, rows, held_to, report, now)
    for select in (_LIVE, _FINISHED):
        for conn, rows, now in chunks(store, select):
            _check_causes(conn, store.dialect, rows, held_to, report, now)
    check_files(store, held_to, report)
    with store.read() as conn:
        for trigger_id, state in states.read(conn).items():
            if state.is_open != (state.probe_at is not None):
                report.add("circuit-stuck", trigger_id, "nobody will ever try whether it can close")
    return report


def _kept_waiting(conn: Connection, now: int) -> set[str]:
    """Return the triggers whose events may wait for longer than they are due."""
    kept = {id_ for id_, state in states.read(conn).items() if not state.enabled or state.is_open}
    # Of one with a bound, others have their turn.
    return kept | {str(id_) for id_ in conn.execute(_BUSY, {"now": now}).scalars()}


def _check_status(row: Row[Any], terms: Terms, report: Report, now: int, *, waits: bool) -> None:
    if row.status not in _KNOWN:
        report.add("event-status-impossible", row.id, f"it is {row.status!r}")
    elif row.status in _FINAL and (row.due_at is not None or row.finished_at is None):
        report.add("event-unfinished", row.id, f"it is {row.status}, and due again or not finished")
    elif row.status not in _FINAL and row.due_at is None:
        report.add("event-stuck", row.id, f"it is {row.status}, and nobody will ever look at it")
    elif (row.token is not None) != (row.status == EventStatus.PROCESSING.value):
        report.add("event-claim-broken", row.id, f"it is {row.status}, with or without a claim")
    elif row.due_at is not None and row.due_at < now - terms.grace and not waits:
        late = seconds(now - row.due_at)
        report.add("event-overdue", row.id, f"it is {row.status}, and was due {late} ago")


def _check_executions(
    conn: Connection,
    dialect: Dialect,
    rows: Sequence[Row[Any]],
    terms: Terms,
    report: Report,
    now: int,
) -> None:
    """Whatever an event says that it enqueued exists, or is past retention."""
    ids = {str(row.id): [str(one) for one in json.loads(row.executions)] for row in rows}
    found = existing(conn, dialect, {one for named_ in ids.values() for one in named_})
    for event_id, wanted in ids.items():
        gone = [one for one in wanted if one not in found]
        lost = [one for one in gone if not terms.may_be_pruned(one, now)]
        report.pruned += len(gone) - len(lost)
        if lost:
            report.add("execution-lost", event_id, f"it enqueued {named(lost)}: nowhere")


def _check_replays(
    conn: Connection,
    dialect: Dialect,
    rows: Sequence[Row[Any]],
    terms: Terms,
    report: Report,
    now: int,
) -> None:
    """What an event is another run of was there before it, and is there still, unless pruned."""
    origins = {str(row.id): str(row.replayed_from) for row in rows if row.replayed_from is not None}
    if not origins:
        return
    asked = json.dumps(sorted(set(origins.values())))
    received = {
        str(row.id): row.received_at for row in conn.execute(_origins(dialect), {"ids": asked})
    }
    for row in rows:
        origin = origins.get(str(row.id))
        if origin is None:
            continue
        if origin not in received:
            if terms.may_be_pruned(origin, now):
                report.pruned += 1
            else:
                report.add("replay-lost", row.id, f"it runs event {origin} again, which is nowhere")
        elif origin == str(row.id) or received[origin] > row.received_at + CLOCK_ERROR:
            report.add("replay-cycle", row.id, f"it runs event {origin} again, which came later")


def _check_keys(
    conn: Connection,
    dialect: Dialect,
    rows: Sequence[Row[Any]],
    terms: Terms,
    report: Report,
    now: int,
) -> None:
    """Each event is the one that its key stands for: a delivery never becomes two events."""
    due = [
        ((f"trigger:{row.trigger_id}", row.idempotency_key), str(row.id))
        for row in rows
        if row.idempotency_key is not None and row.replayed_from is None
        if terms.key_is_due(row.received_at, now)
    ]
    for _, id_ in missing_keys(conn, dialect, due):
        report.add("event-key-lost", id_, "the key it came under is not, or not only, its own")


def _check_causes(
    conn: Connection,
    dialect: Dialect,
    rows: Sequence[Row[Any]],
    terms: Terms,
    report: Report,
    now: int,
) -> None:
    """Each execution that an event caused is named by it."""
    events = inbox.read_accepted(conn, dialect, {str(row.trigger_event_id) for row in rows})
    for row in rows:
        event_id = str(row.trigger_event_id)
        if event_id in events:
            if str(row.id) not in events[event_id].executions:
                report.add("execution-unnamed", row.id, f"event {event_id} does not name it")
        elif terms.may_be_pruned(event_id, now):
            report.pruned += 1
        else:
            report.add("event-lost", row.id, f"it came of event {event_id}, which is nowhere")


_EVENTS = text(
    """
    SELECT id, trigger_id, status, idempotency_key, executions, replayed_from, received_at,
        due_at, finished_at, token
    FROM netscript_trigger_events WHERE id > :after ORDER BY id LIMIT :limit
    """
)
_LIVE, _FINISHED = (
    text(
        f"""
        SELECT id, trigger_event_id FROM {table}
        WHERE id > :after AND trigger_event_id IS NOT NULL ORDER BY id LIMIT :limit
        """
    )
    for table in ("netscript_executions", "netscript_execution_history")
)


_BUSY = text(
    """
    SELECT DISTINCT trigger_id FROM netscript_trigger_events
    WHERE token IS NOT NULL AND due_at > :now
    """
)


@cache
def _origins(dialect: Dialect) -> TextClause:
    return text(
        f"""
        SELECT id, received_at FROM netscript_trigger_events
        WHERE id IN {dialect.members("ids", "id")}
        """
    )
