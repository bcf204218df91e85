"""The routes of workers: who runs what, since when, how fresh; telling one to leave."""

from __future__ import annotations

import logging

from fastapi import APIRouter

from netscript_workers.api import examples
from netscript_workers.api.answers import Answer
from netscript_workers.api.document import answers
from netscript_workers.api.services import MAX_LIMIT, Cursor, Given, Limit, Why
from netscript_workers.api.shapes import WorkerList
from netscript_workers.records import WorkerInfo
from netscript_workers.store import presence

logger = logging.getLogger(__name__)

routes = APIRouter(prefix="/api/v1/workers/workers", tags=["workers"])


@routes.get("", responses=answers(WorkerList, examples.WORKERS))
def list_workers(given: Given, limit: Limit = MAX_LIMIT, cursor: Cursor = None) -> Answer:
    """List the workers, the newest first."""
    with given.store.read() as conn:
        now = given.store.now(conn)
        return Answer(presence.list_workers(conn, now, limit=limit, cursor=cursor))


@routes.get("/{worker_id}", responses=answers(WorkerInfo, examples.WORKER, 404))
def get_worker(given: Given, worker_id: str) -> Answer:
    """Return a worker."""
    with given.store.read() as conn:
        return Answer(presence.get_worker(conn, worker_id, given.store.now(conn)))


@routes.post("/{worker_id}/drain", responses=answers(WorkerInfo, examples.WORKER, 404, 409))
def drain_worker(given: Given, worker_id: str, reason: Why = None) -> Answer:
    """Have a worker finish what it runs, and leave."""
    told = presence.request_drain(given.store, worker_id)
    logger.info("worker %s was asked to leave: %r", told.id, reason)
    given.ring()
    return Answer(told)
