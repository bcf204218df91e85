"""What is known of triggers: whether they are enabled, and how their circuits stand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, TextClause, text

from netscript_triggers.circuits import UNTOUCHED, Note, TriggerState, after
from netscript_workers.store.dialects import Dialect


def read(conn: Connection) -> dict[str, TriggerState]:
    """Return the states of all triggers that have one."""
    return {row.trigger_id: _state(row) for row in conn.execute(_ALL)}


def get(conn: Connection, trigger_id: str) -> TriggerState:
    """Return a trigger's state."""
    row = conn.execute(_ONE, {"id": trigger_id}).one_or_none()
    return UNTOUCHED if row is None else _state(row)


def set_enabled(conn: Connection, trigger_id: str, *, enabled: bool, now: int) -> None:
    """Enable a trigger, which closes its circuit too, or disable it."""
    state = TriggerState() if enabled else TriggerState(enabled=False)
    conn.execute(_PUT, _row(trigger_id, state, now))


def apply(
    conn: Connection, dialect: Dialect, notes: Sequence[Note], now: int
) -> dict[str, tuple[TriggerState, TriggerState]]:
    """Store how handler runs went; return the states, before and after, that changed."""
    by_trigger: defaultdict[str, list[Note]] = defaultdict(list)
    for note in notes:
        by_trigger[note.trigger_id].append(note)
    changed: dict[str, tuple[TriggerState, TriggerState]] = {}
    for trigger_id, mine in sorted(by_trigger.items()):
        conn.execute(_PUT_FIRST, _row(trigger_id, UNTOUCHED, now))
        before = _state(conn.execute(_locked(dialect), {"id": trigger_id}).one())
        state = before
        for note in mine:
            state = after(state, note, now)
        if state != before:
            conn.execute(_PUT, _row(trigger_id, state, now))
            changed[trigger_id] = (before, state)
    return changed


def take_probe(conn: Connection, trigger_id: str, *, until: int, now: int) -> bool:
    """Take the one try that an open circuit allows; nobody else may until then."""
    bound = {"id": trigger_id, "until": until, "now": now}
    return conn.execute(_TAKE_PROBE, bound).rowcount > 0


def return_probe(conn: Connection, trigger_id: str, now: int) -> None:
    """Give the try back: nothing was run."""
    conn.execute(_RETURN_PROBE, {"id": trigger_id, "now": now})


def _state(row: Row[Any]) -> TriggerState:
    return TriggerState(
        enabled=bool(row.enabled),
        is_open=row.circuit == "open",
        failures=row.failures,
        opened=row.opened,
        opened_at=row.opened_at,
        probe_at=row.probe_at,
        error=row.error,
    )


def _row(trigger_id: str, state: TriggerState, now: int) -> dict[str, Any]:
    return {
        "id": trigger_id,
        "enabled": state.enabled,
        "circuit": "open" if state.is_open else "closed",
        "failures": state.failures,
        "opened": state.opened,
        "opened_at": state.opened_at,
        "probe_at": state.probe_at,
        "error": state.error,
        "now": now,
    }


_ALL = text("SELECT * FROM netscript_trigger_state")
_ONE = text("SELECT * FROM netscript_trigger_state WHERE trigger_id = :id")
_INSERT = """
    INSERT INTO netscript_trigger_state
        (trigger_id, enabled, circuit, failures, opened, opened_at, probe_at, error, changed_at)
    VALUES (:id, :enabled, :circuit, :failures, :opened, :opened_at, :probe_at, :error, :now)
    ON CONFLICT (trigger_id) DO """
_PUT_FIRST = text(f"{_INSERT} NOTHING")
_PUT = text(
    f"""{_INSERT} UPDATE SET enabled = excluded.enabled, circuit = excluded.circuit,
        failures = excluded.failures, opened = excluded.opened, opened_at = excluded.opened_at,
        probe_at = excluded.probe_at, error = excluded.error, changed_at = excluded.changed_at
    """
)
_TAKE_PROBE = text(
    """
    UPDATE netscript_trigger_state SET probe_at = :until
    WHERE trigger_id = :id AND enabled AND circuit = 'open' AND probe_at <= :now
    """
)
_RETURN_PROBE = text(
    "UPDATE netscript_trigger_state SET probe_at = :now WHERE trigger_id = :id AND circuit = 'open'"
)


@cache
def _locked(dialect: Dialect) -> TextClause:
    return text(
        f"SELECT * FROM netscript_trigger_state WHERE trigger_id = :id {dialect.for_update}"
    )
