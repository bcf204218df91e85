"""Explaining: for whatever does not run there is a code and a sentence."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from netscript_workers.domain import Death, NewExecution, Reason, Verdict
from netscript_workers.errors import ExecutionNotFoundError
from netscript_workers.ids import new_id
from netscript_workers.records import Explanation
from netscript_workers.store import cancelling, leases, parking, retries, suspects, topics
from netscript_workers.store.engine import Store
from netscript_workers.store.explain import COUNTED, explain
from netscript_workers.testing import ManualClock
from netscript_workers.topics import Bounds, Served, dump_topics
from tests.kit import Hand, lose, new, put, run

DEATH = Death(exit_code=None, signal=11, peak_memory=None)


def told(store: Store, one: NewExecution) -> Explanation:
    with store.snapshot() as conn:
        return explain(conn, store.dialect, one.id, now=store.now(conn))


def worker(store: Store, jobs: Sequence[str] = ("a", "b")) -> Hand:
    hand = Hand(store, jobs)
    hand.register()
    return hand


def test_what_runs_says_where_and_whether_it_is_to_end(
    timed_store: Store, clock: ManualClock
) -> None:
    given = new()
    put(timed_store, given)
    hand = worker(timed_store)
    hand.claim_one()
    clock.advance(3)
    found = told(timed_store, given)
    assert (found.status, found.code) == ("running", "running")
    assert found.sentence == (
        f"It has been running for 3.0 s on worker {hand.id}, in attempt 1 of 3."
    )
    cancelling.cancel(timed_store, given.id)
    found = told(timed_store, given)
    assert found.facts["cancel_requested"] is True
    assert "asked to end it" in found.sentence


def test_what_is_finished_says_how(store: Store) -> None:
    hand = worker(store)
    good, bad, off = new(), new(), new(delay=1_000_000)
    put(store, good)
    hand.end(hand.claim_one())
    put(store, bad)
    hand.end(hand.claim_one(), Verdict.FAIL, reason=Reason.TIMEOUT, error="slow")
    put(store, off)
    cancelling.cancel(store, off.id)
    assert told(store, good).sentence == "It completed in attempt 1 of 3."
    found = told(store, bad)
    assert (found.code, found.sentence) == ("failed", "It failed in attempt 1 of 3: timeout.")
    assert found.facts["error"] == "slow"
    assert told(store, off).sentence == "It was cancelled."
    retries.discard(store, bad.id)
    found = told(store, bad)
    assert (found.code, found.facts["reason"]) == ("cancelled", "discarded")


def test_what_killed_its_processes_says_quarantined_after_3_crashes(store: Store) -> None:
    given = new()
    put(store, given)
    hand = worker(store)
    suspects.record_crash(store, hand.claim_one(), DEATH, hand.id)
    found = told(store, given)
    assert (found.code, found.facts) == ("runs-alone", {"losses": 2, "crashes": 1})
    for _ in range(2):
        claim = hand.claim_suspect()
        assert claim is not None
        suspects.record_crash(store, claim, DEATH, hand.id)
    found = told(store, given)
    assert (found.code, found.facts["reason"]) == ("failed", "crashed")
    assert "quarantined after 3 crashes" in found.sentence


def test_one_that_was_there_when_workers_died_says_that_it_runs_alone(store: Store) -> None:
    given = lose(store, new())
    worker(store)
    found = told(store, given)
    assert found.code == "runs-alone"
    assert "2 workers died" in found.sentence


def test_what_is_due_later_says_when_and_why(timed_store: Store, clock: ManualClock) -> None:
    delayed, failing, snoozing = new(delay=40_000_000), new(), new()
    put(timed_store, delayed, failing, snoozing)
    hand = worker(timed_store)
    claims = {claim.id: claim for claim in hand.claim(2)}
    error = {"failure": Reason.ERROR, "error": "no"}
    hand.end(claims[failing.id], Verdict.RETRY, reason=Reason.RETRY, delay=40.0, **error)
    hand.end(claims[snoozing.id], Verdict.SNOOZE, reason=Reason.SNOOZE, delay=40.0)
    expected = {
        delayed.id: "It is due in 40 s, as it was enqueued for then.",
        failing.id: "It is due in 40 s, for attempt 2 of 3, as the last one failed.",
        snoozing.id: "It is due in 40 s, as its handler snoozed.",
    }
    for one in (delayed, failing, snoozing):
        found = told(timed_store, one)
        assert (found.code, found.sentence) == ("due", expected[one.id])
        assert found.facts["due_in"] == 40
    assert told(timed_store, failing).facts["error"] == "no"
    clock.advance(20)
    assert told(timed_store, delayed).facts["due_in"] == 20
    clock.advance(60)  # and the lease of the worker is over
    assert told(timed_store, delayed).code == "no-worker"


def test_what_waits_for_a_key_says_who_holds_it_and_who_goes_first(store: Store) -> None:
    holder, second, third = (new(concurrency_key="k") for _ in range(3))
    put(store, holder, second, third)
    assert told(store, holder).code == "no-worker"
    found = told(store, second)
    assert (found.code, found.facts["first"]) == ("concurrency-key", holder.id)
    hand = worker(store)
    assert told(store, holder).sentence == "Its key k is free, and it is about to be let in."
    hand.claim_one()
    found = told(store, second)
    assert found.code == "concurrency-key"
    assert f"blocked by key k held by execution {holder.id}, which is running" in found.sentence
    assert found.facts == {
        "key": "k",
        "holder": holder.id,
        "holder_status": "running",
        "ahead": 0,
    }
    found = told(store, third)
    assert found.facts["ahead"] == 1
    assert "1 of its key came before it" in found.sentence


@pytest.mark.trap("D-11")
def test_behind_a_backoff_in_strict_order_the_key_is_the_reason(
    timed_store: Store, clock: ManualClock
) -> None:
    first, second = (new(concurrency_key="k", strict_order=True) for _ in range(2))
    put(timed_store, first, second)
    hand = Hand(timed_store, {"a": True})
    hand.register()
    error = {"failure": Reason.ERROR, "error": "no"}
    hand.end(hand.claim_one(), Verdict.RETRY, reason=Reason.RETRY, delay=600.0, **error)
    assert hand.claim() == []
    found = told(timed_store, second)
    assert (found.code, found.facts["holder"]) == ("concurrency-key", first.id)
    assert found.facts["holder_status"] == "scheduled"
    assert f"blocked by key k held by execution {first.id}" in found.sentence
    assert "keeps its key between attempts" in found.sentence
    assert told(timed_store, first).sentence.startswith("It is due in 10 min")


@pytest.mark.trap("D-11")
def test_a_backoff_lets_the_next_of_its_key_run_and_be_ready(store: Store) -> None:
    first, second = (new(concurrency_key="k") for _ in range(2))
    put(store, first, second)
    hand = worker(store)
    error = {"failure": Reason.ERROR, "error": "no"}
    hand.end(hand.claim_one(), Verdict.RETRY, reason=Reason.RETRY, delay=600.0, **error)
    assert told(store, second).code == "ready"
    assert hand.claim_one().id == second.id


def test_a_paused_topic_is_the_reason_of_all_that_wait_in_it(store: Store) -> None:
    free, keyed = new(topic="x"), new(topic="x", concurrency_key="k")
    put(store, free, keyed)
    hand = worker(store)
    topics.pause(store, "x")
    hand.tick()
    for one in (free, keyed):
        found = told(store, one)
        assert (found.code, found.facts) == ("topic-paused", {"topic": "x"})
    topics.resume(store, "x")
    assert told(store, free).code == "ready"


def test_without_a_worker_that_is_the_reason(store: Store) -> None:
    given = new()
    put(store, given)
    assert told(store, given).code == "no-worker"
    hand = worker(store)
    assert told(store, given).code == "ready"
    leases.set_state(store, hand.id, "draining")
    found = told(store, given)
    assert (found.code, found.sentence) == ("no-worker", "No worker claims: 1 is leaving.")


def test_a_job_that_no_worker_knows_is_named_parked_or_not(store: Store) -> None:
    given = new("strange")
    put(store, given)
    worker(store)
    for _ in range(2):
        found = told(store, given)
        assert found.code == "no-worker-for-job"
        assert found.sentence == "No live worker knows job strange."
        parking.park(store)


def test_a_topic_that_no_worker_serves_is_named(store: Store) -> None:
    given = new(topic="far")
    put(store, given)
    worker(store)
    assert told(store, given).code == "ready"
    run(store, "UPDATE netscript_workers SET topics = :served", served=dump_topics(Served(("x",))))
    found = told(store, given)
    assert found.code == "no-worker-for-topic"
    assert found.sentence == "No live worker that knows job a serves topic far."
    but = dump_topics(Served(but=frozenset({"far"})))
    run(store, "UPDATE netscript_workers SET topics = :served", served=but)
    assert told(store, given).code == "no-worker-for-topic"
    Hand(store, ["a"]).register()
    assert told(store, given).code == "ready"


def test_workers_that_are_stuck_or_told_to_leave_run_nothing(store: Store) -> None:
    given = new()
    put(store, given)
    worker(store)
    run(store, "UPDATE netscript_workers SET stalled_at = 1")
    assert told(store, given).code == "workers-stalled"
    run(store, "UPDATE netscript_workers SET drain_requested = :yes", yes=True)
    assert told(store, given).code == "no-worker"


def test_what_is_ready_says_how_many_come_before_it(store: Store) -> None:
    put(store, *(new() for _ in range(3)))
    given, urgent = new(), new(priority=90)
    put(store, given)
    put(store, urgent)
    worker(store)
    found = told(store, given)
    assert (found.code, found.facts["ahead"]) == ("ready", 4)
    assert told(store, urgent).facts["ahead"] == 0


def test_when_all_slots_are_used_it_says_so(store: Store) -> None:
    hand = worker(store)
    put(store, *(new() for _ in range(12)))
    hand.claim(10)
    given = new()
    put(store, given)
    found = told(store, given)
    assert found.code == "workers-busy"
    assert found.facts == {"ahead": 2, "slots": 10, "used": 10}


def test_when_its_topic_may_use_no_more_slots_it_says_so(store: Store) -> None:
    hand = worker(store)
    bound(store, Bounds(10, most={"x": 2}))
    put(store, *(new(topic="x") for _ in range(2)))
    hand.claim(2)
    given, other = new(topic="x"), new()
    put(store, given, other)
    found = told(store, given)
    assert found.code == "topic-busy"
    assert found.facts == {"topic": "x", "ahead": 0, "slots": 2, "used": 2}
    assert found.sentence == (
        "Topic x may use 2 slots of the workers that know its job, and 2 of it run; "
        "0 of topic x come before it."
    )
    assert told(store, other).code == "ready"
    worker(store)  # which bounds no topic
    assert told(store, given).code == "ready"


def test_slots_of_a_topic_apart_are_counted_apart(store: Store) -> None:
    hand = worker(store)
    bound(store, Bounds(8, own={"x": 2}))
    put(store, *(new(topic="x") for _ in range(2)))
    hand.claim(2)
    given, other = new(topic="x"), new()
    put(store, given, other)
    assert told(store, given).code == "topic-busy"
    assert (told(store, other).code, told(store, other).facts["used"]) == ("ready", 0)
    put(store, *(new(priority=90) for _ in range(8)))
    hand.claim(9)
    assert told(store, other).code == "workers-busy"
    assert told(store, other).facts["slots"] == 8


def bound(store: Store, bounds: Bounds) -> None:
    """Have the workers on the list tell of these bounds."""
    told = dump_topics(Served(), bounds)
    run(store, "UPDATE netscript_workers SET topics = :told", told=told)


def test_no_more_is_counted_than_a_thousand(store: Store) -> None:
    worker(store)
    put(store, *(new() for _ in range(COUNTED + 50)))
    given = new()
    put(store, given)
    found = told(store, given)
    assert found.facts["ahead"] == COUNTED
    assert "1000 or more" in found.sentence


def test_what_waits_at_the_gate_of_its_job_says_so(store: Store) -> None:
    given, before = new(), new()
    put(store, before, given)
    worker(store)
    run(
        store,
        "UPDATE netscript_executions SET status = 'blocked', wants_job = :yes, "
        "reason = 'job limit'",
        yes=True,
    )
    run(
        store,
        "INSERT INTO netscript_job_definitions (id, kind, name, topic, priority, max_attempts, "
        "strict_order, max_concurrency, enabled, tags, metadata, payload_schema, source, "
        "registered_at) VALUES ('a', 'job', 'a', 'default', 50, 3, :no, 2, :yes, '[]', '{}', "
        "'{}', '', 1)",
        no=False,
        yes=True,
    )
    run(store, "INSERT INTO netscript_job_gates (job_id, used) VALUES ('a', 2)")
    found = told(store, max(given, before, key=lambda one: one.id))
    assert (found.code, found.facts["ahead"]) == ("job-limit", 1)
    assert found.facts["max_concurrency"] == 2
    run(store, "UPDATE netscript_job_definitions SET max_concurrency = NULL, rate = '10/s'")
    found = told(store, given)
    assert (found.code, found.facts["rate"]) == ("rate-limit", "10/s")
    run(store, "DELETE FROM netscript_workers")
    for rate in (None, "10/s"):
        run(store, "UPDATE netscript_job_definitions SET rate = :rate", rate=rate)
        assert told(store, given).code == "no-worker"


def test_unknown_ones_are_refused(store: Store) -> None:
    for id_ in (new_id(), "nonsense"):
        with store.snapshot() as conn, pytest.raises(ExecutionNotFoundError):
            explain(conn, store.dialect, id_, now=store.now(conn))
