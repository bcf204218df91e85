"""Reading events back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, text

from netscript_triggers.events import EventStatus
from netscript_triggers.records import EventDetail, EventRecord
from netscript_workers.clock import from_micros
from netscript_workers.errors import CursorError, EventNotFoundError
from netscript_workers.ids import is_id


@dataclass(frozen=True, slots=True)
class EventPage:
    """Some events, newest first, and the cursor of the next page if there is one."""

    events: tuple[EventRecord, ...]
    next_cursor: str | None


def list_events(
    conn: Connection,
    *,
    limit: int,
    cursor: str | None = None,
    trigger_id: str | None = None,
    status: EventStatus | None = None,
) -> EventPage:
    """Return a page of events, newest first.

    Raises:
        CursorError: The cursor is none of ours.
    """
    if cursor is not None and not is_id(cursor):
        raise CursorError
    if trigger_id is not None and "\0" in trigger_id:  # nothing that is stored holds one
        return EventPage((), None)
    asked = {
        "trigger_id = :trigger": ("trigger", trigger_id),
        "status = :status": ("status", None if status is None else status.value),
        "id < :cursor": ("cursor", cursor),
    }
    used = {condition: pair for condition, pair in asked.items() if pair[1] is not None}
    where = f"WHERE {' AND '.join(used)}" if used else ""
    statement = text(
        f"SELECT {_COLUMNS} FROM netscript_trigger_events {where} ORDER BY id DESC LIMIT :more"
    )
    rows = conn.execute(statement, {**dict(used.values()), "more": limit + 1}).all()
    events = tuple(_record(row) for row in rows[:limit])
    return EventPage(events, events[-1].id if len(rows) > limit else None)


def get_event(conn: Connection, event_id: str) -> EventDetail:
    """Return the whole record of an event.

    Raises:
        EventNotFoundError: There is none with this id.
    """
    row = conn.execute(_ONE, {"id": event_id}).one_or_none() if is_id(event_id) else None
    if row is None:
        raise EventNotFoundError(f"There is no event {event_id[:100]!r}.")
    body = bytes(row.body).decode("utf-8", "backslashreplace")
    return EventDetail(event=_record(row), headers=json.loads(row.headers), body=body)


def _record(row: Row[Any]) -> EventRecord:
    return EventRecord(
        id=str(row.id),
        trigger_id=row.trigger_id,
        kind=row.kind,
        status=EventStatus(row.status),
        idempotency_key=row.idempotency_key,
        executions=tuple(json.loads(row.executions)),
        attempt=row.attempt,
        conflict=bool(row.conflict),
        error=row.error,
        traceparent=row.traceparent,
        replayed_from=None if row.replayed_from is None else str(row.replayed_from),
        received_at=from_micros(row.received_at),
        due_at=None if row.due_at is None else from_micros(row.due_at),
        finished_at=None if row.finished_at is None else from_micros(row.finished_at),
    )


_COLUMNS = (
    "id, trigger_id, kind, status, idempotency_key, executions, attempt, conflict, error, "
    "traceparent, replayed_from, received_at, due_at, finished_at"
)
_ONE = text(f"SELECT {_COLUMNS}, headers, body FROM netscript_trigger_events WHERE id = :id")
