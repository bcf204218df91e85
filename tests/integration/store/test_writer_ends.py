"""The writer at its edges: closing, waiting for others' keys, callers that went away."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from netscript_workers.domain import NewExecution
from netscript_workers.errors import PayloadInvalidError, StoreUnavailableError
from netscript_workers.ids import new_id
from netscript_workers.store import outbox
from netscript_workers.store.engine import Store
from netscript_workers.store.gather import Gatherer
from netscript_workers.store.idempotency import Key
from netscript_workers.store.outbox import Receipt, Submission
from netscript_workers.store.writer import PATIENT_CONNECTIONS, Writer
from tests.kit import new, put, run, scalar, waiting_for_locks
from tests.support import eventually

EXECUTIONS = "SELECT count(*) FROM netscript_executions"


def one(*executions: NewExecution) -> Submission:
    return Submission(executions=executions)


def keyed(key: str) -> Submission:
    return one(new(idempotency_key=key))


@contextmanager
def users_transaction(store: Store, *keys: str) -> Generator[None]:
    """Hold keys in an open transaction, as a user's own might; roll back at the end."""
    with store.engine.connect() as conn:
        submissions = [keyed(key) for key in keys]
        outbox.store(conn, store.dialect, submissions, now=store.now(conn))
        yield
        conn.rollback()


@contextmanager
def writing(store: Store, patience: float = 10.0) -> Generator[Writer]:
    writer = Writer(store, patience=patience)
    writer.start()
    try:
        yield writer
    finally:
        writer.close()


def counting_commits(store: Store) -> list[object]:
    commits: list[object] = []
    event.listen(store.engine, "commit", commits.append)
    return commits


def test_what_comes_while_a_commit_runs_goes_into_the_next_one(store: Store) -> None:
    going, go_on = threading.Event(), threading.Event()

    def slow(_conn: object) -> None:
        going.set()
        go_on.wait(5)

    commits = counting_commits(store)
    event.listen(store.engine, "commit", slow)
    with writing(store) as writer:
        first = writer.submit(one(new()))
        assert going.wait(5)
        others = [writer.submit(one(new())) for _ in range(100)]
        assert not first.done()
        go_on.set()
        for future in [first, *others]:
            future.result(5)
    assert len(commits) == 2
    assert scalar(store, EXECUTIONS) == 101


def test_a_lonely_submission_does_not_wait_for_company(store: Store) -> None:
    with writing(store) as writer:
        writer.submit(one(new())).result(5)
        started = time.monotonic()
        for _ in range(5):
            writer.submit(one(new())).result(5)
        assert time.monotonic() - started < 1.0


def test_bad_items_cost_few_commits_and_each_gets_its_own_answer(store: Store) -> None:
    same = new()
    given = [one(same, same) if n in {3, 77} else one(new()) for n in range(128)]
    commits = counting_commits(store)
    writer = Writer(store)
    futures = [writer.submit(item) for item in given]
    writer.start()
    failed = [n for n, future in enumerate(futures) if future.exception(10) is not None]
    writer.close()
    assert failed == [3, 77]
    assert isinstance(futures[3].exception(), PayloadInvalidError)
    assert len(commits) < 20  # by halves, not one by one
    assert scalar(store, EXECUTIONS) == 126


@pytest.mark.trap("D-45")
def test_a_key_that_stands_twice_in_a_batch_has_one_owner(store: Store) -> None:
    writer = Writer(store)
    futures = [writer.submit(keyed("k")) for _ in range(50)]
    writer.start()
    told = [future.result(10).enqueued[0] for future in futures]
    writer.close()
    assert [one.duplicate for one in told] == [False] + [True] * 49
    assert len({one.execution_id for one in told}) == 1


def test_a_guard_that_stands_twice_in_a_batch_has_one_owner(store: Store) -> None:
    def delivery() -> Submission:
        return Submission(executions=(new(),), guard=Key("trigger:t", "k", "f", new_id()))

    writer = Writer(store)
    futures = [writer.submit(delivery()) for _ in range(20)]
    writer.start()
    told = [future.result(10) for future in futures]
    writer.close()
    assert sum(receipt.duplicate_of is None for receipt in told) == 1
    assert scalar(store, EXECUTIONS) == 1


@pytest.mark.postgres
def test_who_waited_for_a_key_that_was_given_up_gets_it(postgres_url: str) -> None:
    store = Store(postgres_url)
    with writing(store) as writer:
        with users_transaction(store, "k"):
            waiting = writer.submit(keyed("k"))
            writer.submit(keyed("other")).result(5)
            assert not waiting.done()
        assert not waiting.result(5).enqueued[0].duplicate
    store.dispose()


@pytest.mark.postgres
def test_more_who_wait_than_there_are_patient_connections_stall_nobody_else(
    postgres_url: str,
) -> None:
    store = Store(postgres_url, pool_size=PATIENT_CONNECTIONS + 3)
    keys = [str(n) for n in range(PATIENT_CONNECTIONS * 3)]
    with writing(store) as writer:
        with users_transaction(store, *keys):
            waiting = [writer.submit(keyed(key)) for key in keys]
            started = time.monotonic()
            for n in range(10):
                writer.submit(keyed(f"free-{n}")).result(5)
            assert time.monotonic() - started < 3.0
            assert not any(future.done() for future in waiting)
        for future in waiting:
            assert not future.result(5).enqueued[0].duplicate
    store.dispose()


