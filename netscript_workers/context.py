"""What a job handler is called with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Generic, Protocol, overload

from typing_extensions import ParamSpec, TypeVar

if TYPE_CHECKING:
    from netscript_workers.domain import ClaimedExecution
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

    @property
    def log(self) -> logging.Logger:
        """Keeps lines with the execution."""
        ...

    @property
    def cancelled(self) -> bool:
        """Whether the attempt should end."""
        ...

    async def wait_cancelled(self) -> None:
        """Return when the attempt should end."""
        ...

    def foreign_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the worker's loop, if the caller runs in a thread beside it."""
        ...

    async def report_progress(self, percent: float, message: str | None) -> None:
        """Show how far the execution is."""
        ...

    async def step(self, name: str, fn: Callable[[], Any], declared: Callable[..., Any]) -> Any:
        """Run a step once over all attempts; `declared` says what type it returns."""
        ...


class JobContext(Generic[P]):
    """One attempt of an execution, as its handler sees it."""

    # One is made for every attempt, so it only points at what there is.
    __slots__ = ("_claim", "_job", "_payload", "_port")

    def __init__(
        self, claim: ClaimedExecution, job: JobDefinition[P, Any], payload: P, port: ContextPort
    ) -> None:
        """Show this claim; a worker makes it, or `netscript_workers.testing`."""
        self._claim = claim
        self._job = job
        self._payload = payload
        self._port = port

    def __repr__(self) -> str:
        """Name the execution, and nothing of what it carries."""
        return f"JobContext(id={self.id!r}, job={self._job.id!r}, attempt={self.attempt})"

    @property
    def id(self) -> str:
        """The execution's id; the same in every attempt."""
        return self._claim.id

    @property
    def job(self) -> JobDefinition[P, Any]:
        """The definition."""
        return self._job

    @property
    def payload(self) -> P:
        """Validated, of the type that the job declares."""
        return self._payload

    @property
    def attempt(self) -> int:
        """Failures so far plus one; a snooze, a drain or the loss of the worker leaves it."""
        return self._claim.attempt

    @property
    def max_attempts(self) -> int:
        """The last attempt has this number."""
        return self._claim.max_attempts

    @property
    def fence_token(self) -> int:
        """Grows with every claim.

        Hand it to outside systems that can refuse a smaller one after a larger one: then even an
        attempt that was given up can do no harm.
        """
        return self._claim.token

    @property
    def correlation_id(self) -> str | None:
        """Ties together what one cause has led to."""
        return self._claim.correlation_id

    @property
    def traceparent(self) -> str | None:
        """W3C trace context of this attempt; of what enqueued it where telemetry is off."""
        return self._claim.traceparent

    @property
    def tracestate(self) -> str | None:
        """W3C trace state that goes with it."""
        return self._claim.tracestate

    @property
    def log(self) -> logging.Logger:
        """A logger whose lines, from INFO on, are kept with the execution."""
        return self._port.log

    @property
    def cancelled(self) -> bool:
        """Whether somebody wants this attempt to end."""
        return self._port.cancelled

    async def wait_cancelled(self) -> None:
        """Return when somebody wants this attempt to end."""
        await self._port.wait_cancelled()

    def report_progress(self, percent: float, message: str | None = None) -> Pending[None]:
        """Show how far the execution is.

        Args:
            percent: 0 to 100; a number outside is moved to the nearer end.
            message: A few words for people.
        """
        # In this order NaN, which JSON does not have, becomes 0.
        shown = min(max(0.0, float(percent)), 100.0)
        return Pending(self._port.report_progress(shown, message), self._port.foreign_loop())

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
            self._port.step(name, lambda: fn(*args, **kwargs), fn), self._port.foreign_loop()
        )
