"""The routes of workers: who runs what, since when, how fresh; telling one to leave."""

from __future__ import annotations

from fastapi import APIRouter

from netscript_workers.api.answers import Answer
from netscript_workers.api.services import Given
from netscript_workers.records import WorkerInfo
from netscript_workers.store import presence

routes = APIRouter(prefix="/api/v1/workers/workers", tags=["workers"])


@routes.get("")
def list_workers(given: Given) -> Answer:
    """List the workers, the newest first."""
    with given.store.read() as conn:
        workers, total = presence.list_workers(conn, given.store.now(conn))
    return Answer({"workers": workers, "total": total})


@routes.get("/{worker_id}", responses={200: {"model": WorkerInfo}})
def get_worker(given: Given, worker_id: str) -> Answer:
    """Return a worker."""
    with given.store.read() as conn:
        return Answer(presence.get_worker(conn, worker_id, given.store.now(conn)))


@routes.post("/{worker_id}/drain", responses={200: {"model": WorkerInfo}})
def drain_worker(given: Given, worker_id: str) -> Answer:
    """Have a worker finish what it runs, and leave."""
    told = presence.request_drain(given.store, worker_id)
    given.ring()
    return Answer(told)
