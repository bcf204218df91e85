"""The worker: the loop and the runner."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from typing import Any

import pytest
from pydantic import BaseModel

from netscript_workers import (
    JobContext,
    Retry,
    Snooze,
    create_failure_result,
    create_success_result,
    enqueue_job,
    job,
)
from netscript_workers.actions import Cause, resolve
from netscript_workers.domain import TriggeredBy
from netscript_workers.errors import DuplicateStepError
from netscript_workers.store.definitions import register
from netscript_workers.store.engine import Store
from tests.kit import detail, put, run, scalar
from tests.support import eventually, eventually_async
from tests.working import working

AT_ONCE = Retry(max_attempts=3, initial_delay=0.0)


class Order(BaseModel):
    id: int


@job(id="double")
async def double(ctx: JobContext[Order]) -> dict[str, int]:
    ctx.log.info("doubling %d", ctx.payload.id)
    await ctx.report_progress(150, "nearly")
    return {"twice": ctx.payload.id * 2}


@job(id="in-thread")
def in_thread(ctx: JobContext[Order]) -> str:
    ctx.report_progress(50, "half")
    value = ctx.step("name", lambda: threading.current_thread().name).result()
    assert isinstance(value, str)
    return "thread" if threading.current_thread() is not threading.main_thread() else "main"


async def test_an_async_handler_runs_and_its_result_is_kept(store: Store) -> None:
    async with working(store, double) as at:
        told = await at.run(double, Order(id=21))
    record = told.execution
    assert (record.status, record.result, record.attempt) == ("completed", {"twice": 42}, 1)
    assert record.worker_id == at.worker.id
    assert record.progress is not None
    assert record.progress.percent == 100
    assert [(line.level, line.message) for line in told.logs] == [("INFO", "doubling 21")]


async def test_a_def_handler_runs_in_a_thread_with_steps_and_progress(store: Store) -> None:
    async with working(store, in_thread) as at:
        told = await at.run(in_thread, {"id": 1})
    assert told.execution.result == "thread"
    assert told.execution.progress is not None
    assert told.execution.progress.percent == 50
    assert [step.name for step in told.steps] == ["name"]


async def test_a_failure_is_tried_again_and_then_final(store: Store) -> None:
    seen: list[tuple[int, int]] = []

    @job(id="fails", retry=AT_ONCE)
    async def fails(ctx: JobContext) -> None:
        seen.append((ctx.attempt, ctx.fence_token))
        raise ValueError(f"attempt {ctx.attempt}")

    async with working(store, fails) as at:
        told = await at.run(fails)
    assert (told.execution.status, told.execution.reason) == ("failed", "error")
    assert told.execution.error == "ValueError: attempt 3"
    assert [attempt for attempt, _ in seen] == [1, 2, 3]
    assert sorted({token for _, token in seen}) == [token for _, token in seen]
    assert [one.attempt for one in told.attempts] == [1, 2, 3]
    assert "raise ValueError" in str(told.attempts[0].detail)


async def test_a_returned_failure_may_forbid_a_retry(store: Store) -> None:
    @job(id="declines", retry=AT_ONCE)
    async def declines(ctx: JobContext) -> Any:
        return create_failure_result("declined", {"code": 51}, retry=False)

    async with working(store, declines) as at:
        told = await at.run(declines)
    assert (told.execution.error, told.execution.result) == ("declined", {"code": 51})
    assert told.execution.attempt == 1


async def test_a_finished_step_is_not_run_again(store: Store) -> None:
    calls: list[str] = []

    async def charge(order: int) -> Order:
        calls.append("charge")
        return Order(id=order)

    @job(id="steps", retry=AT_ONCE)
    async def steps(ctx: JobContext[Order]) -> int:
        charged = await ctx.step("charge", charge, ctx.payload.id)
        assert isinstance(charged, Order)
        if ctx.attempt < 3:
            raise ValueError
        return charged.id

    async with working(store, steps) as at:
        told = await at.run(steps, Order(id=7))
    assert (told.execution.result, calls) == (7, ["charge"])


async def test_a_step_that_fails_is_run_again_and_a_name_twice_is_refused(store: Store) -> None:
    calls: list[int] = []

    def flaky() -> int:
        calls.append(1)
        if len(calls) < 2:
            raise OSError("down")
        return len(calls)

    @job(id="flaky", retry=AT_ONCE)
    async def flaky_job(ctx: JobContext) -> int:
        first = await ctx.step("one", flaky)
        with pytest.raises(DuplicateStepError):
            await ctx.step("one", flaky)
        return first

    async with working(store, flaky_job) as at:
        assert (await at.run(flaky_job)).execution.result == 2


async def test_a_snooze_runs_again_without_using_an_attempt(store: Store) -> None:
    calls: list[int] = []

    @job(id="snoozes", retry=Retry(max_attempts=1))
    async def snoozes(ctx: JobContext) -> int:
        calls.append(ctx.attempt)
        if len(calls) < 3:
            raise Snooze(0.05)
        return len(calls)

    @job(id="snoozes-in-thread", retry=Retry(max_attempts=1))
    def in_a_thread(ctx: JobContext) -> int:
        calls.append(ctx.attempt)
        if len(calls) < 6:
            raise Snooze(0)
        return len(calls)

    async with working(store, snoozes, in_a_thread) as at:
        assert (await at.run(snoozes)).execution.result == 3
        assert (await at.run(in_a_thread)).execution.result == 6
    assert set(calls) == {1}


async def test_an_async_handler_past_its_timeout_is_ended(store: Store) -> None:
    @job(id="slow", timeout=0.05, retry=Retry(max_attempts=1))
    async def slow(ctx: JobContext) -> None:
        await asyncio.sleep(30)

    @job(id="own", retry=Retry(max_attempts=1))
    async def own(ctx: JobContext) -> None:
        raise TimeoutError("the bank's")

    async with working(store, slow, own) as at:
        told = (await at.run(slow)).execution
        assert (told.status, told.reason) == ("failed", "timeout")
        assert told.error == "It took longer than 0.05 s."
        assert (await at.run(own)).execution.reason == "error"


async def test_a_thread_past_its_timeout_keeps_its_slot_until_it_returns(store: Store) -> None:
    release = threading.Event()

    @job(id="stuck", timeout=0.05, retry=Retry(max_attempts=1))
    def stuck(ctx: JobContext) -> bool:
        release.wait(10)
        return ctx.cancelled

    async with working(store, stuck) as at:
        execution_id = at.enqueue(stuck)
        await at.ended(execution_id, "running")
        await asyncio.sleep(0.2)
        assert detail(store, execution_id).execution.status == "running"
        release.set()
        assert (await at.ended(execution_id)).execution.reason == "timeout"


async def test_a_stored_payload_that_no_longer_fits_fails_without_a_retry(store: Store) -> None:
    async with working(store, double) as at:
        action = resolve(enqueue_job(double, {"id": 1}), None, Cause(triggered_by=TriggeredBy.API))
        put(store, dataclasses.replace(action, payload='{"id":"x"}'))
        told = (await at.ended(action.id)).execution
    assert (told.status, told.reason, told.attempt) == ("failed", "payload refused", 1)


async def test_a_result_that_is_no_json_fails(store: Store) -> None:
    @job(id="odd")
    async def odd(ctx: JobContext) -> Any:
        return {"x": object()}

    async with working(store, odd) as at:
        told = (await at.run(odd)).execution
    assert (told.status, told.reason) == ("failed", "result refused")


async def test_actions_run_after_the_completion_and_know_their_cause(store: Store) -> None:
    @job(id="parent")
    async def parent(ctx: JobContext) -> Any:
        by_id = enqueue_job("double", {"id": 2}, idempotency_key="once")
        return create_success_result("ok", actions=[enqueue_job(double, {"id": 1}), by_id])

    @job(id="wrong")
    async def wrong(ctx: JobContext) -> Any:
        return create_success_result("ok", actions=[enqueue_job("nobody", {})])

    register(store, [double])
    async with working(store, parent, double, wrong) as at:
        told = (await at.run(parent)).execution
        done = "SELECT count(*) FROM netscript_execution_history WHERE triggered_by = 'job'"
        await eventually_async(lambda: scalar(store, done) == 2)
        refused = (await at.run(wrong)).execution
    correlated = "SELECT count(*) FROM netscript_execution_history WHERE correlation_id = :id"
    assert scalar(store, correlated, id=told.id) == 2
    assert (refused.status, refused.reason) == ("failed", "result refused")


async def test_executions_of_one_key_never_overlap(store: Store) -> None:
    now: list[str] = []
    most: list[int] = []

    @job(id="keyed")
    async def keyed(ctx: JobContext) -> None:
        now.append(ctx.id)
        most.append(len(now))
        await asyncio.sleep(0.005)
        now.remove(ctx.id)

    async with working(store, keyed) as one, working(store, keyed):
        ids = [one.enqueue(keyed, concurrency_key="k") for _ in range(12)]
        for id_ in ids:
            await one.ended(id_)
    assert max(most) == 1


async def test_hundreds_are_drained_and_every_one_once(store: Store) -> None:
    counts: dict[str, int] = {}

    @job(id="noop")
    async def noop(ctx: JobContext) -> None:
        counts[ctx.id] = counts.get(ctx.id, 0) + 1

    async with working(store, noop, concurrency=50) as at:
        actions = [
            resolve(enqueue_job(noop), None, Cause(triggered_by=TriggeredBy.API))
            for _ in range(600)
        ]
        put(store, *actions)
        at.enqueue(noop)
        await eventually_async(
            lambda: scalar(store, "SELECT count(*) FROM netscript_execution_history") == 601
        )
    assert set(counts.values()) == {1}


async def test_a_delayed_execution_starts_when_it_is_due(store: Store) -> None:
    async with working(store, double) as at:
        started = time.monotonic()
        told = (await at.run(double, {"id": 1}, delay=0.3)).execution
        assert 0.25 < time.monotonic() - started < 2
        assert told.started_at is not None
        assert told.started_at >= told.run_at


async def test_a_database_that_goes_away_costs_no_result(store: Store) -> None:
    release = asyncio.Event()

    @job(id="waits")
    async def waits(ctx: JobContext) -> str:
        await release.wait()
        return "kept"

    async with working(store, waits) as at:
        execution_id = at.enqueue(waits)
        await at.ended(execution_id, "running")
        run(store, "ALTER TABLE netscript_execution_history RENAME TO netscript_hidden")
        release.set()
        await asyncio.sleep(0.2)
        run(store, "ALTER TABLE netscript_hidden RENAME TO netscript_execution_history")
        assert (await at.ended(execution_id)).execution.result == "kept"


def test_eventually_fails_with_a_sentence() -> None:
    with pytest.raises(AssertionError, match="rain did not happen within 0"):
        eventually(lambda: False, seconds=0.02, what="rain")
