"""What becomes of a second enqueue with a key: `while_pending`, `replace`, `rerun_if_running`."""

from __future__ import annotations

import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from netscript_workers import enqueue_job
from netscript_workers.domain import Enqueued, Reason, Verdict
from netscript_workers.store import retries
from netscript_workers.store.engine import Store
from netscript_workers.testing import ManualClock
from tests.kit import Hand, assert_slots_exact, ended, rows, scalar, status
from tests.modes import a, again, arrive, assert_clean
from tests.support import eventually

# While pending.


@pytest.mark.parametrize("options", [{}, {"delay": 60}, {"concurrency_key": "c"}])
def test_while_pending_creates_nothing_until_the_first_is_finished(
    store: Store, options: dict[str, Any]
) -> None:
    (first,) = arrive(store, again("while_pending", **options))
    assert arrive(store, again("while_pending", **options)) == [
        Enqueued(first.execution_id, duplicate=True)
    ]
    if "delay" in options:
        return
    hand = Hand(store)
    claim = hand.claim_one()
    (second,) = arrive(store, again("while_pending", **options))
    assert second == Enqueued(first.execution_id, duplicate=True)
    hand.end(claim, Verdict.RETRY, delay=600, reason=Reason.RETRY)
    (third,) = arrive(store, again("while_pending", **options))
    assert third.duplicate
    assert_clean(store)


@pytest.mark.parametrize("verdict", [Verdict.COMPLETE, Verdict.FAIL, Verdict.CANCEL])
def test_the_key_of_a_finished_one_is_taken_over(store: Store, verdict: Verdict) -> None:
    hand = Hand(store)
    ids: list[str] = []
    for n in range(3):
        (told,) = arrive(store, again("while_pending", n))
        assert not told.duplicate
        ids.append(told.execution_id)
        hand.end(hand.claim_one(), verdict, reason=Reason.ERROR)
    assert len(set(ids)) == 3
    assert arrive(store, again("once", 2)) == [Enqueued(ids[-1], duplicate=True)]
    assert scalar(store, "SELECT count(*) FROM netscript_idempotency_keys") == 1


def test_another_payload_while_the_first_is_pending_is_a_conflict(store: Store) -> None:
    arrive(store, again("while_pending", 1))
    (told,) = arrive(store, again("while_pending", 2))
    assert (told.duplicate, told.conflict) == (True, True)


@pytest.mark.trap("D-49")
def test_one_that_is_retried_while_a_second_has_its_key_runs_beside_it(store: Store) -> None:
    hand = Hand(store)
    (first,) = arrive(store, again("while_pending"))
    hand.end(hand.claim_one(), Verdict.FAIL, reason=Reason.ERROR)
    (second,) = arrive(store, again("while_pending"))
    retries.retry(store, first.execution_id)
    (third,) = arrive(store, again("while_pending"))
    assert third.execution_id == second.execution_id
    assert {claim.id for claim in hand.claim()} == {first.execution_id, second.execution_id}
    assert_clean(store)


# Replace.


@pytest.mark.trap("D-48")
def test_events_every_second_for_ever_fire_when_max_wait_is_over(
    timed_store: Store, clock: ManualClock
) -> None:
    hand = Hand(timed_store)
    ids: set[str] = set()
    fired: list[int] = []
    for second in range(95):
        (told,) = arrive(timed_store, again("replace", second, delay=5, max_wait=30))
        ids.add(told.execution_id)
        for claim in hand.claim():
            fired.append(second)
            assert json.loads(claim.payload) == {"n": second}  # the last arrival's
            hand.end(claim)
        clock.advance(1)
    assert fired == [30, 61, 92]
    assert len(ids) == 4
    assert_clean(timed_store)


def test_a_debounce_fires_once_after_the_last_arrival(
    timed_store: Store, clock: ManualClock
) -> None:
    hand = Hand(timed_store)
    first = arrive(timed_store, again("replace", 0, delay=timedelta(seconds=5), priority=10))[0]
    for n in range(1, 8):
        clock.advance(3)
        assert hand.claim() == []
        assert arrive(timed_store, again("replace", n, delay=5, priority=10 + n)) == [
            Enqueued(first.execution_id, duplicate=True)
        ]
    clock.advance(4)
    assert hand.claim() == []
    clock.advance(1.1)
    claim = hand.claim_one()
    assert (json.loads(claim.payload), claim.priority) == ({"n": 7}, 17)
    (told,) = arrive(timed_store, again("replace", 8, delay=5))
    assert not told.duplicate  # it has started
    hand.end(claim)
    assert status(timed_store, told.execution_id) == "scheduled"
    # Its key now says what is stored: the same again is no conflict, another one is.
    assert not arrive(timed_store, again("once", 8))[0].conflict
    assert arrive(timed_store, again("once", 9))[0].conflict


def test_one_replaced_to_an_earlier_time_is_due_then(
    timed_store: Store, clock: ManualClock
) -> None:
    hand = Hand(timed_store)
    (first,) = arrive(timed_store, again("replace", 0, delay=3600))
    assert hand.tick(slots=1).next_in == pytest.approx(3600)
    arrive(timed_store, again("replace", 1, delay=2))
    assert hand.tick(slots=1).next_in == pytest.approx(2)
    clock.advance(2.5)
    assert hand.claim_one().id == first.execution_id


