"""Triggering jobs and tasks: what their two routes share."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Request

from netscript_workers.actions import Cause, EnqueueJob, enqueue_job, resolve
from netscript_workers.api.answers import Answer
from netscript_workers.api.bodies import parameters, read_object, trigger_options
from netscript_workers.api.services import Services
from netscript_workers.domain import ExecutionKind, NewExecution, TriggeredBy
from netscript_workers.errors import IdempotencyConflictError
from netscript_workers.store import definitions
from netscript_workers.store.outbox import Submission
from netscript_workers.telemetry import spans
from netscript_workers.telemetry.w3c import accepted


def documented(example: Any) -> dict[str, Any]:
    """Return what the document says of the options and of the body."""
    content = {"schema": {"type": "object"}, "example": example}
    return {
        "parameters": parameters(),
        "requestBody": {"required": False, "content": {"application/json": content}},
    }


async def enqueue(given: Services, kind: ExecutionKind, id_: str, request: Request) -> Answer:
    """Enqueue a job or a task with the body as its payload.

    Raises:
        NetscriptError: It is not known, or an option or the payload is refused.
    """
    options = trigger_options(request)
    action = enqueue_job(id_, await read_object(request), **options.model_dump())
    traceparent, tracestate = trace_of(request)
    cause = Cause(
        triggered_by=TriggeredBy.API,
        correlation_id=None,
        traceparent=traceparent,
        tracestate=tracestate,
    )
    if id_ in given.jobs and given.jobs[id_].kind == kind:
        new = resolve(action, given.catalog, cause)
    else:
        new = await asyncio.to_thread(_resolve, given, kind, id_, action, cause)
    recorder = spans.recorder
    trace = None if recorder is None else recorder.sending((new,), cause)
    receipt = await given.writer.store(Submission(executions=(new,), trace=trace))
    (enqueued,) = receipt.enqueued
    if enqueued.conflict:
        key = options.idempotency_key or ""
        raise IdempotencyConflictError(id_, key, enqueued.execution_id)
    return Answer(
        {
            "job_id": id_,
            "execution_id": enqueued.execution_id,
            "triggered": not enqueued.duplicate,
        },
        202,
    )


def trace_of(request: Request) -> tuple[str | None, str | None]:
    """Return what a request's trace is continued by: its span, or else what its sender gave."""
    recorder = spans.recorder
    if recorder is not None and (here := recorder.carried_here())[0] is not None:
        return here
    headers = request.headers
    return accepted(headers.get("traceparent"), headers.get("tracestate"))


def _resolve(
    given: Services, kind: ExecutionKind, id_: str, action: EnqueueJob[Any], cause: Cause
) -> NewExecution:
    with given.store.read() as conn:
        also = [one.id for one in given.jobs.values() if one.kind == kind]
        definitions.get_job(conn, id_, also=also, kind=kind)
    new = resolve(action, given.catalog, cause)
    new.kind = kind
    return new
