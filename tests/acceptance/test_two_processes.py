"""What takes two processes to be seen: one enqueues and the other starts, both accept the same."""

from __future__ import annotations

import asyncio
import statistics
import time
from datetime import datetime
from pathlib import Path

import httpx
import pytest
from sqlalchemy import create_engine, make_url

from netscript_workers import JobContext, configure_sqlite, enqueue, enqueue_job, job
from netscript_workers.store.engine import Store
from tests.chaos.kills import Order, Servers, project
from tests.kit import detail, new, put, rows, scalar
from tests.support import Process, eventually

# What a hint may take on a busy machine, and what is looked for without one.
SOON, LOOKED_FOR = 2.0, 5.0
PATIENCE = 60.0


@job(id="work")
async def work(ctx: JobContext[dict[str, float]]) -> None: ...


@pytest.mark.trap("D-54")
def test_an_idle_worker_starts_what_another_process_enqueues_soon(
    database_url: str, tmp_path: Path
) -> None:
    store, url = Store(database_url), make_url(database_url)
    if not store.is_sqlite:
        url = url.set(drivername="postgresql+psycopg")
    engine = create_engine(url)
    if store.is_sqlite:
        configure_sqlite(engine)
    environment = {"NETSCRIPT_DATABASE_URL": database_url, "CHAOS_RECORD": "/dev/null"}
    command = ("-m", "netscript_triggers", "worker", "--log-level", "error")
    with Process(*command, cwd=project(tmp_path), env=environment) as worker:
        registered = "SELECT count(*) FROM netscript_workers"
        eventually(lambda: scalar(store, registered), PATIENCE, "the worker")
        (first,) = put(store, new("work", '{"seconds": 0}'))
        _waited(store, first.execution_id)
        time.sleep(1.5)  # until its polls are those of an idle worker

        rung: list[float] = []
        for _ in range(5):
            with engine.begin() as conn:
                (told,) = enqueue(conn, enqueue_job(work, {"seconds": 0.0}))
            rung.append(_waited(store, told.execution_id))
        unrung: list[float] = []
        for _ in range(3):
            (told,) = put(store, new("work", '{"seconds": 0}'))  # rings no bell
            unrung.append(_waited(store, told.execution_id))
        assert worker.terminate() == 0
    engine.dispose()
    store.dispose()
    assert statistics.median(rung) < SOON
    assert statistics.median(unrung) < LOOKED_FOR


def _waited(store: Store, execution_id: str) -> float:
    """Return the seconds from enqueue to start, once it has started."""

    def started() -> datetime | None:
        return detail(store, execution_id).execution.started_at

    at = eventually(started, PATIENCE, "its start")
    assert at is not None
    return (at - detail(store, execution_id).execution.created_at).total_seconds()


@pytest.mark.trap("D-43")
def test_fifty_identical_deliveries_to_two_servers_are_one_event(
    database_url: str, tmp_path: Path
) -> None:
    store, servers = Store(database_url), Servers(project(tmp_path), database_url)
    order = Order("order-1", actions=3)

    async def deliver() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=50)
        async with httpx.AsyncClient(timeout=30, trust_env=False, limits=limits) as client:
            posts = [
                client.post(
                    f"{servers.urls[n % 2]}/webhooks/orders",
                    content=order.body,
                    headers=order.headers,
                )
                for n in range(50)
            ]
            return await asyncio.gather(*posts)

    try:
        for number in range(2):
            servers.wait(number)
        answers = asyncio.run(deliver())
    finally:
        servers.stop()
    assert {answer.status_code for answer in answers} == {202}, answers
    told = [answer.json() for answer in answers]
    assert sum(not one["duplicate"] for one in told) == 1
    assert len({(one["event_id"], *one["executions"]) for one in told}) == 1
    stored = rows(store, "SELECT CAST(id AS text) FROM netscript_executions")
    assert sorted(told[0]["executions"]) == sorted(id_ for (id_,) in stored)
    store.dispose()
