"""Rates of jobs and topics: how many start in a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from netscript_workers.domain import ClaimedExecution, NewExecution, Verdict
from netscript_workers.ids import new_id
from netscript_workers.store import claims, topics
from netscript_workers.store.engine import Store
from netscript_workers.testing import ManualClock
from tests.kit import Hand, assert_slots_exact, detail, ended, limit, new, put, scalar

SECOND = 1_000_000


def rated(job: str = "a", **facts: Any) -> NewExecution:
    return new(job, limited="rate limit", **facts)


class Rates:
    """Starts are spread over the time that the rate says, and nobody else is held up."""

    @pytest.mark.trap("D-72")
    def test_ten_thousand_that_wait_for_a_rate_hold_up_nobody_and_start_when_due(
        self, timed_store: Store, clock: ManualClock
    ) -> None:
        store = timed_store
        limit(store, rate="10/m")
        given = [rated() for _ in range(10_000)]
        put(store, *given)
        hand = Hand(store)
        (first,) = hand.claim(100)
        assert first.id == given[0].id
        waiting = detail(store, given[1].id).execution
        assert (waiting.status, waiting.reason) == ("blocked", "rate limit")
        hand.end(first)
        for number in range(1, 12):
            others = [new("b") for _ in range(5)]
            put(store, *others)
            found = hand.claim(100)
            assert [claim.id for claim in found] == [one.id for one in others]
            done = hand.tick(*map(ended, found), slots=100)
            assert done.next_in is not None
            assert done.next_in <= 6.0
            clock.advance(done.next_in - 0.001)
            assert hand.claim() == []
            clock.advance(0.002)
            (claim,) = hand.claim(100)
            assert (claim.id, claim.attempt) == (given[number].id, 1)
            hand.end(claim)
        assert_slots_exact(store)

    def test_a_worker_that_only_looks_knows_when_a_rate_lets_the_next_one_in(
        self, timed_store: Store, clock: ManualClock
    ) -> None:
        store = timed_store
        limit(store, rate="1/s")
        put(store, rated(), rated())
        Hand(store).claim_one()
        with store.read() as conn:
            found = claims.probe(conn, store.dialect, new_id())
        assert (found.ready, found.notes) == (False, False)
        assert found.next_look == clock.now() + SECOND
        clock.advance(1)
        assert len(Hand(store).claim()) == 1

    def test_a_rate_that_nothing_waits_for_asks_for_no_look(self, timed_store: Store) -> None:
        store = timed_store
        limit(store, rate="1/s")
        put(store, rated())
        hand = Hand(store)
        done = hand.tick(slots=5)
        assert len(done.claimed) == 1
        assert done.next_in is None
        assert scalar(store, "SELECT look_at FROM netscript_job_gates") is None

    def test_who_has_not_begun_takes_the_turn_of_those_behind(
        self, timed_store: Store, clock: ManualClock
    ) -> None:
        """Busy workers must not lead to a bunch of starts when they come free."""
        store = timed_store
        limit(store, rate="10/s")
        put(store, *(rated() for _ in range(20)))
        hand = Hand(store)
        for _ in range(10):
            hand.tick(slots=0)
            clock.advance(1)
        ready = "SELECT count(*) FROM netscript_executions WHERE status = 'queued'"
        assert scalar(store, ready) == 1
        assert len(hand.claim(100)) == 1
        clock.advance(1)
        assert len(hand.claim(100)) == 1

    def test_a_fast_rate_starts_a_few_at_a_time(
        self, timed_store: Store, clock: ManualClock
    ) -> None:
        store = timed_store
        limit(store, rate="100/s")
        put(store, *(rated() for _ in range(300)))
        hand, count, seconds = Hand(store), 0, 0.0
        while count < 300:
            found = hand.claim(100)
            assert len(found) <= 5
            hand.tick(*map(ended, found))
            count += len(found)
            clock.advance(0.02)
            seconds += 0.02
        assert 2.9 <= seconds <= 3.2

    def test_every_attempt_counts_and_waiting_uses_up_none(
        self, timed_store: Store, clock: ManualClock
    ) -> None:
        store = timed_store
        limit(store, rate="1/m")
        given = rated()
        put(store, given)
        hand = Hand(store)
        hand.end(hand.claim_one(), Verdict.RETRY, delay=1.0)
        clock.advance(2)
        assert hand.claim() == []
        waiting = detail(store, given.id).execution
        assert (waiting.status, waiting.reason) == ("blocked", "rate limit")
        clock.advance(59)
        assert [(one.id, one.attempt) for one in hand.claim()] == [(given.id, 2)]

    def test_a_drained_one_needs_no_second_turn(self, timed_store: Store) -> None:
        store = timed_store
        limit(store, rate="1/d")
        given = rated()
        put(store, given)
        hand = Hand(store)
        hand.end(hand.claim_one(), Verdict.RELEASE)
        assert hand.claim_one().id == given.id

    def test_places_and_a_rate_hold_together(self, timed_store: Store, clock: ManualClock) -> None:
        store = timed_store
        limit(store, max_concurrency=2, rate="1/s")
        put(store, *(new(limited="job limit") for _ in range(5)))
        hand, mine = Hand(store), list[ClaimedExecution]()
        for expected in (1, 1, 0, 0):
            found = hand.claim(10)
            assert len(found) == expected
            mine += found
            clock.advance(1)
        assert len(hand.tick(*map(ended, mine), slots=10).claimed) == 1  # two places, one turn

    def test_a_keyed_one_waits_for_its_turn_and_reserves_its_key(
        self, timed_store: Store, clock: ManualClock
    ) -> None:
        store = timed_store
        limit(store, rate="1/m")
        first, head = rated(concurrency_key="k"), rated(concurrency_key="k")
        later = new("b", concurrency_key="k")
        put(store, first, head, later)
        hand = Hand(store)
        hand.end(hand.claim_one())
        assert hand.claim() == []
        clock.advance(61)
        assert [claim.id for claim in hand.claim()] == [head.id]
        assert_slots_exact(store)

    def test_a_higher_rate_holds_at_once(self, timed_store: Store) -> None:
        store = timed_store
        limit(store, rate="1/d")
        put(store, *(rated() for _ in range(3)))
        hand = Hand(store)
        assert len(hand.claim()) == 1
        limit(store, rate="1/s")
        assert len(hand.claim()) == 1
        assert hand.claim() == []
        limit(store)
        assert len(hand.claim()) == 1

    # Topics.

    def test_no_more_of_a_topic_start_than_its_rate_and_others_have_the_slots(
        self, timed_store: Store, clock: ManualClock
    ) -> None:
        store = timed_store
        topics.set_rate(store, "slow", "10/m")
        put(store, *(new(topic="slow") for _ in range(30)), *(new(topic="o") for _ in range(30)))
        hand, starts = Hand(store), 0
        for _ in range(10):
            done = hand.tick(slots=2)
            slow = [claim for claim in done.claimed if claim.topic == "slow"]
            assert len(slow) <= 1
            assert len(done.claimed) == 2
            starts += len(slow)
            assert done.next_in is not None
            assert done.next_in <= 6.0
            assert done.rationed
            clock.advance(3)
        assert starts == 5

    def test_a_worker_learns_when_a_topic_may_start_the_next(
        self, timed_store: Store, clock: ManualClock
    ) -> None:
        store = timed_store
        topics.set_rate(store, "t", "1/s")
        put(store, *(new(topic="t") for _ in range(3)))
        hand = Hand(store)
        done = hand.tick(slots=5)
        assert len(done.claimed) == 1
        for _ in range(2):
            assert done.next_in == pytest.approx(1.0, abs=0.01)
            assert hand.claim() == []
            clock.advance(1)
            done = hand.tick(slots=5)
            assert len(done.claimed) == 1

    def test_workers_together_keep_to_the_rate_of_a_topic(
        self, timed_store: Store, clock: ManualClock
    ) -> None:
        store = timed_store
        topics.set_rate(store, "t", "200/s")
        put(store, *(new(topic="t") for _ in range(100)))
        hands = [Hand(store) for _ in range(4)]

        def claim_fifty(hand: Hand) -> list[ClaimedExecution]:
            return hand.claim(50)

        with ThreadPoolExecutor(4) as pool:
            first = [len(found) for found in pool.map(claim_fifty, hands)]
            assert sum(first) <= 10
            clock.advance(0.05)
            second = [len(found) for found in pool.map(claim_fifty, hands)]
        assert 1 <= sum(second) <= 10
        assert 10 <= sum(first) + sum(second) <= 20

    def test_a_rate_is_taken_back_and_a_pause_goes_with_it(self, timed_store: Store) -> None:
        store = timed_store
        topics.set_rate(store, "t", "1/d")
        topics.pause(store, "t")
        put(store, *(new(topic="t") for _ in range(4)))
        hand = Hand(store)
        assert hand.claim() == []
        topics.resume(store, "t")
        assert len(hand.claim()) == 1
        topics.set_rate(store, "t", None)
        assert len(hand.claim()) == 3

    def test_a_topic_whose_row_somebody_holds_is_claimed_from_a_moment_later(
        self, store: Store
    ) -> None:
        if store.is_sqlite:
            pytest.skip("there is one writer at a time")
        topics.set_rate(store, "t", "1000/s")
        put(store, new(topic="t"), new(topic="o"))
        hand = Hand(store)
        with store.begin() as conn:
            conn.exec_driver_sql("SELECT 1 FROM netscript_topics FOR UPDATE")
            done = hand.tick(slots=5)
            assert [claim.topic for claim in done.claimed] == ["o"]
            assert done.next_in is not None
            assert done.next_in <= 0.1
        assert [claim.topic for claim in hand.claim()] == ["t"]

    @pytest.mark.trap("D-71")
    def test_one_of_a_small_tenant_starts_beside_the_flood_of_a_large_one(
        self, store: Store
    ) -> None:
        put(store, *(new(topic="large") for _ in range(5000)))
        hand = Hand(store)
        mine = hand.claim(20)
        assert len(mine) == 20  # alone it has all slots
        small = new(topic="small")
        put(store, small)
        rounds = 0
        while small.id not in {claim.id for claim in mine}:
            mine = hand.tick(*map(ended, mine), slots=20).claimed
            rounds += 1
            assert rounds <= 2
        assert len(hand.tick(*map(ended, mine), slots=20).claimed) == 20
