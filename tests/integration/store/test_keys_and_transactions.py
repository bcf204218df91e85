"""Concurrency keys where a user's transaction, a worker's end and a dead worker meet."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.orm import Session

from netscript_workers import JobContext, configure_sqlite, enqueue, enqueue_job, job
from netscript_workers.ids import new_id
from netscript_workers.store import leases
from netscript_workers.store.engine import Store
from netscript_workers.testing import ManualClock
from tests.integration.store.crowds import leave_notes
from tests.integration.store.scenes import no_folder
from tests.kit import (
    Hand,
    assert_slots_exact,
    ended,
    new,
    put,
    scalar,
    status,
    sweep,
    waiting_for_locks,
)
from tests.support import eventually


@job(id="a")
async def a(ctx: JobContext[dict[str, int]]) -> None: ...


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


def second_of_key(session: Session) -> str:
    (told,) = enqueue(session, enqueue_job(a, {}, concurrency_key="k"))
    return told.execution_id


@pytest.mark.postgres
@pytest.mark.trap("D-07")
@pytest.mark.parametrize("order", ["the end first", "the user first"])
def test_what_a_user_commits_beside_the_end_of_its_keys_holder_is_ready_after_one_look(
    postgres_url: str, order: str
) -> None:
    store = Store(postgres_url)
    engine = create_engine(make_url(postgres_url).set(drivername="postgresql+psycopg"))
    put(store, new(concurrency_key="k"))
    hand = Hand(store)
    first = hand.claim_one()
    with Session(engine) as session:
        second = second_of_key(session)
        if order == "the end first":
            assert hand.tick(ended(first), slots=5).claimed == []
            session.commit()
        else:
            session.commit()
            assert hand.claim() == []  # it is looked at, and its key is held
            assert [claim.id for claim in hand.tick(ended(first), slots=5, look=False).claimed] == [
                second
            ]
            hand.tick(slots=0)
    if order == "the end first":
        assert hand.claim_one().id == second
    assert_slots_exact(store)
    engine.dispose()
    store.dispose()


@pytest.mark.postgres
@pytest.mark.trap("D-07")
@pytest.mark.parametrize("moment", ["DELETE FROM netscript_concurrency_slots", "COMMIT"])
def test_who_looks_while_the_end_is_being_stored_lets_the_next_in(
    postgres_url: str, moment: str
) -> None:
    """The end has seen nobody waiting; the other takes the only note of who does."""
    store, slow = Store(postgres_url), Store(postgres_url)
    engine = create_engine(make_url(postgres_url).set(drivername="postgresql+psycopg"))
    put(store, new(concurrency_key="k"))
    ending, looking = Hand(slow), Hand(store)
    first = ending.claim_one()
    arrived, may_go_on = threading.Event(), threading.Event()

    def hold(*told: object) -> None:
        if len(told) == 1 or str(told[2]).startswith(moment):
            arrived.set()
            assert may_go_on.wait(20)

    hook = "commit" if moment == "COMMIT" else "before_cursor_execute"
    event.listen(slow.engine, hook, hold)
    with ThreadPoolExecutor(2) as pool:
        end = pool.submit(ending.tick, ended(first))
        assert arrived.wait(10)
        with Session(engine) as session:
            second = second_of_key(session)
            session.commit()
        look = pool.submit(looking.claim, 5)
        eventually(lambda: waiting_for_locks(store), what="the look to wait for the key's slot")
        may_go_on.set()
        assert end.result().stale == set()
        assert [claim.id for claim in look.result()] == [second]
    assert_slots_exact(store)
    engine.dispose()
    slow.dispose()
    store.dispose()


@pytest.mark.trap("D-07")
def test_ends_and_users_commits_at_the_same_instant_leave_nobody_behind(
    store: Store, engine: Engine
) -> None:
    hand = Hand(store)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(12):
            put(store, new(concurrency_key="k"))
            claim = hand.claim_one()
            barrier = threading.Barrier(2)

            def user(barrier: threading.Barrier = barrier) -> str:
                with Session(engine) as session:
                    if store.is_sqlite:  # there is one writer at a time
                        barrier.wait(10)
                    second = second_of_key(session)
                    if not store.is_sqlite:
                        barrier.wait(10)
                    session.commit()
                return second

            told = pool.submit(user)
            barrier.wait(10)
            claims = hand.tick(ended(claim), slots=5).claimed
            second = told.result()
            claims += hand.claim(5)
            assert [one.id for one in claims] == [second]
            hand.tick(*map(ended, claims))
    assert_slots_exact(store)


@pytest.mark.postgres
@pytest.mark.trap("D-08")
def test_ends_do_not_wait_for_a_user_who_holds_a_keyed_enqueue_open(postgres_url: str) -> None:
    store = Store(postgres_url)
    engine = create_engine(make_url(postgres_url).set(drivername="postgresql+psycopg"))
    put(store, *(new(concurrency_key="k") for _ in range(10)))
    hand = Hand(store)
    with Session(engine) as session:
        open_one = second_of_key(session)
        with ThreadPoolExecutor(1) as pool:

            def drain() -> int:
                count = 0
                while claims := hand.claim(5):
                    count += len(claims)
                    hand.tick(*map(ended, claims))
                return count

            assert pool.submit(drain).result(20) == 10
        assert waiting_for_locks(store) == 0
        assert_slots_exact(store)
        session.commit()
    assert hand.claim_one().id == open_one
    engine.dispose()
    store.dispose()


@pytest.mark.trap("D-12")
@pytest.mark.trap("D-16")
def test_one_that_runs_for_ten_leases_stays_the_only_one_of_its_key(
    timed_store: Store, clock: ManualClock
) -> None:
    put(timed_store, *(new(concurrency_key="k") for _ in range(3)))
    patient, other = Hand(timed_store), Hand(timed_store)
    for hand in (patient, other):
        hand.register(lease=30)
    claim = patient.claim_one()
    for _ in range(11):
        clock.advance(29)
        with timed_store.begin() as conn:
            for hand in (patient, other):
                assert leases.renew(timed_store, conn, hand.id, 30)
        assert leases.rescue(timed_store, other.id, no_folder()) == []
        assert sweep(timed_store) == 0
        assert other.claim() == []
    assert patient.end(claim).stale == set()
    assert len(other.claim()) == 1
    assert_slots_exact(timed_store)


@pytest.mark.trap("D-13")
@pytest.mark.trap("D-16")
def test_keys_that_a_dead_worker_held_are_free_after_its_rescue(
    timed_store: Store, clock: ManualClock
) -> None:
    first = [new(concurrency_key=f"k{n}") for n in range(5)]
    put(timed_store, *first, *(new(concurrency_key=f"k{n}") for n in range(5)))
    dead, other = Hand(timed_store), Hand(timed_store)
    dead.register(lease=30)
    assert len(dead.claim(20)) == 5
    assert other.claim(20) == []
    clock.advance(31)
    rescued = leases.rescue(timed_store, new_id(), no_folder())
    assert sorted(rescued) == sorted(one.id for one in first)
    assert_slots_exact(timed_store)
    again = other.claim(20)
    assert sorted(claim.id for claim in again) == sorted(one.id for one in first)
    assert len(other.tick(*map(ended, again), slots=20).claimed) == 5
    assert_slots_exact(timed_store)


@pytest.mark.trap("D-13")
def test_a_rescue_beside_others_who_wait_for_the_same_keys_locks_nobody_out(store: Store) -> None:
    keys = [f"k{n}" for n in range(5)]
    put(store, *(new(concurrency_key=key) for key in keys for _ in range(4)))
    dead = Hand(store)
    dead.register(lease=-1)
    assert len(dead.claim(20)) == 5

    def rescue() -> int:
        return len(leases.rescue(store, new_id(), no_folder()))

    def work(hand: Hand) -> int:
        count = 0
        while scalar(store, "SELECT count(*) FROM netscript_executions"):
            claims = hand.claim(3)
            count += len(claims)
            hand.tick(*map(ended, claims))
        return count

    workers = [Hand(store) for _ in range(2)]
    for hand in workers:
        hand.register(lease=3600)
    with ThreadPoolExecutor(4) as pool:
        counts = [pool.submit(work, hand) for hand in workers]
        rescues = [pool.submit(rescue) for _ in range(2)]
        assert sum(found.result(30) for found in rescues) == 5
        assert sum(found.result(30) for found in counts) == 20
    assert_slots_exact(store)


def test_a_note_behind_a_long_queue_of_one_key_is_reached_without_another_bell(
    store: Store,
) -> None:
    """One tick takes so many notes at a time, and says that there are more."""
    leave_notes(store, "k", 1100)
    free = new(concurrency_key="free")
    put(store, free)
    hand = Hand(store)
    looks = 0
    while hand.tick(slots=0).more:
        looks += 1
    assert looks == 2
    assert status(store, free.id) == "queued"
