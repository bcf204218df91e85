"""Following along: what commits have left executions as, in their order."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from sqlalchemy import Connection, TextClause, text

from netscript_workers.domain import ExecutionStatus
from netscript_workers.records import ExecutionRecord
from netscript_workers.store import changes, queries
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.engine import Store
from netscript_workers.store.retention import number_changes

# Executions, and their payloads' and results' characters, that are read at a time. What one commit
# has is read together: some hundreds, where a worker ran as many.
_MOST = 500
_MOST_CHARACTERS = 8 * 1_048_576
# So few can't be too much together: each part of one has a bound of its own.
_FEW = 4


@dataclass(frozen=True, slots=True)
class Update:
    """What a commit has left one execution as.

    Attributes:
        seq: The number of the commit, in commit order.
        index: Which of the commit's executions, from 0.
        status: What it was left as; by now it may be something else.
        record: As it was when this was read.
    """

    seq: int
    index: int
    status: ExecutionStatus
    record: ExecutionRecord


@dataclass(frozen=True, slots=True)
class Reading:
    """A stretch of commits.

    Attributes:
        updates: In commit order; executions that have been forgotten are not among them.
        first: The number of its first commit, or of the one that would be next.
        last: That of its last one.
        is_cut: There were more, for which there was no room.
    """

    updates: Sequence[Update]
    first: int
    last: int
    is_cut: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running execution is."""

    id: str
    job_id: str
    topic: str
    percent: float
    message: str | None


def number(store: Store) -> int:
    """Number what was committed since the last call; return the highest number there is."""
    with store.read() as conn:
        if not changes.any_unstamped(conn):
            return changes.newest(conn)
    number_changes(store)
    with store.read() as conn:
        return changes.newest(conn)


def bounds(store: Store) -> tuple[int, int]:
    """Return the lowest and the highest number that are kept; (1, 0) where there are none."""
    with store.read() as conn:
        newest = changes.newest(conn)
        return (changes.oldest(conn) or newest + 1), newest


def read(store: Store, after: int, *, limit: int) -> Reading:
    """Read up to `limit` commits after the number `after`, fewer where they have much in them."""
    with store.read() as conn:
        all_ = changes.read(conn, after, limit=limit)
        found = _some(all_)
        found = _light(found, _sizes(conn, store.dialect, found))
        ids = sorted({id_ for change in found for id_, _ in change.items})
        now = store.now(conn)
        records = queries.get_records(conn, store.dialect, ids, now=now) if ids else {}
    updates = [
        Update(change.seq, index, ExecutionStatus(status), records[id_])
        for change in found
        for index, (id_, status) in enumerate(change.items)
        if id_ in records
    ]
    first, last = (found[0].seq, found[-1].seq) if found else (after + 1, after)
    return Reading(updates, first, last, is_cut=len(found) < len(all_))


def _some(found: list[changes.Change]) -> list[changes.Change]:
    """Return the first commits, up to so many executions, and one in any case."""
    count = 0
    for place, change in enumerate(found):
        count += len(change.items)
        if count > _MOST and place:
            return found[:place]
    return found


def _light(found: list[changes.Change], sizes: Mapping[str, int]) -> list[changes.Change]:
    """Return the first commits, up to so many characters, and one in any case."""
    told: set[str] = set()
    size = 0
    for place, change in enumerate(found):
        ids = {id_ for id_, _ in change.items} - told
        size += sum(sizes.get(id_, 0) for id_ in ids)
        if size > _MOST_CHARACTERS and place:
            return found[:place]
        told |= ids
    return found


def _sizes(conn: Connection, dialect: Dialect, found: list[changes.Change]) -> dict[str, int]:
    """Return how long payloads and results are, by id; nothing where they are few."""
    ids = sorted({id_ for change in found for id_, _ in change.items})
    if len(ids) <= _FEW:
        return {}
    rows = conn.execute(_lengths(dialect), {"ids": json.dumps(ids)})
    return {str(row.id): row.size for row in rows}


def progress(store: Store) -> Collection[Progress]:
    """Return how far all running executions are that have told."""
    with store.read() as conn:
        rows = conn.execute(_PROGRESS)
        return [
            Progress(str(row.id), row.job_id, row.topic, row.progress_percent, row.progress_message)
            for row in rows
        ]


@cache
def _lengths(dialect: Dialect) -> TextClause:
    ids = dialect.members("ids", "id")
    return text(
        " UNION ALL ".join(
            f"SELECT id, {' + '.join(_length(name) for name in columns)} AS size "
            f"FROM netscript_{table} WHERE id IN {ids}"
            for table, columns in (
                ("executions", ("payload",)),
                ("execution_history", ("payload", "result")),
            )
        )
    )


def _length(column: str) -> str:
    return f"COALESCE(LENGTH(CAST({column} AS TEXT)), 0)"


_PROGRESS = text(
    """
    SELECT id, job_id, topic, progress_percent, progress_message FROM netscript_executions
    WHERE status = 'running' AND progress_percent IS NOT NULL
    """
)
