"""What differs between SQLite and PostgreSQL, in one place."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from sqlalchemy import Connection, Table, TextClause, text
from sqlalchemy.exc import DBAPIError

from netscript_workers.store import inserts
from netscript_workers.store.inserts import Part, Row
from netscript_workers.store.schema import COMMON, idempotency_keys


class Dialect(ABC):
    """One database's way of doing what the other does differently."""

    name: ClassVar[str]
    # Appended to a SELECT whose rows are about to be changed.
    for_update: ClassVar[str]
    skip_locked: ClassVar[str]
    # The server's clock in microseconds, as a column; NULL where it is this machine's.
    clock: ClassVar[str]
    # Begins a transaction that reads one snapshot, whatever others commit meanwhile.
    begin_snapshot: ClassVar[str]

    @abstractmethod
    def insert_all(self, conn: Connection, parts: Sequence[Part]) -> None:
        """Insert rows of several tables; those of one table name the same columns in one order."""

    def insert(self, conn: Connection, table: Table, rows: Sequence[Row]) -> None:
        """Insert rows that name the same columns in one order."""
        self.insert_all(conn, [(table, rows)])

    @abstractmethod
    def take_keys(self, conn: Connection, rows: Sequence[Row], now: int) -> int:
        """Insert idempotency keys, or take over those that have expired; return how many."""

    @abstractmethod
    def records(self, **columns: str) -> str:
        """Write a FROM item `r` of the JSON rows bound to `:rows`.

        Args:
            **columns: Each column's type: `id`, `int`, `bigint`, `float`, `text` or `bool`.
        """

    @abstractmethod
    def members(self, param: str, kind: str = "text") -> str:
        """Write a subquery of the values in the JSON array bound to `:param`."""

    @abstractmethod
    def is_held(self, live: str) -> str:
        """Write the condition that a live execution runs under the token that the record `r` names.

        Args:
            live: Its table, or the alias of it.
        """

    @abstractmethod
    def claim(self) -> TextClause:
        """Return the statement that claims up to `:slots` queued executions of `:topic`."""

    @abstractmethod
    def finish(self, conn: Connection, ended: str, now: int) -> set[str]:
        """Move to history what still runs under the token that its end names; return the ids.

        Args:
            conn: A write transaction.
            ended: A JSON array of objects with `id`, `token`, `status`, `reason`, `error` and
                `result`.
            now: The database's present.
        """

    @abstractmethod
    def draw_token(self, conn: Connection) -> int | None:
        """Return the token of the next claim, where the claim can't draw one itself."""

    @abstractmethod
    def measure_clock(self, conn: Connection) -> int | None:
        """Return the server's clock in microseconds, or None if it is this machine's."""

    @abstractmethod
    def set_lock_timeout(self, conn: Connection, seconds: float) -> None:
        """Bound how long a statement waits for other transactions from now on; 0 for ever."""

    @abstractmethod
    def try_lock(self, conn: Connection, name: str) -> bool:
        """Take a lock until the end of this transaction, or return False at once."""

    @abstractmethod
    def lock(self, conn: Connection, name: str) -> None:
        """Take a lock until the end of this transaction, whoever has it now."""

    @abstractmethod
    def is_contention(self, error: DBAPIError) -> bool:
        """Tell whether somebody else's transaction was in the way."""

    @abstractmethod
    def is_bad_data(self, error: DBAPIError) -> bool:
        """Tell whether one of the values given can't be stored."""


CLAIMED_COLUMNS = (
    "id, token, kind, job_id, topic, payload, attempt, max_attempts, losses, priority, "
    "concurrency_key, correlation_id, traceparent, tracestate, trigger_event_id, started_at, "
    "batch_id, holds_job, run_at, sort_at"
)

_READY = """
    SELECT id FROM netscript_executions
    WHERE status = 'queued' AND NOT parked AND topic = :topic
      AND {known}{above}
      AND NOT EXISTS (SELECT 1 FROM netscript_topics t WHERE t.name = :topic AND t.paused)
    ORDER BY sort_at, id LIMIT :slots"""


_ENDED = {
    "id": "id",
    "token": "bigint",
    "status": "text",
    "reason": "text",
    "error": "text",
    "result": "text",
}
_INTO_HISTORY = f"""INSERT INTO netscript_execution_history
    ({", ".join(COMMON)}, result, finished_at)"""


def _finished(live: str, ended: str) -> str:
    """Write the columns of a finished execution, its end's before its own."""
    of_end = {"status", "reason", "error"}
    names = [f"{ended}.{name}" if name in of_end else f"{live}.{name}" for name in COMMON]
    return ", ".join([*names, f"{ended}.result", "CAST(:now AS bigint)"])


