"""What a job handler is called with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, overload

from typing_extensions import ParamSpec, TypeVar

if TYPE_CHECKING:
    from netscript_workers.jobs import JobDefinition

P = TypeVar("P", default=dict[str, Any])
T = TypeVar("T")
A = ParamSpec("A")


class Pending(Awaitable[T]):
    """Something a context does: `await` it in an `async def` handler.

    In a `def` handler it is done when the call returns, and `result()` is what came of it.
    """

    def __init__(
        self, work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop | None
    ) -> None:
        """Hold the work; with a loop, which belongs to another thread, do it there now."""
        self._work = work
        self._done: tuple[T] | None = None
        if loop is not None:
            carried = asyncio.run_coroutine_threadsafe(_carry(work), loop).result()
            if isinstance(carried, BaseException):
                raise carried
            self._done = carried

    def __await__(self) -> Generator[Any, Any, T]:
        """Do it."""
        return self._work.__await__() if self._done is None else _given(*self._done).__await__()

    def result(self) -> T:
        """Return what came of it, in a `def` handler.

        Raises:
            RuntimeError: This is an `async def` handler; await it instead.
        """
        if self._done is None:
            self._work.close()
            msg = "In an async handler await this instead of asking for its result()."
            raise RuntimeError(msg)
        return self._done[0]


async def _carry(work: Coroutine[Any, Any, T]) -> tuple[T] | BaseException:
    """Carry what is raised as a value: a SystemExit in a task would end the worker's loop."""
    try:
        return (await work,)
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - raised again in the thread that asked
        return error


async def _given(value: T) -> T:
    return value


class ContextPort(Protocol):
    """What a running attempt asks of whoever runs it."""

    def foreign_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the worker's loop, if the caller runs in a thread beside it."""
        ...

    async def report_progress(self, percent: float, message: str | None) -> None:
        """Show how far the execution is."""
        ...

    async def step(self, name: str, fn: Callable[[], Any], declared: Callable[..., Any]) -> Any:
        """Run a step once over all attempts; `declared` says what type it returns."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class JobContext(Generic[P]):
    """One attempt of an execution, as its handler sees it.

    Attributes:
        id: The execution's id; the same in every attempt.
        job: The definition.
        payload: Validated, of the type that the job declares.
        attempt: Failures so far plus one; a snooze, a drain or the loss of the worker leaves it.
        max_attempts: The last attempt has this number.
        fence_token: Grows with every claim. Hand it to outside systems that can refuse a smaller
            one after a larger one: then even an attempt that was given up can do no harm.
        correlation_id: Ties together what one cause has led to.
        traceparent: W3C trace context of the producer.
        tracestate: W3C trace state of the producer.
        log: A logger whose lines, from INFO on, are kept with the execution.
    """

    id: str
    job: JobDefinition[P, Any]
    payload: P
    attempt: int
    max_attempts: int
    fence_token: int
    correlation_id: str | None
    traceparent: str | None
    tracestate: str | None
    log: logging.Logger
    port: ContextPort
    cancel_event: asyncio.Event

    @property
    def cancelled(self) -> bool:
        """Whether somebody wants this attempt to end."""
        return self.cancel_event.is_set()

    async def wait_cancelled(self) -> None:
        """Return when somebody wants this attempt to end."""
        await self.cancel_event.wait()

    def report_progress(self, percent: float, message: str | None = None) -> Pending[None]:
        """Show how far the execution is.

        Args:
            percent: 0 to 100; a number outside is moved to the nearer end.
            message: A few words for people.
        """
        # In this order NaN, which JSON does not have, becomes 0.
        shown = min(max(0.0, float(percent)), 100.0)
        return Pending(self.port.report_progress(shown, message), self.port.foreign_loop())

    @overload
    def step(
        self, name: str, fn: Callable[A, Awaitable[T]], *args: A.args, **kwargs: A.kwargs
    ) -> Pending[T]: ...

    @overload
    def step(
        self, name: str, fn: Callable[A, T], *args: A.args, **kwargs: A.kwargs
    ) -> Pending[T]: ...

    def step(self, name: str, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Pending[Any]:
        """Run `fn` once over all attempts of this execution.

        Its result is stored as JSON before this returns. A later attempt gets the stored result,
        validated to the type that `fn` is annotated to return, instead of a second call. A crash
        between `fn` and the store may repeat that one step.

        Args:
            name: Unique within the attempt.
            fn: A function or coroutine function; a plain function runs in a thread.
            *args: Its arguments.
            **kwargs: Its keyword arguments.

        Raises:
            DuplicateStepError: `name` was used before in this attempt.
            ResultInvalidError: The result can't be stored as JSON.
        """
        return Pending(
            self.port.step(name, lambda: fn(*args, **kwargs), fn), self.port.foreign_loop()
        )
