"""Group commit: many to a transaction, and nobody pays for a neighbour."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event, text

from netscript_workers.domain import NewExecution
from netscript_workers.errors import PayloadInvalidError, StoreUnavailableError
from netscript_workers.store import outbox
from netscript_workers.store.engine import Store
from netscript_workers.store.gather import Gatherer
from netscript_workers.store.outbox import Submission
from netscript_workers.store.writer import Writer
from tests.kit import new, put, scalar


@pytest.fixture
def writer(store: Store) -> Iterator[Writer]:
    made = Writer(store, patience=2.0)
    made.start()
    yield made
    made.close()


def one(*executions: NewExecution) -> Submission:
    return Submission(executions=executions)


def test_what_waits_while_a_commit_runs_shares_the_next(store: Store) -> None:
    commits: list[object] = []
    event.listen(store.engine, "commit", commits.append)
    writer = Writer(store)
    futures = [writer.submit(one(new())) for _ in range(200)]
    writer.start()
    for future in futures:
        assert len(future.result(10).enqueued) == 1
    writer.close()
    assert len(commits) == 1


async def test_a_submission_is_durable_when_store_returns(store: Store, writer: Writer) -> None:
    told = await asyncio.gather(*(writer.store(one(new())) for _ in range(30)))
    assert len({receipt.enqueued[0].execution_id for receipt in told}) == 30
    assert scalar(store, "SELECT count(*) FROM netscript_executions") == 30


def test_one_bad_item_does_not_fail_its_neighbours(store: Store) -> None:
    writer = Writer(store)
    same = new()
    good = [writer.submit(one(new())) for _ in range(20)]
    bad = writer.submit(one(same, same))  # breaks the primary key
    more = [writer.submit(one(new())) for _ in range(20)]
    writer.start()
    for future in good + more:
        assert future.result(10).enqueued
    with pytest.raises(PayloadInvalidError):
        bad.result(10)
    writer.close()
    assert scalar(store, "SELECT count(*) FROM netscript_executions") == 40


@pytest.mark.trap("D-91")
@pytest.mark.postgres
def test_an_open_transaction_stalls_only_who_needs_its_key(postgres_url: str) -> None:
    store = Store(postgres_url)
    writer = Writer(store, patience=10.0)
    writer.start()
    try:
        with store.engine.connect() as users, users.begin() as transaction:
            outbox.store(
                users, store.dialect, [one(new(idempotency_key="k"))], now=store.now(users)
            )
            waiting = writer.submit(one(new(idempotency_key="k")))
            started = time.monotonic()
            others = [writer.submit(one(new(idempotency_key=f"{n}"))) for n in range(50)]
            for future in others:
                assert not future.result(5).enqueued[0].duplicate
            assert time.monotonic() - started < 2.0
            assert not waiting.done()
            transaction.commit()
        assert waiting.result(5).enqueued[0].duplicate
    finally:
        writer.close()
        store.dispose()


@pytest.mark.trap("D-91")
@pytest.mark.postgres
def test_who_waits_too_long_for_a_key_is_told_to_try_again(postgres_url: str) -> None:
    store = Store(postgres_url)
    writer = Writer(store, patience=0.3)
    writer.start()
    try:
        with store.engine.connect() as users, users.begin():
            outbox.store(
                users, store.dialect, [one(new(idempotency_key="k"))], now=store.now(users)
            )
            with pytest.raises(StoreUnavailableError):
                writer.submit(one(new(idempotency_key="k"))).result(5)

            async def ask() -> None:
                await writer.store(one(new(idempotency_key="k")))

            with pytest.raises(StoreUnavailableError):
                asyncio.run(ask())
    finally:
        writer.close()
        store.dispose()


@pytest.mark.trap("D-92")
@pytest.mark.parametrize("_round", range(3))
def test_two_servers_with_keys_in_opposite_order_never_deadlock(
    database_url: str, _round: int
) -> None:
    def serve(names: list[str]) -> int:
        store = Store(database_url)
        writer = Writer(store)
        futures = [
            writer.submit(one(*(new(idempotency_key=f"{n}-{name}") for name in names)))
            for n in range(60)
        ]
        writer.start()
        fresh = sum(not e.duplicate for future in futures for e in future.result(20).enqueued)
        writer.close()
        store.dispose()
        return fresh

    with ThreadPoolExecutor(2) as pool:
        counts = list(pool.map(serve, [["a", "b", "c"], ["c", "b", "a"]]))
    assert sum(counts) == 180


def test_a_closed_writer_has_stored_what_it_took_and_takes_no_more(store: Store) -> None:
    writer = Writer(store)
    futures = [writer.submit(one(new())) for _ in range(10)]
    writer.start()
    writer.close()
    assert all(future.done() for future in futures)
    with pytest.raises(StoreUnavailableError):
        writer.submit(one(new()))


def test_a_database_that_is_gone_is_unavailable(tmp_path_factory: pytest.TempPathFactory) -> None:
    store = Store(f"sqlite:///{tmp_path_factory.mktemp('none')}/none.db")
    writer = Writer(store)
    writer.start()
    with pytest.raises(StoreUnavailableError) as told:
        writer.submit(one(new(payload='{"secret":"geheim"}'))).result(5)
    writer.close()
    store.dispose()
    assert "geheim" not in str(told.value)


def test_a_locked_sqlite_file_is_unavailable_after_its_patience(sqlite_url: str) -> None:
    blocking, store = Store(sqlite_url), Store(sqlite_url, patience=0.2)
    writer = Writer(store)
    writer.start()
    with blocking.begin() as conn:
        conn.execute(text("DELETE FROM netscript_changes"))
        with pytest.raises(StoreUnavailableError):
            writer.submit(one(new())).result(5)
    assert writer.submit(one(new())).result(5).enqueued
    writer.close()
    store.dispose()
    blocking.dispose()


def test_the_bell_rings_after_the_commit(store: Store) -> None:
    seen: list[int] = []
    count = "SELECT count(*) FROM netscript_executions"
    writer = Writer(store, on_commit=lambda: seen.append(scalar(store, count)))
    writer.start()
    writer.submit(one(new())).result(5)
    writer.close()
    assert seen == [1]


def test_a_gatherer_gives_what_waited_in_one_call_and_carries_errors() -> None:
    batches: list[list[int]] = []

    def work(batch: list[int]) -> list[int | BaseException]:
        batches.append(batch)
        if 13 in batch:
            raise ValueError("unlucky")
        return [ValueError("odd") if n % 2 else n * 10 for n in batch]

    gatherer: Gatherer[int, int] = Gatherer("test", work, max_batch=4)
    futures = [gatherer.submit(n) for n in range(6)]
    gatherer.start()
    assert futures[2].result(5) == 20
    with pytest.raises(ValueError, match="odd"):
        futures[3].result(5)
    assert batches[0] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="unlucky"):
        gatherer.submit(13).result(5)
    gatherer.close()


async def test_a_caller_that_was_cancelled_is_passed_over() -> None:
    release = threading.Event()

    def work(batch: list[int]) -> list[int | BaseException]:
        release.wait(5)
        return [*batch]

    gatherer: Gatherer[int, int] = Gatherer("test", work)
    gatherer.start()
    first = asyncio.ensure_future(gatherer.call(1))
    second = asyncio.ensure_future(gatherer.call(2))
    await asyncio.sleep(0)
    first.cancel()
    release.set()
    assert await second == 2
    assert first.cancelled()
    gatherer.close()


def test_put_is_seen_by_readers_at_once(store: Store) -> None:
    for n in range(5):
        put(store, new())
        assert scalar(store, "SELECT count(*) FROM netscript_executions") == n + 1
