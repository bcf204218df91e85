"""Batches from where users make them: a webhook, a transaction of theirs, a worker's own job."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from netscript_triggers import WebhookEvent, enqueue_batch, enqueue_job
from netscript_workers import configure_sqlite, enqueue
from netscript_workers.errors import JobNotFoundError
from netscript_workers.store.definitions import register
from netscript_workers.store.engine import Store
from tests.batching import a, b, batch_of, callbacks, counted, drain
from tests.edge import open_edge, trigger
from tests.kit import Hand, detail, scalar
from tests.modes import assert_clean
from tests.support import eventually_async
from tests.working import working


def three(event: WebhookEvent) -> list[Any]:
    return [enqueue_job(a, {"n": 9}), batch_of(2)]


async def test_a_webhook_answers_with_the_members_and_its_callback_belongs_to_the_event(
    store: Store,
) -> None:
    async with open_edge(store, trigger(three)) as edge:
        told = (await edge.post({"order": 1})).json()
        assert (told["status"], len(told["executions"])) == ("completed", 3)
        again = (await edge.post({"order": 1})).json()
        assert (again["duplicate"], again["executions"]) == (True, told["executions"])
    ran = drain(Hand(store))
    assert sorted(ran[:3]) == sorted(told["executions"])
    assert len(ran) == 4
    record = detail(store, ran[3]).execution
    assert (record.job_id, record.correlation_id) == ("b", told["event_id"])
    assert counted(store) == [(2, 2, True)]
    assert_clean(store)


async def test_in_background_dispatch_the_batch_is_stored_with_its_event(store: Store) -> None:
    async with open_edge(store, trigger(three, dispatch="background"), process=True) as edge:
        told = (await edge.post({"order": 1})).json()
        await eventually_async(lambda: edge.count("batches"))
        assert len(edge.event(told["event_id"]).event.executions) == 3
    drain(Hand(store))
    assert counted(store) == [(2, 2, True)]


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_batch_lives_or_goes_with_the_users_transaction(store: Store, end: str) -> None:
    url = store.parsed_url
    engine = create_engine(url if store.is_sqlite else url.set(drivername="postgresql+psycopg"))
    if store.is_sqlite:
        configure_sqlite(engine)
    register(store, [a, b])
    named = enqueue_batch([enqueue_job("a", {"n": 1})], enqueue_job("b", {"all": 1}))
    with Session(engine) as session:
        told = enqueue(session, enqueue_job(a, {"n": 0}), named, batch_of(0), batch_of(2))
        assert len(told) == 4
        with pytest.raises(JobNotFoundError):
            enqueue(session, enqueue_batch([], enqueue_job("unknown")))
        getattr(session, end)()
    engine.dispose()
    drain(Hand(store))
    if end == "rollback":
        assert counted(store) == []
        assert scalar(store, "SELECT count(*) FROM netscript_execution_history") == 0
        return
    assert counted(store) == [(1, 1, True), (0, 0, True), (2, 2, True)]
    assert sorted(callbacks(store)) == ['{"all":0}', '{"all":1}', '{"all":2}']
    assert_clean(store)


async def test_a_worker_runs_the_callback_without_being_told_again(store: Store) -> None:
    async with working(store, a, b, concurrency=3) as at:
        del at
        engine = create_engine(
            store.parsed_url
            if store.is_sqlite
            else store.parsed_url.set(drivername="postgresql+psycopg")
        )
        if store.is_sqlite:
            configure_sqlite(engine)
        with Session(engine) as session:
            enqueue(session, *(batch_of(7) for _ in range(5)))
            session.commit()
        engine.dispose()
        sql = "SELECT count(*) FROM netscript_execution_history WHERE job_id = 'b'"
        await eventually_async(lambda: scalar(store, sql) == 5, 20)
    assert counted(store) == [(7, 7, True)] * 5
    assert_clean(store)
