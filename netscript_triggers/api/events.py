"""The routes of events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BeforeValidator

from netscript_triggers.api import examples
from netscript_triggers.api.bodies import ReplayBody, Which, check_switch, to_filter
from netscript_triggers.api.shapes import EventPage, WholeEvent
from netscript_triggers.definitions import AnyTrigger
from netscript_triggers.events import EventStatus
from netscript_triggers.firing import check_payload
from netscript_triggers.records import EventDetail, whole
from netscript_triggers.store import queries, replays
from netscript_triggers.store import triggers as stored
from netscript_triggers.store.replays import REPLAYABLE
from netscript_workers.api.answers import Answer
from netscript_workers.api.auditing import note
from netscript_workers.api.bodies import fit, read_object
from netscript_workers.api.document import answers, body, bulk_body
from netscript_workers.api.examples import CHANGED
from netscript_workers.api.services import (
    Cursor,
    Given,
    Limit,
    Services,
    Text,
    When,
    split_words,
)
from netscript_workers.errors import PayloadInvalidError
from netscript_workers.store.bulk import Changed
from netscript_workers.store.engine import Store

Statuses = Annotated[
    list[EventStatus] | None,
    BeforeValidator(split_words),
    Query(description="Repeated, or separated by commas."),
]
_NAMING = ("ids", "status", "trigger_id", "event_type", "received_after", "received_before")


def add_routes(
    api: APIRouter, triggers: Mapping[str, AnyTrigger], nudge: Callable[[], None]
) -> None:
    """Add the routes of all events.

    Args:
        api: To which they are added.
        triggers: Those this process has code for.
        nudge: Has due events looked for at once; called on the loop.
    """

    @api.get("/events", tags=["events"], responses=answers(EventPage, examples.EVENTS))
    def list_events(
        given: Given,
        limit: Limit = 50,
        cursor: Cursor = None,
        trigger_id: Text = None,
        status: Statuses = None,
        event_type: Text = None,
        received_after: When = None,
        received_before: When = None,
    ) -> Answer:
        """List events, newest first; dead letters are those that are `dead`."""
        wanted = to_filter(
            trigger_id=trigger_id,
            status=status,
            event_type=event_type,
            received_after=received_after,
            received_before=received_before,
        )
        with given.store.read() as conn:
            return Answer(queries.list_events(conn, wanted, limit=limit, cursor=cursor))

    @api.post(
        "/events/replay",
        tags=["events"],
        openapi_extra=bulk_body(Which, examples.WHICH, _NAMING, REPLAYABLE),
        responses=answers(Changed, CHANGED),
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
            bounds=which.bounds,
        )
        nudge()
        return Answer(changed)

    @api.get(
        "/events/{event_id}",
        tags=["events"],
        responses=answers(WholeEvent, examples.WHOLE_EVENT, 404),
    )
    def get_event(given: Given, event_id: str) -> Answer:
        """Return the whole record of an event."""
        return Answer(whole(_event(given.store, event_id)))

    @api.post(
        "/events/{event_id}/replay",
        tags=["events"],
        openapi_extra=body(ReplayBody, {"reason": "the shop was down"}),
        responses=answers(WholeEvent, examples.WHOLE_EVENT, 404, 409),
    )
    async def replay_event(given: Given, event_id: str, request: Request) -> Answer:
        """Run an event again, as itself or, with `force` or another payload, as a new one."""
        asked = await read_object(request)
        check_switch(asked, "force")
        how = fit(ReplayBody, asked)
        note(request, reason=how.reason)
        id_ = await asyncio.to_thread(
            _replay, given, triggers, event_id, how, edited="payload" in asked
        )
        nudge()
        return Answer(whole(await asyncio.to_thread(_event, given.store, id_)))


def _event(store: Store, event_id: str) -> EventDetail:
    with store.snapshot() as conn:
        now = store.now(conn)
        return queries.get_whole_event(conn, store.dialect, event_id, now=now)


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
            trigger = stored.get_trigger(conn, trigger_id, now=store.now(conn))
        payload = check_payload(trigger, triggers, body.payload)
        return replays.replay_as_new(store, event_id, body=payload, note=body.reason)
    if body.force:
        return replays.replay_as_new(store, event_id, note=body.reason)
    return replays.replay(store, event_id, note=body.reason)


async def _which(request: Request) -> Which:
    """Read which events are meant.

    Raises:
        PayloadInvalidError: It can't be read, or it names nothing and does not say `all`.
    """
    asked = await read_object(request)
    for name in ("all", "force", "dry_run"):
        check_switch(asked, name)
    which = fit(Which, asked)
    meant = which.model_dump_json(exclude_defaults=True, exclude={"reason"})
    note(request, subject=meant, reason=which.reason)
    if which.ids is None and which.filter.is_empty and not which.all:
        raise PayloadInvalidError(
            "This would replay every dead event.", hint='Give a condition, or {"all": true}.'
        )
    return which
