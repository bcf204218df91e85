"""How a worker leaves: drained, past its grace, given up, or dead."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time

import pytest

from netscript_workers import JobContext, job
from netscript_workers.errors import WorkerFencedError
from netscript_workers.store.engine import Store
from netscript_workers.store.lifelines import Lifeline, folder
from tests.kit import Hand, detail, run, scalar
from tests.support import eventually, eventually_async
from tests.working import working


async def test_a_drain_lets_what_runs_finish_and_takes_nothing_new(store: Store) -> None:
    started, release = asyncio.Event(), asyncio.Event()

    @job(id="long")
    async def long(ctx: JobContext) -> str:
        started.set()
        await release.wait()
        return "done"

    async with working(store, long, concurrency=1) as at:
        first, second = at.enqueue(long), at.enqueue(long)
        await started.wait()
        at.worker.stop()
        await eventually_async(
            lambda: scalar(store, "SELECT state FROM netscript_workers") == "draining"
        )
        release.set()
        assert await at.task == []
    assert detail(store, first).execution.result == "done"
    assert detail(store, second).execution.status == "queued"
    assert scalar(store, "SELECT count(*) FROM netscript_workers") == 0


@pytest.mark.trap("D-34")
async def test_what_was_claimed_and_has_not_begun_goes_back_at_once(store: Store) -> None:
    begun: list[str] = []
    started, release = asyncio.Event(), asyncio.Event()

    @job(id="long")
    async def long(ctx: JobContext) -> None:
        begun.append(ctx.id)
        started.set()
        await release.wait()

    async with working(store, long, grace=20.0) as at:
        first = at.enqueue(long)
        await started.wait()
        others = {at.enqueue(long) for _ in range(3)}
        sql = "SELECT count(*) FROM netscript_executions WHERE status = 'running'"
        # The tick claims them in its thread; the loop, held up here, has not begun them yet.
        eventually(lambda: scalar(store, sql) == 4)
        at.worker.stop()
        await eventually_async(lambda: scalar(store, sql) == 1)
        assert begun == [first]
        release.set()
        await at.task
    assert detail(store, first).execution.status == "completed"
    for other in others:
        told = detail(store, other).execution
        assert (told.status, told.attempt) == ("queued", 1)


async def test_a_handler_that_swallows_its_cancellation_does_not_keep_the_worker(
    store: Store,
) -> None:
    began, release = asyncio.Event(), asyncio.Event()

    @job(id="stubborn")
    async def stubborn(ctx: JobContext) -> None:
        began.set()
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    async with working(store, stubborn, grace=0.1) as at:
        execution_id = at.enqueue(stubborn)
        await asyncio.wait_for(began.wait(), 10)
        at.worker.stop()
        assert await asyncio.wait_for(at.task, 10) == [execution_id]
        release.set()  # the process would end now


async def test_past_the_grace_an_attempt_is_given_back_unused(store: Store) -> None:
    seen: list[bool] = []
    began = asyncio.Event()

    @job(id="endless")
    async def endless(ctx: JobContext) -> None:
        began.set()
        try:
            await ctx.wait_cancelled()
        finally:
            seen.append(ctx.cancelled)
        await asyncio.sleep(60)

    async with working(store, endless, grace=0.1) as at:
        execution_id = at.enqueue(endless)
        await asyncio.wait_for(began.wait(), 10)
        started = time.monotonic()
        at.worker.stop()
        await at.task
        assert time.monotonic() - started < 3
    record = detail(store, execution_id)
    assert (record.execution.status, record.execution.attempt) == ("queued", 1)
    assert record.execution.reason == "drained"
    assert record.attempts == ()


async def test_a_thread_that_does_not_end_is_told_and_left_to_the_end_of_the_process(
    store: Store,
) -> None:
    began, release = threading.Event(), threading.Event()

    @job(id="stuck")
    def stuck(ctx: JobContext) -> None:
        began.set()
        release.wait(30)

    async with working(store, stuck, grace=0.1) as at:
        execution_id = at.enqueue(stuck)
        await eventually_async(began.is_set)
        at.worker.stop()
        assert await at.task == [execution_id]
        # The process would end now; here its thread must.
        release.set()


async def test_a_worker_that_was_given_up_drops_what_it_runs_and_ends(store: Store) -> None:
    started = asyncio.Event()
    ended: list[str] = []

    @job(id="long")
    async def long(ctx: JobContext) -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("long")

    async with working(store, long, heartbeat=0.1) as at:
        at.enqueue(long)
        await started.wait()
        run(store, "DELETE FROM netscript_workers WHERE id = :id", id=at.worker.id)
        with pytest.raises(WorkerFencedError):
            await at.task
    assert ended == ["long"]


async def test_what_a_dead_worker_left_is_queued_again_within_a_second(store: Store) -> None:
    @job(id="quick")
    async def quick(ctx: JobContext) -> None: ...

    async with working(store, quick, topics=("other",)) as at:
        dead = Hand(store, ["quick"])
        line = Lifeline(folder(store.parsed_url), dead.id)
        dead.register(lease=3600, lifeline=line.path)
        execution_id = at.enqueue(quick)
        assert dead.claim_one().id == execution_id
        await asyncio.sleep(0.4)
        assert detail(store, execution_id).execution.status == "running"
        os.close(line.fileno())  # what the kernel does when the process dies
        started = time.monotonic()
        told = await at.ended(execution_id, "queued")
        assert time.monotonic() - started < 1.0
        assert told.execution.reason == "rescued"


async def test_strangers_are_put_aside_and_come_back_with_a_worker_that_knows_them(
    store: Store,
) -> None:
    @job(id="known")
    async def known(ctx: JobContext) -> None: ...

    @job(id="strange")
    async def strange(ctx: JobContext) -> str:
        return "found"

    async with working(store, known) as at:
        execution_id = at.enqueue(strange)
        parked = "SELECT count(*) FROM netscript_executions WHERE parked"
        await eventually_async(lambda: scalar(store, parked) == 1)
        async with working(store, strange) as newcomer:
            assert (await newcomer.ended(execution_id)).execution.result == "found"
