"""Idempotency modes where several enqueues meet, or a user's transaction and a worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from netscript_workers import configure_sqlite, enqueue, enqueue_async, enqueue_job
from netscript_workers.domain import Enqueued, NewExecution
from netscript_workers.store import outbox
from netscript_workers.store.engine import Store
from netscript_workers.store.outbox import Submission
from tests.kit import Hand, assert_slots_exact, ended, put, status, sweep, waiting_for_locks
from tests.modes import MODES, a, again, arrive, assert_clean, payload, ready
from tests.support import eventually


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """The user's own."""
    url = make_url(database_url)
    if url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    made = create_engine(url)
    if made.dialect.name == "sqlite":
        configure_sqlite(made)
    yield made
    made.dispose()


@pytest.mark.parametrize("mode", MODES)
def test_two_enqueuers_at_the_same_instant_take_a_finished_ones_key_over_once(
    store: Store, mode: Any
) -> None:
    hand = Hand(store)
    with ThreadPoolExecutor(3) as pool:
        for n in range(8):
            arrive(store, again(mode, n))
            hand.end(hand.claim_one())
            begun = [pool.submit(arrive, store, again(mode, n)) for _ in range(3)]
            flat = [told for future in begun for told in future.result(30)]
            assert len({one.execution_id for one in flat}) == 1
            assert [one.duplicate for one in flat].count(False) == 1
            hand.end(hand.claim_one())
    assert_clean(store)


@pytest.mark.trap("D-45")
@pytest.mark.parametrize("mode", MODES)
def test_duplicates_in_one_call_follow_each_other_as_in_separate_calls(
    store: Store, mode: Any
) -> None:
    hand = Hand(store)
    (old,) = arrive(store, again(mode, 0))
    hand.end(hand.claim_one())
    told = arrive(
        store,
        again(mode, 1),
        enqueue_job(a, {}),
        again(mode, 2),
        again("once", 2),
        again(mode, 3, key="other"),
    )
    first = told[0].execution_id
    assert first != old.execution_id
    assert [one.duplicate for one in told] == [False, False, True, True, False]
    assert [told[2].execution_id, told[3].execution_id] == [first, first]
    replaced = mode == "replace"
    assert payload(store, first) == {"n": 2 if replaced else 1}
    assert (told[2].conflict, told[3].conflict) == (not replaced, not replaced)
    assert len(hand.claim()) == 3
    assert_clean(store)


def test_a_mode_is_that_of_the_later_enqueue(store: Store) -> None:
    hand = Hand(store)
    (first,) = arrive(store, again("once", 1))
    assert arrive(store, again("replace", 2))[0].execution_id == first.execution_id
    assert payload(store, first.execution_id) == {"n": 2}
    hand.end(hand.claim_one())
    assert arrive(store, again("once", 2))[0] == Enqueued(first.execution_id, duplicate=True)
    assert not arrive(store, again("while_pending", 3))[0].duplicate


@pytest.mark.parametrize("mode", MODES)
def test_with_the_users_transaction_all_of_it_is_rolled_back(
    store: Store, engine: Engine, mode: Any
) -> None:
    hand = Hand(store)
    (pending,) = arrive(store, again(mode, 0, delay=60))
    (gone,) = arrive(store, again(mode, 0, key="gone"))
    hand.end(hand.claim_one())
    with Session(engine) as session:
        told = enqueue(session, again(mode, 1), again(mode, 1, key="gone"))
        assert (told[0].execution_id, told[0].duplicate) == (pending.execution_id, True)
        assert not told[1].duplicate
        session.rollback()
    assert payload(store, pending.execution_id) == {"n": 0}
    assert arrive(store, again("once", 0, key="gone"))[0].execution_id == gone.execution_id
    assert_clean(store)


@pytest.mark.postgres
@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("waits", ["scheduled", "blocked", "queued"])
def test_a_user_who_holds_one_that_waits_stalls_no_tick_and_it_runs_afterwards(
    postgres_url: str, end: str, waits: str
) -> None:
    store, hand_store = Store(postgres_url), Store(postgres_url, patience=3)
    engine = create_engine(make_url(postgres_url).set(drivername="postgresql+psycopg"))
    hand = Hand(hand_store)
    known: dict[str, dict[str, Any]] = {
        "scheduled": {"delay": 0.2},
        "blocked": {"concurrency_key": "c"},
    }
    options = known.get(waits, {})
    (first,) = arrive(store, again("once", **options))
    (other,) = arrive(store, enqueue_job(a, {}, **options))
    assert status(store, first.execution_id) == waits
    with Session(engine) as session:
        (told,) = enqueue(session, again("rerun_if_running"))
        assert told == Enqueued(first.execution_id, duplicate=True)
        # Others pass; what is held is neither claimed nor waited for, and nobody spins for it.
        claim = eventually(lambda: hand.claim(5), what="the others' turn")[0]
        assert claim.id == other.execution_id
        done = hand.tick(ended(claim), slots=5)
        assert done.claimed == []
        assert done.next_in is None or done.next_in > 0
        getattr(session, end)()
    if waits == "blocked" and end == "rollback":
        sweep(store)
    assert [one.id for one in hand.claim()] == [first.execution_id]
    assert_slots_exact(store)
    engine.dispose()
    store.dispose()
    hand_store.dispose()


