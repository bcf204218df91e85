"""Finishing: the one way into history, in the transaction of whoever ends an execution.

What came to its end gives back what it held. Whoever finishes something lets the next ones in.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

from sqlalchemy import Connection, TextClause, text

from netscript_workers.domain import ClaimedExecution, ExecutionStatus, Reason
from netscript_workers.store import admissions, batches, entrance
from netscript_workers.store.admissions import NoteKind
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.entrance import Asked
from netscript_workers.store.schema import COMMON


@dataclass(slots=True)
class Finished:
    """Executions that came to their end, and what they held until then.

    Attributes:
        changed: Their final statuses, by id.
        keys: How many of them held each concurrency key.
        jobs: How many of them had a place of each job that has a limit.
        counted: Whether a batch has a note that one of its executions is final.
    """

    changed: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    keys: Counter[str] = field(default_factory=Counter[str])
    jobs: Counter[str] = field(default_factory=Counter[str])
    counted: bool = False


class _Ended(Protocol):
    """What a claim and a row have in common."""

    @property
    def id(self) -> str: ...
    @property
    def job_id(self) -> str: ...
    @property
    def concurrency_key(self) -> str | None: ...
    @property
    def holds_job(self) -> bool: ...
    @property
    def batch_id(self) -> str | None: ...


def finish_running(
    conn: Connection,
    dialect: Dialect,
    ends: Sequence[dict[str, Any]],
    claims: Mapping[str, ClaimedExecution],
    now: int,
) -> Finished:
    """Move to history what still runs under its token; the others are left alone.

    Args:
        conn: A write transaction.
        dialect: The database's own ways.
        ends: As `Dialect.finish` takes them, in the order of their ids.
        claims: The claim of each.
        now: The database's present.
    """
    moved = dialect.finish(conn, json.dumps(ends), now)
    gone = [(claims[end["id"]], str(end["status"])) for end in ends if end["id"] in moved]
    return _leave(conn, dialect, gone, holding=moved)


def cancel_waiting(conn: Connection, dialect: Dialect, rows: Sequence[Any], now: int) -> Finished:
    """Move executions that wait to history, as `cancelled`.

    Args:
        conn: The transaction that has locked the rows.
        dialect: The database's own ways.
        rows: Rows of `WAITING_COLUMNS`, none of which runs.
        now: The database's present.
    """
    if not rows:
        return Finished()
    ids = json.dumps([str(row.id) for row in rows])
    bound = {"ids": ids, "now": now, "status": ExecutionStatus.CANCELLED.value}
    conn.execute(_to_history(dialect), {**bound, "reason": Reason.CANCELLED.value})
    conn.execute(_delete(dialect), {"ids": ids})
    # Who lets the next of a key in at this moment may have chosen one that is gone now.
    keys = {r.concurrency_key for r in rows if r.concurrency_key and not r.holds_key}
    admissions.note(conn, dialect, NoteKind.KEY, keys)
    jobs = {r.job_id for r in rows if r.wants_job}
    admissions.note(conn, dialect, NoteKind.JOB, jobs)
    gone = [(row, ExecutionStatus.CANCELLED.value) for row in rows]
    return _leave(conn, dialect, gone, holding={row.id for row in rows if row.holds_key})


def let_in(
    conn: Connection, dialect: Dialect, finished: Finished, now: int
) -> list[tuple[str, str]]:
    """Let those in that waited for what has been given back; return them and their status."""
    asked = Asked(released_keys=finished.keys, released_jobs=finished.jobs)
    return entrance.let_in(conn, dialect, asked, now).changed if asked else []


def _leave(
    conn: Connection,
    dialect: Dialect,
    gone: Iterable[tuple[_Ended, str]],
    *,
    holding: set[str],
) -> Finished:
    """Note what each gives back; every execution that is finished passes here once."""
    finished = Finished()
    members: list[tuple[str, str, str]] = []
    for one, status in gone:
        finished.changed.append((str(one.id), status))
        if one.concurrency_key is not None and one.id in holding:
            finished.keys[one.concurrency_key] += 1
        if one.holds_job:
            finished.jobs[one.job_id] += 1
        if one.batch_id is not None:
            members.append((str(one.batch_id), str(one.id), status))
    if members:
        finished.counted = batches.record_done(conn, dialect, members)
    return finished


WAITING_COLUMNS = (
    "id, job_id, status, concurrency_key, holds_key, wants_job, holds_job, batch_id, "
    "cancel_requested"
)
# It has not begun the attempt that it would have come to.
_CHANGED = {
    "status": "CAST(:status AS text)",
    "reason": "CAST(:reason AS text)",
    "started_at": "NULL",
    "worker_id": "NULL",
}


@cache
def _to_history(dialect: Dialect) -> TextClause:
    return text(
        f"""
        INSERT INTO netscript_execution_history ({", ".join(COMMON)}, finished_at)
        SELECT {", ".join(_CHANGED.get(name, name) for name in COMMON)}, CAST(:now AS bigint)
        FROM netscript_executions WHERE id IN {dialect.members("ids", "id")}
        """
    )


@cache
def _delete(dialect: Dialect) -> TextClause:
    return text(f"DELETE FROM netscript_executions WHERE id IN {dialect.members('ids', 'id')}")
