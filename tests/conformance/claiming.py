"""Claiming: how much, of what, in which order, and by whom."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from netscript_workers.domain import Verdict
from netscript_workers.store.engine import Store
from netscript_workers.testing import ManualClock
from tests.kit import Hand, detail, new, put, run, scalar, status

HOUR = 3_600_000_000


class Claiming:
    """A worker gets what is due, most urgent first, each execution for one worker alone."""

    def test_a_delayed_execution_waits_until_it_is_due(
        self, timed_store: Store, clock: ManualClock
    ) -> None:
        given = new(delay=60_000_000)
        put(timed_store, given)
        hand = Hand(timed_store)
        assert status(timed_store, given.id) == "scheduled"
        assert hand.claim() == []
        clock.advance(59.9)
        assert hand.claim() == []
        clock.advance(0.2)
        assert [claim.id for claim in hand.claim()] == [given.id]

    def test_a_run_at_in_the_past_is_now(self, timed_store: Store, clock: ManualClock) -> None:
        given = new(run_at=clock.now() - HOUR)
        put(timed_store, given)
        record = detail(timed_store, given.id).execution
        assert record.status == "queued"
        assert record.run_at == record.created_at

    @pytest.mark.trap("D-20")
    def test_no_more_is_claimed_than_there_are_slots(self, store: Store) -> None:
        put(store, *(new() for _ in range(50)))
        hand = Hand(store)
        assert len(hand.claim(4)) == 4
        assert (
            scalar(store, "SELECT count(*) FROM netscript_executions WHERE status='running'") == 4
        )
        assert hand.claim(0) == []

    def test_equal_priorities_start_in_the_order_in_which_they_came(self, store: Store) -> None:
        given = [new() for _ in range(20)]
        for one in given:
            put(store, one)
        assert [claim.id for claim in Hand(store).claim(20)] == [one.id for one in given]

    def test_a_higher_priority_starts_first(self, store: Store) -> None:
        low, high, middle = new(priority=10), new(priority=90), new(priority=50)
        put(store, low, high, middle)
        assert [claim.id for claim in Hand(store).claim()] == [high.id, middle.id, low.id]

    @pytest.mark.trap("D-70")
    def test_priority_0_waits_ten_minutes_at_most_behind_a_flood_of_100(
        self, timed_store: Store, clock: ManualClock
    ) -> None:
        patient = new(priority=0)
        put(timed_store, patient)
        hand = Hand(timed_store)
        waited = 0
        while True:
            put(timed_store, *(new(priority=100) for _ in range(3)))
            claimed = hand.claim(3)  # the flood comes as fast as it is served
            if patient.id in {claim.id for claim in claimed}:
                break
            for claim in claimed:
                hand.end(claim)
            clock.advance(30)
            waited += 30
            assert waited <= 660
        assert waited >= 570

    def test_eight_claimers_start_each_execution_once(self, store: Store) -> None:
        given = [new() for _ in range(400)]
        put(store, *given)

        def drain(_: int) -> list[str]:
            hand = Hand(store)
            mine: list[str] = []
            while claimed := hand.claim(7):
                mine += [claim.id for claim in claimed]
            return mine

        with ThreadPoolExecutor(8) as pool:
            found = [id_ for mine in pool.map(drain, range(8)) for id_ in mine]
        # SKIP LOCKED may let a claimer leave early; nothing is taken twice, nothing is lost.
        left = [claim.id for claim in Hand(store).claim(400)]
        assert sorted(found + left) == sorted(one.id for one in given)

    def test_tokens_grow_with_every_claim(self, store: Store) -> None:
        put(store, new())
        hand = Hand(store)
        first = hand.claim_one()
        hand.end(first, Verdict.RELEASE)
        second = hand.claim_one()
        assert second.id == first.id
        assert second.token > first.token

    def test_an_ended_execution_is_not_claimed_again(self, store: Store) -> None:
        given = new()
        put(store, given)
        hand = Hand(store)
        hand.end(hand.claim_one())
        assert status(store, given.id) == "completed"
        assert hand.claim() == []

    @pytest.mark.trap("D-70")
    def test_behind_a_flood_that_outgrows_the_worker_priority_0_waits_for_ten_minutes_of_it(
        self, timed_store: Store, clock: ManualClock
    ) -> None:
        """Served is what came before it, then what came within ten minutes of it, then itself."""
        patient = new(priority=0)
        put(timed_store, new(priority=100), patient)
        hand = Hand(timed_store)
        came = 1
        for waited in range(0, 900, 50):  # twice as many come as are served meanwhile
            put(timed_store, *(new(priority=100) for _ in range(2)))
            came += 2 if waited < 600 else 0
            (claim,) = hand.claim(1)
            hand.end(claim)
            clock.advance(50)
        order = [claim.id for claim in hand.claim(100)]
        assert order.index(patient.id) == came - 18

    def test_a_paused_topic_is_left_alone(self, store: Store) -> None:
        put(store, new(topic="x"), new(topic="y"))
        run(store, "INSERT INTO netscript_topics (name, paused) VALUES ('x', :yes)", yes=True)
        assert [claim.topic for claim in Hand(store).claim()] == ["y"]
        run(store, "UPDATE netscript_topics SET paused = :no", no=False)
        assert [claim.topic for claim in Hand(store).claim()] == ["x"]

    def test_a_job_that_this_worker_does_not_know_is_left_to_others(self, store: Store) -> None:
        put(store, *(new("unknown") for _ in range(5)), new("a"))
        assert [claim.job_id for claim in Hand(store, ["a"]).claim()] == ["a"]
        assert len(Hand(store, ["unknown"]).claim()) == 5

    def test_a_worker_serves_only_its_topics(self, store: Store) -> None:
        put(store, new(topic="x"), new(topic="y"))
        assert [claim.topic for claim in Hand(store, topics=["y"]).claim()] == ["y"]
        assert Hand(store, topics=["z"]).claim() == []

    def test_a_hot_topic_cannot_take_every_slot(self, store: Store) -> None:
        put(store, *(new(topic="hot", priority=100) for _ in range(50)), new(topic="cold"))
        claimed = Hand(store).claim(4)
        assert len(claimed) == 4
        assert "cold" in {claim.topic for claim in claimed}

    def test_topics_take_turns_where_there_is_one_slot(self, store: Store) -> None:
        put(store, *(new(topic="x") for _ in range(5)), *(new(topic="y") for _ in range(5)))
        hand = Hand(store)
        assert {hand.claim_one().topic for _ in range(2)} == {"x", "y"}
