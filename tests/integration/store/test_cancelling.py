"""Cancelling, whatever state an execution is in, with a concurrency key and without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from netscript_triggers.store.verify import verify
from netscript_workers.domain import Death, NewExecution, Reason, Verdict
from netscript_workers.errors import ExecutionNotFoundError, StateError
from netscript_workers.ids import new_id
from netscript_workers.store import cancelling, leases, parking, suspects
from netscript_workers.store.cancelling import cancel
from netscript_workers.store.engine import Store
from netscript_workers.testing import ManualClock
from tests.kit import (
    Hand,
    assert_slots_exact,
    detail,
    ended,
    lose,
    new,
    put,
    rows,
    scalar,
    status,
)

DEATH = Death(exit_code=None, signal=11, peak_memory=None)


def keyed(**facts: Any) -> NewExecution:
    return new(concurrency_key="k", **facts)


def assert_in_order(store: Store) -> None:
    assert_slots_exact(store)
    report = verify(store)
    assert not report.findings, report


def assert_cancelled(store: Store, id_: str) -> None:
    record = detail(store, id_).execution
    assert (record.status, record.reason) == ("cancelled", "cancelled")
    assert (record.started_at, record.duration_ms, record.worker_id) == (None, None, None)
    assert record.finished_at is not None
    assert scalar(store, "SELECT count(*) FROM netscript_executions WHERE id = :id", id=id_) == 0


def scheduled(store: Store, hand: Hand) -> NewExecution:
    given = keyed(delay=60_000_000)
    put(store, given)
    return given


def blocked(store: Store, hand: Hand) -> NewExecution:
    put(store, keyed())
    hand.tick()
    given = keyed()
    put(store, given)
    hand.tick()
    assert status(store, given.id) == "blocked"
    return given


def queued(store: Store, hand: Hand) -> NewExecution:
    given = keyed()
    put(store, given)
    hand.tick()
    assert status(store, given.id) == "queued"
    return given


def parked(store: Store, hand: Hand) -> NewExecution:
    hand.register()
    given = keyed(job="strange")
    put(store, given)
    hand.tick()
    assert parking.park(store) == 1
    return given


def suspected(store: Store, hand: Hand) -> NewExecution:
    return lose(store, keyed())


def backing_off(store: Store, hand: Hand) -> NewExecution:
    given = keyed()
    put(store, given)
    hand.end(hand.claim_one(), Verdict.RETRY, failure=Reason.ERROR, reason=Reason.RETRY, delay=600)
    assert status(store, given.id) == "scheduled"
    return given


def backing_off_in_order(store: Store, hand: Hand) -> NewExecution:
    given = keyed(strict_order=True)
    put(store, given)
    strict = Hand(store, {"a": True})
    end = ended(
        strict.claim_one(), Verdict.RETRY, failure=Reason.ERROR, reason=Reason.RETRY, delay=600
    )
    strict.tick(end)
    assert scalar(store, "SELECT holds_key FROM netscript_executions")
    return given


STATES: tuple[Callable[[Store, Hand], NewExecution], ...] = (
    scheduled,
    blocked,
    queued,
    parked,
    suspected,
    backing_off,
    backing_off_in_order,
)


@pytest.mark.trap("D-16")
@pytest.mark.parametrize("state", STATES)
def test_one_of_a_key_that_waits_is_cancelled_at_once_and_the_next_one_runs(
    store: Store, state: Callable[[Store, Hand], NewExecution]
) -> None:
    hand = Hand(store)
    given = state(store, hand)
    other = keyed()
    put(store, other)
    hand.tick()

    cancel(store, given.id)

    assert_cancelled(store, given.id)
    ran: list[str] = []
    while claims := hand.claim():
        ran += [claim.id for claim in claims]
        hand.tick(*map(ended, claims))
    assert other.id in ran
    assert given.id not in ran
    assert_in_order(store)


@pytest.mark.trap("D-16")
def test_a_queued_one_hands_its_key_on_in_the_transaction_that_cancels_it(store: Store) -> None:
    first, second = keyed(), keyed()
    put(store, first, second)
    Hand(store).tick()
    assert [status(store, one.id) for one in (first, second)] == ["queued", "blocked"]
    cancel(store, first.id)
    assert [status(store, one.id) for one in (first, second)] == ["cancelled", "queued"]
    assert_in_order(store)


@pytest.mark.trap("D-16")
def test_a_running_one_keeps_its_key_until_it_has_stopped(store: Store) -> None:
    first, second = keyed(), keyed()
    put(store, first, second)
    hand = Hand(store)
    claim = hand.claim_one()
    cancel(store, first.id)
    record = detail(store, first.id).execution
    assert (record.status, record.cancel_requested) == ("running", True)
    assert hand.claim() == []
    with store.read() as conn:
        assert cancelling.orders(conn, hand.id).ends == {first.id: claim.token}
        assert cancelling.orders(conn, new_id()).ends == {}

    hand.end(claim, Verdict.CANCEL, reason=Reason.CANCELLED)

    assert detail(store, first.id).execution.cancel_requested is False
    assert [one.id for one in hand.claim()] == [second.id]
    assert_in_order(store)


@pytest.mark.parametrize(
    ("verdict", "facts"),
    [
        (Verdict.RETRY, {"failure": Reason.ERROR, "error": "no", "delay": 1.0}),
        (Verdict.RETRY, {"failure": Reason.ERROR, "error": "no", "delay": 0.0}),
        (Verdict.SNOOZE, {"reason": Reason.SNOOZE, "delay": 5.0}),
        (Verdict.RELEASE, {"reason": Reason.DRAINED}),
    ],
)
def test_what_would_run_again_is_cancelled(
    store: Store, verdict: Verdict, facts: dict[str, object]
) -> None:
    first, second = keyed(), keyed()
    put(store, first, second)
    hand = Hand(store)
    claim = hand.claim_one()
    cancel(store, first.id)
    done = hand.end(claim, verdict, **facts)
    assert done.stale == set()
    told = detail(store, first.id)
    assert (told.execution.status, told.execution.reason) == ("cancelled", "cancelled")
    assert told.execution.error == facts.get("error")
    assert [one.outcome for one in told.attempts] == (["error"] if "error" in facts else [])
    assert [one.id for one in hand.claim()] == [second.id]
    assert_in_order(store)


@pytest.mark.parametrize("verdict", [Verdict.COMPLETE, Verdict.FAIL])
def test_one_that_has_come_to_its_end_first_keeps_it(store: Store, verdict: Verdict) -> None:
    given = keyed()
    put(store, given)
    hand = Hand(store)
    claim = hand.claim_one()
    cancel(store, given.id)
    facts = {"reason": Reason.ERROR} if verdict is Verdict.FAIL else {}
    hand.end(claim, verdict, **facts)
    final = {Verdict.COMPLETE: "completed", Verdict.FAIL: "failed"}[verdict]
    assert status(store, given.id) == final
    with pytest.raises(StateError, match=f"is {final}"):
        cancel(store, given.id)
    assert_in_order(store)


def test_a_stale_end_changes_nothing_of_one_that_is_to_end(store: Store) -> None:
    given = keyed()
    put(store, given)
    old, hand = Hand(store), Hand(store)
    stale = old.claim_one()
    leases._rescue_orphans(store, old.id)
    claim = hand.claim_one()
    cancel(store, given.id)
    done = old.tick(ended(stale, Verdict.RETRY, failure=Reason.ERROR, delay=1.0))
    assert done.stale == {given.id}
    assert status(store, given.id) == "running"
    hand.end(claim, Verdict.CANCEL, reason=Reason.CANCELLED)
    assert_in_order(store)


@pytest.mark.trap("D-16")
@pytest.mark.parametrize("how", ["rescued", "orphaned", "deregistered", "unknown"])
def test_what_a_worker_gives_back_or_loses_is_cancelled_and_not_requeued(
    store: Store, how: str
) -> None:
    first, second, free = keyed(), keyed(), new()
    put(store, first, second, free)
    gone, hand = Hand(store), Hand(store)
    if how != "orphaned":
        gone.register(lease=-1)
    assert {claim.id for claim in gone.claim()} == {first.id, free.id}
    cancel(store, first.id)
    match how:
        case "rescued":
            assert set(leases._rescue_one(store, gone.id, proven=True)) == {first.id, free.id}
        case "orphaned":
            assert set(leases._rescue_orphans(store, gone.id)) == {first.id, free.id}
        case "deregistered":
            leases.deregister(store, gone.id)
        case _:
            assert set(leases.give_back_unknown(store, gone.id, ())) == {first.id, free.id}
    assert_cancelled(store, first.id)
    lost = ["lost"] if how in {"rescued", "orphaned"} else []
    assert [one.outcome for one in detail(store, first.id).attempts] == lost
    assert {claim.id for claim in hand.claim()} == {second.id, free.id}
    assert_in_order(store)


def test_one_that_kills_its_process_while_it_is_to_end_is_cancelled(store: Store) -> None:
    first, second = keyed(), keyed()
    put(store, first, second)
    hand = Hand(store)
    claim = hand.claim_one()
    cancel(store, first.id)
    suspects.record_crash(store, claim, DEATH, hand.id)
    told = detail(store, first.id)
    assert (told.execution.status, told.execution.reason) == ("cancelled", "cancelled")
    assert [one.outcome for one in told.attempts] == ["crashed"]
    assert [one.id for one in hand.claim()] == [second.id]
    assert_in_order(store)


def test_a_crash_too_many_is_a_failure_all_the_same(store: Store) -> None:
    given = keyed()
    put(store, given)
    hand = Hand(store)
    suspects.record_crash(store, hand.claim_one(), DEATH, hand.id)
    for last in (False, True):
        claim = hand.claim_suspect()
        assert claim is not None
        if last:
            cancel(store, given.id)
        suspects.record_crash(store, claim, DEATH, hand.id)
    record = detail(store, given.id).execution
    assert (record.status, record.reason) == ("failed", "crashed")
    assert_in_order(store)


def test_a_second_wish_for_the_end_of_what_runs_changes_nothing(store: Store) -> None:
    given = new()
    put(store, given)
    Hand(store).claim_one()
    cancel(store, given.id)
    noted = scalar(store, "SELECT count(*) FROM netscript_changes")
    cancel(store, given.id)
    assert scalar(store, "SELECT count(*) FROM netscript_changes") == noted


def test_what_is_cancelled_twice_or_does_not_exist_is_refused(store: Store) -> None:
    given = new()
    put(store, given)
    cancel(store, given.id)
    with pytest.raises(StateError, match="is cancelled, so it can't be cancelled"):
        cancel(store, given.id)
    for unknown in (new_id(), "nonsense", ""):
        with pytest.raises(ExecutionNotFoundError):
            cancel(store, unknown)


def test_a_cancelled_backoff_is_no_run_that_overlaps_others(
    timed_store: Store, clock: ManualClock
) -> None:
    hand = Hand(timed_store)
    given = backing_off(timed_store, hand)
    other = keyed()
    put(timed_store, other)
    claim = hand.claim_one()
    clock.advance(30)
    hand.end(claim)
    clock.advance(30)
    cancel(timed_store, given.id)
    assert_in_order(timed_store)


def test_followers_see_what_is_cancelled_and_who_comes_instead(store: Store) -> None:
    first, second = keyed(), keyed()
    put(store, first, second)
    Hand(store).tick()
    cancel(store, first.id)
    newest = "SELECT items FROM netscript_changes ORDER BY id DESC LIMIT 1"
    told = rows(store, newest)[0][0]
    assert f'["{first.id}","cancelled"]' in told
    assert f'["{second.id}","queued"]' in told
