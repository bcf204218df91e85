"""Reading events back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, TextClause, text

from netscript_triggers.events import EventStatus
from netscript_triggers.records import (
    ActionRecord,
    EventDetail,
    EventRecord,
    FailureRecord,
    WaitRecord,
)
from netscript_triggers.store import states
from netscript_triggers.store.inbox import Failure
from netscript_triggers.store.replays import EventFilter
from netscript_workers.clock import MICROSECONDS, from_micros, to_micros
from netscript_workers.errors import EventNotFoundError
from netscript_workers.ids import is_id
from netscript_workers.store import pages
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.pages import Source
from netscript_workers.strict_json import MalformedError, parse

ANY = EventFilter()


@dataclass(frozen=True, slots=True)
class EventPage:
    """Some events, newest first, and the cursor of the next page if there is one."""

    events: tuple[EventRecord, ...]
    next_cursor: str | None


def list_events(
    conn: Connection, wanted: EventFilter = ANY, *, limit: int, cursor: str | None = None
) -> EventPage:
    """Return a page of events, newest first.

    Args:
        conn: Where to read.
        wanted: Which ones.
        limit: How many at most.
        cursor: The `next_cursor` of the page before.

    Raises:
        CursorError: The cursor is none of ours.
    """
    if wanted.names_nothing():
        if cursor is not None:
            pages.read_cursor(cursor, _KIND)
        return EventPage((), None)
    asked, bound = wanted.conditions()
    made, instants = pages.made_between(wanted.received_after, wanted.received_before)
    first = next((name for name in ("trigger_id", "status") if name in asked), None)
    rest = tuple(
        # One index leads; the planner is kept from the other.
        f"coalesce(status, '') {condition[7:]}" if name == "status" else condition
        for name, condition in asked.items()
        if name != first
    )
    leads = [] if first is None else [asked[first]]
    if first == "status":  # the index is in the order of the ids for one status only
        leads = [f"status = :status{n}" for n in range(len(wanted.statuses))]
    every: list[tuple[str, ...]] = [(one,) for one in leads] or [()]
    sources = [
        Source(table=_TABLE, columns=_COLUMNS, lead=(*lead, *made), rest=rest) for lead in every
    ]
    rows, following = pages.read_page(
        conn, sources, {**bound, **instants}, kind=_KIND, limit=limit, cursor=cursor
    )
    return EventPage(tuple(_record(row) for row in rows), following)


def get_event(conn: Connection, event_id: str) -> EventDetail:
    """Return an event with what came with it.

    Raises:
        EventNotFoundError: There is none with this id.
    """
    row = conn.execute(_ONE, {"id": event_id}).one_or_none() if is_id(event_id) else None
    if row is None:
        raise EventNotFoundError(f"There is no event {event_id[:100]!r}.")
    raw = bytes(row.body)
    return EventDetail(
        event=_record(row),
        headers=json.loads(row.headers),
        body=raw.decode("utf-8", "backslashreplace"),
        payload=_payload(raw),
        failures=tuple(
            FailureRecord(attempt=one.attempt, at=from_micros(one.at), error=one.error)
            for one in Failure.read(row.failures)
        ),
    )


def get_whole_event(conn: Connection, dialect: Dialect, event_id: str, *, now: int) -> EventDetail:
    """Return an event with all that came before and after it.

    Args:
        conn: Where to read, best one snapshot.
        dialect: The database's.
        event_id: The event.
        now: The database's present.

    Raises:
        EventNotFoundError: There is none with this id.
    """
    detail = get_event(conn, event_id)
    return replace(
        detail,
        actions=_actions(conn, dialect, detail.event.executions),
        replayed_as=tuple(str(id_) for id_ in conn.execute(_REPLAYS, {"id": event_id}).scalars()),
        waits_for=_waits_for(conn, detail.event, now),
    )


def _payload(body: bytes) -> Any:
    try:
        return parse(body)
    except MalformedError:
        return None


def _actions(conn: Connection, dialect: Dialect, ids: Sequence[str]) -> tuple[ActionRecord, ...]:
    if not ids:
        return ()
    rows = conn.execute(_executions(dialect), {"ids": json.dumps(sorted(set(ids)))})
    found = {str(row.id): row for row in rows}
    return tuple(
        ActionRecord(
            execution_id=id_,
            job_id=found[id_].job_id if id_ in found else None,
            status=found[id_].status if id_ in found else None,
        )
        for id_ in ids
    )


def _waits_for(conn: Connection, event: EventRecord, now: int) -> WaitRecord | None:
    if event.due_at is None:
        return None
    if event.status is EventStatus.PROCESSING:
        return WaitRecord(code="running", sentence="Its handler runs.")
    name = event.trigger_id
    state = states.get(conn, name)
    wait = (to_micros(event.due_at) - now) / MICROSECONDS
    if not state.enabled:
        return WaitRecord(
            code="trigger-disabled",
            sentence=f"Trigger {name} is disabled. Enable it: netscript triggers enable {name}",
        )
    if wait > 0:
        return WaitRecord(code="due", sentence=f"Its handler runs in {wait:.1f} s.")
    if state.is_open:
        try_in = max(((state.probe_at or now) - now) / MICROSECONDS, 0.0)
        return WaitRecord(
            code="circuit-open",
            sentence=f"The handler of trigger {name} has failed {state.failures} times in a row; "
            f"one event is tried in {try_in:.1f} s.",
        )
    return WaitRecord(
        code="ready",
        sentence="Its handler runs as soon as a server that has the trigger has a place free.",
    )


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
        event_type=row.event_type,
        reason=row.reason,
        note=row.note,
        by_hand=bool(row.by_hand),
        replays=row.replays,
        replayed_from=None if row.replayed_from is None else str(row.replayed_from),
        received_at=from_micros(row.received_at),
        due_at=None if row.due_at is None else from_micros(row.due_at),
        finished_at=None if row.finished_at is None else from_micros(row.finished_at),
    )


_KIND = "e"
_TABLE = "netscript_trigger_events"
_COLUMNS = (
    "id, trigger_id, kind, status, idempotency_key, executions, attempt, conflict, error, "
    "traceparent, replayed_from, received_at, due_at, finished_at, event_type, reason, note, "
    "by_hand, replays"
)
_ONE = text(
    f"SELECT {_COLUMNS}, headers, body, failures FROM netscript_trigger_events WHERE id = :id"
)
_REPLAYS = text(
    "SELECT id FROM netscript_trigger_events WHERE replayed_from = :id ORDER BY id LIMIT 100"
)


@cache
def _executions(dialect: Dialect) -> TextClause:
    one = "SELECT id, job_id, status FROM {table} WHERE id IN {ids}"
    ids = dialect.members("ids", "id")
    return text(
        " UNION ALL ".join(
            one.format(table=table, ids=ids)
            for table in ("netscript_executions", "netscript_execution_history")
        )
    )
