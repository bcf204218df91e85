"""The runners that netscript knows, each held to the same promises."""

from __future__ import annotations

from typing import Any

import pytest

from netscript_workers.domain import WORKER_RUNTIMES, RuntimeName
from netscript_workers.registry import discover_jobs
from netscript_workers.store.engine import Store
from tests.conformance.running import PATIENCE, RunnerSuite
from tests.kit import new, put
from tests.support import ROOT
from tests.working import working


class TestInProcess(RunnerSuite):
    @pytest.fixture
    def runtime(self) -> RuntimeName:
        return "in-process"


class TestWorkerProcess(RunnerSuite):
    @pytest.fixture
    def runtime(self) -> RuntimeName:
        return "worker-process"


class TestSubprocess(RunnerSuite):
    @pytest.fixture
    def runtime(self) -> RuntimeName:
        return "subprocess"


async def test_the_same_job_leaves_the_same_record_wherever_it_runs(store: Store) -> None:
    project = ROOT, "jobs"
    jobs = discover_jobs(*project)
    records: list[dict[str, Any]] = []
    for runtime in WORKER_RUNTIMES:
        given = new("process-payment", '{"amount_cents":4200,"order_id":"o-1"}', max_attempts=5)
        options: dict[str, Any] = {"project": project, "runtime": runtime, "concurrency": 1}
        async with working(store, *jobs.values(), **options) as at:
            put(store, given)
            told = await at.ended(given.id, seconds=PATIENCE)
        record = told.execution
        records.append(
            {
                "status": record.status,
                "result": record.result,
                "attempt": (record.attempt, record.max_attempts),
                "progress": record.progress,
                "steps": [(step.name, step.result, step.attempt) for step in told.steps],
                "rest": (record.error, record.reason, told.attempts, told.logs),
            }
        )
    assert records[0] == records[1] == records[2]
    assert records[0]["status"] == "completed"
    assert records[0]["result"]["order_id"] == "o-1"
    assert records[0]["progress"].percent == 100