def test_one_that_is_ready_is_put_off_and_keeps_its_turn_if_it_has_one(
    timed_store: Store, clock: ManualClock
) -> None:
    hand = Hand(timed_store)
    (plain,) = arrive(timed_store, again("replace", 0, key="plain"))
    (keyed,) = arrive(timed_store, again("replace", 0, key="keyed", concurrency_key="c"))
    hand.tick(slots=0)  # the keyed one is let in
    assert status(timed_store, keyed.execution_id) == "queued"
    arrive(timed_store, again("replace", 1, key="plain", delay=60))
    arrive(timed_store, again("replace", 1, key="keyed", concurrency_key="c", delay=60))
    assert status(timed_store, plain.execution_id) == "scheduled"
    assert_slots_exact(timed_store)
    (claim,) = hand.claim()
    assert (claim.id, json.loads(claim.payload)) == (keyed.execution_id, {"n": 1})
    clock.advance(61)
    assert [one.id for one in hand.claim()] == [plain.execution_id]
    assert_slots_exact(timed_store)


def test_a_blocked_one_is_put_off_and_asks_for_its_key_again(
    timed_store: Store, clock: ManualClock
) -> None:
    hand = Hand(timed_store)
    arrive(timed_store, enqueue_job(a, {}, concurrency_key="c"))
    holder = hand.claim_one()
    (told,) = arrive(timed_store, again("replace", 0, concurrency_key="c"))
    arrive(timed_store, again("replace", 1, concurrency_key="c", delay=10))
    hand.end(holder)
    assert hand.claim() == []
    clock.advance(11)
    assert [claim.id for claim in hand.claim()] == [told.execution_id]
    assert_slots_exact(timed_store)


def test_followers_hear_of_what_was_replaced(store: Store) -> None:
    (told,) = arrive(store, again("replace", 0))
    arrive(store, again("replace", 1, delay=60))
    items = [
        json.loads(row[0]) for row in rows(store, "SELECT items FROM netscript_changes ORDER BY id")
    ]
    assert items == [[[told.execution_id, "queued"]], [[told.execution_id, "scheduled"]]]


def test_the_key_of_one_that_waits_longer_than_the_window_still_stands_for_it(
    timed_store: Store, clock: ManualClock
) -> None:
    days = 24 * 3600
    (first,) = arrive(timed_store, again("replace", 0, delay=10 * days))
    clock.advance(9 * days)
    assert arrive(timed_store, again("replace", 1, delay=10 * days))[0] == Enqueued(
        first.execution_id, duplicate=True
    )


# Rerun if running.


@pytest.mark.trap("D-47")
def test_five_arrivals_while_one_runs_are_one_more_run_after_the_last_of_them(
    store: Store,
) -> None:
    hand = Hand(store)
    (first,) = arrive(store, again("rerun_if_running"))
    assert arrive(store, again("rerun_if_running"))[0].duplicate  # not started: nothing to add
    claim = hand.claim_one()
    told = [arrive(store, again("rerun_if_running"))[0] for _ in range(5)]
    assert [one.duplicate for one in told] == [False, True, True, True, True]
    (more,) = {one.execution_id for one in told}
    assert hand.claim() == []  # not before the first has ended
    (next_claim,) = hand.tick(ended(claim), slots=5).claimed
    assert next_claim.id == more
    # One that arrives while that one runs is another.
    (last,) = arrive(store, again("rerun_if_running"))
    assert last.execution_id not in {first.execution_id, more}
    (third,) = hand.tick(ended(next_claim), slots=5).claimed
    hand.end(third)
    assert scalar(store, "SELECT count(*) FROM netscript_execution_history") == 3
    assert_slots_exact(store)
    assert_clean(store)


def test_a_rerun_shares_the_users_own_concurrency_key_if_there_is_one(store: Store) -> None:
    arrive(store, again("rerun_if_running", key="k0", concurrency_key="mine"))
    arrive(store, again("rerun_if_running", key="k1"))
    found = rows(store, "SELECT concurrency_key FROM netscript_executions ORDER BY id")
    assert found == [("mine",), ("rerun:a:k1",)]


def test_the_implied_concurrency_key_of_a_long_key_fits(store: Store) -> None:
    long = "\U0001f600" * 512
    (first,) = arrive(store, again("rerun_if_running", key=long))
    hand = Hand(store)
    claim = hand.claim_one()
    (second,) = arrive(store, again("rerun_if_running", key=long))
    assert second.execution_id != first.execution_id
    assert [one.id for one in hand.tick(ended(claim), slots=1).claimed] == [second.execution_id]


@pytest.mark.trap("D-47")
def test_an_arrival_beside_a_claim_is_seen_by_a_run_that_starts_after_it(store: Store) -> None:
    """Every arrival writes its number; the last run that starts must have seen the last number."""
    written = 0
    lock = threading.Lock()
    stop = threading.Event()
    seen: list[int] = []

    def work() -> None:
        hand = Hand(store)
        claims = hand.claim(1)
        while claims or not stop.is_set():
            with lock:
                seen.extend(written for _ in claims)
            claims = hand.tick(*map(ended, claims), slots=1).claimed

    def send(seed: int) -> None:
        nonlocal written
        chance = random.Random(seed)
        for _ in range(40):
            with lock:
                written += 1
            arrive(store, again("rerun_if_running"))
            if chance.random() < 0.3:
                stop.wait(0.01)

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(work) for _ in range(2)]
        senders = [pool.submit(send, seed) for seed in range(2)]
        for sender in senders:
            sender.result(60)
        eventually(
            lambda: not scalar(store, "SELECT count(*) FROM netscript_executions"),
            30,
            "the last run",
        )
        stop.set()
        for worker in workers:
            worker.result(30)
    assert written == 80
    assert max(seen) == 80
    assert len(seen) <= 80
    assert_slots_exact(store)
