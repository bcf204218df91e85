"""Replays: an event's handler runs again, as the same event or as a new one that names it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from typing import Any

from sqlalchemy import Connection, TextClause, text

from netscript_triggers.events import EventStatus
from netscript_workers.errors import EventNotFoundError, PayloadInvalidError, StateError
from netscript_workers.ids import is_id, new_id
from netscript_workers.options import is_storable
from netscript_workers.store import pages
from netscript_workers.store.bulk import EVERYTHING, Bounds, Changed, change_in_chunks
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.engine import Store

# One that is about to run anyway, or runs, is not run again.
REPLAYABLE = (
    EventStatus.COMPLETED,
    EventStatus.DEAD,
    EventStatus.FAILED,
    EventStatus.DEFERRED,
)
_STATES = ", ".join(f"'{status.value}'" for status in REPLAYABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events; None for any. Times in microseconds since the epoch."""

    statuses: tuple[EventStatus, ...] = ()
    trigger_id: str | None = None
    event_type: str | None = None
    received_after: int | None = None
    received_before: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether every event meets it."""
        return all(getattr(self, one.name) in {None, ()} for one in fields(self))

    def conditions(self) -> tuple[dict[str, str], dict[str, Any]]:
        """Return what a row must meet, by what it is about, and the values that this names."""
        operators = {
            "trigger_id": "trigger_id =",
            "event_type": "event_type =",
            "received_after": "received_at >=",
            "received_before": "received_at <",
        }
        given = {name: getattr(self, name) for name in operators}
        bound = {name: value for name, value in given.items() if value is not None}
        asked = {name: f"{operators[name]} :{name}" for name in bound}
        if self.statuses:
            # A driver that knows nothing of enums would bind their names.
            words = {f"status{n}": one.value for n, one in enumerate(self.statuses)}
            asked["status"] = f"status IN ({', '.join(f':{name}' for name in words)})"
            bound |= words
        return asked, bound

    def names_nothing(self) -> bool:
        """Tell whether a value holds what no stored one can."""
        values = self.conditions()[1].values()
        return not all(is_storable(one) for one in values if isinstance(one, str))


def replay(store: Store, event_id: str, *, note: str | None = None) -> str:
    """Run an event's handler again, as the same event; return its id.

    What it has enqueued before stays single: keys hold, also those implied. It gets the policy's
    attempts anew.

    Raises:
        EventNotFoundError: There is none with this id.
        StateError: It runs, or is about to.
    """
    _one(store, event_id, partial(_again, note=note))
    return event_id


def replay_as_new(
    store: Store, event_id: str, *, body: bytes | None = None, note: str | None = None
) -> str:
    """Run an event's handler once more as a new event, which enqueues anew; return the new id.

    Args:
        store: Where it is.
        event_id: The event; it stays as it is.
        body: Another payload, as JSON.
        note: Why, in somebody's words.

    Raises:
        EventNotFoundError: There is none with this id.
        StateError: It runs, or is about to.
    """
    (new,) = _one(store, event_id, partial(_as_new, body=body, note=note))
    return new


def replay_many(
    store: Store,
    wanted: EventFilter,
    ids: Sequence[str] | None = None,
    *,
    force: bool = False,
    note: str | None = None,
    bounds: Bounds = EVERYTHING,
) -> Changed:
    """Replay events, a few hundred per transaction; counted exactly.

    None is replayed twice, and none that was received after the call began.

    Args:
        store: Where they are.
        wanted: Which ones. Without a status and without `ids`: the dead ones.
        ids: Only of these.
        force: As new events, which enqueue anew.
        note: Why, in somebody's words.
        bounds: How far to go.

    Raises:
        CursorError: The cursor is none of a bulk change.
        PayloadInvalidError: Events of this status can't be replayed.
    """
    if not wanted.statuses and ids is None:
        wanted = replace(wanted, statuses=(EventStatus.DEAD,))
    for status in wanted.statuses:
        if status not in REPLAYABLE:
            raise PayloadInvalidError(
                f"Events that are {status} can't be replayed.",
                hint=f"Use the status {', '.join(REPLAYABLE[:-1])} or {REPLAYABLE[-1]}.",
            )
    change = partial(_as_new, body=None, note=note) if force else partial(_again, note=note)

    def run(found: Sequence[str]) -> int:
        with store.begin() as conn:
            return len(change(conn, store.dialect, found, now=store.now(conn)))

    asked, bound = wanted.conditions()
    made, instants = pages.made_between(wanted.received_after, wanted.received_before)
    return change_in_chunks(
        store,
        "netscript_trigger_events",
        None if wanted.names_nothing() else [*asked.values(), *made, "received_at <= :began"],
        {**bound, **instants},
        ids,
        bounds,
        run,
    )


def _one(store: Store, event_id: str, change: Callable[..., list[str]]) -> list[str]:
    if not is_id(event_id):
        raise EventNotFoundError(f"There is no event {event_id[:100]!r}.")
    with store.begin() as conn:
        changed = change(conn, store.dialect, [event_id], now=store.now(conn))
        if not changed:
            status = conn.execute(_STATUS, {"id": event_id}).scalar()
            if status is None:
                raise EventNotFoundError(f"There is no event {event_id!r}.")
            raise StateError(
                f"Event {event_id} is {status}, so it can't be replayed.",
                hint="Its handler runs by itself; wait until it has ended.",
            )
    return changed


def _again(
    conn: Connection, dialect: Dialect, ids: Sequence[str], *, now: int, note: str | None
) -> list[str]:
    bound = {"ids": json.dumps(list(ids)), "now": now, "note": note}
    return [str(id_) for id_ in conn.execute(_run_again(dialect), bound).scalars()]


def _as_new(
    conn: Connection,
    dialect: Dialect,
    ids: Sequence[str],
    *,
    now: int,
    note: str | None,
    body: bytes | None,
) -> list[str]:
    rows = json.dumps([{"id": id_, "new_id": new_id()} for id_ in ids])
    bound: dict[str, Any] = {"rows": rows, "now": now, "note": note}
    if body is not None:
        bound["body"] = body
    made = conn.execute(_insert_new(dialect, edited=body is not None), bound)
    return [str(id_) for id_ in made.scalars()]


_STATUS = text("SELECT status FROM netscript_trigger_events WHERE id = :id")


@cache
def _run_again(dialect: Dialect) -> TextClause:
    return text(
        f"""
        UPDATE netscript_trigger_events
        SET status = 'pending', reason = 'replay', attempt = 1, error = NULL, due_at = :now,
            finished_at = NULL, replays = replays + 1, note = coalesce(CAST(:note AS text), note)
        WHERE id IN {dialect.members("ids", "id")} AND status IN ({_STATES})
        RETURNING id
        """
    )


@cache
def _insert_new(dialect: Dialect, *, edited: bool) -> TextClause:
    source = dialect.records(id="id", new_id="id")
    body, by_hand = (":body", "TRUE") if edited else ("e.body", "e.by_hand")
    return text(
        f"""
        INSERT INTO netscript_trigger_events
            (id, trigger_id, kind, status, idempotency_key, headers, body, executions, attempt,
             conflict, traceparent, tracestate, replayed_from, received_at, due_at, event_type,
             reason, note, by_hand, replays)
        SELECT r.new_id, e.trigger_id, e.kind, 'pending', e.idempotency_key, e.headers, {body},
            '[]', 1, FALSE, e.traceparent, e.tracestate, e.id, CAST(:now AS bigint),
            CAST(:now AS bigint), e.event_type, 'replay', CAST(:note AS text), {by_hand}, 0
        FROM {source} JOIN netscript_trigger_events e ON e.id = r.id
        WHERE e.status IN ({_STATES})
        RETURNING id
        """
    )
