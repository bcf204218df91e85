"""The routes of health and jobs."""

from __future__ import annotations

from collections import Counter

from fastapi import APIRouter, Request, Response

from netscript_workers.api import examples
from netscript_workers.api.answers import Answer, Problem, tagged
from netscript_workers.api.document import answers
from netscript_workers.api.enqueueing import documented, enqueue
from netscript_workers.api.services import Given, Limit, Offset
from netscript_workers.api.shapes import Health, JobList, Readiness, Seeded, Triggered
from netscript_workers.errors import SchemaOutdatedError
from netscript_workers.records import JobRecord
from netscript_workers.store import definitions, migrations, presence

health = APIRouter(tags=["health"])
api = APIRouter(prefix="/api/v1/workers")


@health.get("/health", responses=answers(Health))
def get_health(given: Given) -> Answer:
    """Tell that the process answers."""
    return Answer({"status": "ok", "version": given.version})


@health.get("/health/ready", responses=answers(Readiness, None, 503))
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


@api.get("/jobs", tags=["jobs"], responses=answers(JobList, examples.JOBS, etag=True))
def list_jobs(given: Given, request: Request, limit: Limit = 50, offset: Offset = 0) -> Response:
    """List the jobs that processes have registered."""
    with given.store.read() as conn:
        jobs, total = definitions.list_jobs(conn, limit=limit, offset=offset)
    return tagged(request, {"jobs": jobs, "total": total, "limit": limit, "offset": offset})


@api.get(
    "/jobs/{job_id}", tags=["jobs"], responses=answers(JobRecord, examples.JOB, 404, etag=True)
)
def get_job(given: Given, job_id: str, request: Request) -> Response:
    """Return a job."""
    with given.store.read() as conn:
        return tagged(request, definitions.get_job(conn, job_id, kind="job"))


@api.post(
    "/jobs/{job_id}/trigger",
    tags=["jobs"],
    status_code=202,
    openapi_extra=documented(examples.PAYLOAD),
    responses=answers(Triggered, examples.TRIGGERED, 404, 409, status=202),
)
async def trigger_job(given: Given, job_id: str, request: Request) -> Answer:
    """Enqueue a job; the body is its payload."""
    return await enqueue(given, "job", job_id, request)


@api.post("/seed", tags=["jobs"], responses=answers(Seeded, examples.SEEDED))
def seed(given: Given) -> Answer:
    """Register the discovered definitions in the database."""
    made = definitions.register(given.store, given.jobs.values())
    all_of_them = Counter(job.kind for job in given.jobs.values())
    told = f"{made['job']} of {all_of_them['job']} jobs were new"
    if all_of_them["task"]:
        told += f", and {made['task']} of {all_of_them['task']} tasks"
    return Answer(
        {"jobs_created": made["job"], "tasks_created": made["task"], "message": f"{told}."}
    )
