"""The races of `make chaos`, a few rounds of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Connection, event

from netscript_workers.store import gates, sweeping
from netscript_workers.store.engine import Store
from tests.chaos.races import claim_one_key_at_once, enqueue_crosswise
from tests.kit import Hand, ended, new, put, run, sweep, waiting_for_locks
from tests.support import eventually


def once(conn: Connection, moment: str, part: str, do: Callable[[], object]) -> None:
    """Do something right `before` or `after` the first statement with this part."""
    done: list[str] = []

    def look(*args: Any) -> None:
        if part in args[2] and not done:
            done.append(part)
            do()

    event.listen(conn, f"{moment}_cursor_execute", look)


@pytest.mark.trap("D-02")
@pytest.mark.trap("D-16")
def test_of_workers_that_claim_one_key_at_the_same_instant_one_gets_it(database_url: str) -> None:
    claim_one_key_at_once(database_url, rounds=10)


@pytest.mark.trap("D-09")
@pytest.mark.trap("D-16")
def test_users_who_name_keys_in_opposite_order_do_not_deadlock(database_url: str) -> None:
    enqueue_crosswise(database_url, rounds=20)


@pytest.mark.postgres
@pytest.mark.parametrize("known", ["job-a", "job-z"])
def test_ticks_that_make_gates_at_the_same_instant_do_not_deadlock(
    postgres_url: str, known: str
) -> None:
    store = Store(postgres_url)
    both, beside = {"job-a", "job-z"}, list[Future[set[str]]]()

    def lock(wanted: set[str]) -> set[str]:
        with store.begin() as conn:
            return set(gates.lock_gates(conn, store.dialect, wanted))

    with ThreadPoolExecutor(1) as others:

        def meet() -> None:
            beside.append(others.submit(lock, both))
            eventually(lambda: waiting_for_locks(store), what="another that waits for the new gate")

        with store.begin() as conn:
            making = "INSERT INTO netscript_job_gates"
            once(conn, "before", making, lambda: lock({known}))  # neither was there a moment ago
            once(conn, "after", making, meet)
            assert gates.lock_gates(conn, store.dialect, both).keys() == both
        assert beside[0].result(20) == both
    store.dispose()


@pytest.mark.postgres
def test_the_sweep_beside_a_tick_that_makes_a_slot_does_not_deadlock(postgres_url: str) -> None:
    store = Store(postgres_url)
    put(store, new(concurrency_key="k-z"))
    hand = Hand(store)
    claim = hand.claim_one()
    put(store, new(concurrency_key="k-a"))
    with ThreadPoolExecutor(1) as others:

        def tick() -> None:
            beside.append(others.submit(hand.tick, ended(claim), slots=5))
            eventually(lambda: waiting_for_locks(store), what="a tick that waits for a slot")

        beside: list[Future[Any]] = []
        with store.begin() as conn:
            once(conn, "before", "s.used > 0 AND NOT EXISTS", tick)
            sweeping.sweep_keys(conn, store.dialect, "", store.now(conn))
        assert len(beside[0].result(20).claimed) == 1
    store.dispose()


def test_what_nobody_has_looked_at_yet_is_not_overlooked(store: Store) -> None:
    put(store, new(concurrency_key="k"))
    assert sweep(store) == 0
    run(store, "DELETE FROM netscript_admissions")
    assert [sweep(store), sweep(store)] == [1, 0]
    assert len(Hand(store).claim()) == 1


@pytest.mark.trap("D-15")
def test_what_waits_in_a_paused_topic_is_not_overlooked(store: Store) -> None:
    put(store, new(topic="p", concurrency_key="k"))
    run(store, "INSERT INTO netscript_topics (name, paused) VALUES ('p', :yes)", yes=True)
    assert Hand(store).claim() == []
    assert sweep(store) == 0
