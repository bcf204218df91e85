"""Concurrency keys: who may run, who waits, and who is next."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from netscript_workers.domain import ClaimedExecution, Verdict
from netscript_workers.store import entrance
from netscript_workers.store.engine import Store
from netscript_workers.store.entrance import Asked
from netscript_workers.store.sweeping import SWEPT_AT_A_TIME
from netscript_workers.testing import ManualClock
from tests.kit import (
    Hand,
    assert_slots_exact,
    detail,
    ended,
    new,
    put,
    rows,
    run,
    scalar,
    status,
    sweep,
)


def in_use(store: Store) -> dict[str, int]:
    return dict(rows(store, "SELECT key, used FROM netscript_concurrency_slots WHERE used > 0"))


def held(store: Store) -> dict[str, int]:
    sql = (
        "SELECT concurrency_key, count(*) FROM netscript_executions "
        "WHERE holds_key GROUP BY concurrency_key"
    )
    return dict(rows(store, sql))


class ConcurrencyKeys:
    """Executions that share a key never overlap, and nobody waits for nothing."""

    @pytest.mark.trap("D-03")
    def test_a_keyed_action_starts_with_the_tick_that_stores_it(self, store: Store) -> None:
        put(store, new("a"))
        hand = Hand(store)
        claim = hand.claim_one()
        action = new("b", concurrency_key="k")
        done = hand.tick(ended(claim, actions=(action,)), slots=5, look=False)
        assert [found.id for found in done.claimed] == [action.id]
        assert_slots_exact(store)

    def test_one_batch_claims_at_most_one_execution_of_a_key(self, store: Store) -> None:
        put(store, *(new(concurrency_key="k") for _ in range(12)))
        hand = Hand(store)
        assert len(hand.claim(10)) == 1
        assert hand.claim(10) == []

    def test_the_next_of_a_key_is_let_in_by_the_tick_that_ends_the_first(
        self, store: Store
    ) -> None:
        first, second = new(concurrency_key="k"), new(concurrency_key="k")
        put(store, first, second)
        hand = Hand(store)
        done = hand.tick(ended(hand.claim_one()), slots=1)
        assert [claim.id for claim in done.claimed] == [second.id]

    def test_executions_of_a_key_start_in_their_order_whatever_their_priority(
        self, store: Store
    ) -> None:
        given = [new(concurrency_key="k", priority=priority) for priority in (10, 90, 50)]
        put(store, *given)
        hand = Hand(store)
        order: list[str] = []
        while claimed := hand.claim(1):
            order.append(claimed[0].id)
            hand.end(claimed[0])
        assert order == [one.id for one in given]

    @pytest.mark.trap("D-04")
    def test_those_without_a_key_are_never_held_up(self, store: Store) -> None:
        put(store, *(new(concurrency_key="k") for _ in range(5)))
        hand = Hand(store)
        keyed = hand.claim_one()
        put(store, *(new() for _ in range(100)))
        assert len(hand.claim(200)) == 100
        hand.end(keyed)
        assert len(hand.claim(200)) == 1
        assert_slots_exact(store)

    def test_a_key_is_global_over_jobs_and_topics(self, store: Store) -> None:
        put(
            store,
            new("a", topic="x", concurrency_key="k"),
            new("b", topic="y", concurrency_key="k"),
        )
        assert len(Hand(store).claim()) == 1

    @pytest.mark.trap("D-02")
    def test_two_claimers_never_run_a_key_twice_at_once(self, store: Store) -> None:
        put(store, *(new(concurrency_key=f"k{n % 5}") for n in range(100)))
        overlaps: list[str] = []
        living: set[str] = set()

        def work(seed: int) -> int:
            chance, hand, count = random.Random(seed), Hand(store), 0
            mine: list[ClaimedExecution] = []
            for _ in range(400):
                over = [claim for claim in mine if chance.random() < 0.7]
                for claim in over:
                    mine.remove(claim)
                    living.discard(str(claim.concurrency_key))
                for claim in hand.tick(*map(ended, over), slots=5).claimed:
                    key = str(claim.concurrency_key)
                    if key in living:
                        overlaps.append(key)
                    living.add(key)
                    mine.append(claim)
                    count += 1
                if not mine and not scalar(store, "SELECT count(*) FROM netscript_executions"):
                    break
            hand.tick(*map(ended, mine))
            return count

        with ThreadPoolExecutor(3) as pool:
            counts = list(pool.map(work, range(3)))
        assert overlaps == []
        assert sum(counts) == 100
        assert in_use(store) == held(store) == {}

    @pytest.mark.trap("D-10")
    def test_one_that_waits_for_its_time_holds_nothing(
        self, timed_store: Store, clock: ManualClock
    ) -> None:
        later, now = (
            new(concurrency_key="k", delay=3_600_000_000, priority=100),
            new(concurrency_key="k"),
        )
        put(timed_store, later, now)
        hand = Hand(timed_store)
        claim = hand.claim_one()
        assert claim.id == now.id
        clock.advance(3601)
        assert hand.claim() == []  # it is due, and waits for its key
        assert detail(timed_store, later.id).execution.reason == "concurrency key"
        hand.end(claim)
        assert [one.id for one in hand.claim()] == [later.id]

    @pytest.mark.trap("D-11")
    def test_others_run_during_a_backoff(self, timed_store: Store, clock: ManualClock) -> None:
        failing, other = new(concurrency_key="k"), new(concurrency_key="k")
        put(timed_store, failing, other)
        hand = Hand(timed_store)
        hand.end(hand.claim_one(), Verdict.RETRY, delay=600.0)
        assert [one.id for one in hand.claim()] == [other.id]
        clock.advance(601)
        assert hand.claim() == []

    @pytest.mark.trap("D-11")
    def test_strict_order_keeps_the_key_through_a_backoff(
        self, timed_store: Store, clock: ManualClock
    ) -> None:
        failing = new(concurrency_key="k", strict_order=True)
        other = new(concurrency_key="k", strict_order=True)
        put(timed_store, failing, other)
        hand = Hand(timed_store, {"a": True})
        hand.end(hand.claim_one(), Verdict.RETRY, delay=600.0)
        assert hand.claim() == []
        waiting = detail(timed_store, other.id).execution
        assert (waiting.status, waiting.reason) == ("blocked", "concurrency key")
        clock.advance(601)
        assert [one.id for one in hand.claim()] == [failing.id]
        assert_slots_exact(timed_store)

    def test_a_release_keeps_the_key(self, store: Store) -> None:
        first = new(concurrency_key="k")
        put(store, first, new(concurrency_key="k"))
        hand = Hand(store)
        hand.end(hand.claim_one(), Verdict.RELEASE)
        assert [one.id for one in hand.claim()] == [first.id]

    @pytest.mark.trap("D-15")
    def test_the_slot_of_a_paused_topic_goes_to_others(self, store: Store) -> None:
        run(store, "INSERT INTO netscript_topics (name, paused) VALUES ('p', :yes)", yes=True)
        put(store, new(topic="p", concurrency_key="k"))
        other = new(topic="o", concurrency_key="k")
        put(store, other)
        assert [one.id for one in Hand(store).claim()] == [other.id]

    def test_idle_keys_leave_no_slot_behind(self, store: Store) -> None:
        put(store, *(new(concurrency_key=f"k{n}") for n in range(20)))
        hand = Hand(store)
        hand.tick(*(ended(claim) for claim in hand.claim(50)))
        assert scalar(store, "SELECT count(*) FROM netscript_concurrency_slots") == 0
        assert scalar(store, "SELECT count(*) FROM netscript_admissions") == 0

    def test_a_finished_keyed_execution_is_in_history_without_its_key_held(
        self, store: Store
    ) -> None:
        given = new(concurrency_key="k")
        put(store, given)
        hand = Hand(store)
        hand.end(hand.claim_one())
        assert status(store, given.id) == "completed"
        assert in_use(store) == {}

    def test_the_sweep_frees_the_slot_of_a_holder_that_is_gone(self, store: Store) -> None:
        put(store, new(concurrency_key="k"))
        run(
            store,
            "INSERT INTO netscript_concurrency_slots (key, max_used, used, holder) "
            "VALUES ('k', 1, 1, :id)",
            id=new().id,
        )
        assert Hand(store).claim() == []
        assert sweep(store) == 2  # one freed, one let in
        assert len(Hand(store).claim()) == 1

    def test_the_sweep_lets_in_a_key_whose_note_was_lost(self, store: Store) -> None:
        put(store, new(concurrency_key="k"))
        run(store, "DELETE FROM netscript_admissions")
        assert Hand(store).claim() == []
        assert sweep(store) == 1
        assert len(Hand(store).claim()) == 1

    def test_the_sweep_goes_through_more_keys_than_it_takes_at_a_time(self, store: Store) -> None:
        put(
            store,
            *(new(concurrency_key=f"k{n:04}") for n in range(SWEPT_AT_A_TIME + 20)),
        )
        run(store, "DELETE FROM netscript_admissions")
        assert sweep(store) == SWEPT_AT_A_TIME + 20

    @pytest.mark.trap("D-16")
    def test_the_sweep_beside_working_workers_finds_nothing_to_repair(self, store: Store) -> None:
        put(store, *(new(concurrency_key=f"k{n % 6}") for n in range(60)))
        settle = Hand(store)
        mine = settle.claim(50)  # every note is taken, every key has its holder

        def sweeping(_: int) -> int:
            return sum(sweep(store) for _ in range(10))

        def working(claims: list[ClaimedExecution]) -> int:
            hand, count = settle, 0
            while claims:
                count += len(claims)
                claims = hand.tick(*map(ended, claims), slots=3).claimed
            return count

        with ThreadPoolExecutor(3) as pool:
            swept = [pool.submit(sweeping, n) for n in range(2)]
            worked = pool.submit(working, mine)
            assert worked.result() == 60
            assert [future.result() for future in swept] == [0, 0]

    def test_admitting_a_key_that_nobody_waits_for_leaves_nothing(self, store: Store) -> None:
        with store.begin() as conn:
            asked = Asked(keys={"nobody", "none"})
            assert entrance.let_in(conn, store.dialect, asked, store.now(conn)).changed == []
        assert scalar(store, "SELECT count(*) FROM netscript_concurrency_slots") == 0
