"""The routes of health and jobs."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response

from netscript_workers.actions import Cause, enqueue_job, resolve
from netscript_workers.api.answers import Answer, Problem
from netscript_workers.api.bodies import parameters, read_object, trigger_options
from netscript_workers.api.services import Given, Limit, Offset
from netscript_workers.domain import TriggeredBy
from netscript_workers.errors import IdempotencyConflictError, SchemaOutdatedError
from netscript_workers.records import JobRecord
from netscript_workers.store import definitions, migrations, presence
from netscript_workers.store.outbox import Submission

health = APIRouter(tags=["health"])
api = APIRouter(prefix="/api/v1/workers")


@health.get("/health")
def get_health(given: Given) -> Answer:
    """Tell that the process answers."""
    return Answer({"status": "ok", "version": given.version})


@health.get("/health/ready")
def get_readiness(given: Given) -> Response:
    """Tell whether events become work: database, migrations, a living worker."""
    checks = {"database": "ok", "migrations": "ok", "workers": "ok"}
    stalled: tuple[str, ...] = ()
    try:
        migrations.check(given.store)
    except SchemaOutdatedError as error:
        checks["migrations"] = str(error)
    except Exception:  # noqa: BLE001 - whatever keeps it from answering
        checks["database"] = "it does not answer"
    else:
        with given.store.read() as conn:
            alive, stalled = presence.live_workers(conn, given.store.now(conn))
        if not alive:
            checks["workers"] = "none is alive and claims; start one with: netscript worker"
        elif len(stalled) >= alive:
            checks["workers"] = "all that are alive make no progress: their ticks do not end"
    if set(checks.values()) == {"ok"}:
        return Answer({"status": "ready", "checks": checks, "stalled_workers": stalled})
    detail = "Not everything is ready."
    return Problem(503, "not-ready", detail, checks=checks, stalled_workers=stalled)


@api.get("/jobs", tags=["jobs"])
def list_jobs(given: Given, limit: Limit = 50, offset: Offset = 0) -> Answer:
    """List the jobs that processes have registered."""
    with given.store.read() as conn:
        jobs, total = definitions.list_jobs(conn, limit=limit, offset=offset)
    return Answer({"jobs": jobs, "total": total, "limit": limit, "offset": offset})


@api.get("/jobs/{job_id}", tags=["jobs"], responses={200: {"model": JobRecord}})
def get_job(given: Given, job_id: str) -> Answer:
    """Return a job."""
    with given.store.read() as conn:
        return Answer(definitions.get_job(conn, job_id))


@api.post(
    "/jobs/{job_id}/trigger",
    tags=["jobs"],
    status_code=202,
    openapi_extra={
        "parameters": parameters(),
        "requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}},
    },
)
async def trigger_job(given: Given, job_id: str, request: Request) -> Answer:
    """Enqueue a job; the body is its payload."""
    options = trigger_options(request)
    action = enqueue_job(job_id, await read_object(request), **options.model_dump())
    cause = Cause(
        triggered_by=TriggeredBy.API,
        correlation_id=None,
        traceparent=request.headers.get("traceparent"),
        tracestate=request.headers.get("tracestate"),
    )
    if job_id in given.jobs:
        new = resolve(action, given.catalog, cause)
    else:
        new = await asyncio.to_thread(resolve, action, given.catalog, cause)
    receipt = await given.writer.store(Submission(executions=(new,)))
    (enqueued,) = receipt.enqueued
    if enqueued.conflict:
        key = options.idempotency_key or ""
        raise IdempotencyConflictError(job_id, key, enqueued.execution_id)
    return Answer(
        {
            "job_id": job_id,
            "execution_id": enqueued.execution_id,
            "triggered": not enqueued.duplicate,
        },
        202,
    )


@api.post("/seed", tags=["jobs"])
def seed(given: Given) -> Answer:
    """Register the discovered definitions in the database."""
    created = definitions.register(given.store, given.jobs.values())
    message = f"{created} of {len(given.jobs)} jobs were new."
    return Answer({"jobs_created": created, "tasks_created": 0, "message": message})
