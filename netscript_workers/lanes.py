"""Lanes: how a worker's slots are shared among jobs that run in different places.

Where a worker runs jobs in its own process and others in processes of their own, those have as many
slots as there are processors, so that no execution is claimed that would only wait for a process.
Tasks, which are processes always, have theirs in any worker.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from netscript_workers.domain import ClaimedExecution, LaneName

IN_PROCESS_SLOTS = 100


def default_slots(runtime: LaneName) -> int:
    """Return how many executions run at a time where nothing else is said."""
    return IN_PROCESS_SLOTS if runtime == "in-process" else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class _Lane:
    jobs: str
    slots: int


class Lanes:
    """Counts what runs where. Used by the tick's thread alone."""

    def __init__(self, runtimes: Mapping[str, LaneName], slots: Mapping[LaneName, int]) -> None:
        """Share so many slots of each runtime among the jobs that run there."""
        self._of = runtimes
        jobs: defaultdict[LaneName, list[str]] = defaultdict(list)
        for job_id, runtime in runtimes.items():
            jobs[runtime].append(job_id)
        self._lanes: dict[LaneName, _Lane] = {
            runtime: _Lane(json.dumps(sorted(ids)), slots[runtime]) for runtime, ids in jobs.items()
        }
        self._running: dict[str, LaneName] = {}

    def take(self, claims: Iterable[ClaimedExecution]) -> None:
        """Count executions that were claimed just now."""
        for claim in claims:
            self._running[claim.id] = self._of[claim.job_id]

    def shares(self, free: int, running: Collection[str]) -> list[tuple[str, int]]:
        """Return what may be claimed now: ids of jobs, as a JSON array, and how many of them.

        Args:
            free: How many slots the worker has free in all.
            running: The ids of what still runs.
        """
        self._running = {id_: lane for id_, lane in self._running.items() if id_ in running}
        used: Counter[LaneName] = Counter(self._running.values())
        shares: list[tuple[str, int]] = []
        for runtime, lane in self._lanes.items():
            shares.append((lane.jobs, min(free, lane.slots - used[runtime])))
        return shares
