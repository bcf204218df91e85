"""The routes of triggers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from netscript_triggers.api import examples
from netscript_triggers.api.bodies import FireOptions
from netscript_triggers.api.shapes import ShownTrigger, TriggerList
from netscript_triggers.definitions import AnyTrigger
from netscript_triggers.events import EventStatus
from netscript_triggers.firing import FireConflictError, TraceContext, new_event
from netscript_triggers.records import Accepted, PreviewRecord, TriggerRecord, shown
from netscript_triggers.store import inbox, schedules
from netscript_triggers.store import triggers as stored
from netscript_workers.api.answers import Answer, tagged
from netscript_workers.api.auditing import note
from netscript_workers.api.bodies import check_key_header, fit, read_value
from netscript_workers.api.document import answers
from netscript_workers.api.enqueueing import trace_of
from netscript_workers.api.services import Given, Limit, Offset, Why
from netscript_workers.clock import from_micros
from netscript_workers.store.engine import Store
from netscript_workers.store.outbox import Receipt, Submission

logger = logging.getLogger(__name__)

MAX_PREVIEW = 100

Count = Annotated[int, Query(ge=1, le=MAX_PREVIEW, description="How many instants to come.")]

_FIRE: dict[str, Any] = {
    "parameters": [
        {"name": name, "in": "query", "required": False, "schema": part}
        for name, part in FireOptions.model_json_schema()["properties"].items()
    ],
    "requestBody": {"content": {"application/json": {"schema": {}}}},
}


def add_routes(
    api: APIRouter, triggers: Mapping[str, AnyTrigger], nudge: Callable[[], None]
) -> None:
    """Add the routes of all registered triggers.

    Args:
        api: To which they are added.
        triggers: Those this process has code for.
        nudge: Has due events looked for at once; called on the loop.
    """

    @api.get(
        "/triggers",
        tags=["triggers"],
        responses=answers(TriggerList, examples.TRIGGERS, etag=True),
    )
    def list_triggers(
        given: Given, request: Request, limit: Limit = 50, offset: Offset = 0
    ) -> Response:
        """List the triggers that servers have registered."""
        with given.store.read() as conn:
            now = given.store.now(conn)
            found, total = stored.list_triggers(conn, limit=limit, offset=offset, now=now)
        page = [shown(record) for record in found]
        told = {"triggers": page, "total": total, "limit": limit, "offset": offset}
        return tagged(request, told)

    @api.get(
        "/triggers/{trigger_id}",
        tags=["triggers"],
        responses=answers(ShownTrigger, examples.TRIGGER, 404, etag=True),
    )
    def get_trigger(given: Given, trigger_id: str, request: Request) -> Response:
        """Return a trigger, whether it is enabled, and how its circuit stands."""
        return tagged(request, shown(_trigger(given.store, trigger_id)))

    @api.post(
        "/triggers/{trigger_id}/enable",
        tags=["triggers"],
        responses=answers(ShownTrigger, examples.TRIGGER, 404),
    )
    async def enable_trigger(given: Given, trigger_id: str, reason: Why = None) -> Answer:
        """Enable a trigger, and close its circuit: what waits is run."""
        record = await asyncio.to_thread(stored.set_enabled, given.store, trigger_id, enabled=True)
        logger.info("trigger %s was enabled: %r", record.id, reason)
        nudge()
        return Answer(shown(record))

    @api.post(
        "/triggers/{trigger_id}/disable",
        tags=["triggers"],
        responses=answers(ShownTrigger, examples.TRIGGER, 404),
    )
    async def disable_trigger(given: Given, trigger_id: str, reason: Why = None) -> Answer:
        """Disable a trigger: a webhook is as if it was not there, and its events wait."""
        record = await asyncio.to_thread(stored.set_enabled, given.store, trigger_id, enabled=False)
        logger.info("trigger %s was disabled: %r", record.id, reason)
        nudge()
        return Answer(shown(record))

    @api.get(
        "/triggers/{trigger_id}/preview",
        tags=["triggers"],
        responses=answers(PreviewRecord, examples.PREVIEW, 404, 409),
    )
    def preview_trigger(given: Given, trigger_id: str, count: Count = 5) -> Answer:
        """Tell when a schedule is due next, and what became of the last instants."""
        with given.store.read() as conn:
            now = given.store.now(conn)
            record = stored.get_trigger(conn, trigger_id, now=now)
            return Answer(schedules.preview(conn, record, count, from_micros(now)))

    @api.post(
        "/triggers/{trigger_id}/fire",
        tags=["triggers"],
        status_code=202,
        openapi_extra=_FIRE,
        responses=answers(Accepted, examples.ACCEPTED, 404, 409, status=202),
    )
    async def fire_trigger(given: Given, trigger_id: str, request: Request) -> Answer:
        """Make an event of a trigger; the body is its payload, and no signature is needed."""
        options = _fire_options(request)
        note(request, reason=options.reason)
        payload = await read_value(request)
        event_id, submission = await asyncio.to_thread(
            _new_event, given.store, triggers, trigger_id, payload, options, trace_of(request)
        )
        receipt = Receipt(duplicate_of=event_id)
        if submission is not None:
            receipt = await given.writer.store(submission)
        if receipt.duplicate_of is not None:
            if receipt.conflict:
                key = options.idempotency_key or ""
                raise FireConflictError(trigger_id, key, receipt.duplicate_of)
            first = await asyncio.to_thread(_accepted, given.store, receipt.duplicate_of)
            return Answer(first, 202)
        nudge()
        return Answer(Accepted(event_id, EventStatus.PENDING), 202)


def _trigger(store: Store, trigger_id: str) -> TriggerRecord:
    with store.read() as conn:
        return stored.get_trigger(conn, trigger_id, now=store.now(conn))


def _new_event(
    store: Store,
    triggers: Mapping[str, AnyTrigger],
    trigger_id: str,
    payload: Any,
    options: FireOptions,
    trace: TraceContext,
) -> tuple[str, Submission | None]:
    return new_event(
        store,
        _trigger(store, trigger_id),
        triggers,
        payload,
        key=options.idempotency_key,
        instant=options.scheduled_for,
        note=options.reason,
        trace=trace,
    )


def _accepted(store: Store, event_id: str) -> Accepted:
    with store.read() as conn:
        return inbox.get_accepted(conn, store.dialect, [event_id])[event_id]


def _fire_options(request: Request) -> FireOptions:
    asked: dict[str, Any] = dict(request.query_params)
    check_key_header(request)
    for header in ("idempotency-key", "x-idempotency-key"):
        if header in request.headers:
            asked.setdefault("idempotency_key", request.headers[header])
    return fit(FireOptions, asked)
