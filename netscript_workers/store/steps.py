"""What a running attempt leaves behind: finished steps, progress, log lines."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache

from sqlalchemy import Connection, TextClause, text
from sqlalchemy.exc import DBAPIError

from netscript_workers.store.dialects import Dialect
from netscript_workers.store.engine import Store
from netscript_workers.store.schema import logs


@dataclass(frozen=True, slots=True)
class FinishedStep:
    """A step's result, stored under the token of the attempt that ran it."""

    id: str
    token: int
    name: str
    value: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running execution is."""

    id: str
    token: int
    percent: float
    message: str | None


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line that a handler logged; `at` in microseconds since the epoch."""

    execution_id: str
    attempt: int
    at: int
    level: str
    message: str


def save_steps(
    conn: Connection, dialect: Dialect, finished: Sequence[FinishedStep], now: int
) -> set[str]:
    """Store finished steps; return the executions whose attempt may go on."""
    rows = json.dumps([asdict(step) for step in finished])
    saved = conn.execute(_save(dialect), {"rows": rows, "now": now})
    return {str(id_) for id_ in saved.scalars()}


def load_steps(conn: Connection, execution_id: str) -> dict[str, str]:
    """Return the stored steps of an execution: JSON by name."""
    rows = conn.execute(_LOAD, {"id": execution_id})
    return {row.name: row.value for row in rows}


def read_steps(store: Store, execution_id: str) -> dict[str, str]:
    """Return the same, on a connection of its own; a cut costs the attempt nothing."""
    for pause in (0.0, 0.05, 0.5, None):
        try:
            with store.read() as conn:
                return load_steps(conn, execution_id)
        except DBAPIError as error:
            if pause is None or store.dialect.is_bad_data(error):
                raise
            time.sleep(pause)
    raise AssertionError


def save_progress(conn: Connection, dialect: Dialect, progress: Sequence[Progress]) -> None:
    """Show how far these executions are, where the attempt still has the right to say."""
    latest = {note.id: note for note in progress}
    rows = json.dumps([asdict(note) for _, note in sorted(latest.items())])
    conn.execute(_progress(dialect), {"rows": rows})


def save_logs(conn: Connection, dialect: Dialect, lines: Sequence[LogLine]) -> None:
    """Keep log lines."""
    dialect.insert(conn, logs, [asdict(line) for line in lines])


_LOAD = text("SELECT name, value FROM netscript_execution_steps WHERE execution_id = :id")


@cache
def _save(dialect: Dialect) -> TextClause:
    source = dialect.records(id="id", token="bigint", name="text", value="text", attempt="int")
    return text(
        f"""
        INSERT INTO netscript_execution_steps (execution_id, name, value, attempt, finished_at)
        SELECT e.id, r.name, r.value, r.attempt, CAST(:now AS bigint)
        FROM {source} JOIN netscript_executions e ON {dialect.is_held("e")}
        WHERE true
        ON CONFLICT (execution_id, name) DO UPDATE SET value = excluded.value
        RETURNING execution_id
        """
    )


@cache
def _progress(dialect: Dialect) -> TextClause:
    source = dialect.records(id="id", token="bigint", percent="float", message="text")
    return text(
        f"""
        UPDATE netscript_executions
        SET progress_percent = r.percent, progress_message = r.message
        FROM {source}
        WHERE {dialect.is_held("netscript_executions")}
        """
    )
