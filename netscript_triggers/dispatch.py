"""From an event to what is to be stored: its handler's actions, or what becomes of its failure."""

from __future__ import annotations

import asyncio
from typing import Any

from netscript_triggers.definitions import WebhookDefinition
from netscript_triggers.events import EventStatus, WebhookEvent
from netscript_triggers.handlers import Handlers
from netscript_triggers.store.inbox import Disposition
from netscript_workers.actions import Cause, JobCatalog
from netscript_workers.batches import Action, names_a_job, resolve_all
from netscript_workers.domain import NewWork, TriggeredBy
from netscript_workers.errors import NetscriptError, describe
from netscript_workers.execution.outcome import MAX_ERROR_CHARS, storable


async def run_handler(
    handlers: Handlers,
    catalog: JobCatalog,
    trigger: WebhookDefinition[Any],
    event: WebhookEvent[Any],
    *,
    limit: float,
) -> NewWork:
    """Call a handler and make its actions ready to be stored.

    Raises:
        NetscriptError: The handler failed, or one of its actions can't be stored.
    """
    return await resolve_of(event, await handlers.run(trigger, event, limit=limit), catalog)


async def resolve_of(
    event: WebhookEvent[Any], actions: tuple[Action, ...], catalog: JobCatalog
) -> NewWork:
    """Make an event's actions ready to be stored.

    Raises:
        NetscriptError: One of them can't be stored.
    """
    # A job that is named by its id may have to be read from the database.
    if any(names_a_job(action) for action in actions):
        return await asyncio.to_thread(resolve_now, event, actions, catalog)
    return resolve_now(event, actions, catalog)


def resolve_now(
    event: WebhookEvent[Any], actions: tuple[Action, ...], catalog: JobCatalog
) -> NewWork:
    """Do the same in the caller's thread, which waits where a job has to be read.

    Raises:
        NetscriptError: One of them can't be stored.
    """
    cause = Cause(
        triggered_by=TriggeredBy.WEBHOOK,
        trigger_event_id=event.id,
        correlation_id=event.id,
        traceparent=event.traceparent,
        tracestate=event.tracestate,
    )
    return resolve_all(actions, catalog, cause)


def after_failure(
    trigger: WebhookDefinition[Any], error: NetscriptError, *, attempt: int
) -> Disposition:
    """Decide what becomes of an event whose handler has failed for the `attempt`-th time.

    What no retry can mend (an unknown job, a refused payload) ends it at once.
    """
    sentence = storable(str(error), MAX_ERROR_CHARS)
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    if not error.retryable or not trigger.retry.allows(cause, attempt):
        return Disposition(status=EventStatus.DEAD, error=sentence, attempt=attempt)
    try:
        wait = trigger.retry.delay(attempt, cause)
    except Exception as broken:  # noqa: BLE001 - the policy is the user's code too
        sentence = storable(f"{sentence} (its backoff raised {describe(broken)})", MAX_ERROR_CHARS)
        return Disposition(status=EventStatus.DEAD, error=sentence, attempt=attempt)
    return Disposition(status=EventStatus.FAILED, error=sentence, delay=wait, attempt=attempt + 1)
