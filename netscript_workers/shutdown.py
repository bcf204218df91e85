"""Shutting down in good order: what stops first, what stops together, and what did not stop."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal, TypeAlias
from weakref import WeakSet

from netscript_workers.errors import DuplicateIdError, StateError, describe

logger = logging.getLogger(__name__)

ShutdownState: TypeAlias = Literal["running", "shutting-down", "stopped"]

_NO_REASON = "shutdown"


@dataclass(frozen=True, slots=True)
class ShutdownResource:
    """Something that has to be stopped.

    Attributes:
        id: Its name in the report.
        stop: Stops it; a function or a coroutine function without arguments. A function is called
            in a thread of its own, so that one that hangs holds up nobody.
        priority: Lower ones stop first, equal ones together.
    """

    id: str
    stop: Callable[[], Any]
    priority: int = 0


@dataclass(frozen=True, slots=True)
class ShutdownReport:
    """What became of the resources.

    Attributes:
        state: Where the manager stands; `stopped` once it is over, whatever failed.
        stopped: The ids of what stopped, in that order.
        failed: What raised instead, and its reason, by id.
        timed_out: The ids of what did not stop in time, or was not even told to.
    """

    state: ShutdownState
    stopped: list[str] = field(default_factory=list[str])
    failed: dict[str, str] = field(default_factory=dict[str, str])
    timed_out: list[str] = field(default_factory=list[str])

    @property
    def is_clean(self) -> bool:
        """Whether everything stopped."""
        return not (self.failed or self.timed_out)

    def __str__(self) -> str:
        """Say it for people, in one line."""
        parts = [f"stopped: {', '.join(self.stopped) or 'nothing'}"]
        if self.failed:
            told = (f"{id_} ({reason})" for id_, reason in self.failed.items())
            parts.append(f"failed: {', '.join(told)}")
        if self.timed_out:
            parts.append(f"timed out: {', '.join(self.timed_out)}")
        return "; ".join(parts)


class AbortSignal:
    """Tells whoever holds it that it is time to end. Used on the loop's thread."""

    def __init__(self, kept: set[AbortSignal]) -> None:
        """Begin, not aborted; those that have callbacks are `kept`, whoever else forgets them."""
        self._kept = kept
        self._event = asyncio.Event()
        self._callbacks: list[Callable[[], object]] = []
        self._reason: str | None = None

    @property
    def aborted(self) -> bool:
        """Whether it is time to end."""
        return self._event.is_set()

    @property
    def reason(self) -> str | None:
        """Why; None as long as it is not aborted."""
        return self._reason

    async def wait(self) -> str:
        """Wait until it is time to end; return why."""
        await self._event.wait()
        return self._reason or _NO_REASON

    def add_callback(self, callback: Callable[[], object]) -> None:
        """Have this called when it is time to end; at once if it is."""
        if self.aborted:
            callback()
        else:
            self._callbacks.append(callback)
            self._kept.add(self)

    def remove_callback(self, callback: Callable[[], object]) -> None:
        """Have it not called after all."""
        with contextlib.suppress(ValueError):
            self._callbacks.remove(callback)
        if not self._callbacks:
            self._kept.discard(self)

    def _abort(self, reason: str) -> None:
        if self.aborted:
            return
        self._reason = reason
        self._event.set()
        callbacks, self._callbacks = self._callbacks, []
        self._kept.discard(self)
        for callback in callbacks:
            try:
                callback()
            except Exception as error:  # noqa: BLE001 - the others are to hear of it too
                logger.warning("a callback of an abort failed: %s", describe(error))


class AbortController:
    """Aborts its signal, by hand or when its manager shuts down."""

    def __init__(self, kept: set[AbortSignal] | None = None) -> None:
        """Begin with a signal that is not aborted."""
        self.signal = AbortSignal(set() if kept is None else kept)

    def abort(self, reason: str | None = None) -> None:
        """Tell those who hold the signal that it is time to end; once."""
        self.signal._abort(reason or "aborted")  # noqa: SLF001 - one thing in two halves


