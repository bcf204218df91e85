"""The live side of a job's context: steps, progress and log lines of one attempt."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, get_type_hints

from pydantic import TypeAdapter

from netscript_workers.clock import SYSTEM_CLOCK
from netscript_workers.domain import ClaimedExecution
from netscript_workers.errors import DuplicateStepError, ResultInvalidError, WorkerFencedError
from netscript_workers.execution.outcome import storable
from netscript_workers.options import check_key
from netscript_workers.payloads import to_stored_json
from netscript_workers.telemetry import spans
from netscript_workers.telemetry.attempts import Traces

MAX_LOG_LINES = 200
MAX_LOG_CHARS = 2_000
# Progress is for eyes: more often than this nobody could tell.
_PROGRESS_SECONDS = 0.1
_MISSING = object()


class Journal(Protocol):
    """Where an attempt's steps, progress and log lines are kept."""

    @property
    def traces(self) -> Traces:
        """What becomes of its spans."""
        ...

    async def load_steps(self, claim: ClaimedExecution) -> Mapping[str, str]:
        """Return the finished steps of earlier attempts: JSON by name."""
        ...

    async def save_step(self, claim: ClaimedExecution, name: str, value: str) -> bool:
        """Store a finished step; False if the attempt is no longer the current one."""
        ...

    def save_progress(self, claim: ClaimedExecution, percent: float, message: str | None) -> None:
        """Show progress soon."""
        ...

    def save_log(self, claim: ClaimedExecution, at: int, level: str, message: str) -> None:
        """Keep a log line soon."""
        ...


