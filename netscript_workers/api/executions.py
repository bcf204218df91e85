"""The routes of executions: seeing them, and changing them by hand."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from netscript_workers.api.answers import Answer
from netscript_workers.api.auditing import note
from netscript_workers.api.bodies import fit, read_object
from netscript_workers.api.services import Given, Limit, Services, Text
from netscript_workers.clock import to_micros
from netscript_workers.domain import ExecutionStatus, Reason
from netscript_workers.errors import PayloadInvalidError
from netscript_workers.ids import is_id
from netscript_workers.options import MAX_KEY_LENGTH
from netscript_workers.records import ExecutionDetail, ExecutionRecord, Explanation
from netscript_workers.store import bulk, cancelling, queries, retries
from netscript_workers.store.bulk import Changed
from netscript_workers.store.engine import Store
from netscript_workers.store.explain import explain
from netscript_workers.store.queries import ExecutionFilter

MAX_IDS = 10_000

executions = APIRouter(prefix="/api/v1/workers/executions", tags=["executions"])


def _check_id(id_: str) -> str:
    if not is_id(id_):
        msg = "must be the id of an execution"
        raise ValueError(msg)
    return id_


class RetryBody(BaseModel):
    """How to retry: as it was, or with another payload."""

    model_config = ConfigDict(extra="forbid")

    payload: dict[str, Any] | None = Field(None, description="Makes a new execution.")


class Which(BaseModel):
    """Which executions to change: all conditions hold, and there is at least one, or `all`."""

    model_config = ConfigDict(extra="forbid")

    ids: list[Annotated[str, AfterValidator(_check_id)]] | None = Field(None, max_length=MAX_IDS)
    status: ExecutionStatus | None = None
    reason: Reason | None = None
    job_id: str | None = Field(None, min_length=1, max_length=MAX_KEY_LENGTH)
    topic: str | None = Field(None, min_length=1, max_length=MAX_KEY_LENGTH)
    correlation_id: str | None = Field(None, min_length=1, max_length=MAX_KEY_LENGTH)
    created_after: AwareDatetime | None = Field(None, description="At this instant or later.")
    created_before: AwareDatetime | None = None
    all: bool = Field(default=False, description="Needed where no condition is given.")

    @property
    def filter(self) -> ExecutionFilter:
        """The conditions, but for the ids."""
        after, before = self.created_after, self.created_before
        return ExecutionFilter(
            status=self.status,
            reason=self.reason,
            job_id=self.job_id,
            topic=self.topic,
            correlation_id=self.correlation_id,
            created_after=None if after is None else to_micros(after),
            created_before=None if before is None else to_micros(before),
        )


_BODY = {"requestBody": {"content": {"application/json": {"schema": Which.model_json_schema()}}}}
_RETRY = {
    "requestBody": {"content": {"application/json": {"schema": RetryBody.model_json_schema()}}}
}


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
    if not isinstance(body.get("all", False), bool):  # a slip must not change everything
        raise PayloadInvalidError("all must be true or false.")
    which = fit(Which, {**asked, **body})
    note(request, subject=which.model_dump_json(exclude_defaults=True))
    if which.ids is None and which.filter.is_empty and not which.all:
        raise PayloadInvalidError(
            "This would change every execution.", hint='Give a condition, or {"all": true}.'
        )
    return which


@executions.get("", responses={200: {"model": list[ExecutionRecord]}})
def list_executions(
    given: Given,
    limit: Limit = 50,
    cursor: Text = None,
    status: ExecutionStatus | None = None,
    reason: Reason | None = None,
    job_id: Text = None,
    topic: Text = None,
    correlation_id: Text = None,
) -> Answer:
    """List executions, newest first; dead letters are those that are `failed`."""
    wanted = ExecutionFilter(
        status=status, reason=reason, job_id=job_id, topic=topic, correlation_id=correlation_id
    )
    with given.store.read() as conn:
        now = given.store.now(conn)
        page = queries.list_executions(conn, wanted, limit=limit, cursor=cursor, now=now)
    return Answer(page)


@executions.post("/retry", openapi_extra=_BODY, responses={200: {"model": Changed}})
async def retry_executions(given: Given, request: Request) -> Answer:
    """Retry finished executions; without a status, those that have failed."""
    which = await _which(request)
    changed = await asyncio.to_thread(bulk.retry_many, given.store, which.filter, which.ids)
    given.ring()
    return Answer(changed)


@executions.post("/cancel", openapi_extra=_BODY, responses={200: {"model": Changed}})
async def cancel_executions(given: Given, request: Request) -> Answer:
    """Cancel executions that are not finished."""
    which = await _which(request)
    changed = await asyncio.to_thread(bulk.cancel_many, given.store, which.filter, which.ids)
    given.ring()
    return Answer(changed)


@executions.get("/{execution_id}", responses={200: {"model": ExecutionDetail}})
def get_execution(given: Given, execution_id: str) -> Answer:
    """Return the whole record of an execution."""
    return Answer(_detail(given.store, execution_id))


@executions.get("/{execution_id}/explain", responses={200: {"model": Explanation}})
def explain_execution(given: Given, execution_id: str) -> Answer:
    """Tell what an execution does, what it waits for, or how it ended."""
    with given.store.snapshot() as conn:
        return Answer(explain(conn, given.store.dialect, execution_id, now=given.store.now(conn)))


@executions.post(
    "/{execution_id}/retry", openapi_extra=_RETRY, responses={200: {"model": ExecutionDetail}}
)
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


@executions.post("/{execution_id}/cancel", responses={200: {"model": ExecutionDetail}})
def cancel_execution(given: Given, execution_id: str) -> Answer:
    """Cancel an execution; one that runs is ended by its worker, within a second."""
    cancelling.cancel(given.store, execution_id)
    given.ring()
    return Answer(_detail(given.store, execution_id))


@executions.post("/{execution_id}/discard", responses={200: {"model": ExecutionDetail}})
def discard_execution(given: Given, execution_id: str) -> Answer:
    """Put a dead letter away."""
    retries.discard(given.store, execution_id)
    return Answer(_detail(given.store, execution_id))


def _detail(store: Store, execution_id: str) -> ExecutionDetail:
    with store.read() as conn:
        return queries.get_execution(conn, execution_id, now=store.now(conn))
