"""The routes of tasks: commands in other languages, as processes have registered them."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from netscript_workers.api import examples
from netscript_workers.api.answers import Answer, tagged
from netscript_workers.api.document import answers
from netscript_workers.api.enqueueing import documented, enqueue
from netscript_workers.api.services import Given, Limit, Offset
from netscript_workers.api.shapes import TaskList, Triggered
from netscript_workers.records import JobRecord
from netscript_workers.store import definitions

routes = APIRouter(prefix="/api/v1/workers/tasks", tags=["tasks"])


@routes.get("", responses=answers(TaskList, examples.TASKS, etag=True))
def list_tasks(given: Given, request: Request, limit: Limit = 50, offset: Offset = 0) -> Response:
    """List the tasks that processes have registered."""
    with given.store.read() as conn:
        tasks, total = definitions.list_jobs(conn, limit=limit, offset=offset, kind="task")
    page = {"tasks": tasks, "total": total, "limit": limit, "offset": offset}
    return tagged(request, page)


@routes.get("/{task_id}", responses=answers(JobRecord, examples.TASK, 404, etag=True))
def get_task(given: Given, task_id: str, request: Request) -> Response:
    """Return a task."""
    with given.store.read() as conn:
        return tagged(request, definitions.get_job(conn, task_id, kind="task"))


@routes.post(
    "/{task_id}/trigger",
    status_code=202,
    openapi_extra=documented({"month": "2026-01"}),
    responses=answers(Triggered, examples.TRIGGERED, 404, 409, status=202),
)
async def trigger_task(given: Given, task_id: str, request: Request) -> Answer:
    """Enqueue a task; the body is its payload."""
    return await enqueue(given, "task", task_id, request)
