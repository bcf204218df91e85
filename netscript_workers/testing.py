"""Testing jobs without a server, a worker or a database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import TypeVar

from netscript_workers.batches import Action
from netscript_workers.clock import ManualClock
from netscript_workers.context import JobContext
from netscript_workers.domain import ClaimedExecution
from netscript_workers.errors import Snooze
from netscript_workers.execution.context import AttemptPort
from netscript_workers.execution.outcome import Exited, Returned, Unstarted
from netscript_workers.execution.runners.command import Bench, run_command
from netscript_workers.ids import new_id
from netscript_workers.jobs import JobDefinition
from netscript_workers.payloads import to_stored_json
from netscript_workers.results import JobResult
from netscript_workers.tasks import TaskDefinition
from netscript_workers.telemetry.attempts import NO_TRACES, Traces

__all__ = ["JobRun", "ManualClock", "arun_job", "run_job"]

P = TypeVar("P", default=Any)


@dataclass(slots=True, kw_only=True)
class JobRun:
    """What one attempt of a job did.

    Attributes:
        success: Whether the execution would be complete.
        data: The result, as it would be stored and read back.
        error: Why it failed.
        actions: The jobs it asked for.
        snoozed: Seconds it wants to wait, if it raised `Snooze`.
        steps: The results of its steps by name, as they would be stored; hand them to another
            `run_job` to see what a second attempt does.
        progress: Every progress report in order: percent and message.
        logs: What it logged.
    """

    success: bool = False
    data: Any = None
    error: str | None = None
    actions: tuple[Action, ...] = ()
    snoozed: float | None = None
    steps: dict[str, str] = field(default_factory=dict[str, str])
    progress: list[tuple[float, str | None]] = field(default_factory=list[tuple[float, str | None]])
    logs: list[str] = field(default_factory=list[str])


def run_job(
    job: JobDefinition[P, Any],
    payload: P | Mapping[str, Any] | None = None,
    *,
    attempt: int = 1,
    steps: Mapping[str, str] | None = None,
) -> JobRun:
    """Run one attempt of a job as a worker would, and return what it did.

    The payload is validated, stored and restored as on its real way. What the handler raises,
    `Snooze` aside, is raised here too. A task really runs, in a process of its own, whose failure
    is in what is returned.

    Args:
        job: The definition, of a job or a task.
        payload: Its payload.
        attempt: Which attempt to be.
        steps: Steps that earlier attempts have finished, as `JobRun.steps` gave them.

    Raises:
        PayloadInvalidError: The job refuses the payload.
    """
    work = arun_job(job, payload, attempt=attempt, steps=steps)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    # An async test has a loop of its own, which can't run a second one inside.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


async def arun_job(
    job: JobDefinition[P, Any],
    payload: P | Mapping[str, Any] | None = None,
    *,
    attempt: int = 1,
    steps: Mapping[str, str] | None = None,
) -> JobRun:
    """Run one attempt of a job; `run_job` for async tests."""
    stored, _ = job.payload_model.store(payload)
    run = JobRun(steps=dict(steps or {}))
    claim = _claim(job, stored, attempt)
    journal = _Journal(run)
    port = _Port(claim, journal)
    payload_seen = job.payload_model.restore(stored)
    ctx = JobContext(claim, job, payload_seen, port)
    if isinstance(job, TaskDefinition):
        await _run_task(job, ctx, port, run)
        return run
    try:
        if job.is_async:
            returned = await job.handler(ctx)
        else:
            returned = await asyncio.to_thread(job.handler, ctx)
    except Snooze as snooze:
        run.snoozed = snooze.seconds
        return run
    result = returned if isinstance(returned, JobResult) else JobResult(success=True, data=returned)
    run.success, run.error, run.actions = result.success, result.error, result.actions
    run.data = None if result.data is None else json.loads(to_stored_json(result.data))
    return run


async def _run_task(
    task: TaskDefinition[Any], ctx: JobContext[Any], port: AttemptPort, run: JobRun
) -> None:
    try:
        async with asyncio.timeout(task.timeout):
            ending = await run_command(task, ctx, port, Bench(project=_project_of(task)))
    except TimeoutError:
        run.error = f"It took longer than {task.timeout:g} s."
        return
    match ending:
        case Returned(JobResult() as result):
            run.success, run.data = True, result.data
        case Returned(value):
            run.success, run.data = True, value
        case Exited(error, result=result):
            run.error = str(error)
            run.data = None if result is None else json.loads(result)
        case Unstarted(told):
            run.error = told
        case _:
            raise AssertionError(ending)


def _project_of(task: TaskDefinition[Any]) -> Path:
    """Return the project in whose folders a task is defined; the current folder if in none."""
    for place in Path(task.file).absolute().parents:
        if (place / "netscript.toml").is_file() or (place / "pyproject.toml").is_file():
            return place
    return Path.cwd()


class _Journal:
    """Keeps in a `JobRun` what a worker would keep in the database."""

    traces: Traces = NO_TRACES

    def __init__(self, run: JobRun) -> None:
        self.run = run

    async def load_steps(self, claim: ClaimedExecution) -> Mapping[str, str]:
        return dict(self.run.steps)

    async def save_step(self, claim: ClaimedExecution, name: str, value: str) -> bool:
        self.run.steps[name] = value
        return True

    def save_progress(self, claim: ClaimedExecution, percent: float, message: str | None) -> None:
        self.run.progress.append((percent, message))

    def save_log(self, claim: ClaimedExecution, at: int, level: str, message: str) -> None:
        self.run.logs.append(message)


class _Port(AttemptPort):
    """Holds back no progress: a test wants to see it all."""

    def __init__(self, claim: ClaimedExecution, journal: _Journal) -> None:
        super().__init__(claim, journal)
        self._own_claim, self._own_journal = claim, journal

    async def report_progress(self, percent: float, message: str | None) -> None:
        self._own_journal.save_progress(self._own_claim, percent, message)


def _claim(job: JobDefinition[Any, Any], payload: str, attempt: int) -> ClaimedExecution:
    return ClaimedExecution(
        id=new_id(),
        token=attempt,
        kind=job.kind,
        job_id=job.id,
        topic=job.topic,
        payload=payload,
        attempt=attempt,
        max_attempts=job.retry.max_attempts,
        losses=0,
        priority=job.priority,
        concurrency_key=None,
        correlation_id=None,
        traceparent=None,
        tracestate=None,
        trigger_event_id=None,
        started_at=0,
    )
