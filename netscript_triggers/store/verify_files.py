"""Checks what file watches promise: a file that was taken is one event, and no other file is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, text

from netscript_triggers.store import inbox
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.engine import Store
from netscript_workers.store.findings import CHUNK, Report, Terms


def check_files(store: Store, terms: Terms, report: Report) -> None:
    """Check the record of files, a stretch at a time."""
    after = {"trigger": "", "digest": ""}
    while True:
        with store.snapshot() as conn:
            now = store.now(conn)
            rows = conn.execute(_FILES, {**after, "limit": CHUNK}).all()
            report.checked["files"] += len(rows)
            _check_events(conn, store.dialect, rows, terms, report, now)
        if len(rows) < CHUNK:
            break
        after = {"trigger": rows[-1].trigger_id, "digest": rows[-1].path_digest}
    with store.read() as conn:
        for event_id in conn.execute(_SHARED, {"limit": CHUNK}).scalars():
            report.add("file-event-shared", event_id, "two files are recorded as this one event")


def _check_events(
    conn: Connection,
    dialect: Dialect,
    rows: Sequence[Row[Any]],
    terms: Terms,
    report: Report,
    now: int,
) -> None:
    """The event that a file became exists, or is past retention, and is that of its generation."""
    ids = {str(row.event_id) for row in rows if row.event_id is not None}
    found = inbox.read_keys(conn, dialect, ids)
    for row in rows:
        if row.event_id is None:
            continue
        event_id = str(row.event_id)
        event = found.get(event_id)
        if event is None:
            if terms.may_be_pruned(event_id, now):
                report.pruned += 1
            else:
                report.add("file-event-lost", row.path_digest, f"event {event_id} is nowhere")
        elif (event[0], str(event[1]).rpartition(":")[2]) != (row.trigger_id, str(row.generation)):
            told = f"it is generation {row.generation}, and event {event_id} is of another one"
            report.add("file-event-wrong", row.path_digest, told)


_FILES = text(
    """
    SELECT trigger_id, path_digest, event_id, generation FROM netscript_files
    WHERE (trigger_id, path_digest) > (:trigger, :digest)
    ORDER BY trigger_id, path_digest LIMIT :limit
    """
)
_SHARED = text(
    """
    SELECT event_id FROM netscript_files WHERE event_id IS NOT NULL
    GROUP BY event_id HAVING count(*) > 1 LIMIT :limit
    """
)
