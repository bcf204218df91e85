"""Running: what a handler can rely on, wherever its worker runs it."""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from netscript_workers import JobContext, define_job_handler
from netscript_workers.domain import RuntimeName
from netscript_workers.jobs import JobDefinition
from netscript_workers.registry import discover_jobs
from netscript_workers.store.definitions import register
from netscript_workers.store.engine import Store
from tests.conformance import shop
from tests.kit import detail, new, put, rows, scalar
from tests.support import eventually_async
from tests.working import Running as Worker
from tests.working import working

PROJECT = Path(str(shop.__file__)).parent, "scenes"
# A minute of a busy machine: starting a process may take a while, what is tested does not.
PATIENCE = 60.0

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def _elsewhere(ctx: JobContext) -> None:
    raise AssertionError("no worker here knows it")


ELSEWHERE = define_job_handler(_elsewhere, id="elsewhere")


def working_on(
    store: Store, runtime: RuntimeName, *, every: bool = False, **options: Any
) -> AbstractAsyncContextManager[Worker]:
    """Open a worker that runs the shop's jobs in this way, those that say their own if `every`."""
    found: dict[str, JobDefinition[Any, Any]] = dict(discover_jobs(*PROJECT))
    jobs = {id_: one for id_, one in found.items() if every or one.runtime is None}
    options = {"concurrency": 2, "kill_grace": 0.3, "project": PROJECT, **options}
    return working(store, *jobs.values(), runtime=runtime, **options)


