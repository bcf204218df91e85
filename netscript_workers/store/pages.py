"""Pages of a long list, newest first, by keyset; what a page costs is bounded, whatever is asked.

An index leads through the rows of some conditions in the order of their ids. What else is asked is
looked at row by row, and only so far: a page may then be shorter than its limit, and its cursor
goes on from there.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

from netscript_workers.errors import CursorError

# So many rows of each source are looked at for a page; fewer where those fill it.
LOOKED_AT = (200, 5_000, 50_000)
# Clocks of those who make ids and of the database are no further apart, in microseconds.
_SKEW = 86_400_000_000
_MILLIS = 1 << 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where rows come from.

    Attributes:
        table: Its rows have an `id`.
        columns: What is read.
        lead: Conditions that the primary key, or an index that ends with the id, serves.
        rest: What is looked at row by row.
    """

    table: str
    columns: str
    lead: tuple[str, ...] = ()
    rest: tuple[str, ...] = ()

    def page(self, name: str, *, floor: bool) -> str:
        """Return the statement of its part of a page."""
        asked = [*self.lead, *self.rest, *(["id >= :floor"] if floor else [])]
        return (
            f"SELECT * FROM (SELECT {self.columns} FROM {self.table}{_where(asked)} "
            f"ORDER BY id DESC LIMIT :more) AS {name}"
        )

    def end(self, name: str) -> str:
        """Return the statement of the row at which looking ends."""
        return (
            f"SELECT id FROM (SELECT id FROM {self.table}{_where(self.lead)} "
            f"ORDER BY id DESC LIMIT 1 OFFSET :skipped) AS {name}"
        )


def read_page(
    conn: Connection,
    sources: Sequence[Source],
    bound: Mapping[str, Any],
    *,
    kind: str,
    limit: int,
    cursor: str | None,
) -> tuple[Sequence[Row[Any]], str | None]:
    """Return rows, newest first, and the cursor of the next page if there may be more.

    Args:
        conn: Where to read.
        sources: Where the rows are; what moves between them is missed nowhere.
        bound: What stands in their conditions.
        kind: Of what the list is, one letter; a cursor of another list is refused.
        limit: How many rows at most.
        cursor: That of the page before.

    Raises:
        CursorError: The cursor is none of this list's.
    """
    bound = {**bound, "more": limit + 1}
    if cursor is not None:
        bound["cursor"] = read_cursor(cursor, kind)
        sources = [
            Source(
                table=one.table,
                columns=one.columns,
                lead=(*one.lead, "id < :cursor"),
                rest=one.rest,
            )
            for one in sources
        ]
    floor: str | None = None
    rows: Sequence[Row[Any]] = ()
    for looked in LOOKED_AT:
        floor = _floor(conn, sources, bound, looked)
        parts = [one.page(f"s{n}", floor=floor is not None) for n, one in enumerate(sources)]
        statement = text(f"{' UNION ALL '.join(parts)} ORDER BY id DESC LIMIT :more")
        asked = bound if floor is None else {**bound, "floor": floor}
        rows = conn.execute(statement, asked).all()
        if floor is None or len(rows) > limit:
            break
    if len(rows) > limit:
        return rows[:limit], write_cursor(str(rows[limit - 1].id), kind)
    return rows, None if floor is None else write_cursor(floor, kind)


def _floor(
    conn: Connection, sources: Sequence[Source], bound: Mapping[str, Any], looked: int
) -> str | None:
    """Return the id down to which rows are looked at; None for all."""
    ends = [one.end(f"s{n}") for n, one in enumerate(sources) if one.rest]
    if not ends:
        return None
    statement = text(" UNION ALL ".join(ends))
    found = conn.execute(statement, {**bound, "skipped": looked - 1}).scalars().all()
    return max((str(id_) for id_ in found), default=None)


def _where(conditions: Sequence[str]) -> str:
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def made_between(after: int | None, before: int | None) -> tuple[list[str], dict[str, str]]:
    """Return conditions on ids that all rows meet which were made in a time.

    Args:
        after: At this instant or later, in microseconds since the epoch.
        before: Before this instant.
    """
    conditions: list[str] = []
    bound: dict[str, str] = {}
    if after is not None:
        conditions.append("id >= :first_id")
        bound["first_id"] = _id_at(after - _SKEW)
    if before is not None:
        conditions.append("id < :end_id")
        bound["end_id"] = _id_at(before + _SKEW)
    return conditions, bound


def _id_at(micros: int) -> str:
    millis = min(max(micros // 1000, 0), _MILLIS - 1)
    return str(UUID(int=millis << 80))


def write_cursor(id_: str, kind: str) -> str:
    """Return the cursor that goes on after a row."""
    return urlsafe_b64encode(kind.encode() + UUID(id_).bytes).decode().rstrip("=")


def read_cursor(cursor: str, kind: str) -> str:
    """Return the id that a cursor stands for.

    Raises:
        CursorError: It is none of this list's.
    """
    try:
        raw = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
    except ValueError:
        raise CursorError from None
    id_ = str(UUID(bytes=raw[1:])) if len(raw) == 17 else ""
    if not id_ or write_cursor(id_, kind) != cursor:
        raise CursorError
    return id_


def write_name(name: str) -> str:
    """Return the cursor that goes on after a name."""
    return urlsafe_b64encode(b"n" + name.encode()).decode().rstrip("=")


def read_name(cursor: str) -> str:
    """Return the name that a cursor stands for.

    Raises:
        CursorError: It stands for none.
    """
    try:
        raw = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        name = raw[1:].decode()
    except ValueError:
        raise CursorError from None
    if write_name(name) != cursor:
        raise CursorError
    return name
