"""The list of what changed, in commit order: one row a commit, for whoever follows along."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Table, text

from netscript_workers.store.dialects import Dialect
from netscript_workers.store.inserts import Row
from netscript_workers.store.schema import changes as table

STAMPED_AT_A_TIME = 5_000


@dataclass(frozen=True, slots=True)
class Change:
    """One commit: its number in commit order, and what it left each execution as."""

    seq: int
    items: tuple[tuple[str, str], ...]


def record(conn: Connection, dialect: Dialect, items: Sequence[tuple[str, str]], now: int) -> None:
    """Note in this transaction that the executions got these statuses."""
    dialect.insert_all(conn, rows(items, now))


def rows(items: Sequence[tuple[str, str]], now: int) -> list[tuple[Table, Sequence[Row]]]:
    """Return the row that notes these statuses, if there are any, as `insert_all` takes it."""
    if not items:
        return []
    return [(table, [{"at": now, "items": json.dumps(items, separators=(",", ":"))}])]


def stamp(conn: Connection, dialect: Dialect, *, limit: int = STAMPED_AT_A_TIME) -> int:
    """Number what has been committed since the last call; return how many rows.

    A number drawn before the commit would let readers miss the commit that comes late. One
    process at a time numbers; where another is at it, this does nothing.
    """
    if not dialect.try_lock(conn, "changes"):
        return 0
    highest = newest(conn)
    return conn.execute(_STAMP, {"highest": highest, "limit": limit}).rowcount


def read(conn: Connection, after: int, *, limit: int = 1000) -> list[Change]:
    """Return the numbered commits after `after`, oldest first."""
    rows = conn.execute(_READ, {"after": after, "limit": limit})
    return [Change(row.seq, tuple((i, s) for i, s in json.loads(row.items))) for row in rows]


def newest(conn: Connection) -> int:
    """Return the highest number that a commit has, 0 if none has."""
    return conn.execute(_HIGHEST).scalar() or 0


def oldest(conn: Connection) -> int | None:
    """Return the lowest number that is kept; None where no commit has one."""
    lowest: int | None = conn.execute(_LOWEST).scalar()
    return lowest


def any_unstamped(conn: Connection) -> bool:
    """Tell whether a commit has no number yet."""
    return conn.execute(_UNSTAMPED).first() is not None


def prune(conn: Connection, *, before: int, limit: int) -> int:
    """Forget up to `limit` commits that are older than `before`, but never the newest."""
    return conn.execute(_PRUNE, {"before": before, "limit": limit}).rowcount


_HIGHEST = text("SELECT max(seq) FROM netscript_changes")
_LOWEST = text("SELECT min(seq) FROM netscript_changes")
_UNSTAMPED = text("SELECT 1 FROM netscript_changes WHERE seq IS NULL LIMIT 1")
_STAMP = text(
    """
    UPDATE netscript_changes SET seq = :highest + n.place
    FROM (
        SELECT id, row_number() OVER (ORDER BY id) AS place FROM (
            SELECT id FROM netscript_changes WHERE seq IS NULL ORDER BY id LIMIT :limit) u) n
    WHERE netscript_changes.id = n.id
    """
)
_READ = text(
    "SELECT seq, items AS items FROM netscript_changes WHERE seq > :after ORDER BY seq LIMIT :limit"
)
_PRUNE = text(
    """
    DELETE FROM netscript_changes WHERE seq IN (
        SELECT seq FROM netscript_changes
        WHERE at < :before AND seq < (SELECT max(seq) FROM netscript_changes)
        ORDER BY seq LIMIT :limit)
    """
)
