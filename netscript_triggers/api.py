"""The routes of triggers and events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from netscript_triggers.definitions import WebhookDefinition
from netscript_triggers.events import EventStatus
from netscript_triggers.records import EventDetail
from netscript_triggers.store import queries
from netscript_workers.api.answers import Answer
from netscript_workers.api.services import Given, Limit, Offset, Text
from netscript_workers.errors import TriggerNotFoundError
from netscript_workers.records import plain


def routes(triggers: Mapping[str, WebhookDefinition[Any]]) -> APIRouter:
    """Return the routes of these triggers and of all events."""
    api = APIRouter(prefix="/api/v1")

    @api.get("/triggers", tags=["triggers"])
    def list_triggers(limit: Limit = 50, offset: Offset = 0) -> Answer:
        """List the triggers of this server."""
        shown = [_trigger(trigger) for trigger in triggers.values()]
        page = shown[offset : offset + limit]
        return Answer({"triggers": page, "total": len(shown), "limit": limit, "offset": offset})

    @api.get("/triggers/{trigger_id}", tags=["triggers"])
    def get_trigger(trigger_id: str) -> Answer:
        """Return a trigger."""
        if trigger_id not in triggers:
            raise TriggerNotFoundError(trigger_id, triggers)
        return Answer(_trigger(triggers[trigger_id]))

    @api.get("/events", tags=["events"])
    def list_events(
        given: Given,
        limit: Limit = 50,
        cursor: Text = None,
        trigger_id: Text = None,
        status: EventStatus | None = None,
    ) -> Answer:
        """List events, newest first."""
        with given.store.read() as conn:
            return Answer(
                queries.list_events(
                    conn, limit=limit, cursor=cursor, trigger_id=trigger_id, status=status
                )
            )

    @api.get("/events/{event_id}", tags=["events"], responses={200: {"model": EventDetail}})
    def get_event(given: Given, event_id: str) -> Answer:
        """Return the whole record of an event."""
        with given.store.read() as conn:
            return Answer(whole(queries.get_event(conn, event_id)))

    return api


def whole(detail: EventDetail) -> dict[str, Any]:
    """Return an event's record, headers and body as one object."""
    return {**plain(detail.event), "headers": dict(detail.headers), "body": detail.body}


def _trigger(trigger: WebhookDefinition[Any]) -> dict[str, Any]:
    return {
        "id": trigger.id,
        "kind": trigger.kind,
        "description": trigger.description,
        "path": trigger.path,
        "methods": trigger.methods,
        "verifier": trigger.verifier.name,
        "secret_env": None if callable(trigger.secret_env) else trigger.secret_env,
        "dispatch": trigger.dispatch,
        "max_body": trigger.max_body,
        "parse": trigger.parse,
        "source": trigger.source,
    }