class RunnerSuite:
    """The same handlers do the same in every runner. Subclass it and say which one."""

    @pytest.fixture
    def runtime(self) -> RuntimeName:
        """Return the runner's name."""
        raise NotImplementedError

    @pytest.mark.parametrize("name", ["whole", "whole-sync"])
    async def test_steps_progress_logs_retries_and_actions(
        self, store: Store, runtime: RuntimeName, name: str
    ) -> None:
        register(store, [ELSEWHERE])
        given = new(name, '{"order":"o-1"}', correlation_id="c-1")
        async with working_on(store, runtime) as at:
            put(store, given)
            told = await at.ended(given.id, seconds=PATIENCE)
            sql = "SELECT CAST(id AS text) FROM netscript_execution_history WHERE job_id='context'"
            follow_up = await eventually_async(lambda: scalar(store, sql), PATIENCE)
        record = told.execution
        assert (record.status, record.attempt) == ("completed", 2), record
        assert record.result == {
            "charged": "Charge",
            "cents": 1200,
            "shipped": "shipped o-1",
            "twice_refused": True,
        }
        assert record.progress is not None
        assert (record.progress.percent, record.progress.message) == (100, "more than all")
        assert [(step.name, step.attempt) for step in told.steps] == [("charge", 1), ("ship", 1)]
        assert [line.message for line in told.logs] == ["attempt 1 of o-1", "attempt 2 of o-1"]
        (failed,) = told.attempts
        assert (failed.outcome, failed.error) == ("error", "LookupError: no such parcel")
        assert "handlers.py" in str(failed.detail) and "raise LookupError" in str(failed.detail)
        assert detail(store, follow_up).execution.correlation_id == "c-1"
        sql = "SELECT payload, correlation_id FROM netscript_executions WHERE job_id = 'elsewhere'"
        assert rows(store, sql) == [('{"any":"thing"}', "c-1")]

    async def test_the_context_is_whole(self, store: Store, runtime: RuntimeName) -> None:
        given = new(
            "context",
            '{"order":"o"}',
            traceparent=TRACE,
            tracestate="a=b",
            correlation_id="c",
            max_attempts=7,
        )
        async with working_on(store, runtime) as at:
            put(store, given)
            told = await at.ended(given.id, seconds=PATIENCE)
        result = told.execution.result
        assert result.pop("token") > 0
        assert result == {
            "traceparent": TRACE,
            "tracestate": "a=b",
            "correlation_id": "c",
            "id": given.id,
            "attempts": [1, 7],
            "payload": "o",
            "cancelled": False,
        }

    async def test_a_batch_among_the_actions_of_a_job_is_followed_by_its_callback(
        self, store: Store, runtime: RuntimeName
    ) -> None:
        given = new("fans-out", correlation_id="c-1")
        async with working_on(store, runtime) as at:
            register(store, list(at.jobs.values()))
            put(store, given)
            sql = "SELECT CAST(id AS text) FROM netscript_execution_history WHERE job_id = 'joins'"
            joined = await eventually_async(lambda: scalar(store, sql), PATIENCE)
        record = detail(store, joined).execution
        assert (record.result, record.correlation_id, record.triggered_by) == (2, "c-1", "job")
        sql = (
            "SELECT b.expected, b.done, CAST(b.callback_id AS text), (SELECT count(*) FROM "
            "netscript_execution_history h WHERE h.batch_id = b.id) FROM netscript_batches b"
        )
        assert rows(store, sql) == [(2, 2, joined, 2)]

    async def test_failures_are_what_they_are(self, store: Store, runtime: RuntimeName) -> None:
        register(store, [ELSEWHERE])
        names = (
            "refuses",
            "exits",
            "gives-up",
            "too-much",
            "no-json",
            "asks-nobody",
            "asks-wrongly",
        )
        given = {name: new(name, max_attempts=9 if name == "gives-up" else 1) for name in names}
        bad = new("context", '{"order":5}')
        async with working_on(store, runtime) as at:
            put(store, bad, *given.values())
            found = {name: await at.ended(one.id, seconds=PATIENCE) for name, one in given.items()}
            refused = (await at.ended(bad.id, seconds=PATIENCE)).execution
        told = {
            name: (one.execution.status.value, one.execution.reason, one.execution.attempt)
            for name, one in found.items()
        }
        assert told == {
            "refuses": ("failed", "error", 1),
            "exits": ("failed", "error", 1),
            "gives-up": ("failed", "error", 1),
            "too-much": ("failed", "result refused", 1),
            "no-json": ("failed", "result refused", 1),
            "asks-nobody": ("failed", "result refused", 1),
            "asks-wrongly": ("failed", "result refused", 1),
        }
        assert found["refuses"].execution.error == "declined"
        assert found["refuses"].execution.result == {"code": 51}
        assert found["exits"].execution.error == "SystemExit: enough"
        assert found["gives-up"].execution.error == "GivenUp: it can't be"
        assert "2,000,002 bytes of JSON" in str(found["too-much"].execution.error)
        assert 'Did you mean "elsewhere"?' in str(found["asks-nobody"].execution.error)
        assert "nothing that JSON can hold" in str(found["asks-wrongly"].execution.error)
        assert (refused.status, refused.reason) == ("failed", "payload refused")

    async def test_all_steps_of_an_earlier_attempt_come_back_however_large(
        self, store: Store, runtime: RuntimeName
    ) -> None:
        async with working_on(store, runtime) as at:
            told = await at.ended(at.enqueue_by_name("many-steps"), seconds=PATIENCE)
        assert (told.execution.status, told.execution.attempt) == ("completed", 2)
        assert told.execution.result == 6 * 900_000
        assert {step.attempt for step in told.steps} == {1}

    async def test_a_snooze_costs_no_attempt(
        self, store: Store, runtime: RuntimeName, tmp_path: Path
    ) -> None:
        async with working_on(store, runtime) as at:
            id_ = at.enqueue_by_name("snoozes", {"seen": str(tmp_path / "seen")})
            told = await at.ended(id_, seconds=PATIENCE)
        assert (told.execution.status, told.execution.result) == ("completed", 1)
        assert told.attempts == ()

    @pytest.mark.parametrize("name", ["slow", "slow-sync"])
    async def test_a_timeout_ends_it(self, store: Store, runtime: RuntimeName, name: str) -> None:
        async with working_on(store, runtime, kill_grace=30.0) as at:
            told = await at.ended(at.enqueue_by_name(name), seconds=PATIENCE)
        assert (told.execution.status, told.execution.reason) == ("failed", "timeout")
        assert told.execution.error == "It took longer than 0.3 s."
        assert [one.outcome for one in told.attempts] == ["timeout"]

    @pytest.mark.parametrize("name", ["waits", "waits-sync"])
    async def test_one_that_is_cancelled_is_told_and_ends(
        self, store: Store, runtime: RuntimeName, name: str
    ) -> None:
        async with working_on(store, runtime, kill_grace=30.0) as at:
            given = at.enqueue_by_name(name)
            await at.shows_progress(given, PATIENCE)
            at.cancel(given)
            told = await at.ended(given, seconds=PATIENCE)
        assert (told.execution.status, told.execution.reason) == ("cancelled", "cancelled")
        assert [line.message for line in told.logs] == ["told to end: True"]
        assert told.attempts == ()

    @pytest.mark.parametrize("name", ["waits", "waits-sync"])
    async def test_a_drain_gives_it_back_without_an_attempt(
        self, store: Store, runtime: RuntimeName, name: str
    ) -> None:
        async with working_on(store, runtime, grace=0.05) as at:
            given = at.enqueue_by_name(name)
            await at.shows_progress(given, PATIENCE)
            at.worker.stop()
            await at.task
        told = detail(store, given).execution
        assert (told.status, told.reason, told.attempt) == ("queued", "drained", 1)

    async def test_hard_values_come_back_as_they_were(
        self, store: Store, runtime: RuntimeName
    ) -> None:
        async with working_on(store, runtime) as at:
            told = await at.ended(at.enqueue_by_name("hard"), seconds=PATIENCE)
        assert told.execution.result == ["\0", "\ud800", 10**300, "naïve"]
        assert [line.message for line in told.logs] == ["a NUL \\0 and half a pair \\ud800"]

    async def test_handlers_run_where_they_should(self, store: Store, runtime: RuntimeName) -> None:
        async with working_on(store, runtime) as at:
            both = [at.enqueue_by_name(name) for name in ("where", "where-async")]
            found = [(await at.ended(id_, seconds=PATIENCE)).execution.result for id_ in both]
            pids = at.worker.pids
        if runtime == "in-process":
            assert [one["pid"] for one in found] == [os.getpid()] * 2
            assert [one["main"] for one in found] == [False, True]
            assert pids == []
        else:
            assert os.getpid() not in [one["pid"] for one in found]
            assert [one["main"] for one in found] == [True, True]
        for pid in pids:
            assert not Path(f"/proc/{pid}").exists(), "a process is left"
