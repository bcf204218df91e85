"""Leases: which workers live, and what becomes of the executions of those that died."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, TextClause, text

from netscript_workers.clock import MICROSECONDS
from netscript_workers.domain import SUSPECT_AFTER, Reason
from netscript_workers.store import cancelling, changes
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.engine import Store
from netscript_workers.store.gates import READY_REASON
from netscript_workers.store.lifelines import Life, look, remove
from netscript_workers.store.schema import attempts, workers
from netscript_workers.topics import Bounds, Served, dump_topics


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """A worker as it registers itself.

    Attributes:
        id: New at every start, so that a restarted container is nobody's double.
        jobs: The ids of the jobs it knows.
        lifeline: The file whose lock tells that it lives.
        served: The topics from which it claims.
        bounds: How many of each run in it at a time; None without any bound.
    """

    id: str
    version: str
    concurrency: int
    jobs: tuple[str, ...]
    lifeline: Path
    served: Served = field(default_factory=Served)
    bounds: Bounds | None = None


def register(store: Store, worker: WorkerRecord, lease: float) -> None:
    """Make a worker known, with a lease of so many seconds."""
    with store.begin() as conn:
        now = store.now(conn)
        row = {
            "id": worker.id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": worker.version,
            "concurrency": worker.concurrency,
            "jobs": json.dumps(worker.jobs),
            "topics": dump_topics(worker.served, worker.bounds),
            "lifeline": str(worker.lifeline),
            "state": "running",
            "started_at": now,
            "heartbeat_at": now,
            "lease_until": now + round(lease * MICROSECONDS),
        }
        store.dialect.insert(conn, workers, [row])


@dataclass(frozen=True, slots=True)
class Renewal:
    """A lease that was renewed.

    Attributes:
        drain_requested: Somebody wants the worker to finish what it runs, and leave.
    """

    drain_requested: bool


def renew(
    store: Store, conn: Connection, worker_id: str, lease: float, *, stalled: bool = False
) -> Renewal | None:
    """Renew a lease by so many seconds; None if the worker was given up.

    Args:
        store: Where the lease is.
        conn: What to renew it on.
        worker_id: Whose.
        lease: Seconds that it is good for.
        stalled: Whether the worker makes no progress, although its heart beats.
    """
    now = store.now(conn)
    until = now + round(lease * MICROSECONDS)
    bound = {"id": worker_id, "now": now, "until": until, "stalled": stalled}
    row = conn.execute(_RENEW, bound).one_or_none()
    return None if row is None else Renewal(bool(row.drain_requested))


def set_state(store: Store, worker_id: str, state: str) -> None:
    """Show that a worker is `running` or `draining`."""
    with store.begin() as conn:
        conn.execute(_SET_STATE, {"id": worker_id, "state": state})


def deregister(store: Store, worker_id: str) -> None:
    """Take a worker off the list, giving back whatever it still had."""
    with store.begin() as conn:
        _give_back(conn, store.dialect, worker_id, store.now(conn), lost=False)
        conn.execute(_DELETE, {"id": worker_id})


def rescue(store: Store, own_id: str, place: Path) -> list[str]:
    """Give the executions of dead workers to others; return their ids.

    A worker of this host is dead when its lifeline is free. Of other hosts, and where PostgreSQL
    can't reach a live process, the lease decides. On SQLite a held lifeline always means alive:
    a user's long transaction may hold up the heartbeats of everybody.
    """
    with store.read() as conn:
        found = conn.execute(_OTHERS_AND_ORPHANS, {"id": own_id}).all()
        others = [row for row in found if row.lifeline is not None]
        orphans = [str(row.id) for row in found if row.lifeline is None]
        now = store.now(conn) if others else 0
    rescued: list[str] = []
    known = {str(other.id) for other in others} | {own_id}
    for path in place.glob("*.lock"):  # of workers that died before they were registered
        if path.stem not in known and look(path) is Life.DEAD:
            remove(path)
    for other in others:
        life = look(Path(other.lifeline))
        expired = other.lease_until < now
        if life is Life.DEAD:
            rescued += _rescue_one(store, str(other.id), proven=True)
            remove(Path(other.lifeline))
        elif expired and not (store.is_sqlite and life is Life.ALIVE):
            rescued += _rescue_one(store, str(other.id), proven=False)
    for orphan in orphans:
        rescued += _rescue_orphans(store, orphan)
    return rescued


def give_back_unknown(store: Store, worker_id: str, known: Collection[str]) -> list[str]:
    """Give back what a worker holds without knowing it, after a commit whose answer was lost."""
    with store.begin() as conn:
        held = {str(id_) for id_ in conn.execute(_HELD, {"worker": worker_id}).scalars()}
        unknown = sorted(held - set(known))
        if unknown:
            bound = {"ids": json.dumps(unknown), "worker": worker_id}
            rows = conn.execute(_give_back_some(store.dialect), bound).all()
            _queue(conn, store.dialect, rows, store.now(conn))
    return unknown


def _rescue_one(store: Store, worker_id: str, *, proven: bool) -> list[str]:
    """Decide on the row as it is now: it may have renewed its lease, or be rescued already."""
    with store.begin() as conn:
        now = store.now(conn)
        bound = {"id": worker_id, "now": now, "proven": proven}
        if conn.execute(_DELETE_DEAD, bound).rowcount != 1:
            return []
        # What only its code had must not hold against those of others until it is missed.
        conn.execute(_FORGET_SCHEDULER, {"id": worker_id})
        return _give_back(conn, store.dialect, worker_id, now, lost=True)


def _rescue_orphans(store: Store, worker_id: str) -> list[str]:
    with store.begin() as conn:
        if conn.execute(_EXISTS, {"id": worker_id}).scalar() is not None:
            return []
        return _give_back(conn, store.dialect, worker_id, store.now(conn), lost=True)


def _give_back(
    conn: Connection, dialect: Dialect, worker_id: str, now: int, *, lost: bool
) -> list[str]:
    """Queue what the worker had. A keyed execution keeps its key: it goes on holding its slot.

    What has been lost too often stays out of the way of claims and runs alone, so that it is known
    for certain who it is that kills. What somebody wants to end is cancelled instead.
    """
    reason = Reason.RESCUED if lost else Reason.DRAINED
    bound = {
        "worker": worker_id,
        "lost": int(lost),
        "reason": reason.value,
        "alone": Reason.ALONE.value,
        "many": SUSPECT_AFTER,
    }
    rows = conn.execute(_give_back_text(dialect), bound).all()
    if not rows:
        return []
    ids: Sequence[str] = [str(row.id) for row in rows]
    if lost:
        dialect.insert(
            conn,
            attempts,
            [
                {
                    "execution_id": str(row.id),
                    "token": row.token,
                    "attempt": row.attempt,
                    "outcome": "lost",
                    "error": "The worker died while it ran this.",
                    "worker_id": worker_id,
                    "started_at": row.started_at,
                    "finished_at": now,
                }
                for row in rows
            ],
        )
    _queue(conn, dialect, rows, now)
    return list(ids)


def _queue(conn: Connection, dialect: Dialect, rows: Sequence[Row[Any]], now: int) -> None:
    """Note that these are queued, but for those that somebody wants to end."""
    unwanted = [str(row.id) for row in rows if row.cancel_requested]
    changed = [(str(row.id), "queued") for row in rows if not row.cancel_requested]
    changed += cancelling.cancel_given_back(conn, dialect, unwanted, now)
    changes.record(conn, dialect, changed, now)


_RENEW = text(
    """
    UPDATE netscript_workers SET heartbeat_at = :now, lease_until = :until,
        stalled_at = CASE WHEN CAST(:stalled AS boolean)
                     THEN coalesce(stalled_at, CAST(:now AS bigint)) END
    WHERE id = :id RETURNING drain_requested
    """
)
_SET_STATE = text("UPDATE netscript_workers SET state = :state WHERE id = :id")
_DELETE = text("DELETE FROM netscript_workers WHERE id = :id")
_EXISTS = text("SELECT 1 FROM netscript_workers WHERE id = :id")
_DELETE_DEAD = text(
    "DELETE FROM netscript_workers WHERE id = :id AND (:proven OR lease_until < :now)"
)
_FORGET_SCHEDULER = text("DELETE FROM netscript_schedulers WHERE id = :id")
# The other workers, and those that are on no list but have running rows: one step for each of
# them, however many rows it has.
_OTHERS_AND_ORPHANS = text(
    """
    WITH RECURSIVE w(worker_id) AS (
        SELECT (SELECT worker_id FROM netscript_executions WHERE status = 'running'
                ORDER BY worker_id LIMIT 1)
        UNION ALL
        SELECT (SELECT e.worker_id FROM netscript_executions e
                WHERE e.status = 'running' AND e.worker_id > w.worker_id
                ORDER BY e.worker_id LIMIT 1)
        FROM w WHERE w.worker_id IS NOT NULL)
    SELECT id, lifeline, lease_until FROM netscript_workers WHERE id <> :id
    UNION ALL
    SELECT worker_id, NULL, NULL FROM w WHERE worker_id IS NOT NULL
      AND worker_id NOT IN (SELECT id FROM netscript_workers)
    """
)


_HELD = text("SELECT id FROM netscript_executions WHERE status = 'running' AND worker_id = :worker")


@cache
def _give_back_some(dialect: Dialect) -> TextClause:
    return text(
        f"""
        UPDATE netscript_executions
        SET status = 'queued', worker_id = NULL, reason = {READY_REASON}
        WHERE id IN {dialect.members("ids", "id")} AND status = 'running'
          AND worker_id = :worker
        RETURNING id, cancel_requested
        """
    )


@cache
def _give_back_text(dialect: Dialect) -> TextClause:
    return text(
        f"""
        UPDATE netscript_executions
        SET status = 'queued', worker_id = NULL, losses = losses + :lost,
            parked = parked OR losses + :lost >= :many,
            reason = CASE WHEN losses + :lost >= :many THEN CAST(:alone AS text)
                     ELSE CAST(:reason AS text) END
        WHERE id IN (
            SELECT id FROM netscript_executions
            WHERE status = 'running' AND worker_id = :worker ORDER BY id {dialect.for_update})
        RETURNING id, token, attempt, started_at, cancel_requested
        """
    )
