"""What a worker counts: many at a time, where it stores and claims them."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager

from netscript_workers.clock import MICROSECONDS
from netscript_workers.domain import (
    FINAL_STATUSES,
    ClaimedExecution,
    ExecutionStatus,
    Outcome,
    Reason,
    Verdict,
)
from netscript_workers.telemetry import metering
from netscript_workers.telemetry.metering import METERING

_LAG_SECONDS = 0.5
_COMPLETED = ExecutionStatus.COMPLETED.value
_CANCELLED = ExecutionStatus.CANCELLED.value
_FINAL = frozenset(status.value for status in FINAL_STATUSES)
# Of failures, those that have a name of their own; the rest are `failed`.
_FAILURES = {Reason.TIMEOUT: "timeout", Reason.CRASHED: "crashed"}


def settled(
    ended: Sequence[tuple[ClaimedExecution, Outcome]], changed: Sequence[tuple[str, str]]
) -> None:
    """Count how attempts ended.

    Args:
        ended: Claims and their outcomes.
        changed: The ids of those whose claim still held, and what became of each.
    """
    if not METERING.on or not ended:
        return
    statuses = dict(changed)
    completed: defaultdict[str, int] = defaultdict(int)
    durations: defaultdict[str, list[float]] = defaultdict(list)
    others: list[tuple[ClaimedExecution, Outcome]] = []
    for end in ended:
        claim, outcome = end
        job, seconds = claim.job_id, outcome.seconds
        if seconds is not None:
            durations[job].append(seconds)
        if statuses.get(claim.id) == _COMPLETED:  # as nearly all are
            completed[job] += 1
        else:
            others.append(end)
    for job, count in completed.items():
        METERING.add(metering.EXECUTIONS_ENDED, count, job, _COMPLETED)
    for job, some in durations.items():
        METERING.distributions[metering.EXECUTION_DURATION].record_all(some, job)
    if others:
        _settle_others(others, statuses)


def _settle_others(
    ended: Sequence[tuple[ClaimedExecution, Outcome]], statuses: Mapping[str, str]
) -> None:
    finals: Counter[tuple[str, str]] = Counter()
    retried: Counter[tuple[str, str]] = Counter()
    stale = 0
    for claim, outcome in ended:
        status = statuses.get(claim.id)
        if status is None:
            stale += 1
        elif status in _FINAL:
            finals[claim.job_id, _named(status, outcome)] += 1
        elif outcome.verdict is Verdict.RETRY:
            retried[claim.job_id, (outcome.failure or Reason.ERROR).value] += 1
    for (job, name), count in finals.items():
        METERING.add(metering.EXECUTIONS_ENDED, count, job, name)
        if name != _CANCELLED:
            METERING.add(metering.EXECUTIONS_DEAD, count, job)
    for (job, reason), count in retried.items():
        METERING.add(metering.EXECUTIONS_RETRIED, count, job, reason)
    if stale:
        METERING.add(metering.RESULTS_STALE, stale)


def _named(status: str, outcome: Outcome) -> str:
    if status == ExecutionStatus.FAILED and outcome.failure is not None:
        return _FAILURES.get(outcome.failure, status)
    return status


def claimed(claims: Sequence[ClaimedExecution], seconds: float) -> None:
    """Take how long executions waited since they were due, and how long it took to claim them."""
    if not METERING.on:
        return
    METERING.record(metering.CLAIM_DURATION, seconds)
    waits: defaultdict[str, list[float]] = defaultdict(list)
    for claim in claims:
        waited = claim.started_at - claim.run_at
        waits[claim.job_id].append(waited / MICROSECONDS if waited > 0 else 0.0)
    for job, some in waits.items():
        METERING.distributions[metering.EXECUTION_WAIT].record_all(some, job)


def crashed(claim: ClaimedExecution, last: Outcome | None) -> None:
    """Count that an execution killed its process.

    Args:
        claim: The attempt.
        last: What it ended with, if it will not run again.
    """
    METERING.add(metering.EXECUTIONS_CRASHED, 1, claim.job_id)
    if last is None:
        return
    is_cancelled = last.verdict is Verdict.CANCEL
    name = "cancelled" if is_cancelled else "crashed"
    METERING.add(metering.EXECUTIONS_ENDED, 1, claim.job_id, name)
    if not is_cancelled:
        METERING.add(metering.EXECUTIONS_DEAD, 1, claim.job_id)


def drifted(found: Mapping[str, int]) -> None:
    """Count what the sweep had to repair, by kind."""
    for kind, count in found.items():
        METERING.add(metering.DRIFT, count, kind)


@contextmanager
def watched(slots: Callable[[], tuple[int, int]]) -> Generator[None]:
    """Tell, as long as this lasts, how many slots are used and how many there are."""
    used = METERING.watch(metering.SLOTS_USED, lambda: [((), slots()[0])])
    limit = METERING.watch(metering.SLOTS_LIMIT, lambda: [((), slots()[1])])
    try:
        with lag_watched():
            yield
    finally:
        used()
        limit()


@contextmanager
def lag_watched() -> Generator[None]:
    """Measure, as long as this lasts, how late the running loop is, if anybody reads it."""
    task = asyncio.get_running_loop().create_task(_watch_lag()) if METERING.on else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()


async def _watch_lag() -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _LAG_SECONDS
        await asyncio.sleep(_LAG_SECONDS)
        METERING.record(metering.LOOP_LAG, max(loop.time() - due, 0.0))
