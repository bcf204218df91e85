"""Jobs with `max_concurrency`: who has a place, who waits for one, and who is next."""

from __future__ import annotations

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from netscript_workers.domain import ClaimedExecution, Death, NewExecution, Verdict
from netscript_workers.ids import new_id
from netscript_workers.store import cancelling, leases, retries, suspects, topics
from netscript_workers.store.engine import Store
from netscript_workers.testing import ManualClock
from tests.integration.store.scenes import no_folder
from tests.kit import (
    Hand,
    assert_gates_exact,
    assert_slots_exact,
    detail,
    ended,
    limit,
    lose,
    new,
    put,
    rows,
    run,
    scalar,
    status,
    sweep,
)


def limited(job: str = "a", **facts: Any) -> NewExecution:
    return new(job, limited="job limit", **facts)


def ids(claims: list[ClaimedExecution]) -> list[str]:
    return [claim.id for claim in claims]


def stands(store: Store, given: NewExecution) -> tuple[str, str | None]:
    found = detail(store, given.id).execution
    return found.status.value, found.reason


def exact(store: Store) -> None:
    assert_slots_exact(store)  # gates too


class JobGates:
    """No more executions of a job are under way than its limit says; nobody waits for nothing."""

    def test_one_batch_claims_no_more_of_a_job_than_its_limit(self, store: Store) -> None:
        limit(store, max_concurrency=3)
        given = [limited() for _ in range(12)]
        put(store, *given)
        hand = Hand(store)
        first = hand.claim(10)
        assert ids(first) == [one.id for one in given[:3]]
        assert hand.claim(10) == []
        assert stands(store, given[3]) == ("blocked", "job limit")
        done = hand.tick(*map(ended, first[:2]), slots=10, look=False)
        assert ids(done.claimed) == [one.id for one in given[3:5]]
        exact(store)

    def test_those_of_other_jobs_are_never_held_up(self, store: Store) -> None:
        limit(store, max_concurrency=1)
        put(store, *(limited() for _ in range(50)))
        hand = Hand(store)
        hand.claim_one()
        others = [new("b") for _ in range(20)]
        put(store, *others)
        assert ids(hand.claim(100)) == [one.id for one in others]
        ready = "SELECT count(*) FROM netscript_executions WHERE status = 'queued'"
        assert scalar(store, ready) == 0

    def test_a_limited_action_starts_with_the_tick_that_stores_it(self, store: Store) -> None:
        limit(store, max_concurrency=1)
        put(store, new("b"))
        hand = Hand(store)
        action = limited()
        done = hand.tick(ended(hand.claim_one(), actions=(action,)), slots=5, look=False)
        assert ids(done.claimed) == [action.id]
        exact(store)

    @pytest.mark.trap("D-02")
    def test_of_eight_that_claim_at_the_same_instant_no_more_than_the_limit_get_one(
        self, store: Store
    ) -> None:
        limit(store, max_concurrency=3)
        hands = [Hand(store) for _ in range(8)]
        barrier = threading.Barrier(8)
        left = [limited(concurrency_key=f"k{n}" if n % 3 == 0 else None) for n in range(60)]
        put(store, *left)
        mine: list[list[ClaimedExecution]] = [[] for _ in hands]
        most, count = 0, 0

        def turn(number: int) -> list[ClaimedExecution]:
            barrier.wait(30)
            return hands[number].tick(*map(ended, mine[number]), slots=20).claimed

        with ThreadPoolExecutor(8) as pool:
            for _ in range(200):
                mine = list(pool.map(turn, range(8)))
                running = sum(map(len, mine))
                count += running
                most = max(most, running)
                if not scalar(store, "SELECT count(*) FROM netscript_executions"):
                    break
        assert (count, most) == (60, 3)
        exact(store)

    def test_who_needs_a_key_and_a_place_gets_both_or_neither(self, store: Store) -> None:
        limit(store, max_concurrency=1)
        first, second = limited(concurrency_key="k1"), limited(concurrency_key="k2")
        put(store, first, second)
        hand = Hand(store)
        (claim,) = hand.claim(5)
        assert claim.id == first.id
        assert claim.holds_job
        assert stands(store, second) == ("blocked", "job limit")
        assert rows(store, "SELECT key, used FROM netscript_concurrency_slots") == [("k1", 1)]
        other = new("b", concurrency_key="k1")
        put(store, other)
        assert hand.claim() == []
        done = hand.tick(ended(claim), slots=5, look=False)
        assert ids(done.claimed) == [second.id, other.id]
        exact(store)

    def test_one_that_waits_for_a_busy_key_holds_no_place(self, store: Store) -> None:
        limit(store, max_concurrency=1)
        holder = new("b", concurrency_key="k")
        keyed, free = limited(concurrency_key="k"), limited()
        put(store, holder)
        hand = Hand(store)
        claim = hand.claim_one()
        put(store, keyed, free)
        assert ids(hand.claim()) == [free.id]
        assert stands(store, keyed) == ("blocked", "concurrency key")
        hand.end(claim)
        hand.tick()  # its key's turn has come; its job's has not
        assert stands(store, keyed) == ("blocked", "job limit")
        exact(store)

    def test_nobody_passes_the_first_of_a_key_that_waits_for_its_job(self, store: Store) -> None:
        limit(store, max_concurrency=1)
        put(store, limited())
        hand = Hand(store)
        busy = hand.claim_one()
        head, later = limited(concurrency_key="k"), new("b", concurrency_key="k")
        put(store, head, later)
        assert hand.claim() == []
        assert stands(store, head) == ("blocked", "job limit")
        assert stands(store, later) == ("blocked", "concurrency key")
        assert hand.claim() == []  # and holds nothing meanwhile
        assert rows(store, "SELECT key FROM netscript_concurrency_slots") == []
        (claim,) = hand.tick(ended(busy), slots=5).claimed
        assert claim.id == head.id
        assert ids(hand.tick(ended(claim), slots=5).claimed) == [later.id]
        exact(store)

    def test_an_older_one_of_the_key_that_comes_due_goes_first(
        self, timed_store: Store, clock: ManualClock
    ) -> None:
        store = timed_store
        limit(store, max_concurrency=1)
        older = new("b", concurrency_key="k", delay=5_000_000)
        put(store, limited(), older)
        hand = Hand(store)
        busy = hand.claim_one()
        waiting = limited(concurrency_key="k")
        put(store, waiting)
        hand.tick()
        assert stands(store, waiting) == ("blocked", "job limit")
        clock.advance(6)
        (claim,) = hand.tick(ended(busy), slots=5).claimed
        assert claim.id == older.id
        assert hand.tick(ended(claim), slots=5).more  # the key's turn; now the job's
        assert ids(hand.claim()) == [waiting.id]
        exact(store)

    def test_many_keys_at_a_gate_come_in_one_by_one(self, store: Store) -> None:
        limit(store, max_concurrency=2)
        given = [limited(concurrency_key=f"k{n % 7}") for n in range(40)]
        put(store, *given)
        hand, mine, order = Hand(store), list[ClaimedExecution](), list[str]()
        for _ in range(200):
            mine = hand.tick(*map(ended, mine), slots=10).claimed
            assert len(mine) <= 2
            order += ids(mine)
            if len(order) == 40:
                break
        assert sorted(order) == [one.id for one in given]
        for number in range(7):
            of_key = [one.id for one in given[number::7]]
            assert [id_ for id_ in order if id_ in of_key] == of_key
        hand.tick(*map(ended, mine))
        exact(store)

    @pytest.mark.trap("D-14")
    def test_another_limit_holds_from_the_next_admission_on(self, store: Store) -> None:
        limit(store, max_concurrency=1)
        put(store, *(limited() for _ in range(40)))
        hand, chance = Hand(store), random.Random(14)
        mine: list[ClaimedExecution] = []
        count = 0
        for now in [1] * 5 + [3] * 8 + [1] * 8 + [2] * 4:
            limit(store, max_concurrency=now)
            before = len(mine)
            over = [claim for claim in mine if chance.random() < 0.6]
            kept = [claim for claim in mine if claim not in over]
            came = hand.tick(*map(ended, over), slots=20).claimed
            assert len(came) <= max(now - len(kept), 0)
            mine = kept + came
            assert len(mine) <= max(now, before)
            count += len(came)
        assert count < 40
        mine = hand.tick(*map(ended, mine), slots=20).claimed
        assert len(mine) == 2  # it has converged
        limit(store)
        rest = hand.claim(100)
        assert count + len(mine) + len(rest) == 40  # without a limit all come in
        hand.tick(*map(ended, mine + rest))
        assert_gates_exact(store)

    @pytest.mark.trap("D-14")
    def test_a_higher_limit_lets_more_in_without_another_cause(self, store: Store) -> None:
        limit(store, max_concurrency=1)
        put(store, *(limited() for _ in range(5)))
        hand = Hand(store)
        assert len(hand.claim()) == 1
        limit(store, max_concurrency=1)  # the same again tells nobody
        assert scalar(store, "SELECT count(*) FROM netscript_admissions") == 0
        limit(store, max_concurrency=3)
        assert len(hand.claim()) == 2

    def test_one_that_waits_for_its_time_has_no_place(
        self, timed_store: Store, clock: ManualClock
    ) -> None:
        store = timed_store
        limit(store, max_concurrency=1)
        later, now = limited(delay=60_000_000), limited()
        put(store, later, now)
        hand = Hand(store)
        claim = hand.claim_one()
        assert claim.id == now.id
        clock.advance(61)
        assert hand.claim() == []
        assert stands(store, later) == ("blocked", "job limit")
        assert ids(hand.tick(ended(claim), slots=5).claimed) == [later.id]

    @pytest.mark.parametrize("verdict", [Verdict.RETRY, Verdict.SNOOZE])
    def test_a_place_is_free_during_a_backoff_and_asked_for_again(
        self, timed_store: Store, clock: ManualClock, verdict: Verdict
    ) -> None:
        store = timed_store
        limit(store, max_concurrency=1)
        first, second = limited(), limited()
        put(store, first, second)
        hand = Hand(store)
        hand.end(hand.claim_one(), verdict, delay=10.0)
        claim = hand.claim_one()
        assert claim.id == second.id
        clock.advance(11)
        assert hand.claim() == []
        assert ids(hand.tick(ended(claim), slots=5).claimed) == [first.id]
        exact(store)

    def test_one_that_runs_again_at_once_lines_up_again(self, store: Store) -> None:
        limit(store, max_concurrency=1)
        given = limited()
        put(store, given)
        hand = Hand(store)
        done = hand.tick(ended(hand.claim_one(), Verdict.RETRY), slots=1)
        assert [(one.id, one.attempt) for one in done.claimed] == [(given.id, 2)]
        exact(store)

    def test_a_strict_one_keeps_its_key_and_not_its_place_through_a_backoff(
        self, timed_store: Store, clock: ManualClock
    ) -> None:
        store = timed_store
        limit(store, max_concurrency=1, strict_order=True)
        strict = limited(concurrency_key="k", strict_order=True)
        behind, other = limited(concurrency_key="k", strict_order=True), limited()
        put(store, strict, behind, other)
        hand = Hand(store, {"a": True})
        done = hand.tick(ended(hand.claim_one(), Verdict.RETRY, delay=5.0), slots=5)
        (claim,) = done.claimed
        assert claim.id == other.id
        clock.advance(6)
        assert hand.claim() == []
        assert stands(store, strict) == ("blocked", "job limit")
        assert ids(hand.tick(ended(claim), slots=5).claimed) == [strict.id]
        assert stands(store, behind) == ("blocked", "concurrency key")

    @pytest.mark.trap("D-34")
    def test_a_drained_one_keeps_its_place(self, store: Store) -> None:
        limit(store, max_concurrency=1)
        first = limited()
        put(store, first, limited())
        hand = Hand(store)
        hand.end(hand.claim_one(), Verdict.RELEASE)
        assert ids(hand.claim()) == [first.id]
        exact(store)

    @pytest.mark.trap("D-13")
    def test_a_rescued_one_keeps_its_place(self, store: Store) -> None:
        limit(store, max_concurrency=1)
        first, second = limited(concurrency_key="k"), limited()
        put(store, first, second)
        dead = Hand(store)
        dead.register(lease=-1)
        ghost = dead.claim_one()
        assert leases.rescue(store, new_id(), no_folder()) == [first.id]
        hand = Hand(store)
        (claim,) = hand.claim()
        assert claim.id == first.id
        assert dead.end(ghost).stale == {first.id}  # and frees nothing
        assert hand.claim() == []
        assert ids(hand.tick(ended(claim), slots=5).claimed) == [second.id]
        exact(store)

    def test_what_is_quarantined_gives_back_its_place(self, store: Store) -> None:
        limit(store, max_concurrency=1)
        bad = lose(store, limited())
        good = limited()
        put(store, good)
        hand = Hand(store)
        assert hand.claim() == []
        for _ in range(3):
            claim = hand.claim_suspect()
            assert claim is not None
            assert claim.holds_job
            death = Death(exit_code=1, signal=None, peak_memory=None)
            suspects.record_crash(store, claim, death, hand.id)
        assert status(store, bad.id) == "failed"
        assert ids(hand.claim()) == [good.id]
        exact(store)

    @pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.CANCEL])
    def test_one_that_is_retried_by_hand_asks_by_todays_definition(
        self, store: Store, verdict: Verdict
    ) -> None:
        given = new()
        put(store, given)
        hand = Hand(store)
        hand.end(hand.claim_one(), verdict)
        limit(store, max_concurrency=1)
        put(store, limited())
        claim = hand.claim_one()
        retries.retry(store, given.id)
        assert hand.claim() == []
        assert stands(store, given) == ("blocked", "job limit")
        assert ids(hand.tick(ended(claim), slots=5).claimed) == [given.id]
        exact(store)

    @pytest.mark.parametrize("key", [None, "k"])
    def test_cancelling_gives_a_place_to_the_next(self, store: Store, key: str | None) -> None:
        limit(store, max_concurrency=1)
        given = [limited(concurrency_key=key) for _ in range(4)]
        put(store, *given)
        hand = Hand(store)
        hand.tick()
        assert status(store, given[0].id) == "queued"
        cancelling.cancel(store, given[1].id)  # it waits
        cancelling.cancel(store, given[0].id)  # it has a place
        (claim,) = [*hand.claim(), *hand.claim()]
        assert claim.id == given[2].id
        cancelling.cancel(store, claim.id)  # it runs
        assert hand.claim() == []
        done = hand.tick(ended(claim, Verdict.CANCEL), slots=5)
        assert ids(done.claimed) == [given[3].id]
        exact(store)

    def test_many_that_are_cancelled_at_once_leave_no_place_behind(self, store: Store) -> None:
        limit(store, max_concurrency=2)
        given = [limited(concurrency_key=f"k{n % 2}") for n in range(10)]
        put(store, *given)
        hand = Hand(store)
        hand.tick()
        assert cancelling.cancel_chunk(store, [one.id for one in given[:9]]) == 9
        assert ids([*hand.claim(), *hand.claim()]) == [given[9].id]
        exact(store)

    def test_what_its_dead_worker_should_have_ended_gives_back_its_place(
        self, store: Store
    ) -> None:
        limit(store, max_concurrency=1)
        first, second = limited(), limited()
        put(store, first, second)
        dead = Hand(store)
        dead.register(lease=-1)
        dead.claim_one()
        cancelling.cancel(store, first.id)
        assert leases.rescue(store, new_id(), no_folder()) == [first.id]
        assert status(store, first.id) == "cancelled"
        assert ids(Hand(store).claim()) == [second.id]
        exact(store)

    @pytest.mark.trap("D-15")
    def test_a_paused_topic_has_no_places(self, store: Store) -> None:
        limit(store, max_concurrency=2)
        here = [limited(topic="p"), limited(topic="p", concurrency_key="k")]
        put(store, *here)
        hand = Hand(store, topics=["o"])
        hand.tick()
        assert [status(store, one.id) for one in here] == ["queued", "queued"]
        there = [limited(topic="o"), limited(topic="o", concurrency_key="k")]
        put(store, *there)
        assert hand.claim() == []
        topics.pause(store, "p")
        claims = hand.claim()
        assert ids(claims) == [one.id for one in there]
        assert stands(store, here[0]) == ("blocked", "job limit")
        assert stands(store, here[1]) == ("blocked", "concurrency key")
        exact(store)
        hand.tick(*map(ended, claims))
        assert Hand(store).claim() == []
        topics.resume(store, "p")
        everywhere = Hand(store)
        assert ids(everywhere.claim() + everywhere.claim()) == [one.id for one in here]
        exact(store)

    @pytest.mark.trap("D-15")
    def test_what_was_let_in_beside_a_pause_gives_way_to_who_comes(self, store: Store) -> None:
        """An admission that read the topic before the pause, and committed after it."""
        limit(store, max_concurrency=1)
        here = limited(topic="p", concurrency_key="k")
        put(store, here)
        Hand(store).tick()
        run(store, "INSERT INTO netscript_topics (name, paused) VALUES ('p', :yes)", yes=True)
        keyed, other = new("b", topic="o", concurrency_key="k"), limited(topic="o")
        put(store, keyed)
        hand = Hand(store)
        found = [*hand.claim(), *hand.claim()]
        assert ids(found) == [keyed.id]
        put(store, other)
        assert ids(hand.claim()) == [other.id]
        assert stands(store, here) == ("blocked", "concurrency key")
        exact(store)

    @pytest.mark.trap("D-15")
    def test_the_sweep_has_those_of_a_paused_topic_give_way(self, store: Store) -> None:
        limit(store, max_concurrency=1)
        here, there = limited(topic="p"), limited(topic="o")
        put(store, here, there)
        Hand(store).tick()
        run(store, "INSERT INTO netscript_topics (name, paused) VALUES ('p', :yes)", yes=True)
        assert sweep(store) == 0  # nothing had drifted
        assert (status(store, here.id), status(store, there.id)) == ("blocked", "queued")
        exact(store)

    def test_the_sweep_repairs_a_gate_that_counts_wrong(self, store: Store) -> None:
        limit(store, max_concurrency=2)
        put(store, *(limited() for _ in range(3)))
        run(store, "INSERT INTO netscript_job_gates (job_id, used) VALUES ('a', 2)")
        hand = Hand(store)
        assert hand.claim() == []
        assert sweep(store) == 4  # two places freed, two let in
        assert len(hand.claim()) == 2
        run(store, "UPDATE netscript_job_gates SET used = 0")
        assert sweep(store) == 2
        assert hand.claim() == []
        exact(store)

    def test_the_sweep_finds_who_was_overlooked(self, store: Store) -> None:
        limit(store, max_concurrency=2)
        for given in (limited(), limited(concurrency_key="k")):
            put(store, given)
            run(store, "DELETE FROM netscript_admissions")
            hand = Hand(store)
            assert hand.claim() == []
            assert sweep(store) == 1
            hand.tick()  # one with a key comes to the gate
            assert ids(hand.claim()) == [given.id]
            exact(store)

    @pytest.mark.trap("D-16")
    def test_workers_that_mix_keys_and_gates_end_all_and_deadlock_never(self, store: Store) -> None:
        limit(store, "a", max_concurrency=2)
        limit(store, "b", max_concurrency=3, rate="1000/s")
        chance = random.Random(16)

        def one() -> NewExecution:
            key = chance.choice([None, "k1", "k2", "k3", "k4"])
            name = chance.choice("abc")
            reason = {"a": "job limit", "b": "job limit", "c": None}[name]
            return new(name, concurrency_key=key, limited=reason)

        given = [one() for _ in range(240)]
        for start in range(0, 240, 40):
            put(store, *given[start : start + 40])
        living: Counter[str] = Counter()
        faults: list[str] = []
        guard = threading.Lock()

        def count(claims: list[ClaimedExecution], by: int) -> None:
            with guard:
                for claim in claims:
                    for name in (claim.job_id, claim.concurrency_key):
                        if name is not None:
                            living[name] += by
                most = {"a": 2, "b": 3} | {f"k{n}": 1 for n in range(1, 5)}
                faults.extend(name for name, top in most.items() if living[name] > top)

        def work(seed: int) -> int:
            mood, hand, total = random.Random(seed), Hand(store, ["a", "b", "c"]), 0
            mine: list[ClaimedExecution] = []
            for _ in range(2000):
                over = [claim for claim in mine if mood.random() < 0.7]
                mine = [claim for claim in mine if claim not in over]
                count(over, -1)
                came = hand.tick(*map(ended, over), slots=4).claimed
                count(came, +1)
                mine += came
                total += len(came)
                if not mine and not scalar(store, "SELECT count(*) FROM netscript_executions"):
                    break
            hand.tick(*map(ended, mine))
            return total

        with ThreadPoolExecutor(4) as pool:
            totals = list(pool.map(work, range(4)))
        assert faults == []
        assert sum(totals) == 240
        exact(store)