class SqliteDialect(Dialect):
    """SQLite: one writer at a time, this machine's clock, no row locks."""

    name = "sqlite"
    for_update = ""
    skip_locked = ""
    clock = "NULL"
    begin_snapshot = "BEGIN DEFERRED"

    def insert_all(self, conn: Connection, parts: Sequence[Part]) -> None:
        """Insert table by table."""
        for part in parts:
            inserts.into_sqlite(conn, part)

    def take_keys(self, conn: Connection, rows: Sequence[Row], now: int) -> int:
        """Take them in a few statements."""
        return inserts.into_sqlite(conn, (idempotency_keys, rows), f"{_TAKE_OVER} ?", now)

    def records(self, **columns: str) -> str:
        """Unpack the rows with json_each."""
        fields = ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in columns)
        return f"(SELECT {fields} FROM json_each(:rows)) AS r"

    def members(self, param: str, kind: str = "text") -> str:
        """Unpack the array with json_each."""
        return f"(SELECT value FROM json_each(:{param}))"

    def is_held(self, live: str) -> str:
        """Go by the primary key."""
        return f"{live}.id = r.id AND {live}.token = r.token AND {live}.status = 'running'"

    def claim(self) -> TextClause:
        """Claim inside BEGIN IMMEDIATE, where nobody else writes."""
        return _SQLITE_CLAIM

    def finish(self, conn: Connection, ended: str, now: int) -> set[str]:
        """Copy, then delete: SQLite deletes nothing inside another statement."""
        moved = conn.execute(_SQLITE_TO_HISTORY, {"rows": ended, "now": now})
        ids = set(moved.scalars().all())
        if ids:
            conn.execute(_SQLITE_DELETE, {"ids": json.dumps(list(ids))})
        return ids

    def draw_token(self, conn: Connection) -> int | None:
        """Count a one-row table up; the executions of one claim share the token."""
        drawn = conn.exec_driver_sql(
            "UPDATE netscript_claim_token SET value = value + 1 RETURNING value"
        )
        return int(drawn.scalar_one())

    def measure_clock(self, conn: Connection) -> int | None:
        """Every process of a SQLite database runs on the machine of the file."""
        return None

    def set_lock_timeout(self, conn: Connection, seconds: float) -> None:
        """There are no row locks to wait for; BEGIN has waited by busy_timeout already."""

    def try_lock(self, conn: Connection, name: str) -> bool:
        """A write transaction excludes all others already."""
        return True

    def lock(self, conn: Connection, name: str) -> None:
        """A write transaction excludes all others already."""

    def is_contention(self, error: DBAPIError) -> bool:
        """Tell by the driver's message; SQLite's code is not on every version's error."""
        told = str(error.orig)
        return "database is locked" in told or "database table is locked" in told

    def is_bad_data(self, error: DBAPIError) -> bool:
        """Tell by the class of the driver's error."""
        name = type(error.orig).__name__
        return name in {"IntegrityError", "DataError", "InterfaceError", "ProgrammingError"}


_TAKE_OVER = f"""
    ON CONFLICT (scope, key) DO UPDATE SET fingerprint = excluded.fingerprint,
        ref = excluded.ref, expires_at = excluded.expires_at
    WHERE {idempotency_keys.name}.expires_at <="""

_SQLITE_KNOWN = "job_id IN (SELECT value FROM json_each(:jobs))"
_SQLITE_CLAIM = text(
    f"""
    UPDATE netscript_executions
    SET status = 'running', token = :token, worker_id = :worker, started_at = :now, reason = NULL
    WHERE id IN ({_READY.format(known=_SQLITE_KNOWN, above="")})
    RETURNING {CLAIMED_COLUMNS}
    """
)

_SQLITE = SqliteDialect()
_SQLITE_TO_HISTORY = text(
    f"""
    {_INTO_HISTORY}
    SELECT {_finished("e", "r")}
    FROM {_SQLITE.records(**_ENDED)} JOIN netscript_executions e ON {_SQLITE.is_held("e")}
    RETURNING id
    """
)
_SQLITE_DELETE = text(f"DELETE FROM netscript_executions WHERE id IN {_SQLITE.members('ids')}")

_PG_TYPES = {
    "id": "uuid",
    "int": "integer",
    "bigint": "bigint",
    "float": "double precision",
    "text": "text",
    "bool": "boolean",
}


