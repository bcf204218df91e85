"""The crew: all that runs a worker's executions, each where it is to run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from netscript_workers.actions import JobCatalog
from netscript_workers.assignment import WorkerOptions
from netscript_workers.crashes import Crashes
from netscript_workers.domain import ClaimedExecution, Death, LaneName, Outcome
from netscript_workers.errors import ConfigurationError, TaskRefusedError
from netscript_workers.execution.runners.children import Nursery
from netscript_workers.execution.runners.command import Bench, CommandRunner
from netscript_workers.execution.runners.guard import Guard
from netscript_workers.execution.runners.in_process import InProcessRunner
from netscript_workers.execution.runners.mixed import MixedRunner, runtimes_of
from netscript_workers.execution.runners.orders import check_task
from netscript_workers.execution.runners.pool import PoolRunner
from netscript_workers.execution.runners.protocol import Runner
from netscript_workers.execution.runners.subprocesses import SubprocessRunner
from netscript_workers.isolation import Isolation
from netscript_workers.jobs import JobDefinition
from netscript_workers.lanes import Lanes, default_slots
from netscript_workers.pump import Pump
from netscript_workers.store.engine import Store
from netscript_workers.tasks import TaskDefinition
from netscript_workers.telemetry.attempts import Attempts

logger = logging.getLogger(__name__)

# Children that were killed are gone in a moment; for one that the kernel holds, nobody waits.
_GONE_SECONDS = 5.0


def check_project(jobs: Mapping[str, JobDefinition[Any, Any]], options: WorkerOptions) -> None:
    """Refuse jobs in processes of their own where those would not find them.

    Raises:
        ConfigurationError: There is no project.
    """
    used = set(runtimes_of(jobs, options.runtime).values())
    if options.project is None and used - {"in-process", "task"}:
        raise ConfigurationError(
            "Jobs that run in processes of their own need a project, where those find them."
        )


def warn_of_tasks(jobs: Mapping[str, JobDefinition[Any, Any]], folder: Path) -> None:
    """Say in the log which tasks can't run on this machine; others run all the same."""
    for job in jobs.values():
        if isinstance(job, TaskDefinition):
            try:
                check_task(job, folder)
            except TaskRefusedError as error:
                logger.error('the task "%s" can\'t run here: %s', job.id, error)  # noqa: TRY400 - the sentence says it


