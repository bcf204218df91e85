"""A runner with nothing behind it: claims come from the test, what it stores stays in memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from netscript_workers import JobDefinition
from netscript_workers.domain import ClaimedExecution, Outcome
from netscript_workers.execution.runners.in_process import InProcessRunner
from netscript_workers.ids import new_id
from netscript_workers.telemetry.attempts import NO_TRACES, Traces


def claim_of(
    job: JobDefinition[Any, Any] | str, payload: str = "{}", **facts: Any
) -> ClaimedExecution:
    """Return a claim of a job, as a worker would get it."""
    job_id = job if isinstance(job, str) else job.id
    known: dict[str, Any] = {
        "id": new_id(),
        "token": 7,
        "kind": "job",
        "job_id": job_id,
        "topic": "default",
        "payload": payload,
        "attempt": 1,
        "max_attempts": 3,
        "losses": 0,
        "priority": 50,
        "concurrency_key": None,
        "correlation_id": None,
        "traceparent": None,
        "tracestate": None,
        "trigger_event_id": None,
        "started_at": 0,
    }
    return ClaimedExecution(**{**known, **facts})


@dataclass(slots=True)
class MemoryJournal:
    """Keeps what an attempt tells."""

    steps: dict[str, str] = field(default_factory=dict[str, str])
    progress: list[tuple[float, str | None]] = field(default_factory=list[tuple[float, str | None]])
    logs: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    threads: set[int] = field(default_factory=set[int])
    current: bool = True
    loads: int = 0
    traces: Traces = NO_TRACES

    async def load_steps(self, claim: ClaimedExecution) -> Mapping[str, str]:
        self.loads += 1
        return dict(self.steps)

    async def save_step(self, claim: ClaimedExecution, name: str, value: str) -> bool:
        await asyncio.sleep(0)
        if self.current:
            self.steps[name] = value
        return self.current

    def save_progress(self, claim: ClaimedExecution, percent: float, message: str | None) -> None:
        self.threads.add(threading.get_ident())
        self.progress.append((percent, message))

    def save_log(self, claim: ClaimedExecution, at: int, level: str, message: str) -> None:
        self.logs.append((level, message))


class Bench:
    """An in-process runner and the ends of its attempts."""

    def __init__(self, *jobs: JobDefinition[Any, Any], threads: int) -> None:
        self.journal = MemoryJournal()
        self.ended: dict[str, Outcome | None] = {}
        self._changed = asyncio.Event()
        self.runner = InProcessRunner(
            {job.id: job for job in jobs}, self.journal, self._end, threads=threads
        )

    def _end(self, claim: ClaimedExecution, outcome: Outcome | None) -> None:
        assert claim.id not in self.ended, "an attempt ended twice"
        self.ended[claim.id] = outcome
        self._changed.set()

    async def end_of(self, claim: ClaimedExecution) -> Outcome | None:
        """Wait until an attempt has ended."""
        async with asyncio.timeout(5):
            while claim.id not in self.ended:
                self._changed.clear()
                await self._changed.wait()
        return self.ended[claim.id]

    async def run(self, job: JobDefinition[Any, Any], payload: str = "{}", **facts: Any) -> Outcome:
        """Run one attempt of a job to its end."""
        claim = claim_of(job, payload, **facts)
        self.runner.start(claim)
        outcome = await self.end_of(claim)
        assert outcome is not None
        return outcome


@asynccontextmanager
async def bench(*jobs: JobDefinition[Any, Any], threads: int = 4) -> AsyncGenerator[Bench, None]:
    """Open a bench; whatever happens, nothing is left running."""
    made = Bench(*jobs, threads=threads)
    yield made
    made.runner.drop_all()
    async with asyncio.timeout(5):
        while made.runner.running:
            await asyncio.sleep(0.005)
    made.runner.close()
    assert made.runner.running == 0


async def run_once(job: JobDefinition[Any, Any], payload: str = "{}", **facts: Any) -> Outcome:
    """Run one attempt of a job on a bench of its own."""
    async with bench(job) as made:
        return await made.run(job, payload, **facts)
