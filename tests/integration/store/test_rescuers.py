"""Rescuers that are slow, rescuers that meet, and workers that come back from the dead."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import event

from netscript_workers.store import leases
from netscript_workers.store.engine import Store
from netscript_workers.testing import ManualClock
from tests.integration.store.scenes import no_folder
from tests.kit import Hand, detail, ended, new, put, rows, scalar, status, sweep


@contextmanager
def before_it_writes(store: Store, pause: Callable[[], object]) -> Generator[None]:
    """Pause a store's transactions before they begin: what was read by then may grow old."""

    def listen(*_: object) -> None:
        pause()

    event.listen(store.engine, "checkout", listen)
    try:
        yield
    finally:
        event.remove(store.engine, "checkout", listen)


@pytest.mark.trap("D-23")
def test_what_completes_while_a_rescuer_hesitates_stays_completed(
    store: Store, database_url: str
) -> None:
    given = new(concurrency_key="k")
    put(store, given, following := new(concurrency_key="k"))
    slow = Hand(store)
    slow.register(lease=-1)
    claim = slow.claim_one()
    rescuer = Store(database_url)
    has_selected, go_on = threading.Event(), threading.Event()

    def hesitate() -> None:
        has_selected.set()
        assert go_on.wait(20)

    with before_it_writes(rescuer, hesitate), ThreadPoolExecutor(1) as pool:
        rescue = pool.submit(leases.rescue, rescuer, new().id, no_folder())
        assert has_selected.wait(20)
        assert slow.end(claim, result='"in time"').stale == set()
        go_on.set()
        assert rescue.result(20) == []
    assert detail(store, given.id).execution.result == "in time"
    assert detail(store, given.id).attempts == ()
    assert [claim.id for claim in Hand(store).claim()] == [following.id]
    assert sweep(store) == 0
    rescuer.dispose()


@pytest.mark.trap("D-23")
@pytest.mark.postgres
def test_what_completes_between_the_statements_of_a_rescue_stays_completed(
    postgres_url: str,
) -> None:
    store, rescuer = Store(postgres_url), Store(postgres_url)
    put(store, given := new())
    slow = Hand(store)
    slow.register(lease=-1)
    claim = slow.claim_one()
    has_deleted, go_on = threading.Event(), threading.Event()

    def hesitate(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        if "losses + " in statement:
            has_deleted.set()
            assert go_on.wait(20)

    event.listen(rescuer.engine, "before_cursor_execute", hesitate)
    with ThreadPoolExecutor(1) as pool:
        rescue = pool.submit(leases.rescue, rescuer, new().id, no_folder())
        assert has_deleted.wait(20)
        assert slow.end(claim).stale == set()
        go_on.set()
        assert rescue.result(20) == []
    assert status(store, given.id) == "completed"
    rescuer.dispose()
    store.dispose()


@pytest.mark.trap("D-24")
def test_two_rescuers_that_have_both_seen_the_dead_rescue_once(
    store: Store, database_url: str
) -> None:
    given = [new() for _ in range(20)]
    put(store, *given)
    dead = Hand(store)
    dead.register(lease=-1)
    assert len(dead.claim(20)) == 20
    both = [Store(database_url) for _ in range(2)]
    meeting = threading.Barrier(2)
    first = [True, True]

    def meet(place: int) -> Callable[[], None]:
        def pause() -> None:
            if first[place]:  # when both have selected; not for what one of them does later
                first[place] = False
                meeting.wait(20)

        return pause

    with (
        before_it_writes(both[0], meet(0)),
        before_it_writes(both[1], meet(1)),
        ThreadPoolExecutor(2) as pool,
    ):
        rescues = [pool.submit(leases.rescue, one, new().id, no_folder()) for one in both]
        found = [rescue.result(20) for rescue in rescues]
    assert first == [False, False]
    assert sorted(found[0] + found[1]) == sorted(one.id for one in given)
    assert rows(store, "SELECT DISTINCT losses FROM netscript_executions") == [(1,)]
    records = "SELECT count(*) FROM netscript_execution_attempts WHERE outcome = 'lost'"
    assert scalar(store, records) == 20
    for one in both:
        one.dispose()


@pytest.mark.trap("D-22")
def test_the_result_of_a_worker_that_slept_past_its_lease_is_refused_and_frees_no_slot(
    timed_store: Store, clock: ManualClock
) -> None:
    given, following, last = (new(concurrency_key="k") for _ in range(3))
    put(timed_store, given, following, last)
    sleeper, other = Hand(timed_store), Hand(timed_store)
    sleeper.register(lease=30)
    claim = sleeper.claim_one()
    clock.advance(60)
    assert leases.rescue(timed_store, other.id, no_folder()) == [given.id]
    again = other.claim_one()
    assert (again.id, again.token > claim.token) == (given.id, True)
    other.tick(ended(again, result='"theirs"'), slots=1)  # and the next of the key begins
    assert sleeper.end(claim, result='"mine"').stale == {given.id}
    assert detail(timed_store, given.id).execution.result == "theirs"
    assert status(timed_store, following.id) == "running"
    assert Hand(timed_store).claim() == []  # nobody freed the slot a second time
    assert sweep(timed_store) == 0
    with timed_store.begin() as conn:  # by which the sleeper learns of it
        assert not leases.renew(timed_store, conn, sleeper.id, 30)


@pytest.mark.trap("D-30")
def test_a_worker_with_the_host_and_number_of_a_dead_one_is_another(
    timed_store: Store, clock: ManualClock
) -> None:
    put(timed_store, given := new())
    before, after = Hand(timed_store), Hand(timed_store)
    before.register(lease=30)
    claim = before.claim_one()
    after.register(lease=30)  # by this very process: host and number are the same
    same = "SELECT count(*) FROM netscript_workers GROUP BY host, pid"
    assert scalar(timed_store, same) == 2
    for _ in range(4):
        clock.advance(8)
        with timed_store.begin() as conn:
            assert leases.renew(timed_store, conn, after.id, 30)
    assert leases.rescue(timed_store, after.id, no_folder()) == [given.id]
    again = after.claim_one()
    assert (again.id, again.losses) == (given.id, 1)
    assert before.end(claim).stale == {given.id}
