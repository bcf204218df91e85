"""Jobs with limits, as real workers keep them."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from sqlalchemy import create_engine, make_url
from sqlalchemy.orm import Session

from netscript_workers import JobContext, Retry, enqueue, enqueue_job, job
from netscript_workers.store import definitions, topics
from netscript_workers.store.engine import Store
from tests.kit import Hand, assert_gates_exact, ended, limit, new, put, rows, scalar
from tests.support import eventually_async
from tests.working import working

LEFT = "SELECT count(*) FROM netscript_executions"
STARTS = (
    "SELECT started_at FROM netscript_execution_history WHERE job_id = 'slow' ORDER BY started_at"
)


async def test_no_more_run_at_a_time_than_the_job_says_in_two_workers(store: Store) -> None:
    running, most = 0, 0

    @job(id="narrow", max_concurrency=2, retry=Retry(max_attempts=5, initial_delay=0.01))
    async def narrow(ctx: JobContext[dict[str, int]]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        if ctx.payload["n"] % 7 == 0 and ctx.attempt == 1:
            raise ValueError("once")

    @job(id="wide")
    async def wide(ctx: JobContext) -> None: ...

    definitions.register(store, [narrow, wide])
    async with working(store, narrow, wide) as one, working(store, narrow, wide):
        for number in range(60):
            key = f"k{number % 3}" if number % 2 else None
            one.enqueue(narrow, {"n": number}, concurrency_key=key)
        others = [one.enqueue(wide) for _ in range(20)]
        for other in others:
            await one.ended(other)
        assert scalar(store, LEFT) > 0  # they did not wait for the narrow ones
        await eventually_async(lambda: scalar(store, LEFT) == 0, 60, "the end of the work")
    assert most == 2
    failed = "SELECT count(*) FROM netscript_execution_history WHERE status <> 'completed'"
    assert scalar(store, failed) == 0
    assert_gates_exact(store)


@pytest.mark.trap("D-72")
async def test_what_a_rate_holds_back_starts_soon_after_it_is_due(store: Store) -> None:
    @job(id="slow", rate="5/s")
    async def slow(ctx: JobContext) -> None: ...

    definitions.register(store, [slow])
    async with working(store, slow) as one, working(store, slow):
        for _ in range(12):
            one.enqueue(slow)
        await eventually_async(lambda: scalar(store, LEFT) == 0, 60, "the end of the work")
    starts = [at for (at,) in rows(store, STARTS)]
    gaps = [later - first for first, later in pairwise(starts)]
    # On a busy machine one may start long after it was let in, and the next one soon after it.
    assert starts[-1] - starts[0] >= 1_000_000
    assert all(gap < 3_000_000 for gap in gaps), gaps


async def test_a_topic_starts_no_more_than_its_rate_in_two_workers(store: Store) -> None:
    @job(id="slow", topic="t")
    async def slow(ctx: JobContext) -> None: ...

    topics.set_rate(store, "t", "5/s")
    async with working(store, slow) as one, working(store, slow):
        for _ in range(8):
            one.enqueue(slow)
        await eventually_async(lambda: scalar(store, LEFT) == 0, 30, "the end of the work")
    starts = [at for (at,) in rows(store, STARTS)]
    gaps = [later - first for first, later in pairwise(starts)]
    assert all(199_000 < gap < 3_000_000 for gap in gaps), gaps  # exactly, by its own clock


@pytest.mark.postgres
@pytest.mark.trap("D-08")
def test_ends_do_not_wait_for_a_user_who_holds_a_limited_enqueue_open(postgres_url: str) -> None:
    @job(id="a", max_concurrency=2)
    async def a(ctx: JobContext) -> None: ...

    store = Store(postgres_url)
    definitions.register(store, [a])
    engine = create_engine(make_url(postgres_url).set(drivername="postgresql+psycopg"))
    put(store, *(new(limited="job limit", concurrency_key="k") for _ in range(10)))
    hand = Hand(store)
    with Session(engine) as session:
        (told,) = enqueue(session, enqueue_job(a, concurrency_key="k"))
        with ThreadPoolExecutor(1) as pool:

            def drain() -> int:
                count = 0
                while scalar(store, LEFT):
                    claims = hand.claim(5)
                    count += len(claims)
                    hand.tick(*map(ended, claims))
                return count

            assert pool.submit(drain).result(20) == 10
        session.commit()
    assert hand.claim_one().id == told.execution_id
    assert_gates_exact(store)
    engine.dispose()
    store.dispose()


@pytest.mark.postgres
def test_a_tick_waits_for_nobody_who_holds_one_that_waits_at_a_gate(postgres_url: str) -> None:
    """A user's transaction may hold a blocked row, to replace what it would do."""
    store = Store(postgres_url)
    limit(store, max_concurrency=3)
    held = [new(limited="job limit"), new(limited="job limit", concurrency_key="k")]
    other, free = new(concurrency_key="l"), new(limited="job limit")
    put(store, *held, other, free)
    hand = Hand(store)
    with store.begin() as conn:
        conn.exec_driver_sql(
            "SELECT 1 FROM netscript_executions WHERE limited IS TRUE AND id <> %s FOR UPDATE",
            (free.id,),
        )
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(hand.claim).result(20)
        assert {claim.id for claim in first} == {other.id, free.id}
    found: list[str] = []
    deadline = time.monotonic() + 20
    while len(found) < 2 and time.monotonic() < deadline:
        found += [claim.id for claim in hand.claim()]
    assert set(found) == {one.id for one in held}
    assert_gates_exact(store)
    store.dispose()
