"""Many rows at once, and what a statement costs among them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any, cast

from sqlalchemy import Connection, Table, event, text

from netscript_workers.store.engine import Store
from tests.integration.store.scenes import statements_of

_SERIES = {
    "sqlite": "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < :count) "
    "SELECT n FROM s) AS s",
    "postgresql": "(SELECT n FROM generate_series(1, CAST(:count AS bigint)) AS g(n)) AS s",
}
_ID = {
    "sqlite": "printf('%08x-0000-7000-8000-%012x', :lot, n)",
    "postgresql": "CAST(lpad(to_hex(CAST(:lot AS int)), 8, '0') || '-0000-7000-8000-' "
    "|| lpad(to_hex(n), 12, '0') AS uuid)",
}
_lots = count(1)


def multiply(store: Store, table: Table, id_: str, copies: int, **changed: str) -> None:
    """Store copies of a row, in one statement, with ids that are older than all others.

    Args:
        store: Where.
        table: The row's table.
        id_: The row.
        copies: How many.
        **changed: SQL for columns that differ; `n` counts the copies.
    """
    with store.begin() as conn:
        values = {column.name: f"e.{column.name}" for column in table.columns}
        values |= {"id": _ID[store.dialect.name], **changed}
        conn.execute(
            text(
                f"INSERT INTO {table.name} ({', '.join(values)}) "
                f"SELECT {', '.join(values.values())} "
                f"FROM {table.name} e, {_SERIES[store.dialect.name]} WHERE e.id = :id"
            ),
            {"id": id_, "count": copies, "lot": next(_lots)},
        )


def leave_notes(store: Store, key: str, copies: int) -> None:
    """Leave so many notes "look at this key", as so many transactions would."""
    series = _SERIES[store.dialect.name]
    with store.begin() as conn:
        conn.execute(
            text(f"INSERT INTO netscript_admissions (key) SELECT CAST(:key AS text) FROM {series}"),
            {"key": key, "count": copies},
        )


def cost(store: Store, act: Callable[[], object]) -> int:
    """Do something that commits, and return what it cost, in a unit that knows of no noise.

    On SQLite these are steps of its machine. On PostgreSQL they are the rows that were read, by
    whatever plans the connection has kept, and the pages that its statements touch: those are
    explained afterwards, in their order, in a transaction that is rolled back.
    """
    if store.is_sqlite:
        return _steps(store, act)
    rows_read: list[int] = []

    def note_rows(conn: Connection) -> None:
        driver: Any = conn.connection.driver_connection
        rows_read.append(driver.execute(_ROWS_READ).fetchone()[0])

    event.listen(store.engine, "begin", note_rows)
    event.listen(store.engine, "commit", note_rows)
    try:
        with statements_of(store) as seen:
            act()
    finally:
        event.remove(store.engine, "begin", note_rows)
        event.remove(store.engine, "commit", note_rows)
    before, after = rows_read
    return after - before + _pages(store, seen)


def _pages(store: Store, statements: list[tuple[str, object]]) -> int:
    total = 0
    with store.engine.connect() as conn:
        for statement, bound in statements:
            asked = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
            (explained,) = conn.exec_driver_sql(asked, cast("Any", bound)).scalar_one()
            plan = explained["Plan"]
            total += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    return total


# Of this session and not yet handed to the server's statistics, so that it never shrinks inside
# a transaction.
_ROWS_READ = """
    SELECT CAST(coalesce(sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)), 0) AS bigint)
    FROM pg_stat_xact_user_tables"""


def _steps(store: Store, act: Callable[[], object]) -> int:
    taken = 0

    def step() -> int:
        nonlocal taken
        taken += 1
        return 0

    with store.engine.connect() as conn:  # the pool's only connection
        driver: Any = conn.connection.driver_connection
    driver.set_progress_handler(step, 1)
    try:
        act()
    finally:
        driver.set_progress_handler(None, 0)
    assert taken, "another connection did it"
    return taken
