"""The routes of executions: seeing them, and changing them by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)

from netscript_workers.api import examples
from netscript_workers.api.answers import Answer, tagged
from netscript_workers.api.auditing import note
from netscript_workers.api.bodies import fit, read_object
from netscript_workers.api.document import answers, body, bulk_body
from netscript_workers.api.services import (
    ID_SCHEMA,
    Cursor,
    Given,
    Instant,
    Limit,
    Name,
    Services,
    Text,
    When,
    one_or_many,
    split_words,
)
from netscript_workers.api.shapes import ExecutionPage, WholeExecution
from netscript_workers.clock import to_micros
from netscript_workers.domain import ExecutionStatus, Reason
from netscript_workers.errors import PayloadInvalidError
from netscript_workers.ids import is_id
from netscript_workers.records import ExecutionDetail, Explanation
from netscript_workers.store import bulk, cancelling, queries, retries
from netscript_workers.store.bulk import Bounds, Changed
from netscript_workers.store.engine import Store
from netscript_workers.store.explain import explain
from netscript_workers.store.queries import ExecutionFilter

MAX_IDS = 10_000

executions = APIRouter(prefix="/api/v1/workers/executions", tags=["executions"])


Statuses = Annotated[
    list[ExecutionStatus] | None,
    BeforeValidator(split_words),
    Query(description="Repeated, or separated by commas."),
]


def _check_id(id_: str) -> str:
    if not is_id(id_):
        msg = "must be the id of an execution"
        raise ValueError(msg)
    return id_


_Id = Annotated[str, AfterValidator(_check_id), ID_SCHEMA]


class RetryBody(BaseModel):
    """How to retry: as it was, or with another payload."""

    model_config = ConfigDict(extra="forbid")

    payload: dict[str, Any] | None = Field(
        None,
        description="Makes a new execution.",
        json_schema_extra={"anyOf": [{"type": "object"}]},
    )


class Which(BaseModel):
    """Which executions to change: all conditions hold, and there is at least one, or `all`."""

    model_config = ConfigDict(extra="forbid")

    ids: list[Annotated[str, AfterValidator(_check_id), ID_SCHEMA]] | None = Field(
        None, max_length=MAX_IDS
    )
    status: Annotated[list[ExecutionStatus], BeforeValidator(one_or_many)] | None = None
    reason: Reason | None = None
    job_id: Name | None = None
    topic: Name | None = None
    correlation_id: Name | None = None
    created_after: Instant | None = Field(None, description="At this instant or later.")
    created_before: Instant | None = None
    all: bool = Field(default=False, description="Needed where no condition is given.")
    dry_run: bool = Field(default=False, description="Only count; change nothing.")
    limit: int = Field(MAX_IDS, ge=1, le=100_000, description="So many are looked at, at most.")
    cursor: str | None = Field(
        None, min_length=1, max_length=1024, description="The `next_cursor` of the call before."
    )

    @property
    def filter(self) -> ExecutionFilter:
        """The conditions, but for the ids."""
        return _filter(
            status=self.status,
            reason=self.reason,
            job_id=self.job_id,
            topic=self.topic,
            correlation_id=self.correlation_id,
            created_after=self.created_after,
            created_before=self.created_before,
        )

    @property
    def bounds(self) -> Bounds:
        """How far to go."""
        return Bounds(limit=self.limit, cursor=self.cursor, dry_run=self.dry_run)


def _filter(
    *,
    status: list[ExecutionStatus] | None,
    created_after: datetime | None,
    created_before: datetime | None,
    **same: Any,
) -> ExecutionFilter:
    return ExecutionFilter(
        statuses=tuple(dict.fromkeys(status or ())),
        created_after=None if created_after is None else to_micros(created_after),
        created_before=None if created_before is None else to_micros(created_before),
        **same,
    )


_NAMING = (
    "ids",
    "status",
    "reason",
    "job_id",
    "topic",
    "correlation_id",
    "created_after",
    "created_before",
)
_RETRY = body(RetryBody, {"payload": examples.PAYLOAD})
_WHOLE = answers(WholeExecution, examples.WHOLE_EXECUTION, 404, 409)


async def _which(request: Request) -> Which:
    """Read which executions are meant, from the body and the query parameters.

    Raises:
        PayloadInvalidError: It can't be read, or it names nothing and does not say `all`.
    """
    asked: dict[str, Any] = dict(request.query_params)
    if "ids" in asked:
        asked["ids"] = request.query_params.getlist("ids")
    body = await read_object(request)
    if twice := sorted(asked.keys() & body.keys()):
        raise PayloadInvalidError(f"{twice[0]} is given in the body and in the query.")
    for name in ("all", "dry_run"):  # a slip must not change everything
        if not isinstance(body.get(name, False), bool):
            raise PayloadInvalidError(f"{name} must be true or false.")
    which = fit(Which, {**asked, **body})
    note(request, subject=which.model_dump_json(exclude_defaults=True))
    if which.ids is None and which.filter.is_empty and not which.all:
        raise PayloadInvalidError(
            "This would change every execution.", hint='Give a condition, or {"all": true}.'
        )
    return which


@executions.get("", responses=answers(ExecutionPage, examples.EXECUTIONS))
def list_executions(
    given: Given,
    limit: Limit = 50,
    cursor: Cursor = None,
    status: Statuses = None,
    reason: Reason | None = None,
    job_id: Text = None,
    topic: Text = None,
    correlation_id: Text = None,
    created_after: When = None,
    created_before: When = None,
) -> Answer:
    """List executions, newest first; dead letters are those that are `failed`."""
    wanted = _filter(
        status=status,
        reason=reason,
        job_id=job_id,
        topic=topic,
        correlation_id=correlation_id,
        created_after=created_after,
        created_before=created_before,
    )
    with given.store.read() as conn:
        now = given.store.now(conn)
        page = queries.list_executions(conn, wanted, limit=limit, cursor=cursor, now=now)
    return Answer(page)


@executions.post(
    "/retry",
    openapi_extra=bulk_body(Which, examples.WHICH, _NAMING, ("failed", "cancelled")),
    responses=answers(Changed, examples.CHANGED),
)
async def retry_executions(given: Given, request: Request) -> Answer:
    """Retry finished executions; without a status, those that have failed."""
    return await _in_bulk(given, request, bulk.retry_many)


@executions.post(
    "/cancel",
    openapi_extra=bulk_body(
        Which, examples.WHICH, _NAMING, ("scheduled", "blocked", "queued", "running")
    ),
    responses=answers(Changed, examples.CHANGED),
)
async def cancel_executions(given: Given, request: Request) -> Answer:
    """Cancel executions that are not finished."""
    return await _in_bulk(given, request, bulk.cancel_many)


async def _in_bulk(
    given: Services,
    request: Request,
    change: Callable[[Store, ExecutionFilter, Sequence[str] | None, Bounds], Changed],
) -> Answer:
    which = await _which(request)
    changed = await asyncio.to_thread(change, given.store, which.filter, which.ids, which.bounds)
    given.ring()
    return Answer(changed)


@executions.get(
    "/{execution_id}",
    responses=answers(WholeExecution, examples.WHOLE_EXECUTION, 404, etag=True),
)
def get_execution(given: Given, execution_id: str, request: Request) -> Response:
    """Return the whole record of an execution."""
    detail = _detail(given.store, execution_id)
    finished = detail.execution.finished_at is not None
    return tagged(request, detail) if finished else Answer(detail)


@executions.get(
    "/{execution_id}/explain", responses=answers(Explanation, examples.EXPLANATION, 404)
)
def explain_execution(given: Given, execution_id: str) -> Answer:
    """Tell what an execution does, what it waits for, or how it ended."""
    with given.store.snapshot() as conn:
        return Answer(explain(conn, given.store.dialect, execution_id, now=given.store.now(conn)))


@executions.post("/{execution_id}/retry", openapi_extra=_RETRY, responses=_WHOLE)
async def retry_execution(given: Given, execution_id: str, request: Request) -> Answer:
    """Run a failed or cancelled execution again; with another payload as a new execution."""
    asked = await read_object(request)
    body = fit(RetryBody, asked)
    if "payload" in asked and body.payload is None:  # not the same as saying nothing of it
        raise PayloadInvalidError("payload must be a JSON object.")
    return Answer(await asyncio.to_thread(_retry, given, execution_id, body.payload))


def _retry(given: Services, execution_id: str, payload: dict[str, Any] | None) -> ExecutionDetail:
    if payload is None:
        retries.retry(given.store, execution_id)
    else:
        execution_id = retries.retry_edited(given.store, execution_id, payload, given.catalog)
    given.ring()
    return _detail(given.store, execution_id)


@executions.post("/{execution_id}/cancel", responses=_WHOLE)
def cancel_execution(given: Given, execution_id: str) -> Answer:
    """Cancel an execution; one that runs is ended by its worker, within a second."""
    cancelling.cancel(given.store, execution_id)
    given.ring()
    return Answer(_detail(given.store, execution_id))


@executions.post("/{execution_id}/discard", responses=_WHOLE)
def discard_execution(given: Given, execution_id: str) -> Answer:
    """Put a dead letter away."""
    retries.discard(given.store, execution_id)
    return Answer(_detail(given.store, execution_id))


def _detail(store: Store, execution_id: str) -> ExecutionDetail:
    with store.read() as conn:
        return queries.get_execution(conn, execution_id, now=store.now(conn))