class PostgresDialect(Dialect):
    """PostgreSQL 12 and later: row locks, sequences, its own clock."""

    name = "postgresql"
    for_update = "FOR UPDATE"
    skip_locked = "FOR UPDATE SKIP LOCKED"
    clock = "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)"
    begin_snapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"

    def insert_all(self, conn: Connection, parts: Sequence[Part]) -> None:
        """Insert all in one round trip."""
        if parts:
            inserts.into_postgres(conn, parts)

    def take_keys(self, conn: Connection, rows: Sequence[Row], now: int) -> int:
        """Take them in one statement."""
        return inserts.into_postgres(
            conn, [(idempotency_keys, rows)], f"{_TAKE_OVER} :now", now=now
        )

    def records(self, **columns: str) -> str:
        """Unpack the rows with json_to_recordset."""
        fields = ", ".join(f"{name} {_PG_TYPES[kind]}" for name, kind in columns.items())
        return f"json_to_recordset(CAST(:rows AS json)) AS r({fields})"

    def members(self, param: str, kind: str = "text") -> str:
        """Unpack the array with json_array_elements_text."""
        cast = _PG_TYPES[kind]
        return (
            f"(SELECT CAST(value AS {cast}) AS value "
            f"FROM json_array_elements_text(CAST(:{param} AS json)))"
        )

    def is_held(self, live: str) -> str:
        """Go by the primary key, whatever the planner's statistics say.

        While they are those of a small table, PostgreSQL would read the index of what runs, or the
        key's, from one end to the other, with all that is dead in it, and compare the ids. So no
        index must serve the status, and the ids must not look like something to sort and merge.
        """
        return (
            f"{live}.id = ANY (ARRAY[r.id]) AND {live}.token = r.token "
            f"AND coalesce({live}.status, '') = 'running'"
        )

    def claim(self) -> TextClause:
        """Claim past what others hold; MATERIALIZED so that LIMIT binds the update too."""
        return _PG_CLAIM

    def finish(self, conn: Connection, ended: str, now: int) -> set[str]:
        """Delete, and insert what was deleted, in one statement."""
        moved = conn.execute(_PG_FINISH, {"rows": ended, "now": now})
        return set(moved.scalars().all())

    def draw_token(self, conn: Connection) -> int | None:
        """The claim draws from a sequence."""
        return None

    def measure_clock(self, conn: Connection) -> int | None:
        """Ask the server."""
        return int(conn.exec_driver_sql(f"SELECT {self.clock}").scalar_one())

    def set_lock_timeout(self, conn: Connection, seconds: float) -> None:
        """Set it for the session."""
        # None at all is written as 0.
        millis = max(round(seconds * 1000), 1) if seconds else 0
        conn.exec_driver_sql(f"SET lock_timeout = {millis}")

    def try_lock(self, conn: Connection, name: str) -> bool:
        """Take a transaction-level advisory lock."""
        locked = conn.execute(_PG_TRY_LOCK, {"name": f"netscript:{name}"})
        return bool(locked.scalar_one())

    def lock(self, conn: Connection, name: str) -> None:
        """Wait for a transaction-level advisory lock."""
        conn.execute(_PG_LOCK, {"name": f"netscript:{name}"})

    def is_contention(self, error: DBAPIError) -> bool:
        """Lock timeout, deadlock, serialization failure."""
        return _sqlstate(error) in {"55P03", "40P01", "40001"}

    def is_bad_data(self, error: DBAPIError) -> bool:
        """Classes 22 (data exception), 23 (integrity) and 54 (a limit, such as a long key)."""
        state = _sqlstate(error)
        return state[:2] in {"22", "23", "54"} or (
            not state and type(error.orig).__name__ in {"DataError", "ProgrammingError"}
        )


def _sqlstate(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


_PG_TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))")
_PG_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")

# An array is a filter on the index scan. A subquery would be a join, and after a join all that is
# ready would have to be sorted.
_PG_KNOWN = "job_id = ANY (ARRAY(SELECT json_array_elements_text(CAST(:jobs AS json))))"
# Where the scan begins: see `marks`.
_PG_READY = _READY.format(known=_PG_KNOWN, above=" AND sort_at >= :low")

_PG_CLAIM = text(
    f"""
    WITH ready AS MATERIALIZED ({_PG_READY} FOR UPDATE SKIP LOCKED)
    UPDATE netscript_executions e
    SET status = 'running', token = nextval('netscript_claim_token'), worker_id = :worker,
        started_at = :now, reason = NULL
    FROM ready WHERE e.id = ready.id AND e.status = 'queued'
    RETURNING {", ".join(f"e.{name.strip()}" for name in CLAIMED_COLUMNS.split(","))}
    """
)

_POSTGRES = PostgresDialect()
_PG_FINISH = text(
    f"""
    WITH gone AS (
        DELETE FROM netscript_executions e USING {_POSTGRES.records(**_ENDED)}
        WHERE {_POSTGRES.is_held("e")}
        RETURNING {_finished("e", "r")})
    {_INTO_HISTORY} SELECT * FROM gone
    RETURNING id
    """
)

DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (_SQLITE, _POSTGRES)}