class Crew:
    """The runners of one worker. Used on the loop's thread."""

    def __init__(
        self,
        store: Store,
        upkeep: Store,
        worker_id: str,
        jobs: Mapping[str, JobDefinition[Any, Any]],
        options: WorkerOptions,
        pump: Pump,
        lifeline: int,
        catalog: JobCatalog | None,
    ) -> None:
        """Make the runners that these jobs need, and tell the pump of them.

        `upkeep` is the same store, over connections that no handler can use up.
        """
        self._jobs, self._options, self._pump = jobs, options, pump
        self._lifeline, self._catalog = lifeline, catalog
        runtimes = runtimes_of(jobs, options.runtime)
        used: list[LaneName] = sorted(set(runtimes.values())) or [options.runtime]
        self.isolation = Isolation(
            upkeep,
            worker_id,
            jobs=jobs,
            topics=options.plan.served,
            on_end=pump.ended,
            on_wanted=pump.look,
        )
        # Whatever ran, its end is the isolation's to hear: it is to run alone from now on.
        self._crashes = Crashes(store, worker_id, on_end=self.isolation.ended)
        self._on_crash = partial(self._crashed, pump.traces)
        self._guard = Guard(lifeline)
        slots: dict[LaneName, int] = {name: self._slots(name) for name in used}
        runners: dict[LaneName, Runner] = {name: self._make(name, slots[name]) for name in used}
        if used == [options.runtime]:  # else each runtime has slots of its own
            self._runner = runners[options.runtime]
            if isinstance(self._runner, PoolRunner):
                pump.ahead = partial(getattr, self._runner, "ahead")
        else:
            self._runner = MixedRunner(runners, runtimes)
            pump.lanes = Lanes(runtimes, slots)
        self._all = [*runners.values()]
        alone: dict[LaneName, Runner] = {}
        if options.project is not None:
            alone["subprocess"] = self._make_subprocesses(self.isolation.ended)
        if "task" in used:
            alone["task"] = self._make_commands(self.isolation.ended)
            warn_of_tasks(jobs, options.folder)
        places: dict[str, LaneName] = {
            id_: place
            for id_, lane in runtimes.items()
            if (place := "task" if lane == "task" else "subprocess") in alone
        }
        if places:
            self.isolation.runner = MixedRunner(alone, places)
            self._all += alone.values()
        pump.runner = self._runner
        pump.cancel = self.cancel
        pump.isolation = self.isolation

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs, and every crash is recorded."""
        return self._crashes.pending == 0 and not any(one.running for one in self._all)

    @property
    def is_drained(self) -> bool:
        """Whether nothing runs that could be ended."""
        running = sum(one.running - len(one.in_threads) for one in self._all)
        return self._crashes.pending + running == 0

    @property
    def left(self) -> list[str]:
        """The ids of executions that run now."""
        return [id_ for one in self._all for id_ in one.left]

    @property
    def pids(self) -> list[int]:
        """The numbers of all processes that belong to it."""
        found = [pid for one in self._all for pid in one.pids]
        return found if self._guard.pid is None else [*found, self._guard.pid]

    def cancel(self, execution_id: str) -> None:
        """End an execution because somebody wants it."""
        for one in self._all:
            one.cancel(execution_id)

    def hand_back(self) -> None:
        """Start nothing more; let others have what was claimed and has not begun."""
        self.isolation.leave()
        for one in self._all:
            one.hand_back()

    def drain(self) -> None:
        """End what can be ended; it is stored as not having had its turn."""
        for one in self._all:
            one.drain()

    def kill(self) -> None:
        """End at once what runs in processes, after a drain."""
        for one in self._all:
            one.kill()

    def drop(self) -> None:
        """End everything: others have it."""
        self.isolation.leave()
        self._crashes.drop()
        for one in self._all:
            one.drop_all()

    async def close(self) -> None:
        """Let go of threads, and leave no process behind."""
        for one in self._all:
            one.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GONE_SECONDS):
                await asyncio.gather(*(one.wait_closed() for one in self._all))
        await asyncio.to_thread(self._guard.close)

    def _crashed(self, traces: Attempts, claim: ClaimedExecution, death: Death) -> None:
        traces.crashed(claim, death)
        self._crashes.record(claim, death)

    def _slots(self, runtime: LaneName) -> int:
        all_of_them = self._options.plan.capacity
        if runtime == "task" and self._options.task_slots is not None:
            return min(all_of_them, self._options.task_slots)
        if runtime == self._options.runtime:
            return all_of_them
        return min(all_of_them, default_slots(runtime))

    def _make(self, runtime: LaneName, slots: int) -> Runner:
        pump = self._pump
        if runtime == "task":
            return self._make_commands(pump.ended)
        if runtime == "subprocess":
            return self._make_subprocesses(pump.ended)
        if runtime == "worker-process":
            return PoolRunner(
                self._jobs,
                pump,
                pump.ended,
                self._on_crash,
                nursery=self._nursery,
                kill_grace=self._options.kill_grace,
                catalog=self._catalog,
                size=slots,
                recycling=self._options.recycling,
            )
        return InProcessRunner(
            self._jobs,
            pump,
            pump.ended,
            threads=slots,
            catalog=self._catalog,
            keep_logs=self._options.keep_logs,
        )

    def _make_commands(
        self, on_end: Callable[[ClaimedExecution, Outcome | None], None]
    ) -> CommandRunner:
        bench = Bench(
            project=self._options.folder,
            kill_grace=self._options.kill_grace,
            lifeline=self._lifeline,
            guard=self._guard,
        )
        return CommandRunner(
            self._jobs,
            self._pump,
            on_end,
            bench=bench,
            catalog=self._catalog,
            keep_logs=self._options.keep_logs,
        )

    def _make_subprocesses(
        self, on_end: Callable[[ClaimedExecution, Outcome | None], None]
    ) -> SubprocessRunner:
        return SubprocessRunner(
            self._jobs,
            self._pump,
            on_end,
            self._on_crash,
            nursery=self._nursery,
            kill_grace=self._options.kill_grace,
            catalog=self._catalog,
        )

    @property
    def _nursery(self) -> Nursery:
        place, folder = self._options.project or (Path(), "jobs")
        return Nursery(
            project=place,
            jobs_dir=folder,
            tasks_dir=self._options.tasks_dir,
            lifeline=self._lifeline,
            guard=self._guard,
            keep_logs=self._options.keep_logs,
        )
