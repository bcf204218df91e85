"""Calling a trigger's handler: on the loop or in a thread, for so long and no longer."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

from netscript_triggers.actions import Defer, TriggerAction
from netscript_triggers.definitions import AnyTrigger, TriggerContext
from netscript_triggers.events import TriggerEvent
from netscript_workers.actions import EnqueueJob
from netscript_workers.batches import EnqueueBatch
from netscript_workers.errors import ConfigurationError, NetscriptError, describe
from netscript_workers.telemetry import spans

if TYPE_CHECKING:
    from netscript_workers.telemetry.around import Around

THREADS = 32


class HandlerError(NetscriptError):
    """A trigger's handler raised."""

    code = "handler"
    retryable = True


class HandlerTimeoutError(HandlerError):
    """A trigger's handler took too long."""

    code = "handler-timeout"


class Handlers:
    """Runs handlers; `def` ones in threads, so that one that blocks stalls nobody else."""

    def __init__(self, threads: int = THREADS) -> None:
        """Prepare so many threads."""
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="netscript-handler")

    def close(self) -> None:
        """Let go of the threads, without waiting for handlers that don't end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def run(
        self, trigger: AnyTrigger, event: TriggerEvent[Any], *, limit: float
    ) -> tuple[TriggerAction, ...]:
        """Call the handler and return its actions.

        Args:
            trigger: Whose handler.
            event: What it is called with.
            limit: Seconds it may take. A thread can't be ended: it goes on, but its actions are
                not taken any more.

        Raises:
            HandlerError: It raised, or took too long; the cause is chained.
            ConfigurationError: It returned something that is no action.
        """
        return await self._within(limit, trigger, self._call(trigger, event))

    @staticmethod
    async def _within(
        limit: float, trigger: AnyTrigger, call: Awaitable[Any]
    ) -> tuple[TriggerAction, ...]:
        clock = asyncio.timeout(limit)
        try:
            async with clock:
                return actions_of(trigger, await call)
        except NetscriptError:
            raise
        except (Exception, SystemExit) as error:
            if clock.expired() and isinstance(error, TimeoutError):
                raise took_too_long(limit) from error
            raise HandlerError(describe(error)) from error

    async def finish(
        self, trigger: AnyTrigger, begun: Awaitable[Any], *, limit: float
    ) -> tuple[TriggerAction, ...]:
        """Await what a handler that was called in a thread has left to be awaited on the loop.

        Raises:
            HandlerError: It raised, or took too long; the cause is chained.
            ConfigurationError: It returned something that is no action.
        """
        return await self._within(limit, trigger, begun)

    async def _call(self, trigger: AnyTrigger, event: TriggerEvent[Any]) -> Any:
        arguments = arguments_of(trigger, event)
        if trigger.is_async:
            watched = _watched(trigger, event)
            if watched is None:
                return await trigger.handler(*arguments)
            with watched:
                return await trigger.handler(*arguments)
        loop = asyncio.get_running_loop()
        call = loop.run_in_executor(self._threads, _guarded, trigger, arguments)
        returned, error = await call
        if isinstance(error, Exception):
            raise error
        if error is not None:
            raise HandlerError(describe(error)) from error
        # A plain function may have made a coroutine.
        return await returned if inspect.isawaitable(returned) else returned


def call_here(
    trigger: AnyTrigger, event: TriggerEvent[Any]
) -> tuple[TriggerAction, ...] | Awaitable[Any]:
    """Call a `def` handler in this thread; what it leaves to be awaited is for the loop.

    Raises:
        HandlerError: It raised; the cause is chained.
        ConfigurationError: It returned something that is no action.
    """
    returned, error = _guarded(trigger, arguments_of(trigger, event))
    if isinstance(error, NetscriptError):
        raise error
    if error is not None:
        raise HandlerError(describe(error)) from error
    return cast("tuple[TriggerAction, ...] | Awaitable[Any]", returned)


def took_too_long(limit: float) -> HandlerTimeoutError:
    """Return the error of a handler that took longer than `limit` seconds."""
    return HandlerTimeoutError(f"The handler took longer than {limit:g} s.")


def _guarded(trigger: AnyTrigger, arguments: tuple[Any, ...]) -> tuple[Any, BaseException | None]:
    """Call in a thread; an exception is carried as a value, for not every one fits a future.

    What a generator yields is collected here: its body is the handler's.
    """
    try:
        watched = _watched(trigger, arguments[0])
        if watched is None:
            return _called(trigger, arguments), None
        with watched:
            return _called(trigger, arguments), None
    except BaseException as error:  # noqa: BLE001 - sys.exit() in a handler must end nobody else
        return None, error


def _called(trigger: AnyTrigger, arguments: tuple[Any, ...]) -> Any:
    returned = trigger.handler(*arguments)
    # Nearly always a list, and asking whether it is awaitable costs more than to read it.
    waits = not _is_list(returned) and inspect.isawaitable(returned)
    return returned if waits else actions_of(trigger, returned)


def _watched(trigger: AnyTrigger, event: TriggerEvent[Any]) -> Around | None:
    """Return the span of a call, if somebody listens."""
    recorder = spans.recorder
    return None if recorder is None else recorder.handling(trigger.id, trigger.kind, event)


def _is_list(returned: object) -> bool:
    return type(returned) is list


def arguments_of(
    trigger: AnyTrigger, event: TriggerEvent[Any]
) -> tuple[TriggerEvent[Any]] | tuple[TriggerEvent[Any], TriggerContext]:
    """Return what the handler takes: the event, and a context if it asks for one."""
    if not trigger.takes_context:
        return (event,)
    facts = {"event_id": event.id, "trigger_id": trigger.id}
    logger = logging.LoggerAdapter(logging.getLogger(f"netscript.triggers.{trigger.id}"), facts)
    return (event, TriggerContext(trigger=trigger, log=logger))


def actions_of(trigger: AnyTrigger, returned: object) -> tuple[TriggerAction, ...]:
    """Return the actions that a handler gave back as a tuple.

    Raises:
        ConfigurationError: Something among it is no action.
    """
    if returned is None:
        return ()
    given: list[object] = [returned]
    if _is_list(returned):
        given = cast("list[object]", returned)
    elif isinstance(returned, Iterable) and not isinstance(returned, (str, bytes, Mapping)):
        given = list(cast("Iterable[object]", returned))
    deferrals = 0
    for action in given:
        if isinstance(action, Defer):
            deferrals += 1
        elif not isinstance(action, (EnqueueJob, EnqueueBatch)):
            raise ConfigurationError(
                f'The handler of {trigger.kind} "{trigger.id}" returned a {type(action).__name__}, '
                "which is no action.",
                hint="Return enqueue_job(...), enqueue_batch(...) or defer(...) actions: a list, "
                "one, or None.",
            )
    if deferrals > 1:
        raise ConfigurationError(
            f'The handler of {trigger.kind} "{trigger.id}" returned {deferrals} deferrals.',
            hint="Return one defer(...) at most.",
        )
    return tuple(cast("list[TriggerAction]", given))
