"""The routes of triggers and events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from netscript_triggers.definitions import AnyTrigger
from netscript_triggers.events import EventStatus
from netscript_triggers.firing import FireConflictError, check_payload, fired
from netscript_triggers.records import (
    Accepted,
    EventDetail,
    EventRecord,
    TriggerRecord,
    shown,
    whole,
)
from netscript_triggers.store import inbox, queries, replays
from netscript_triggers.store import triggers as stored
from netscript_triggers.store.replays import EventFilter
from netscript_workers.api.answers import Answer
from netscript_workers.api.bodies import fit, read_object, read_value
from netscript_workers.api.services import Given, Limit, Offset, Services, Text
from netscript_workers.clock import to_micros
from netscript_workers.errors import PayloadInvalidError
from netscript_workers.ids import is_id
from netscript_workers.options import MAX_KEY_LENGTH
from netscript_workers.store.bulk import Changed
from netscript_workers.store.engine import Store

MAX_IDS = 10_000
MAX_NOTE = 500


def _check_id(id_: str) -> str:
    if not is_id(id_):
        msg = "must be the id of an event"
        raise ValueError(msg)
    return id_


def _check_text(text: str) -> str:
    if not text.isprintable():
        msg = "must be printable text"
        raise ValueError(msg)
    return text


_Note = Annotated[str, Field(min_length=1, max_length=MAX_NOTE), AfterValidator(_check_text)]
_Key = Annotated[str, Field(min_length=1, max_length=MAX_KEY_LENGTH), AfterValidator(_check_text)]


class FireOptions(BaseModel):
    """How to fire a trigger; query parameters, the key also as the header `Idempotency-Key`."""

    model_config = ConfigDict(extra="forbid")

    reason: _Note | None = Field(None, description="Why, in your words; kept with the event.")
    idempotency_key: _Key | None = Field(
        None, description="A second fire with it is the same event, and runs nothing."
    )


class ReplayBody(BaseModel):
    """How to replay: the same event again, or as a new one."""

    model_config = ConfigDict(extra="forbid")

    force: bool = Field(default=False, description="As a new event, which enqueues anew.")
    payload: Any = Field(None, description="Instead of the event's own; makes a new event.")
    reason: _Note | None = None


class Which(BaseModel):
    """Which events to replay: all conditions hold, and there is at least one, or `all`."""

    model_config = ConfigDict(extra="forbid")

    ids: list[Annotated[str, AfterValidator(_check_id)]] | None = Field(None, max_length=MAX_IDS)
    status: EventStatus | None = None
    trigger_id: str | None = Field(None, min_length=1, max_length=MAX_KEY_LENGTH)
    event_type: str | None = Field(None, min_length=1, max_length=MAX_KEY_LENGTH)
    received_after: AwareDatetime | None = Field(None, description="At this instant or later.")
    received_before: AwareDatetime | None = None
    all: bool = Field(default=False, description="Needed where no condition is given.")
    force: bool = Field(default=False, description="As new events, which enqueue anew.")
    reason: _Note | None = None

    @property
    def filter(self) -> EventFilter:
        """The conditions, but for the ids."""
        after, before = self.received_after, self.received_before
        return EventFilter(
            status=self.status,
            trigger_id=self.trigger_id,
            event_type=self.event_type,
            received_after=None if after is None else to_micros(after),
            received_before=None if before is None else to_micros(before),
        )


def _body(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}


_FIRE: dict[str, Any] = {
    "parameters": [
        {"name": name, "in": "query", "required": False, "schema": part}
        for name, part in FireOptions.model_json_schema()["properties"].items()
    ],
    "requestBody": {"content": {"application/json": {"schema": {}}}},
}


def routes(
    triggers: Mapping[str, AnyTrigger], nudge: Callable[[], None] = lambda: None
) -> APIRouter:
    """Return the routes of all registered triggers and all events.

    Args:
        triggers: Those this process has code for.
        nudge: Has due events looked for at once; called on the loop.
    """
    api = APIRouter(prefix="/api/v1")

    @api.get("/triggers", tags=["triggers"])
    def list_triggers(given: Given, limit: Limit = 50, offset: Offset = 0) -> Answer:
        """List the triggers that servers have registered."""
        with given.store.read() as conn:
            now = given.store.now(conn)
            found, total = stored.list_triggers(conn, limit=limit, offset=offset, now=now)
        page = [shown(record) for record in found]
        return Answer({"triggers": page, "total": total, "limit": limit, "offset": offset})

    @api.get("/triggers/{trigger_id}", tags=["triggers"])
    def get_trigger(given: Given, trigger_id: str) -> Answer:
        """Return a trigger, whether it is enabled, and how its circuit stands."""
        return Answer(shown(_trigger(given.store, trigger_id)))

    @api.post("/triggers/{trigger_id}/enable", tags=["triggers"])
    async def enable_trigger(given: Given, trigger_id: str) -> Answer:
        """Enable a trigger, and close its circuit: what waits is run."""
        record = await asyncio.to_thread(stored.set_enabled, given.store, trigger_id, enabled=True)
        nudge()
        return Answer(shown(record))

    @api.post("/triggers/{trigger_id}/disable", tags=["triggers"])
    async def disable_trigger(given: Given, trigger_id: str) -> Answer:
        """Disable a trigger: a webhook is as if it was not there, and its events wait."""
        record = await asyncio.to_thread(stored.set_enabled, given.store, trigger_id, enabled=False)
        nudge()
        return Answer(shown(record))

    @api.post(
        "/triggers/{trigger_id}/fire",
        tags=["triggers"],
        status_code=202,
        openapi_extra=_FIRE,
        responses={202: {"model": Accepted}},
    )
    async def fire_trigger(given: Given, trigger_id: str, request: Request) -> Answer:
        """Make an event of a trigger; the body is its payload, and no signature is needed."""
        options = _fire_options(request)
        payload = await read_value(request)
        record = await asyncio.to_thread(_trigger, given.store, trigger_id)
        body = await asyncio.to_thread(check_payload, record, triggers, payload)
        event_id, submission = fired(record, body, key=options.idempotency_key, note=options.reason)
        receipt = await given.writer.store(submission)
        if receipt.duplicate_of is not None:
            if receipt.conflict:
                key = options.idempotency_key or ""
                raise FireConflictError(trigger_id, key, receipt.duplicate_of)
            first = await asyncio.to_thread(_accepted, given.store, receipt.duplicate_of)
            return Answer(first, 202)
        nudge()
        return Answer(Accepted(event_id, EventStatus.PENDING), 202)

    @api.get("/events", tags=["events"], responses={200: {"model": list[EventRecord]}})
    def list_events(
        given: Given,
        limit: Limit = 50,
        cursor: Text = None,
        trigger_id: Text = None,
        status: EventStatus | None = None,
    ) -> Answer:
        """List events, newest first; dead letters are those that are `dead`."""
        with given.store.read() as conn:
            return Answer(
                queries.list_events(
                    conn, limit=limit, cursor=cursor, trigger_id=trigger_id, status=status
                )
            )

    @api.post(
        "/events/replay",
        tags=["events"],
        openapi_extra=_body(Which),
        responses={200: {"model": Changed}},
    )
    async def replay_events(given: Given, request: Request) -> Answer:
        """Run events again; without a status, those that are dead."""
        which = await _which(request)
        changed = await asyncio.to_thread(
            replays.replay_many,
            given.store,
            which.filter,
            which.ids,
            force=which.force,
            note=which.reason,
        )
        nudge()
        return Answer(changed)

    @api.get("/events/{event_id}", tags=["events"], responses={200: {"model": EventDetail}})
    def get_event(given: Given, event_id: str) -> Answer:
        """Return the whole record of an event."""
        return Answer(whole(_event(given.store, event_id)))

    @api.post(
        "/events/{event_id}/replay",
        tags=["events"],
        openapi_extra=_body(ReplayBody),
        responses={200: {"model": EventDetail}},
    )
    async def replay_event(given: Given, event_id: str, request: Request) -> Answer:
        """Run an event again, as itself or, with `force` or another payload, as a new one."""
        asked = await read_object(request)
        _check_switch(asked, "force")
        body = fit(ReplayBody, asked)
        id_ = await asyncio.to_thread(
            _replay, given, triggers, event_id, body, edited="payload" in asked
        )
        nudge()
        return Answer(whole(await asyncio.to_thread(_event, given.store, id_)))

    return api


def _trigger(store: Store, trigger_id: str) -> TriggerRecord:
    with store.read() as conn:
        return stored.get_trigger(conn, trigger_id, now=store.now(conn))


def _event(store: Store, event_id: str) -> EventDetail:
    with store.snapshot() as conn:
        now = store.now(conn)
        return queries.get_whole_event(conn, store.dialect, event_id, now=now)


def _accepted(store: Store, event_id: str) -> Accepted:
    with store.read() as conn:
        return inbox.get_accepted(conn, store.dialect, [event_id])[event_id]


def _fire_options(request: Request) -> FireOptions:
    asked: dict[str, Any] = dict(request.query_params)
    for header in ("idempotency-key", "x-idempotency-key"):
        if header in request.headers:
            asked.setdefault("idempotency_key", request.headers[header])
    return fit(FireOptions, asked)


def _replay(
    given: Services,
    triggers: Mapping[str, AnyTrigger],
    event_id: str,
    body: ReplayBody,
    *,
    edited: bool,
) -> str:
    store = given.store
    if edited:
        if body.payload is None:  # not the same as saying nothing of it
            raise PayloadInvalidError("payload must not be null.")
        with store.read() as conn:
            trigger_id = queries.get_event(conn, event_id).event.trigger_id
        payload = check_payload(_trigger(store, trigger_id), triggers, body.payload)
        return replays.replay_as_new(store, event_id, body=payload, note=body.reason)
    if body.force:
        return replays.replay_as_new(store, event_id, note=body.reason)
    return replays.replay(store, event_id, note=body.reason)


def _check_switch(asked: Mapping[str, Any], name: str) -> None:
    """Take true and false only: a slip must not change what is not meant."""
    if not isinstance(asked.get(name, False), bool):
        raise PayloadInvalidError(f"{name} must be true or false.")


async def _which(request: Request) -> Which:
    """Read which events are meant.

    Raises:
        PayloadInvalidError: It can't be read, or it names nothing and does not say `all`.
    """
    body = await read_object(request)
    _check_switch(body, "all")
    _check_switch(body, "force")
    which = fit(Which, body)
    if which.ids is None and which.filter.is_empty and not which.all:
        raise PayloadInvalidError(
            "This would replay every dead event.", hint='Give a condition, or {"all": true}.'
        )
    return which
