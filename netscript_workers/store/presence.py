"""Who is there: the workers on the list, what each runs, and telling one to leave."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, text

from netscript_workers.clock import MICROSECONDS, from_micros
from netscript_workers.errors import StateError, WorkerNotFoundError
from netscript_workers.ids import is_id
from netscript_workers.records import WorkerInfo
from netscript_workers.store import pages
from netscript_workers.store.engine import Store
from netscript_workers.topics import load_served

_KIND = "w"
_LAST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"
# More workers than this are counted and not listed; of one, so many executions are named.
MAX_LISTED = 1_000
MAX_NAMED = 100


@dataclass(frozen=True, slots=True)
class WorkerPage:
    """Workers, the newest first, how many there are in all, and the cursor of the next page."""

    workers: tuple[WorkerInfo, ...]
    total: int
    next_cursor: str | None


def list_workers(
    conn: Connection, now: int, *, limit: int = MAX_LISTED, cursor: str | None = None
) -> WorkerPage:
    """Return workers on the list, the newest first.

    Raises:
        CursorError: The cursor is none of ours.
    """
    before = _LAST_ID if cursor is None else pages.read_cursor(cursor, _KIND)
    rows = conn.execute(_LIST, {"limit": limit + 1, "before": before}).all()
    listed = rows[:limit]
    runs = _runs(conn, None)
    return WorkerPage(
        tuple(_info(row, runs, now) for row in listed),
        int(conn.execute(_COUNT).scalar_one()),
        pages.write_cursor(str(listed[-1].id), _KIND) if len(rows) > limit else None,
    )


def get_worker(conn: Connection, worker_id: str, now: int) -> WorkerInfo:
    """Return a worker.

    Raises:
        WorkerNotFoundError: It is on no list (any more).
    """
    row = conn.execute(_ONE, {"id": worker_id}).one_or_none() if is_id(worker_id) else None
    if row is None:
        raise WorkerNotFoundError(f"There is no worker {worker_id[:100]!r}.")
    return _info(row, _runs(conn, str(row.id)), now)


def request_drain(store: Store, worker_id: str) -> WorkerInfo:
    """Have a worker finish what it runs, and leave; ring the bell, so that it hears of it soon.

    A second request changes nothing.

    Raises:
        WorkerNotFoundError: It is on no list (any more).
        StateError: Its lease has run out, so it is given up.
    """
    with store.begin() as conn:
        now = store.now(conn)
        found = get_worker(conn, worker_id, now)
        if not found.fresh:
            raise StateError(
                f"Worker {found.id} is given up: its lease has run out.",
                hint="What it ran goes to other workers.",
            )
        conn.execute(_REQUEST, {"id": found.id, "yes": True})
        return get_worker(conn, worker_id, now)


def live_workers(conn: Connection, now: int) -> tuple[int, tuple[str, ...]]:
    """Return how many workers hold a valid lease and claim, and who of them makes no progress.

    One that is leaving claims no more. Of those that make no progress, so many as are listed are
    named, as `host:process (id)`.
    """
    alive = int(conn.execute(_ALIVE, {"now": now}).scalar_one())
    stalled = conn.execute(_STALLED, {"now": now, "limit": MAX_LISTED})
    return alive, tuple(f"{row.host}:{row.pid} ({row.id})" for row in stalled)


def slots(conn: Connection, now: int) -> int:
    """Return how many executions the workers that claim can run at a time."""
    return int(conn.execute(_SLOTS, {"now": now}).scalar_one())


def _runs(conn: Connection, worker_id: str | None) -> Mapping[str, tuple[int, list[str]]]:
    """Return how many executions each worker runs, and the ids of the first ones."""
    statement = _RUNS if worker_id is None else _RUNS_OF_ONE
    bound = {"limit": MAX_NAMED} if worker_id is None else {"limit": MAX_NAMED, "id": worker_id}
    found: dict[str, tuple[int, list[str]]] = {}
    for row in conn.execute(statement, bound):
        _, ids = found.setdefault(str(row.worker_id), (row.total, []))
        ids.append(str(row.id))
    return found


def _info(row: Row[Any], runs: Mapping[str, tuple[int, list[str]]], now: int) -> WorkerInfo:
    running, named = runs.get(str(row.id), (0, []))
    served = load_served(row.topics)
    return WorkerInfo(
        id=str(row.id),
        host=row.host,
        pid=row.pid,
        version=row.version,
        state="draining" if row.drain_requested else row.state,
        concurrency=row.concurrency,
        running=running,
        executions=tuple(named),
        jobs=tuple(json.loads(row.jobs)),
        topics=served.only,
        except_topics=tuple(sorted(served.but)),
        started_at=from_micros(row.started_at),
        heartbeat_at=from_micros(row.heartbeat_at),
        lease_until=from_micros(row.lease_until),
        fresh=row.lease_until > now,
        age_seconds=max(now - row.heartbeat_at, 0) / MICROSECONDS,
        stalled=row.stalled_at is not None,
        stalled_at=None if row.stalled_at is None else from_micros(row.stalled_at),
        drain_requested=bool(row.drain_requested),
    )


_COLUMNS = (
    "id, host, pid, version, state, concurrency, jobs, topics, started_at, heartbeat_at, "
    "lease_until, stalled_at, drain_requested"
)
_LIST = text(
    f"SELECT {_COLUMNS} FROM netscript_workers WHERE id < :before ORDER BY id DESC LIMIT :limit"
)
_ONE = text(f"SELECT {_COLUMNS} FROM netscript_workers WHERE id = :id")
_COUNT = text("SELECT count(*) FROM netscript_workers")
_CLAIMING = "lease_until > :now AND state = 'running' AND NOT drain_requested"
_ALIVE = text(f"SELECT count(*) FROM netscript_workers WHERE {_CLAIMING}")
_SLOTS = text(f"SELECT coalesce(sum(concurrency), 0) FROM netscript_workers WHERE {_CLAIMING}")
_STALLED = text(
    "SELECT id, host, pid FROM netscript_workers "
    f"WHERE {_CLAIMING} AND stalled_at IS NOT NULL ORDER BY id LIMIT :limit"
)
# What runs is no more than there are slots.
_RANKED = """
    SELECT worker_id, id, total FROM (
        SELECT worker_id, id, count(*) OVER (PARTITION BY worker_id) AS total,
            row_number() OVER (PARTITION BY worker_id ORDER BY id) AS place
        FROM netscript_executions WHERE status = 'running' {of}) AS ranked
    WHERE place <= :limit ORDER BY worker_id, id"""
_RUNS = text(_RANKED.format(of=""))
_RUNS_OF_ONE = text(_RANKED.format(of="AND worker_id = :id"))
_REQUEST = text("UPDATE netscript_workers SET drain_requested = :yes WHERE id = :id")
