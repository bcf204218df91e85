"""Writing many rows at once, each database by the way that costs its driver least."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from itertools import chain
from typing import Any, TypeAlias

from sqlalchemy import Connection, Table, TextClause, text
from sqlalchemy.dialects import postgresql

Row: TypeAlias = Mapping[str, Any]
# Rows of one table; they name the same columns in the same order.
Part: TypeAlias = tuple[Table, Sequence[Row]]
_Column: TypeAlias = tuple[Any, ...]

# Rows a statement: each number of them is a statement of its own, which the driver keeps prepared.
SQLITE_CHUNK = 32


def _columns(rows: Sequence[Row]) -> list[_Column]:
    return list(zip(*[row.values() for row in rows], strict=True))


def into_sqlite(conn: Connection, part: Part, tail: str = "", *more: int) -> int:
    """Insert rows, many a statement; return how many were written.

    The driver lets go of the GIL for every step, and getting it back from a busy thread costs more
    than the step: a statement for each row, as executemany has it, is out of the question.

    Args:
        conn: A write transaction.
        part: A table and its rows.
        tail: What stands behind the values.
        *more: What is bound there.
    """
    table, rows = part
    names = tuple(rows[0])
    written = 0
    for start in range(0, len(rows), SQLITE_CHUNK):
        chunk = rows[start : start + SQLITE_CHUNK]
        columns = _columns(chunk)
        # The driver looks long for how to bind a None or a bool. What a whole column has is
        # written out, and what is left of them is bound as it must be.
        words = tuple([_word(column) for column in columns])
        left = [column for column, word in zip(columns, words, strict=True) if word is None]
        bound = (*chain.from_iterable(zip(*left, strict=True)), *more)
        statement = _sqlite(table.name, tail, names, words, len(chunk))
        written += conn.exec_driver_sql(statement, bound).rowcount
    return written


def _word(column: _Column) -> str | None:
    """Return the SQL of what a whole column has, None if it is to be bound."""
    first = column[0]
    word = "NULL" if first is None else "1" if first is True else "0" if first is False else None
    return word if word is not None and column.count(first) == len(column) else None


@lru_cache(maxsize=1024)
def _sqlite(
    table: str, tail: str, names: tuple[str, ...], words: tuple[str | None, ...], size: int
) -> str:
    marks = f"({', '.join(word or '?' for word in words)})"
    rows = ", ".join([marks] * size)
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES {rows} {tail}"


def into_postgres(conn: Connection, parts: Sequence[Part], tail: str = "", **more: int) -> int:
    """Insert rows of several tables in one round trip; return how many the last table got.

    A column is one JSON array, or one value where all rows have the same: a quarter of the
    client's CPU of executemany, and a third of what one JSON object a row costs.

    Args:
        conn: A write transaction.
        parts: Tables and their rows.
        tail: What stands behind the rows of the last table.
        **more: What is bound there.
    """
    shape: list[_Shape] = []
    bound: dict[str, Any] = {**more}
    for place, (table, rows) in enumerate(parts):
        columns = _columns(rows)
        alike = [_is_alike(column) for column in columns]
        if len(rows) > 1 and all(alike):  # something must say how many rows there are
            alike[0] = False
        for number, (column, same) in enumerate(zip(columns, alike, strict=True)):
            value = column[0] if same else json.dumps(column, default=_bytes_as_text)
            bound[f"v{place}_{number}"] = value
        shape.append((table, tuple(rows[0]), tuple(alike)))
    return conn.execute(_postgres(tuple(shape), tail), bound).rowcount


_Shape: TypeAlias = tuple[Table, tuple[str, ...], tuple[bool, ...]]


def _is_alike(column: _Column) -> bool:
    """Tell whether a column can be bound as one value; odd characters need JSON's escapes."""
    first = column[0]
    return column.count(first) == len(column) and not (
        isinstance(first, str) and not first.isascii()
    )


def _bytes_as_text(value: bytes) -> str:
    r"""Write bytes as PostgreSQL reads them: `\x` and hex."""
    return f"\\x{value.hex()}"


@lru_cache(maxsize=1024)
def _postgres(shape: tuple[_Shape, ...], tail: str) -> TextClause:
    *first, last = (_postgres_part(place, *one) for place, one in enumerate(shape))
    before = ", ".join(f"part{place} AS ({part})" for place, part in enumerate(first))
    return text(f"WITH {before} {last} {tail}" if before else f"{last} {tail}")


def _postgres_part(
    place: int, table: Table, names: tuple[str, ...], alike: tuple[bool, ...]
) -> str:
    values: list[str] = []
    arrays: list[str] = []
    listed: list[str] = []
    for number, (name, same) in enumerate(zip(names, alike, strict=True)):
        given = f"v{place}_{number}"
        values.append(f"CAST({f':{given}' if same else f'r.{name}'} AS {_type_of(table, name)})")
        if not same:
            arrays.append(f"json_array_elements_text(CAST(:{given} AS json))")
            listed.append(name)
    source = f" FROM ROWS FROM ({', '.join(arrays)}) AS r({', '.join(listed)})" if arrays else ""
    return f"INSERT INTO {table.name} ({', '.join(names)}) SELECT {', '.join(values)}{source}"


@cache
def _type_of(table: Table, name: str) -> str:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    told = table.c[name].type.dialect_impl(dialect).compile(dialect=dialect)
    return str(told).partition(" COLLATE ")[0]  # the column's own; a cast has none
