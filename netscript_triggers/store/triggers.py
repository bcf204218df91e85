"""The triggers that processes have registered, and how each of them stands."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pydantic.errors import PydanticInvalidForJsonSchema
from sqlalchemy import Connection, Row, text

from netscript_triggers.circuits import UNTOUCHED, TriggerState
from netscript_triggers.definitions import (
    AnyTrigger,
    FileWatchDefinition,
    QueueDefinition,
    ScheduleDefinition,
    WebhookDefinition,
)
from netscript_triggers.records import CircuitRecord, TriggerRecord
from netscript_triggers.store import states
from netscript_workers.clock import from_micros
from netscript_workers.errors import TriggerNotFoundError
from netscript_workers.options import is_storable
from netscript_workers.payloads import to_json
from netscript_workers.store.engine import Store


def register(store: Store, triggers: Iterable[AnyTrigger]) -> int:
    """Make triggers known to every process of this database; return how many were new.

    A definition that differs from the one that is registered replaces it.
    """
    # In one order everywhere, so that two processes that start together can't deadlock.
    rows = {trigger.id: _row(trigger) for trigger in sorted(triggers, key=lambda one: one.id)}
    with store.begin() as conn:
        now = store.now(conn)
        known = {row.id: row for row in conn.execute(_ALL)}
        for id_, row in rows.items():
            if id_ not in known or any(getattr(known[id_], name) != row[name] for name in row):
                conn.execute(_PUT, {**row, "now": now})
    return len(rows.keys() - known.keys())


def list_triggers(
    conn: Connection, *, limit: int, offset: int, now: int
) -> tuple[list[TriggerRecord], int]:
    """Return registered triggers by id, and how many there are in all."""
    known = states.read(conn)
    rows = conn.execute(_PAGE, {"limit": limit, "offset": offset})
    found = [_record(row, known.get(row.id, UNTOUCHED), now) for row in rows]
    return found, int(conn.execute(_COUNT).scalar_one())


def get_trigger(conn: Connection, trigger_id: str, *, now: int) -> TriggerRecord:
    """Return a registered trigger.

    Raises:
        TriggerNotFoundError: There is none; the error names the nearest.
    """
    row = conn.execute(_ONE, {"id": trigger_id}).one_or_none() if is_storable(trigger_id) else None
    if row is None:
        raise TriggerNotFoundError(trigger_id, conn.execute(_IDS).scalars())
    return _record(row, states.get(conn, trigger_id), now)


def set_enabled(store: Store, trigger_id: str, *, enabled: bool) -> TriggerRecord:
    """Enable a trigger, which closes its circuit too, or disable it.

    Every server knows within about a second.

    Raises:
        TriggerNotFoundError: There is none; the error names the nearest.
    """
    with store.begin() as conn:
        now = store.now(conn)
        get_trigger(conn, trigger_id, now=now)
        states.set_enabled(conn, trigger_id, enabled=enabled, now=now)
        return get_trigger(conn, trigger_id, now=now)


def _row(trigger: AnyTrigger) -> dict[str, Any]:
    return {
        "id": trigger.id,
        "kind": trigger.kind,
        "description": trigger.description,
        "definition": to_json(_definition(trigger)),
        "payload_schema": _schema(trigger),
        "source": trigger.source,
    }


def _definition(trigger: AnyTrigger) -> dict[str, Any]:
    circuit = trigger.circuit
    shown: dict[str, Any] = {
        "dispatch": trigger.dispatch,
        "events": trigger.events,
        "concurrency": trigger.concurrency,
        "max_attempts": trigger.retry.max_attempts,
        "opens_after": None if circuit is None else circuit.failures,
        "reset_seconds": None if circuit is None else circuit.reset,
    }
    if isinstance(trigger, WebhookDefinition):
        shown |= {
            "path": trigger.path,
            "methods": trigger.methods,
            "verifier": trigger.verifier.name,
            "secret_env": None if callable(trigger.secret_env) else trigger.secret_env,
            "dedupe": trigger.dedupe,
            "max_body": trigger.max_body,
        }
    elif isinstance(trigger, ScheduleDefinition):
        shown |= trigger.schedule.told()
    elif isinstance(trigger, QueueDefinition):
        shown |= {
            "broker": trigger.broker,
            "url_env": trigger.url_env,
            "queue": trigger.queue,
            "group": trigger.group,
            "prefetch": trigger.prefetch,
            "dedupe": trigger.dedupe,
            "max_body": trigger.max_body,
        }
    elif isinstance(trigger, FileWatchDefinition):
        shown |= {
            "paths": trigger.paths,
            "patterns": trigger.selection.patterns.patterns,
            "ignored": trigger.selection.ignored.patterns,
            "on": trigger.on,
            "debounce": trigger.debounce,
            "stability_interval": trigger.stability.interval,
            "stability_checks": trigger.stability.checks,
            "existing": trigger.existing,
            "recursive": trigger.selection.recursive,
            "polling": trigger.polling,
            "poll_interval": trigger.poll_interval,
        }
    return shown


def _schema(trigger: AnyTrigger) -> str | None:
    if trigger.model is None:
        return None
    try:
        return to_json(trigger.model.json_schema())
    except PydanticInvalidForJsonSchema:  # a model's own types; only a process with the code checks
        return None


def _record(row: Row[Any], state: TriggerState, now: int) -> TriggerRecord:
    return TriggerRecord(
        id=row.id,
        kind=row.kind,
        description=row.description,
        enabled=state.enabled,
        circuit=_circuit(state, now),
        definition=json.loads(row.definition),
        payload_schema=None if row.payload_schema is None else json.loads(row.payload_schema),
        source=row.source,
        registered_at=from_micros(row.registered_at),
    )


def _circuit(state: TriggerState, now: int) -> CircuitRecord:
    told = "closed"
    if state.is_open:
        told = "half-open" if (state.probe_at or 0) <= now else "open"
    return CircuitRecord(
        state=told,
        failures=state.failures,
        opened_at=None if state.opened_at is None else from_micros(state.opened_at),
        next_try_at=None if state.probe_at is None else from_micros(state.probe_at),
        error=state.error,
    )


_COLUMNS = "id, kind, description, definition, payload_schema, source, registered_at"
_ALL = text(f"SELECT {_COLUMNS} FROM netscript_trigger_definitions")
_IDS = text("SELECT id FROM netscript_trigger_definitions ORDER BY id")
_COUNT = text("SELECT count(*) FROM netscript_trigger_definitions")
_ONE = text(f"SELECT {_COLUMNS} FROM netscript_trigger_definitions WHERE id = :id")
_PAGE = text(
    f"SELECT {_COLUMNS} FROM netscript_trigger_definitions ORDER BY id LIMIT :limit OFFSET :offset"
)
_PUT = text(
    f"""
    INSERT INTO netscript_trigger_definitions ({_COLUMNS})
    VALUES (:id, :kind, :description, :definition, :payload_schema, :source, :now)
    ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, description = excluded.description,
        definition = excluded.definition, payload_schema = excluded.payload_schema,
        source = excluded.source, registered_at = excluded.registered_at
    """
)