class ShutdownManager:
    """Stops resources by priority, within a time that bounds the whole.

    Used on one loop's thread.

    Example:
        manager = ShutdownManager(timeout=10.0)
        manager.register(ShutdownResource("server", server.stop))
        manager.register(ShutdownResource("database", engine.dispose, priority=10))
        report = await manager.shutdown("told to")
    """

    def __init__(self, timeout: float = 30.0) -> None:
        """Begin with nothing to stop.

        Args:
            timeout: Seconds that a shutdown takes at most.

        Raises:
            ValueError: It is less than zero.
        """
        self._timeout = _checked(timeout)
        self._resources: dict[str, ShutdownResource] = {}
        # One that nobody can hear any more is forgotten.
        self._signals: WeakSet[AbortSignal] = WeakSet()
        self._kept: set[AbortSignal] = set()
        self._state: ShutdownState = "running"
        self._reason: str | None = None
        self._task: asyncio.Task[ShutdownReport] | None = None
        self._over = asyncio.Event()

    @property
    def state(self) -> ShutdownState:
        """Where it stands: `running`, `shutting-down` or `stopped`."""
        return self._state

    @property
    def reason(self) -> str | None:
        """Why it shuts down; None as long as nobody wants it to."""
        return self._reason

    def register(self, resource: ShutdownResource) -> None:
        """Have a resource stopped.

        Raises:
            DuplicateIdError: Another one has its id.
            StateError: It is too late for that.
        """
        if self._state != "running":
            raise StateError(f'"{resource.id}" can\'t be registered: the shutdown has begun.')
        if resource.id in self._resources:
            raise DuplicateIdError(f'There is a shutdown resource "{resource.id}" already.')
        self._resources[resource.id] = resource

    def unregister(self, id: str) -> bool:  # noqa: A002 - as everything has one
        """Have a resource left alone; tell whether there was one of this id to leave alone."""
        return self._state == "running" and self._resources.pop(id, None) is not None

    def create_abort_controller(self) -> AbortController:
        """Return a controller whose signal is aborted before anything is stopped."""
        controller = AbortController(self._kept)
        self._signals.add(controller.signal)
        if self._state != "running":
            controller.abort(self._reason)
        return controller

    async def shutdown(
        self,
        reason: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - what stops is told apart from what does not
    ) -> ShutdownReport:
        """Stop everything, and tell what became of it; a second call gets the same report.

        Args:
            reason: Why; shown to those who hold a signal.
            timeout: Seconds that all of it takes at most, if not those of the manager.

        Raises:
            ValueError: The timeout is less than zero.
        """
        limit = self._timeout if timeout is None else _checked(timeout)
        if self._task is None:
            self._state, self._reason = "shutting-down", reason or _NO_REASON
            self._task = asyncio.get_running_loop().create_task(self._stop_all(limit))
        # Whoever gives up waiting does not stop the stopping.
        return await asyncio.shield(self._task)

    async def wait_for_shutdown(self) -> ShutdownReport:
        """Wait until somebody has shut everything down; return what became of it."""
        await self._over.wait()
        assert self._task is not None
        return await asyncio.shield(self._task)

    async def _stop_all(self, limit: float) -> ShutdownReport:
        deadline = asyncio.get_running_loop().time() + limit
        for signal in list(self._signals):
            signal._abort(self._reason or _NO_REASON)  # noqa: SLF001 - they are its own
        report = ShutdownReport("stopped")
        in_order = sorted(self._resources.values(), key=_priority)
        for _, together in groupby(in_order, key=_priority):
            await _stop_together(list(together), deadline, report)
        self._state = "stopped"
        self._over.set()
        return report


def _priority(resource: ShutdownResource) -> int:
    return resource.priority


def _checked(seconds: float) -> float:
    if not seconds >= 0:
        msg = f"A shutdown takes zero or more seconds, not {seconds!r}."
        raise ValueError(msg)
    return seconds


async def _stop_together(
    resources: list[ShutdownResource], deadline: float, report: ShutdownReport
) -> None:
    """Stop resources of one priority; what takes longer than there is time is left behind."""
    left = deadline - asyncio.get_running_loop().time()
    if left <= 0:
        report.timed_out.extend(resource.id for resource in resources)
        return

    async def stop(resource: ShutdownResource) -> None:
        try:
            await _call(resource.stop)
        except Exception as error:  # noqa: BLE001 - one that fails must not keep the others
            report.failed[resource.id] = describe(error)
        else:
            report.stopped.append(resource.id)

    tasks = {asyncio.ensure_future(stop(resource)): resource for resource in resources}
    done, _ = await asyncio.wait(tasks, timeout=left)
    for task, resource in tasks.items():
        if task not in done:
            task.cancel()
            report.timed_out.append(resource.id)
        elif task.cancelled():
            report.failed[resource.id] = "it was cancelled"
        elif (error := task.exception()) is not None:
            report.failed[resource.id] = describe(error)


async def _call(stop: Callable[[], Any]) -> None:
    told: Any = stop() if inspect.iscoroutinefunction(stop) else await _in_thread(stop)
    if inspect.isawaitable(told):
        await told


def _in_thread(work: Callable[[], Any]) -> Awaitable[Any]:
    """Call in a thread that nobody waits for at the end of the process, as for a pool's."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def tell(value: Any, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(value)
        else:
            done.set_exception(error)

    def call() -> None:
        value, error = None, None
        try:
            value = work()
        except Exception as raised:  # noqa: BLE001 - told to whoever waits
            error = raised
        except BaseException as raised:  # noqa: BLE001 - a future can't carry every one
            error = RuntimeError(describe(raised))
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, value, error)

    threading.Thread(target=call, name="netscript-shutdown", daemon=True).start()
    return done
