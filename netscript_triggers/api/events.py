"""The routes of events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from fastapi import APIRouter, Request

from netscript_triggers.api.bodies import ReplayBody, Which, check_switch, documented
from netscript_triggers.definitions import AnyTrigger
from netscript_triggers.events import EventStatus
from netscript_triggers.firing import check_payload
from netscript_triggers.records import EventDetail, EventRecord, whole
from netscript_triggers.store import queries, replays
from netscript_triggers.store import triggers as stored
from netscript_workers.api.answers import Answer
from netscript_workers.api.auditing import note
from netscript_workers.api.bodies import fit, read_object
from netscript_workers.api.services import Given, Limit, Services, Text
from netscript_workers.errors import PayloadInvalidError
from netscript_workers.store.bulk import Changed
from netscript_workers.store.engine import Store


def routes(triggers: Mapping[str, AnyTrigger], nudge: Callable[[], None]) -> APIRouter:
    """Return the routes of all events.

    Args:
        triggers: Those this process has code for.
        nudge: Has due events looked for at once; called on the loop.
    """
    api = APIRouter()

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
        openapi_extra=documented(Which),
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
        openapi_extra=documented(ReplayBody),
        responses={200: {"model": EventDetail}},
    )
    async def replay_event(given: Given, event_id: str, request: Request) -> Answer:
        """Run an event again, as itself or, with `force` or another payload, as a new one."""
        asked = await read_object(request)
        check_switch(asked, "force")
        body = fit(ReplayBody, asked)
        note(request, reason=body.reason)
        id_ = await asyncio.to_thread(
            _replay, given, triggers, event_id, body, edited="payload" in asked
        )
        nudge()
        return Answer(whole(await asyncio.to_thread(_event, given.store, id_)))

    return api


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
    body = await read_object(request)
    check_switch(body, "all")
    check_switch(body, "force")
    which = fit(Which, body)
    meant = which.model_dump_json(exclude_defaults=True, exclude={"reason"})
    note(request, subject=meant, reason=which.reason)
    if which.ids is None and which.filter.is_empty and not which.all:
        raise PayloadInvalidError(
            "This would replay every dead event.", hint='Give a condition, or {"all": true}.'
        )
    return which
