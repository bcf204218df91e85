"""What a pause means for concurrency keys: a topic that stands still holds nothing up."""

from __future__ import annotations

import pytest

from netscript_workers.domain import Verdict
from netscript_workers.store import changes, topics
from netscript_workers.store.engine import Store
from netscript_workers.testing import ManualClock
from tests.kit import Hand, assert_slots_exact, detail, new, put, run, status, sweep


def admitted(store: Store) -> str:
    """Return a keyed execution of topic p that is ready, and holds its key."""
    first = new(topic="p", concurrency_key="k")
    put(store, first)
    Hand(store).tick(slots=0)
    assert status(store, first.id) == "queued"
    return first.id


@pytest.mark.trap("D-15")
def test_who_comes_for_the_key_of_a_paused_topic_gets_it(store: Store) -> None:
    first = admitted(store)
    run(store, "INSERT INTO netscript_topics (name, paused) VALUES ('p', :yes)", yes=True)
    other = new(topic="o", concurrency_key="k")
    put(store, other)
    hand = Hand(store)
    claim = hand.claim_one()
    assert claim.id == other.id
    waiting = detail(store, first).execution
    assert (waiting.status, waiting.reason) == ("blocked", "concurrency key")
    assert_slots_exact(store)
    hand.end(claim)
    assert status(store, first) == "blocked"  # it is still paused
    run(store, "DELETE FROM netscript_topics")
    assert sweep(store) == 1
    assert hand.claim_one().id == first


@pytest.mark.trap("D-15")
def test_a_pause_hands_the_key_to_those_that_wait_for_it_elsewhere(store: Store) -> None:
    first, other = admitted(store), new(topic="o", concurrency_key="k")
    put(store, other)
    hand = Hand(store)
    hand.tick(slots=0)
    assert status(store, other.id) == "blocked"
    topics.pause(store, "p")
    assert (status(store, first), status(store, other.id)) == ("blocked", "queued")
    with store.begin() as conn:
        changes.stamp(conn, store.dialect)
        told = dict(item for change in changes.read(conn, 0) for item in change.items)
    assert (told[first], told[other.id]) == ("blocked", "queued")
    claim = hand.claim_one()
    assert_slots_exact(store)
    hand.end(claim)
    topics.resume(store, "p")
    assert hand.claim_one().id == first
    assert_slots_exact(store)


def test_a_pause_leaves_what_runs_alone(store: Store) -> None:
    admitted(store)
    hand = Hand(store)
    claim = hand.claim_one()
    topics.pause(store, "p")
    put(store, new(topic="o", concurrency_key="k"))
    assert hand.claim() == []
    assert hand.end(claim).stale == set()
    assert len(hand.claim()) == 1
    assert_slots_exact(store)


def test_one_that_keeps_its_order_strictly_and_has_begun_keeps_its_key_through_a_pause(
    timed_store: Store, clock: ManualClock
) -> None:
    first = new(topic="p", concurrency_key="k", strict_order=True)
    put(timed_store, first)
    hand = Hand(timed_store, {"a": True})
    hand.end(hand.claim_one(), Verdict.RETRY, delay=1.0)
    clock.advance(2)
    hand.tick(slots=0)
    assert status(timed_store, first.id) == "queued"
    topics.pause(timed_store, "p")
    put(timed_store, new(topic="o", concurrency_key="k"))
    assert hand.claim() == []
    assert_slots_exact(timed_store)


def test_the_sweep_finds_a_holder_that_was_let_in_beside_a_pause(store: Store) -> None:
    """An admission that read the topic before the pause, and committed after it."""
    first, other = admitted(store), new(topic="o", concurrency_key="k")
    put(store, other)
    Hand(store).tick(slots=0)
    run(store, "INSERT INTO netscript_topics (name, paused) VALUES ('p', :yes)", yes=True)
    assert sweep(store) == 0  # nothing had drifted
    assert (status(store, first), status(store, other.id)) == ("blocked", "queued")
    assert_slots_exact(store)


def test_pausing_twice_and_resuming_twice_changes_nothing(store: Store) -> None:
    first = admitted(store)
    for _ in range(2):
        topics.pause(store, "p")
    assert Hand(store).claim() == []
    for _ in range(2):
        topics.resume(store, "p")
    assert Hand(store).claim_one().id == first
    assert_slots_exact(store)
