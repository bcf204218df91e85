"""Concurrency keys and slots, as real workers keep them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url
from sqlalchemy.orm import Session

from netscript_workers import (
    JobContext,
    Retry,
    configure_sqlite,
    enqueue,
    enqueue_job,
    job,
)
from netscript_workers.store.engine import Store
from tests.integration.store.crowds import leave_notes
from tests.kit import assert_slots_exact, detail, new, put, rows, run, scalar
from tests.support import eventually_async
from tests.working import working

# Well under the first sweep, which would mend what the notes had missed.
WITHOUT_A_SWEEP = 5.0


@pytest.mark.postgres
@pytest.mark.trap("D-07")
@pytest.mark.parametrize("first", ["job", "user"])
async def test_a_job_committed_beside_the_end_of_its_keys_holder_starts_by_itself(
    postgres_url: str, first: str
) -> None:
    store, release = Store(postgres_url), asyncio.Event()
    engine = create_engine(make_url(postgres_url).set(drivername="postgresql+psycopg"))

    @job(id="keyed")
    async def keyed(ctx: JobContext) -> None:
        if ctx.payload["wait"]:
            await release.wait()

    async with working(store, keyed) as at:
        holder = at.enqueue(keyed, {"wait": True}, concurrency_key="k")
        await at.ended(holder, "running")
        with Session(engine) as session:
            action = enqueue_job(keyed, {"wait": False}, concurrency_key="k")
            (told,) = enqueue(session, action)
            if first == "job":
                release.set()
                await at.ended(holder)
                await asyncio.sleep(0.05)
            session.commit()
        committed = time.monotonic()
        if first == "user":
            await asyncio.sleep(0.05)
            release.set()
        assert (await at.ended(told.execution_id)).execution.status == "completed"
        assert time.monotonic() - committed < WITHOUT_A_SWEEP
    assert_slots_exact(store)
    engine.dispose()
    store.dispose()


@pytest.mark.trap("D-08")
async def test_on_sqlite_a_user_who_holds_everybody_up_fences_nobody_and_loses_nothing(
    sqlite_url: str,
) -> None:
    store, release = Store(sqlite_url), asyncio.Event()
    engine = create_engine(sqlite_url)
    configure_sqlite(engine)

    @job(id="keyed")
    async def keyed(ctx: JobContext) -> None:
        await release.wait()

    async with working(store, keyed, heartbeat=0.1, lease=0.4) as at:
        ids = [at.enqueue(keyed, {}, concurrency_key="k") for _ in range(3)]
        await at.ended(ids[0], "running")
        with Session(engine) as session:
            (told,) = enqueue(session, enqueue_job(keyed, {}, concurrency_key="k"))
            release.set()
            await asyncio.sleep(1.5)  # four leases
            assert detail(store, ids[0]).execution.status == "running"
            session.commit()
        for id_ in [*ids, told.execution_id]:
            assert (await at.ended(id_)).execution.status == "completed"
        assert not at.task.done()
    assert rows(store, "SELECT losses FROM netscript_execution_history") == [(0,)] * 4
    assert_slots_exact(store)
    engine.dispose()
    store.dispose()


@pytest.mark.trap("D-18")
@pytest.mark.trap("D-16")
async def test_a_retry_has_the_key_it_was_enqueued_with_whatever_became_of_its_payload(
    store: Store,
) -> None:
    seen: list[tuple[int, dict[str, Any]]] = []
    living: list[str] = []

    @job(id="keyed", retry=Retry(max_attempts=3, initial_delay=0.0))
    async def keyed(ctx: JobContext[dict[str, Any]]) -> None:
        assert not living
        living.append(ctx.id)
        await asyncio.sleep(0.01)
        living.remove(ctx.id)
        seen.append((ctx.attempt, dict(ctx.payload)))
        ctx.payload["customer"] = f"changed-{ctx.attempt}"
        if ctx.payload["fails"] and ctx.attempt < 3:
            raise ValueError

    async with working(store, keyed) as one, working(store, keyed):
        payload = {"customer": "c1", "fails": True}
        key = f"customer-{payload['customer']}"
        failing = one.enqueue(keyed, payload, concurrency_key=key)
        payload["customer"] = "c2"
        easy = {"customer": "c1", "fails": False}
        others = [one.enqueue(keyed, easy, concurrency_key=key) for _ in range(3)]
        for id_ in [failing, *others]:
            told = (await one.ended(id_)).execution
            assert (told.status, told.concurrency_key) == ("completed", "customer-c1")
    mine = [(attempt, found) for attempt, found in seen if found["fails"]]
    assert mine == [(n, {"customer": "c1", "fails": True}) for n in (1, 2, 3)]
    assert_slots_exact(store)


@pytest.mark.trap("D-20")
async def test_a_worker_never_has_more_than_its_slots(store: Store) -> None:
    release = asyncio.Event()
    most: list[int] = []
    count = "SELECT count(*) FROM netscript_executions WHERE status = 'running'"

    @job(id="long")
    async def long(ctx: JobContext) -> None:
        await release.wait()

    @job(id="short")
    async def short(ctx: JobContext) -> None:
        # The running rows, seen from within: this one, and whatever else was claimed.
        most.append(await asyncio.to_thread(scalar, store, count))

    async with working(store, long, short, concurrency=8) as at:
        held = [at.enqueue(long) for _ in range(4)]
        for id_ in held:
            await at.ended(id_, "running")
        put(store, *(new("short") for _ in range(1000)))
        at.enqueue(short)
        await eventually_async(lambda: len(most) >= 100, 30.0, "100 short ones")
        assert scalar(store, count) <= 8
        run(store, "DELETE FROM netscript_executions WHERE status = 'queued'")
        release.set()
        for id_ in held:
            await at.ended(id_)
    assert 5 <= max(most) <= 8


async def test_a_free_key_does_not_wait_behind_the_notes_of_a_long_queue(store: Store) -> None:
    release = asyncio.Event()

    @job(id="held")
    async def held(ctx: JobContext) -> None:
        await release.wait()

    @job(id="free")
    async def free(ctx: JobContext) -> None: ...

    async with working(store, held, free) as at:
        holder = at.enqueue(held, {}, concurrency_key="k")
        await at.ended(holder, "running")
        leave_notes(store, "k", 10_000)
        waits = at.enqueue(free, {}, concurrency_key="other")
        await eventually_async(
            lambda: detail(store, waits).execution.status == "completed", 6.0, "the free one"
        )
        release.set()
        await at.ended(holder)
