"""The API of triggers and events."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fastapi import APIRouter

from netscript_triggers.api import events
from netscript_triggers.api import triggers as of_triggers
from netscript_triggers.definitions import AnyTrigger


def routes(
    triggers: Mapping[str, AnyTrigger], nudge: Callable[[], None] = lambda: None
) -> APIRouter:
    """Return the routes of all registered triggers and all events.

    Args:
        triggers: Those this process has code for.
        nudge: Has due events looked for at once; called on the loop.
    """
    api = APIRouter(prefix="/api/v1")
    of_triggers.add_routes(api, triggers, nudge)
    events.add_routes(api, triggers, nudge)
    return api
