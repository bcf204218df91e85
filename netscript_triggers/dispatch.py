"""From an event to what is to be stored: its handler's actions, or what becomes of its failure."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from hashlib import sha256
from typing import Any, TypeAlias

from netscript_triggers.actions import Defer, TriggerAction
from netscript_triggers.definitions import AnyTrigger
from netscript_triggers.events import EventStatus, TriggerEvent
from netscript_triggers.handlers import Handlers
from netscript_triggers.store.inbox import Disposition
from netscript_workers.actions import Cause, JobCatalog
from netscript_workers.batches import Action, names_a_job, resolve_all
from netscript_workers.domain import NewWork, TriggeredBy
from netscript_workers.errors import NetscriptError, describe
from netscript_workers.execution.outcome import MAX_ERROR_CHARS, storable
from netscript_workers.options import MAX_KEY_LENGTH
from netscript_workers.telemetry import spans

COMPLETED = Disposition(status=EventStatus.COMPLETED)
FILTERED = Disposition(status=EventStatus.COMPLETED, reason="filtered")
CANT_HOLD = "The database can't hold one of its actions."
UNSTORABLE = Disposition(status=EventStatus.DEAD, error=CANT_HOLD)

# What is to be stored of a handler run, and where its event then stands.
Handled: TypeAlias = tuple[NewWork, Disposition]

_CAUSES = {kind.value: kind for kind in TriggeredBy}


async def run_handler(
    handlers: Handlers,
    catalog: JobCatalog,
    trigger: AnyTrigger,
    event: TriggerEvent[Any],
    *,
    limit: float,
) -> Handled:
    """Call a handler and make its actions ready to be stored.

    Raises:
        NetscriptError: The handler failed, or one of its actions can't be stored.
    """
    return await resolve_of(event, await handlers.run(trigger, event, limit=limit), catalog)


async def resolve_of(
    event: TriggerEvent[Any], actions: tuple[TriggerAction, ...], catalog: JobCatalog
) -> Handled:
    """Make an event's actions ready to be stored.

    Raises:
        NetscriptError: One of them can't be stored.
    """
    # A job that is named by its id may have to be read from the database.
    if any(not isinstance(action, Defer) and names_a_job(action) for action in actions):
        return await asyncio.to_thread(resolve_now, event, actions, catalog)
    return resolve_now(event, actions, catalog)


def resolve_now(
    event: TriggerEvent[Any], actions: tuple[TriggerAction, ...], catalog: JobCatalog
) -> Handled:
    """Do the same in the caller's thread, which waits where a job has to be read.

    Raises:
        NetscriptError: One of them can't be stored.
    """
    cause = Cause(
        triggered_by=_CAUSES[event.kind],
        trigger_event_id=event.id,
        correlation_id=event.id,
        traceparent=event.traceparent,
        tracestate=event.tracestate,
    )
    jobs: list[Action] = []
    disposition = COMPLETED
    for action in actions:
        if isinstance(action, Defer):
            disposition = Disposition(
                status=EventStatus.DEFERRED, reason="deferred", until=action.until
            )
        else:
            jobs.append(action)
    if event.attempt != 1:
        disposition = replace(disposition, attempt=event.attempt)
    work = resolve_all(jobs, catalog, cause)
    if spans.recorder is not None:
        work.trace = spans.recorder.sending(work.executions, event)
    if event.replayed_from is not None:
        _set_apart(work, event.id)
    return work, disposition


def _set_apart(work: NewWork, event_id: str) -> None:
    """Give the keys of a new run of an old event a name of their own, or it would enqueue nothing.

    What an implied concurrency key keeps apart stays apart: it was made before.
    """
    for new in work.executions:
        if new.idempotency_key is not None:
            key = f"{new.idempotency_key}:{event_id}"
            if len(key) > MAX_KEY_LENGTH:
                key = f"{sha256(new.idempotency_key.encode()).hexdigest()}:{event_id}"
            new.idempotency_key = key


def after_failure(trigger: AnyTrigger, error: NetscriptError, *, attempt: int) -> Disposition:
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
    return Disposition(
        status=EventStatus.FAILED, error=sentence, delay=wait, attempt=attempt + 1, reason="retry"
    )