@pytest.mark.postgres
async def test_closing_while_one_waits_for_a_key_answers_it(postgres_url: str) -> None:
    store = Store(postgres_url)
    writer = Writer(store, patience=0.5)
    writer.start()
    with users_transaction(store, "k"):
        waiting = asyncio.ensure_future(writer.store(keyed("k")))
        await asyncio.sleep(0)
        writer.close()
        with pytest.raises(StoreUnavailableError):
            await waiting
    store.dispose()


@pytest.mark.postgres
def test_closing_waits_for_one_that_waits_for_a_key(postgres_url: str) -> None:
    store = Store(postgres_url)
    writer = Writer(store, patience=10.0)
    writer.start()
    with ThreadPoolExecutor(1) as pool:
        with users_transaction(store, "k"):
            waiting = writer.submit(keyed("k"))
            eventually(lambda: waiting_for_locks(store), what="the item to wait")
            closing = pool.submit(writer.close)
        closing.result(10)
    assert waiting.result(0).enqueued
    store.dispose()


async def test_a_caller_that_went_away_does_not_take_its_submission_with_it(store: Store) -> None:
    release = threading.Event()

    def slow(_conn: object) -> None:
        release.wait(5)

    event.listen(store.engine, "commit", slow)
    with writing(store) as writer:
        gone = asyncio.ensure_future(writer.store(one(new())))
        stays = asyncio.ensure_future(writer.store(one(new())))
        await asyncio.sleep(0)
        gone.cancel()
        release.set()
        assert (await stays).enqueued
        with pytest.raises(asyncio.CancelledError):
            await gone
    assert scalar(store, EXECUTIONS) == 2


def test_a_database_that_comes_back_is_written_to_again(store: Store) -> None:
    down = True

    def break_off(*_: object) -> None:
        if down:
            raise OperationalError("BEGIN", None, ConnectionError("gone"))

    event.listen(store.engine, "begin", break_off)
    with writing(store) as writer:
        with pytest.raises(StoreUnavailableError):
            writer.submit(one(new())).result(5)
        down = False
        assert writer.submit(one(new())).result(5).enqueued
    assert scalar(store, EXECUTIONS) == 1


@pytest.mark.postgres
def test_connections_that_were_cut_cost_nobody_an_answer(postgres_url: str) -> None:
    store = Store(postgres_url)
    with writing(store) as writer:
        writer.submit(one(new())).result(5)
        other = Store(postgres_url)
        run(
            other,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        other.dispose()
        assert writer.submit(one(new())).result(5).enqueued
    store.dispose()


def test_many_threads_and_loops_may_write_at_once(store: Store) -> None:
    def thread(n: int) -> list[Receipt]:
        return [writer.submit(keyed(f"{n}-{m}")).result(10) for m in range(5)]

    def loop(n: int) -> list[Receipt]:
        async def work() -> list[Receipt]:
            given = [writer.store(keyed(f"loop-{n}-{m}")) for m in range(5)]
            return list(await asyncio.gather(*given))

        return asyncio.run(work())

    with writing(store) as writer, ThreadPoolExecutor(12) as pool:
        told: list[Future[list[Receipt]]] = []
        for n in range(6):
            told += [pool.submit(thread, n), pool.submit(loop, n)]
        receipts = [receipt for future in told for receipt in future.result(20)]
    assert len({receipt.enqueued[0].execution_id for receipt in receipts}) == 60
    assert scalar(store, EXECUTIONS) == 60


def test_nothing_is_written_for_an_empty_submission(store: Store) -> None:
    with writing(store) as writer:
        assert writer.submit(one()).result(5) == Receipt()
    assert scalar(store, "SELECT count(*) FROM netscript_changes") == 0


def test_a_writer_that_was_never_started_may_be_closed(store: Store) -> None:
    writer = Writer(store)
    writer.close()
    writer.close()
    with pytest.raises(StoreUnavailableError):
        writer.submit(one(new()))


def test_a_writer_beside_direct_writes_keeps_one_owner_of_each_key(store: Store) -> None:
    with writing(store) as writer, ThreadPoolExecutor(4) as pool:
        direct = [pool.submit(put, store, new(idempotency_key=str(n))) for n in range(40)]
        grouped = [writer.submit(keyed(str(n))) for n in range(40)]
        first = [future.result(20)[0] for future in direct]
        second = [future.result(20).enqueued[0] for future in grouped]
    for one_, other in zip(first, second, strict=True):
        assert one_.execution_id == other.execution_id
        assert one_.duplicate != other.duplicate


async def test_a_gatherer_whose_loop_is_gone_goes_on_for_others() -> None:
    release = threading.Event()

    def work(batch: list[int]) -> list[int | BaseException]:
        release.wait(5)
        return [n * 2 for n in batch]

    gatherer: Gatherer[int, int] = Gatherer("test", work)
    gatherer.start()

    def leave() -> None:
        async def ask() -> None:
            asking = asyncio.ensure_future(gatherer.call(1))
            await asyncio.sleep(0)
            asking.cancel()

        asyncio.run(ask())

    await asyncio.to_thread(leave)  # its loop is closed before the answer comes
    release.set()
    assert await gatherer.call(2) == 4
    gatherer.close()
