"""The in-process runner: async handlers on the worker's loop, `def` handlers in threads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any

from netscript_workers.actions import JobCatalog
from netscript_workers.context import JobContext
from netscript_workers.domain import ClaimedExecution, Outcome
from netscript_workers.errors import PayloadInvalidError, Snooze
from netscript_workers.execution.context import AttemptPort, Journal
from netscript_workers.execution.outcome import (
    Cancelled,
    Drained,
    Ending,
    Raised,
    Refused,
    Returned,
    Snoozed,
    TimedOut,
    conclude,
)
from netscript_workers.execution.runners.deadlines import Deadlines
from netscript_workers.jobs import JobDefinition
from netscript_workers.telemetry import spans


@dataclass(slots=True, eq=False)
class Attempt:
    """An execution that runs here."""

    claim: ClaimedExecution
    job: JobDefinition[Any, Any]
    port: AttemptPort
    task: asyncio.Task[None] | None = None
    begun: bool = False
    late: bool = False
    draining: bool = False
    dropped: bool = False
    cancelled: bool = False


class InProcessRunner:
    """Runs executions inside this process. Its methods are called on the loop's thread."""

    def __init__(
        self,
        jobs: Mapping[str, JobDefinition[Any, Any]],
        journal: Journal,
        on_end: Callable[[ClaimedExecution, Outcome | None], None],
        *,
        threads: int | Executor,
        catalog: JobCatalog | None = None,
        keep_logs: int = logging.INFO,
    ) -> None:
        """Prepare.

        Args:
            jobs: The jobs by id.
            journal: Keeps steps, progress and log lines.
            on_end: Called on the loop with every end; without an outcome where the attempt was
                dropped and nothing is to be stored.
            threads: How many `def` handlers can run at once, or what runs them.
            catalog: Where actions that name a job by its id look it up.
            keep_logs: The lowest level of log lines that are kept with executions.
        """
        self._jobs = jobs
        self._journal = journal
        self._on_end = on_end
        self._catalog = catalog
        self._keep_logs = keep_logs
        self._threads = (
            ThreadPoolExecutor(threads, thread_name_prefix="netscript-job")
            if isinstance(threads, int)
            else threads
        )
        self._attempts: dict[str, Attempt] = {}
        self._deadlines: Deadlines[Attempt] = Deadlines(_time_out)

    @property
    def running(self) -> int:
        """How many executions run now."""
        return len(self._attempts)

    @property
    def left(self) -> list[str]:
        """The ids of executions that run now."""
        return list(self._attempts)

    @property
    def in_threads(self) -> list[str]:
        """The ids of executions whose handler runs in a thread, which nothing can end."""
        return [id_ for id_, attempt in self._attempts.items() if not attempt.job.is_async]

    @property
    def pids(self) -> list[int]:
        """No numbers: it has no processes."""
        return []

    def start(self, claim: ClaimedExecution) -> None:
        """Run an execution."""
        port = AttemptPort(claim, self._journal, keep_logs=self._keep_logs)
        attempt = Attempt(claim, self._jobs[claim.job_id], port)
        self._attempts[claim.id] = attempt
        attempt.task = asyncio.get_running_loop().create_task(self._run(attempt))

    def hand_back(self) -> None:
        """Do nothing: what it is given begins at once."""

    def drain(self) -> None:
        """End what can be ended; it is stored as not having had its turn."""
        for attempt in list(self._attempts.values()):
            attempt.draining = True
            _end(attempt)

    def cancel(self, execution_id: str) -> None:
        """End an execution because somebody wants it; a handler in a thread can only be asked."""
        attempt = self._attempts.get(execution_id)
        if attempt is not None:
            attempt.cancelled = True
            _end(attempt)

    def kill(self) -> None:
        """Do nothing: what is left runs in threads, which end with the process."""

    def drop(self, execution_id: str) -> None:
        """End an attempt whose end nobody wants to hear of, because others have the execution."""
        attempt = self._attempts.get(execution_id)
        if attempt is None:
            return
        attempt.dropped = True
        _end(attempt)

    def drop_all(self) -> None:
        """Drop every attempt."""
        for execution_id in list(self._attempts):
            self.drop(execution_id)

    def close(self) -> None:
        """Let go of the threads, without waiting for handlers that don't end."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._deadlines.close()

    async def wait_closed(self) -> None:
        """Return at once: there is nobody to wait for."""

    async def _run(self, attempt: Attempt) -> None:
        claim, job = attempt.claim, attempt.job
        attempt.begun = True
        ending: Ending = Drained()
        if not (attempt.dropped or attempt.draining or attempt.cancelled):
            self._enter(claim)
            with contextlib.suppress(asyncio.CancelledError):
                ending = await self._attempt(attempt)
        if attempt.cancelled:
            ending = Cancelled()
        elif attempt.draining and isinstance(ending, Raised):
            ending = Drained()  # that is how a handler says that it has not come to its end
        attempt.port.flush()
        del self._attempts[claim.id]
        outcome = None if attempt.dropped else conclude(job, claim, ending, self._catalog)
        self._on_end(claim, outcome)

    def _enter(self, claim: ClaimedExecution) -> None:
        """Make the attempt's span the current one in its task, which ends with it."""
        context = None if spans.recorder is None else self._journal.traces.context(claim)
        if context is not None:
            spans.enter(context)

    async def _attempt(self, attempt: Attempt) -> Ending:
        claim, job = attempt.claim, attempt.job
        try:
            payload = job.payload_model.restore(claim.payload)
        except PayloadInvalidError as error:
            return Refused(error)
        ctx = JobContext(claim, job, payload, attempt.port)
        try:
            if job.is_async:
                return await self._call_async(attempt, ctx)
            return await self._call_in_thread(attempt, ctx)
        except Snooze as snooze:
            return Snoozed(snooze.seconds)
        except asyncio.CancelledError as cancelled:
            if attempt.dropped or attempt.draining or attempt.cancelled:
                raise
            return _raised(attempt, cancelled)
        except (KeyboardInterrupt, GeneratorExit):  # of the process and of the loop, not its own
            raise
        except BaseException as error:  # noqa: BLE001 - its outcome, whatever it is
            return _raised(attempt, error)

    async def _call_async(self, attempt: Attempt, ctx: JobContext[Any]) -> Ending:
        limit = attempt.job.timeout
        if limit is None:
            return await self._invoke(attempt, ctx)
        self._deadlines.begin(attempt, limit)
        try:
            return await self._invoke(attempt, ctx)
        finally:
            self._deadlines.end(attempt, limit)

    async def _invoke(self, attempt: Attempt, ctx: JobContext[Any]) -> Ending:
        """Run an async handler to its end."""
        return Returned(await attempt.job.handler(ctx))

    async def _call_in_thread(self, attempt: Attempt, ctx: JobContext[Any]) -> Ending:
        """Wait for the thread, however long it takes: its slot and its key are really in use."""
        loop = asyncio.get_running_loop()
        limit = attempt.job.timeout
        started = time.monotonic()
        timer = None if limit is None else loop.call_later(limit, attempt.port.cancel)
        call = partial(_call_guarded, attempt.job, ctx)
        if spans.recorder is not None:
            call = partial(copy_context().run, call)
        try:
            ending = await asyncio.shield(loop.run_in_executor(self._threads, call))
        finally:
            if timer is not None:
                timer.cancel()
        if limit is not None and time.monotonic() - started > limit:
            return TimedOut(limit)
        return ending


def _raised(attempt: Attempt, error: BaseException) -> Ending:
    """Tell a handler that was ended for its timeout from one that raised of its own accord."""
    if attempt.late and isinstance(error, asyncio.CancelledError | TimeoutError):
        return TimedOut(attempt.job.timeout or 0.0)
    return Raised(error)


def _end(attempt: Attempt) -> None:
    """Ask a handler to end; one in a thread can only be asked."""
    attempt.port.cancel()
    # A task that is cancelled before its first step never takes one, and tells nobody of its end.
    if attempt.task is not None and attempt.begun and attempt.job.is_async:
        attempt.task.cancel()


def _time_out(attempt: Attempt) -> None:
    attempt.late = True
    if attempt.task is not None:
        attempt.task.cancel()


def _call_guarded(job: JobDefinition[Any, Any], ctx: JobContext[Any]) -> Ending:
    """Call a `def` handler; nothing it raises may reach the future, which can't carry it all."""
    try:
        return Returned(job.handler(ctx))
    except Snooze as snooze:
        return Snoozed(snooze.seconds)
    except BaseException as error:  # noqa: BLE001 - sys.exit() in a handler is its outcome too
        return Raised(error)
