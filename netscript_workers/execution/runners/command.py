"""The runner of tasks: each execution is a command in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from netscript_workers.actions import JobCatalog
from netscript_workers.context import JobContext
from netscript_workers.domain import ClaimedExecution, Death, Outcome
from netscript_workers.errors import TaskRefusedError
from netscript_workers.execution.context import MAX_LOG_LINES, AttemptPort, Journal
from netscript_workers.execution.outcome import Ending, Exited, Unstarted
from netscript_workers.execution.runners.capture import Capture
from netscript_workers.execution.runners.exits import conclude_exit, finished
from netscript_workers.execution.runners.guard import Guard
from netscript_workers.execution.runners.in_process import Attempt, InProcessRunner
from netscript_workers.execution.runners.minded import Exit, Minded
from netscript_workers.execution.runners.orders import make_order
from netscript_workers.jobs import JobDefinition
from netscript_workers.tasks import TaskDefinition

_STDERR_BYTES = 65_536


@dataclass(slots=True, kw_only=True)
class Bench:
    """Where tasks run.

    Attributes:
        project: The folder that their paths are relative to.
        kill_grace: Seconds from SIGTERM to SIGKILL.
        lifeline: The descriptor of the worker's lifeline, which they inherit.
        guard: Ends what they have started, should the worker die first.
        running: What runs now, by the ids of executions.
    """

    project: Path
    kill_grace: float = 5.0
    lifeline: int | None = None
    guard: Guard | None = None
    running: dict[str, Minded] = field(default_factory=dict[str, Minded])


class CommandRunner(InProcessRunner):
    """Runs tasks. What it has in this process is but the waiting for them."""

    def __init__(
        self,
        jobs: Mapping[str, JobDefinition[Any, Any]],
        journal: Journal,
        on_end: Callable[[ClaimedExecution, Outcome | None], None],
        *,
        bench: Bench,
        catalog: JobCatalog | None = None,
        keep_logs: int = logging.INFO,
    ) -> None:
        """Prepare.

        Args:
            jobs: The tasks by id, perhaps among jobs.
            journal: Keeps progress and log lines.
            on_end: As of the in-process runner.
            bench: Where they run.
            catalog: As of the in-process runner.
            keep_logs: The lowest level of log lines that are kept with executions.
        """
        super().__init__(jobs, journal, on_end, threads=1, catalog=catalog, keep_logs=keep_logs)
        self._bench = bench

    @property
    def in_threads(self) -> list[str]:
        """Nothing: whatever runs in a process can be ended."""
        return []

    @property
    def pids(self) -> list[int]:
        """The numbers of the processes that lead those of tasks."""
        return [one.pid for one in self._bench.running.values()]

    def kill(self) -> None:
        """End now what was asked to."""
        for id_ in self.left:
            self._kill(id_)

    def drop(self, execution_id: str) -> None:
        """End an attempt whose end nobody wants to hear of, because others have the execution."""
        super().drop(execution_id)
        self._kill(execution_id)

    def close(self) -> None:
        """End every process."""
        super().close()
        self.kill()

    async def wait_closed(self) -> None:
        """Wait until no process is left."""
        ended = [one.ended for one in self._bench.running.values()]
        if ended:
            await asyncio.wait(ended)

    def _kill(self, execution_id: str) -> None:
        process = self._bench.running.get(execution_id)
        if process is not None:
            process.kill()

    async def _invoke(self, attempt: Attempt, ctx: JobContext[Any]) -> Ending:
        task = cast("TaskDefinition[Any]", attempt.job)
        return await run_command(task, ctx, attempt.port, self._bench)


async def run_command(
    task: TaskDefinition[Any], ctx: JobContext[Any], port: AttemptPort, bench: Bench
) -> Ending:
    """Run one attempt of a task to its end, and say how it ended.

    Whoever cancels this has all that it has started told to end, and killed after the grace. One
    that comes to its end all the same, with a result, has done so.

    Raises:
        CancelledError: It was cancelled, and has not come to its end.
    """
    output = Output(port)
    try:
        order = make_order(task, ctx, bench.project)
    except TaskRefusedError as error:
        death = Death(exit_code=error.exit_code, signal=None, peak_memory=None)
        return Exited(error, death, retry=False)
    except OSError as error:
        return Unstarted(f"No process is to be had: {type(error).__name__}.")
    try:
        process = Minded(
            order,
            stdout=output.stdout,
            stderr=output.stderr,
            lifeline=bench.lifeline,
            guard=bench.guard,
        )
    except OSError as error:
        return Unstarted(f"No process is to be had: {type(error).__name__}.")
    bench.running[ctx.id] = process
    try:
        ended = await _wait(process, output, bench.kill_grace)
    finally:
        del bench.running[ctx.id]
    output.close()
    return conclude_exit(task, ended, output.stdout, output.stderr, sandboxed=order.sandboxed)


class Output:
    """What a task prints: both streams, lines of which go to the log of its execution."""

    def __init__(self, port: AttemptPort) -> None:
        """Keep lines with the execution of this attempt."""
        self._port = port
        self._left = MAX_LOG_LINES - 1  # the last is for what was left out
        self._reports: set[asyncio.Task[None]] = set()
        self.stdout = Capture(lambda line: self._log(logging.INFO, line), self._progress)
        self.stderr = Capture(lambda line: self._log(logging.WARNING, line), tail=_STDERR_BYTES)

    def close(self) -> None:
        """Say what was left out."""
        if self.stdout.is_cut or self.stderr.is_cut:
            out, err = f"{self.stdout.total:,}", f"{self.stderr.total:,}"
            self._port.keep(
                logging.WARNING,
                f"There was more than is kept: {out} bytes of stdout and {err} of stderr in all.",
            )

    def _log(self, level: int, line: str) -> bool:
        self._left -= 1
        if self._left < 0:
            return False
        return self._port.keep(level, line)

    def _progress(self, percent: float, message: str | None) -> None:
        report = asyncio.ensure_future(self._port.report_progress(percent, message))
        self._reports.add(report)
        report.add_done_callback(self._reports.discard)


async def _wait(process: Minded, output: Output, grace: float) -> Exit:
    try:
        return await asyncio.shield(process.ended)
    except asyncio.CancelledError:
        process.terminate()
        timer = asyncio.get_running_loop().call_later(grace, process.kill)
        while not process.ended.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(process.ended)
        timer.cancel()
        ended = process.ended.result()
        if finished(ended, output.stdout):
            return ended
        output.stdout.let_go()
        output.close()
        raise
