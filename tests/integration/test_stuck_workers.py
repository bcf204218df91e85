"""Workers that make no progress, that wait, that are many, and that are told to leave."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from netscript_workers import JobContext, job
from netscript_workers.pump import Pump
from netscript_workers.store import leases, presence
from netscript_workers.store.engine import Store
from netscript_workers.store.wake import make_bell
from tests.integration.test_api import serving
from tests.kit import Hand, detail, new, put, rows, scalar, status
from tests.support import eventually, eventually_async
from tests.working import Running, working


@job(id="a")
async def quick(ctx: JobContext) -> str:
    return "done"


def pump_of(at: Running) -> Pump:
    assert at.worker._pump is not None
    return at.worker._pump


async def turns(store: Store, wanted: int) -> None:
    """Wait until readiness answers with this status."""
    async with serving(store, quick) as client:
        deadline = time.monotonic() + 30
        while (await client.get("/health/ready")).status_code != wanted:
            assert time.monotonic() < deadline, f"readiness never was {wanted}"
            await asyncio.sleep(0.05)


@pytest.mark.trap("D-40")
async def test_readiness_is_red_while_ticks_do_not_end_although_the_heart_beats(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    async with working(store, quick) as at:
        await turns(store, 200)
        pump = pump_of(at)
        honest = pump._probe

        def wedged() -> Any:
            release.wait(60)
            return honest()

        monkeypatch.setattr(pump, "_probe", wedged)
        wedged_at = time.monotonic()

        try:
            await turns(store, 503)
            # Two polls and a little; the rest is a busy machine's.
            assert time.monotonic() - wedged_at < 8
            beat = "SELECT heartbeat_at FROM netscript_workers"
            before = scalar(store, beat)
            assert scalar(store, "SELECT lease_until FROM netscript_workers") > before
        finally:
            release.set()
        await turns(store, 200)
        assert (await at.run(quick)).execution.result == "done"


@pytest.mark.postgres
@pytest.mark.trap("D-40")
async def test_a_lock_that_holds_up_the_claims_turns_readiness_red(postgres_url: str) -> None:
    store = Store(postgres_url)

    async with working(store, quick):
        with store.begin() as conn:
            conn.execute(text("LOCK TABLE netscript_executions IN ACCESS EXCLUSIVE MODE"))
            await turns(store, 503)
        await turns(store, 200)
    store.dispose()


@pytest.mark.trap("D-40")
async def test_a_worker_that_has_nothing_to_do_is_not_stuck(store: Store) -> None:
    async with working(store, quick) as at:
        for _ in range(20):
            assert not pump_of(at).is_stalled
            await asyncio.sleep(0.2)
        assert scalar(store, "SELECT stalled_at FROM netscript_workers") is None


@pytest.mark.trap("D-65")
async def test_a_pool_that_is_used_up_stops_neither_renewals_nor_rescue_nor_ticks(
    store: Store,
) -> None:
    mine = Store(store.parsed_url.render_as_string(hide_password=False))
    async with working(store, quick, heartbeat=0.2):
        taken = [engine.connect() for engine in (store.engine, store._reader) for _ in range(5)]
        try:
            beat = "SELECT max(heartbeat_at) FROM netscript_workers"
            before = scalar(mine, beat)
            lost = new()
            put(mine, lost)
            dead = Hand(mine)
            with mine.begin() as conn:  # so that nobody else claims it first
                conn.execute(
                    text(
                        "UPDATE netscript_executions SET status = 'running', worker_id = :worker, "
                        "token = 0 WHERE status = 'queued'"
                    ),
                    {"worker": dead.id},
                )
            await eventually_async(lambda: status(mine, lost.id) == "completed", 40, "rescue")
            await eventually_async(lambda: scalar(mine, beat) > before)
        finally:
            for connection in taken:
                connection.close()
    mine.dispose()


@pytest.mark.trap("D-61")
async def test_an_old_worker_leaves_a_job_it_lacks_to_the_new_one(store: Store) -> None:
    @job(id="x")
    async def fresh(ctx: JobContext) -> str:
        return "new code"

    async with working(store, quick) as old:
        one = new("x")
        put(store, one)
        await old.run(quick)  # it has polled, and takes what it knows
        unknown = "no live worker knows the job"
        await eventually_async(lambda: detail(store, one.id).execution.reason == unknown, 30)
        assert detail(store, one.id).execution.status == "queued"
        async with working(store, quick, fresh) as both:
            told = await both.ended(one.id, seconds=30)
            assert (told.execution.result, told.execution.worker_id) == (
                "new code",
                both.worker.id,
            )
            assert told.execution.attempt == 1


@pytest.mark.trap("D-64")
async def test_a_tick_that_fails_is_tried_again_ever_more_seldom(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with working(store, quick) as at:
        pump = pump_of(at)
        honest, tried = pump._probe, list[float]()

        def times_out() -> Any:
            tried.append(time.monotonic())
            raise OperationalError("SELECT 1", {}, TimeoutError())

        monkeypatch.setattr(pump, "_probe", times_out)

        def hurried() -> bool:
            pump.look()  # whoever rings meanwhile
            return len(tried) >= 7

        await eventually_async(hurried, 30)
        gaps = [after - before for before, after in pairwise(tried)]
        # 0.05 s, doubled each time, give or take a fifth; a busy machine makes them longer.
        assert all(gap > 0.8 * 0.05 * 2**n for n, gap in enumerate(gaps[:6]))
        monkeypatch.setattr(pump, "_probe", honest)
        assert (await at.run(quick)).execution.status == "completed"


@pytest.mark.postgres
@pytest.mark.trap("D-64")
async def test_statements_that_time_out_behind_a_lock_make_no_storm(postgres_url: str) -> None:
    store, mine = Store(postgres_url, patience=0.1), Store(postgres_url)
    async with working(store, quick) as at:
        pump = pump_of(at)
        honest, tried = pump._step, list[float]()

        def counted(held: Any) -> float:
            tried.append(time.monotonic())
            return honest(held)

        pump._step = counted  # type: ignore[method-assign]
        with mine.begin() as conn:
            conn.execute(text("LOCK TABLE netscript_executions IN ACCESS EXCLUSIVE MODE"))
            locked_at = time.monotonic()
            while time.monotonic() - locked_at < 6:  # and somebody keeps ringing
                bell = make_bell(mine.parsed_url)
                bell.ring()
                await asyncio.sleep(0.2)
                bell.close()
            # Each takes its time-out of 1.1 s, and the pauses between them grow.
            assert len([at_ for at_ in tried if at_ > locked_at]) <= 6
        put(mine, new())
        await eventually_async(
            lambda: scalar(mine, "SELECT count(*) FROM netscript_execution_history") == 1, 30
        )
    store.dispose()
    mine.dispose()


@pytest.mark.postgres
@pytest.mark.trap("D-39")
def test_five_hundred_heartbeats_are_cheap_and_wait_for_nobody(postgres_url: str) -> None:
    store = Store(postgres_url, pool_size=10)
    hands = [Hand(store) for _ in range(500)]
    for hand in hands:
        hand.register()
    waits: list[int] = []
    over = threading.Event()

    def watch() -> None:
        sql = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND wait_event_type = 'Lock'"
        )
        while not over.wait(0.05):
            waits.append(scalar(store, sql))

    def beat(mine: list[Hand], rounds: int, pause: float) -> float:
        """Renew as that many heartbeats would; return the CPU seconds that it took here."""
        engine = store.dedicated(autocommit=True)
        cpu, began = time.thread_time(), time.monotonic()
        for round_ in range(rounds):
            for place, hand in enumerate(mine):
                due = began + pause * (round_ + place / len(mine))
                time.sleep(max(0.0, due - time.monotonic()))
                with engine.connect() as conn:
                    assert leases.renew(store, conn, hand.id, 30)
        engine.dispose()
        return time.thread_time() - cpu

    def all_beat(rounds: int, pause: float) -> float:
        with ThreadPoolExecutor(4) as threads:
            return sum(threads.map(lambda lot: beat(hands[lot::4], rounds, pause), range(4)))

    def updates() -> tuple[int, int]:
        """Return how many rows were updated, and how many of them touching no index."""
        sql = (
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables "
            "WHERE relname = 'netscript_workers'"
        )
        return rows(store, sql)[0]  # type: ignore[no-any-return]

    try:
        all_beat(1, 0)  # the first round still finds the pages as full as they were made
        eventually(lambda: updates()[0] >= 500, 30)
        before = updates()
        threading.Thread(target=watch, daemon=True).start()
        cpu = all_beat(2, 5)
        over.set()
        eventually(lambda: updates()[0] >= before[0] + 1000, 30)
        updated, hot = (now - then for now, then in zip(updates(), before, strict=True))
        print(f"{updated} renewals, {hot / updated:.1%} HOT, {cpu / 10:.1%} of a core here")
        assert hot / updated > 0.9
        assert max(waits) == 0
    finally:
        over.set()
        store.dispose()


async def test_a_worker_that_is_told_to_leave_finishes_and_leaves(store: Store) -> None:
    began, release = asyncio.Event(), asyncio.Event()

    @job(id="long")
    async def long(ctx: JobContext) -> str:
        began.set()
        await release.wait()
        return "finished"

    # With its only slot taken it does not look for work; the heartbeat hears of it then.
    async with working(store, long, concurrency=1, heartbeat=0.5) as at:
        first, second = at.enqueue(long), at.enqueue(long)
        await asyncio.wait_for(began.wait(), 20)
        presence.request_drain(store, at.worker.id)
        await eventually_async(
            lambda: scalar(store, "SELECT state FROM netscript_workers") == "draining", 20
        )
        release.set()
        assert await asyncio.wait_for(at.task, 20) == []
    assert detail(store, first).execution.result == "finished"
    assert status(store, second) == "queued"


async def test_an_idle_worker_hears_within_a_poll_that_it_is_to_leave(store: Store) -> None:
    async with working(store, quick, heartbeat=60, lease=180) as at:
        presence.request_drain(store, at.worker.id)
        assert await asyncio.wait_for(at.task, 20) == []
        assert at.worker.report is not None
        assert at.worker.report.is_clean