class AttemptPort:
    """Serves the context of one attempt. Lives on the worker's loop."""

    def __init__(
        self, claim: ClaimedExecution, journal: Journal, *, keep_logs: int = logging.INFO
    ) -> None:
        """Serve this claim; log lines from this level on are kept with the execution."""
        self._claim = claim
        self._keep_logs = keep_logs
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._stored: Mapping[str, str] | None = None
        self._named: set[str] = set()
        self._kept = 0
        self._shown_at = float("-inf")
        self._unshown: tuple[float, str | None] | None = None
        self._log: logging.Logger | None = None
        self._cancelled = False
        self._cancelling: asyncio.Event | None = None

    @property
    def log(self) -> logging.Logger:
        """The attempt's logger, made when it is asked for: many handlers have no use for it."""
        if self._log is None:
            self._log = _JournalLogger(self._claim, self._journal, self._keep_logs)
        return self._log

    def keep(self, level: int, line: str) -> bool:
        """Keep a line that a task has printed; tell whether there was room for it.

        It is not shown in the worker's own log, for nobody knows what is in it.
        """
        if level < self._keep_logs:
            return True
        if self._kept >= MAX_LOG_LINES:
            return False
        self._kept += 1
        told = storable(line, MAX_LOG_CHARS)
        self._journal.save_log(self._claim, SYSTEM_CLOCK.now(), logging.getLevelName(level), told)
        return True

    @property
    def cancelled(self) -> bool:
        """Whether somebody wants the attempt to end."""
        return self._cancelled

    def cancel(self) -> None:
        """Tell the handler that it should end."""
        self._cancelled = True
        if self._cancelling is not None:
            self._cancelling.set()

    async def wait_cancelled(self) -> None:
        """Return when somebody wants the attempt to end."""
        if self._cancelled:
            return
        if self._cancelling is None:
            self._cancelling = asyncio.Event()
        await self._cancelling.wait()

    def foreign_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the loop, if the caller runs in another thread."""
        return None if threading.get_ident() == self._thread else self._loop

    async def report_progress(self, percent: float, message: str | None) -> None:
        """Show progress, at most ten times a second; the last one is always shown."""
        clean = None if message is None else storable(message, MAX_LOG_CHARS)
        now = time.monotonic()
        if now - self._shown_at < _PROGRESS_SECONDS:
            self._unshown = (percent, clean)
            return
        self._shown_at, self._unshown = now, None
        self._journal.save_progress(self._claim, percent, clean)

    def flush(self) -> None:
        """Show the progress that was held back."""
        if self._unshown is not None:
            self._journal.save_progress(self._claim, *self._unshown)
            self._unshown = None

    async def step(self, name: str, fn: Callable[[], Any], declared: Callable[..., Any]) -> Any:
        """Return the stored result of this step, or run it and store its result."""
        check_key(name, "name", "ctx.step")
        if name in self._named:
            raise DuplicateStepError(
                f'The step "{name}" ran in this attempt already.',
                hint="Give each step of an attempt its own name.",
            )
        self._named.add(name)
        if self._stored is None:
            self._stored = await self._journal.load_steps(self._claim)
        stored = self._stored.get(name, _MISSING)
        watched = None if spans.recorder is None else spans.recorder.step(name)
        if isinstance(stored, str):
            if watched is not None:
                watched.reused()
            return _restore(stored, declared)
        if watched is None:
            return await self._run_step(name, fn, declared)
        with watched:
            return await self._run_step(name, fn, declared)

    async def _run_step(
        self, name: str, fn: Callable[[], Any], declared: Callable[..., Any]
    ) -> Any:
        value = await _call(fn, declared)
        try:
            kept = to_stored_json(value)
        except ValueError as error:
            raise ResultInvalidError(f'The result of the step "{name}": {error}') from error
        if not await self._journal.save_step(self._claim, name, kept):
            raise WorkerFencedError("This attempt is no longer the current one.")
        return value


async def _call(fn: Callable[[], Any], declared: Callable[..., Any]) -> Any:
    if inspect.iscoroutinefunction(inspect.unwrap(declared)):
        return await fn()
    value, error = await asyncio.to_thread(_guarded, fn)
    if error is not None:
        raise error
    return await value if inspect.isawaitable(value) else value


def _guarded(fn: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """Call in a thread; an exception is carried as a value, for not every one fits a future."""
    try:
        return fn(), None
    except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
        return None, error


def _restore(stored: str, declared: Callable[..., Any]) -> Any:
    """Give back the type that the function is annotated to return, where it says one."""
    value, returned = json.loads(stored), _returned_type(declared)
    return value if returned is Any else TypeAdapter(returned).validate_python(value)


def _returned_type(declared: Callable[..., Any]) -> Any:
    if isinstance(declared, partial):
        return _returned_type(declared.func)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType] - of whatever it returns
    if isinstance(declared, type):
        return declared
    try:
        return get_type_hints(declared).get("return", Any)
    except (TypeError, NameError):  # a builtin; or names only its module knows
        return Any


class _JournalLogger(logging.Logger):
    """Logs as the logger of its job does, and keeps the first lines with the execution."""

    def __init__(self, claim: ClaimedExecution, journal: Journal, keep: int) -> None:
        name = f"netscript.jobs.{claim.job_id}"
        shared = logging.getLogger(name)
        self._shown_from = shared.getEffectiveLevel()
        super().__init__(name, min(self._shown_from, keep))
        self.parent = shared
        self._claim = claim
        self._journal = journal
        self._keep = keep
        self._left = MAX_LOG_LINES

    def handle(self, record: logging.LogRecord) -> None:
        """Keep the line, and show it where the job's logger would."""
        claim = self._claim
        if self._left > 0 and record.levelno >= self._keep:
            self._left -= 1
            line = storable(_format(record), MAX_LOG_CHARS)
            self._journal.save_log(claim, SYSTEM_CLOCK.now(), record.levelname, line)
        if record.levelno >= self._shown_from:
            record.execution_id, record.job_id = claim.id, claim.job_id
            record.attempt = claim.attempt
            super().handle(record)


def _format(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - arguments that don't fit must not fail the job
        return str(record.msg)