@pytest.mark.postgres
def test_an_arrival_leaves_one_that_runs_alone_and_its_end_waits_for_nobody(
    postgres_url: str,
) -> None:
    store = Store(postgres_url)
    engine = create_engine(make_url(postgres_url).set(drivername="postgresql+psycopg"))
    hand = Hand(store)
    arrive(store, again("rerun_if_running"))
    claim = hand.claim_one()
    with Session(engine) as session, ThreadPoolExecutor(1) as pool:
        (more,) = enqueue(session, again("rerun_if_running"))
        assert not more.duplicate
        assert pool.submit(hand.end, claim).result(10).stale == set()
        assert waiting_for_locks(store) == 0
        session.commit()
    assert hand.claim_one().id == more.execution_id
    engine.dispose()
    store.dispose()


@pytest.mark.postgres
@pytest.mark.trap("D-50")
@pytest.mark.parametrize("mode", MODES)
def test_under_repeatable_read_an_answer_is_right_or_an_error_that_can_be_retried(
    postgres_url: str, mode: Any
) -> None:
    store = Store(postgres_url)
    engine = create_engine(
        make_url(postgres_url).set(drivername="postgresql+psycopg"),
        isolation_level="REPEATABLE READ",
    )
    hand = Hand(store)
    (first,) = arrive(store, again(mode, 0))
    with engine.connect() as conn:
        conn.exec_driver_sql("SELECT 1 FROM netscript_executions").all()  # its snapshot is taken
        hand.end(hand.claim_one())
        (second,) = arrive(store, again(mode, 1))
        assert second.execution_id != first.execution_id
        with pytest.raises(DBAPIError) as refusal:
            enqueue(conn, again(mode, 2))
        assert getattr(refusal.value.orig, "sqlstate", "") == "40001"
    with engine.begin() as conn:
        (told,) = enqueue(conn, again(mode, 2))
    assert told.execution_id == second.execution_id
    assert_clean(store)
    engine.dispose()
    store.dispose()


def test_in_an_async_session_the_modes_are_the_same(store: Store) -> None:
    driver = "sqlite+aiosqlite" if store.is_sqlite else "postgresql+psycopg"
    made = create_async_engine(store.parsed_url.set(drivername=driver))
    if store.is_sqlite:
        configure_sqlite(made)
    (first,) = arrive(store, again("replace", 0, delay=60))

    async def replace() -> list[Enqueued]:
        async with made.begin() as conn:
            told = await enqueue_async(conn, again("replace", 1, delay=60))
        await made.dispose()
        return told

    assert asyncio.run(replace()) == [Enqueued(first.execution_id, duplicate=True)]
    assert payload(store, first.execution_id) == {"n": 1}


def test_a_jobs_actions_know_the_modes(store: Store) -> None:
    hand = Hand(store)
    (pending,) = arrive(store, again("replace", 0, delay=60))
    arrive(store, enqueue_job(a, {}))
    hand.end(hand.claim_one(), actions=(ready(again("replace", 5, delay=30)),))
    assert payload(store, pending.execution_id) == {"n": 5}


def test_once_costs_no_statement_more(store: Store) -> None:
    def statements(*executions: NewExecution) -> int:
        with store.begin() as conn:
            now = store.now(conn)
            return _count(conn, store, executions, now)

    statements(ready(again("once", key="warm")))
    plain = statements(ready(again("once", key="x")))
    assert plain == (1 if not store.is_sqlite else 2) + 1
    assert statements(ready(enqueue_job(a, {}))) == plain - 1


def _count(conn: Connection, store: Store, executions: Any, now: int) -> int:
    seen: list[str] = []

    def note(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(store.engine, "before_cursor_execute", note)
    outbox.store(conn, store.dialect, [Submission(executions=tuple(executions))], now=now)
    event.remove(store.engine, "before_cursor_execute", note)
    return len(seen)


def test_an_execution_made_late_and_stored_first_is_no_lost_key(store: Store) -> None:
    early = ready(again("while_pending", 1))
    time.sleep(0.02)
    hand = Hand(store)
    arrive(store, again("while_pending", 2))
    hand.end(hand.claim_one())
    assert put(store, early)[0].execution_id == early.id
    hand.end(hand.claim_one())
    assert_clean(store)


@pytest.mark.parametrize("key", [None, "k"])
def test_the_one_more_waits_for_a_first_one_of_another_mode_only_by_a_key_of_both(
    store: Store, key: str | None
) -> None:
    arrive(store, again("while_pending", 1, concurrency_key=key))
    hand = Hand(store)
    first = hand.claim_one()
    (told,) = arrive(store, again("rerun_if_running", 2, concurrency_key=key))
    assert [claim.id for claim in hand.claim()] == ([] if key else [told.execution_id])
    hand.end(first)
    assert_clean(store)
