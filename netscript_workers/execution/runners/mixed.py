"""Several runners as one: each job goes where it says, or else where its worker runs its jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from netscript_workers.domain import ClaimedExecution, LaneName, RuntimeName
from netscript_workers.execution.runners.protocol import Runner
from netscript_workers.jobs import JobDefinition


def runtimes_of(
    jobs: Mapping[str, JobDefinition[Any, Any]], default: RuntimeName
) -> dict[str, LaneName]:
    """Return where each job or task runs, by its id."""
    return {id_: job.lane(default) for id_, job in jobs.items()}


class MixedRunner:
    """Hands each execution to the runner of its job."""

    def __init__(
        self, runners: Mapping[LaneName, Runner], runtimes: Mapping[str, LaneName]
    ) -> None:
        """Use these runners; `runtimes` says where each job runs, by its id."""
        self._runners = tuple(runners.values())
        self._of = {job_id: runners[runtime] for job_id, runtime in runtimes.items()}

    @property
    def running(self) -> int:
        """How many executions run now."""
        return sum(runner.running for runner in self._runners)

    @property
    def left(self) -> list[str]:
        """The ids of executions that run now."""
        return [id_ for runner in self._runners for id_ in runner.left]

    @property
    def in_threads(self) -> list[str]:
        """The ids of executions whose handler runs in a thread, which nothing can end."""
        return [id_ for runner in self._runners for id_ in runner.in_threads]

    @property
    def pids(self) -> list[int]:
        """The numbers of its processes."""
        return [pid for runner in self._runners for pid in runner.pids]

    def start(self, claim: ClaimedExecution) -> None:
        """Run an execution."""
        self._of[claim.job_id].start(claim)

    def cancel(self, execution_id: str) -> None:
        """End an execution because somebody wants it."""
        for runner in self._those_with(execution_id):
            runner.cancel(execution_id)

    def drop(self, execution_id: str) -> None:
        """End an attempt whose end nobody wants to hear of, because others have the execution."""
        for runner in self._those_with(execution_id):
            runner.drop(execution_id)

    def hand_back(self) -> None:
        """Let others have what was claimed and has not begun."""
        for runner in self._runners:
            runner.hand_back()

    def drain(self) -> None:
        """End what can be ended; it is stored as not having had its turn."""
        for runner in self._runners:
            runner.drain()

    def kill(self) -> None:
        """End at once what runs in processes, after a drain."""
        for runner in self._runners:
            runner.kill()

    def drop_all(self) -> None:
        """Drop every attempt."""
        for runner in self._runners:
            runner.drop_all()

    def close(self) -> None:
        """Let go of threads and processes."""
        for runner in self._runners:
            runner.close()

    async def wait_closed(self) -> None:
        """Wait until no process is left."""
        await asyncio.gather(*(runner.wait_closed() for runner in self._runners))

    def _those_with(self, execution_id: str) -> Iterator[Runner]:
        return (runner for runner in self._runners if execution_id in runner.left)
