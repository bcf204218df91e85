"""Cancelling what runs: its worker hears of it soon, wherever it runs it and however busy it is."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from netscript_workers import JobContext, Retry, Snooze, define_job_handler, job
from netscript_workers.domain import WORKER_RUNTIMES, RuntimeName
from netscript_workers.store import cancelling, leases
from netscript_workers.store.engine import Store
from tests.conformance.running import PATIENCE, working_on
from tests.kit import assert_slots_exact, detail, lose, new, scalar
from tests.working import Running, working

# A second is promised. A machine that does other things as well gets more; what hears of it only
# with the next upkeep takes longer than this.
SOON = 8.0


@job(id="endless", timeout=None)
async def endless(ctx: JobContext[dict[str, int]]) -> None:
    await ctx.report_progress(1, "runs")
    await asyncio.sleep(600)


@job(id="quick")
async def quick(ctx: JobContext[dict[str, int]]) -> None: ...


async def cancelled_soon(at: Running, given: str) -> float:
    """Wait until it is cancelled; return how long that took, in seconds."""
    began = time.monotonic()
    told = await at.ended(given, seconds=SOON)
    assert (told.execution.status, told.execution.reason) == ("cancelled", "cancelled")
    return time.monotonic() - began


@pytest.mark.parametrize("runtime", WORKER_RUNTIMES)
async def test_with_all_slots_full_it_is_heard_of_and_the_next_one_runs(
    store: Store, runtime: RuntimeName
) -> None:
    async with working_on(store, runtime, concurrency=1) as at:
        given = at.enqueue_by_name("waits", concurrency_key="k")
        await at.shows_progress(given, PATIENCE)
        after = at.enqueue_by_name("good", concurrency_key="k")
        at.cancel(given)
        took = await cancelled_soon(at, given)
        told = await at.ended(after, seconds=PATIENCE)
    assert told.execution.status == "completed"
    assert_slots_exact(store)
    print(f"{runtime}: cancelled after {took:.2f} s")


async def test_it_is_heard_of_without_a_bell(store: Store) -> None:
    async with working(store, endless, concurrency=1) as at:
        given = at.enqueue(endless)
        await at.shows_progress(given)
        cancelling.cancel(store, given)
        await cancelled_soon(at, given)


async def test_it_is_heard_of_beside_a_stream_of_ends(store: Store) -> None:
    async with working(store, endless, quick, concurrency=3) as at:
        given = at.enqueue(endless)
        await at.shows_progress(given)
        stop = asyncio.Event()

        async def stream() -> None:
            while not stop.is_set():
                at.enqueue(quick)
                await asyncio.sleep(0.01)

        task = asyncio.create_task(stream())
        at.cancel(given)
        await cancelled_soon(at, given)
        stop.set()
        await task


async def test_one_that_cleans_up_is_asked_only_once(store: Store) -> None:
    async def cleans(ctx: JobContext) -> None:
        await ctx.report_progress(1, "runs")
        try:
            await asyncio.sleep(600)
        finally:
            await asyncio.sleep(2.5)
            ctx.log.info("cleaned up")

    cleaner = define_job_handler(cleans, id="cleaner", timeout=None)
    async with working(store, cleaner) as at:
        given = at.enqueue(cleaner)
        await at.shows_progress(given)
        at.cancel(given)
        told = await at.ended(given, seconds=PATIENCE)
    assert told.execution.status == "cancelled"
    assert [line.message for line in told.logs] == ["cleaned up"]


async def _swallows(ctx: JobContext) -> str:
    await ctx.report_progress(1, "runs")
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        return "I go on"
    return "never"


async def _raises(ctx: JobContext) -> None:
    await ctx.report_progress(1, "runs")
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        raise LookupError from None


async def _snoozes(ctx: JobContext) -> None:
    await ctx.report_progress(1, "runs")
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        raise Snooze(0.01) from None


@pytest.mark.parametrize("handler", [_swallows, _raises, _snoozes])
async def test_whatever_a_handler_makes_of_it_it_is_cancelled(
    store: Store, handler: Callable[[JobContext], object]
) -> None:
    given = define_job_handler(handler, id="given", timeout=None, retry=Retry(max_attempts=5))
    async with working(store, given) as at:
        id_ = at.enqueue(given)
        await at.shows_progress(id_)
        at.cancel(id_)
        told = await at.ended(id_, "cancelled", "completed", "failed", "scheduled", seconds=SOON)
    assert (told.execution.status, told.execution.result) == ("cancelled", None)


async def test_a_handler_in_a_thread_keeps_its_slot_until_it_returns(store: Store) -> None:
    def waits(ctx: JobContext) -> None:
        ctx.report_progress(1, "runs")
        while not ctx.cancelled:
            time.sleep(0.01)
        ctx.log.info("heard")
        time.sleep(0.5)

    threaded = define_job_handler(waits, id="threaded", timeout=None)
    async with working(store, threaded, quick, concurrency=1) as at:
        given = at.enqueue(threaded)
        await at.shows_progress(given)
        after = at.enqueue(quick)
        at.cancel(given)
        told = await at.ended(given, seconds=PATIENCE)
        await at.ended(after, seconds=PATIENCE)
    assert (told.execution.status, [one.message for one in told.logs]) == ("cancelled", ["heard"])
    later = detail(store, after).execution.started_at
    assert later is not None and told.execution.finished_at is not None
    assert later >= told.execution.finished_at


async def test_a_worker_that_leaves_gives_back_what_is_to_end_as_cancelled(store: Store) -> None:
    stop = threading.Event()

    def deaf(ctx: JobContext) -> None:
        ctx.report_progress(1, "runs")
        stop.wait(PATIENCE)

    stubborn = define_job_handler(deaf, id="stubborn", timeout=None)
    async with working(store, stubborn, grace=0.1) as at:
        given = at.enqueue(stubborn)
        await at.shows_progress(given)
        at.cancel(given)
        at.worker.stop()
        left = await at.task
        assert left == [given]
        # The process would end now, and another worker find its lifeline free.
        assert leases._rescue_one(store, at.worker.id, proven=True) == [given]
        stop.set()
    assert detail(store, given).execution.status == "cancelled"
    assert scalar(store, "SELECT count(*) FROM netscript_executions") == 0


async def test_one_that_runs_alone_is_cancelled_too(store: Store) -> None:
    given = lose(store, new("waits"))
    async with working_on(store, "worker-process", concurrency=1) as at:
        await at.shows_progress(given.id, PATIENCE)
        at.cancel(given.id)
        told = await at.ended(given.id, seconds=PATIENCE)
    assert told.execution.status == "cancelled"
    assert [one.outcome for one in told.attempts] == ["lost", "lost"]
