"""Batches: one more job when all are final, exactly once, however they end and whoever dies."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import event

from netscript_workers import JobContext, enqueue_batch, enqueue_job, job
from netscript_workers.domain import Death, Reason, Verdict
from netscript_workers.ids import new_id
from netscript_workers.store import batches, cancelling, leases, retries, suspects
from netscript_workers.store.engine import Store
from netscript_workers.store.retention import Retention, prune
from netscript_workers.testing import ManualClock
from tests.batching import a, b, batch_of, callbacks, counted, drain, store_work
from tests.integration.store.scenes import no_folder
from tests.kit import Hand, detail, ended, rows, run, scalar, status
from tests.modes import assert_clean
from tests.support import ROOT, clean_environment


@job(id="c")
async def c(ctx: JobContext[dict[str, int]]) -> None: ...


def sweep(store: Store) -> int:
    with store.begin() as conn:
        wrong, _ = batches.sweep(conn, store.dialect, "")
    return wrong


def test_the_callback_runs_once_all_are_done_and_carries_on_the_cause(store: Store) -> None:
    work, told = store_work(store, enqueue_job(a, {}), batch_of(3), enqueue_job(b, {"x": 1}))
    assert [one.execution_id for one in told] == [new.id for new in work.executions]
    hand = Hand(store)
    one, *members, _ = sorted(hand.claim(), key=lambda claim: claim.id)
    assert [claim.batch_id for claim in members] == [work.batches[0].id] * 3
    hand.tick(*map(ended, [one, *members[:2]]))
    assert counted(store) == [(3, 2, False)]
    assert sweep(store) == 0
    done = hand.tick(ended(members[2]), slots=5)
    assert counted(store) == [(3, 3, True)]
    (callback,) = done.claimed
    assert (callback.job_id, json.loads(callback.payload)) == ("b", {"all": 3})
    found = detail(store, callback.id).execution
    assert (found.triggered_by, found.correlation_id) == ("job", "the cause")
    assert callback.traceparent == "00-a-b-01"
    hand.end(callback)
    assert len(callbacks(store)) == 2
    assert sweep(store) == 0
    assert_clean(store)


def test_a_tick_that_does_not_look_leaves_a_note_that_the_next_look_finds(store: Store) -> None:
    store_work(store, batch_of(1))
    hand = Hand(store)
    done = hand.tick(ended(hand.claim_one()), look=False)
    assert done.more
    assert callbacks(store) == []
    assert sweep(store) == 0
    assert hand.claim_one().job_id == "b"


@pytest.mark.trap("D-67")
def test_the_callback_of_an_empty_batch_runs_at_once(store: Store) -> None:
    store_work(store, batch_of(0), enqueue_batch([]))
    assert counted(store) == [(0, 0, True)] * 2
    assert [claim.job_id for claim in Hand(store).claim()] == ["b"]
    assert_clean(store)


@pytest.mark.trap("D-67")
def test_members_that_were_enqueued_before_are_not_waited_for(store: Store) -> None:
    members = [enqueue_job(a, {"n": 1}, idempotency_key=key) for key in ("x", "y", "x")]
    _, first = store_work(store, enqueue_batch(members, enqueue_job(b, {"all": 2})))
    assert [one.duplicate for one in first] == [False, False, True]
    _, second = store_work(store, enqueue_batch(members, enqueue_job(b, {"all": 0})))
    assert [one.execution_id for one in second] == [one.execution_id for one in first]
    assert counted(store) == [(2, 0, False), (0, 0, True)]
    assert len(drain(Hand(store))) == 4
    assert counted(store) == [(2, 2, True), (0, 0, True)]
    assert sorted(callbacks(store)) == ['{"all":0}', '{"all":2}']
    assert_clean(store)


def test_however_its_members_end_a_batch_is_complete(store: Store) -> None:
    store_work(store, batch_of(5, priority=50))
    hand = Hand(store)
    claims = hand.claim(5)
    hand.tick(
        ended(claims[0]),
        ended(claims[1], Verdict.FAIL, reason=Reason.ERROR),
        ended(claims[2], Verdict.CANCEL, reason=Reason.CANCELLED),
        ended(claims[3], Verdict.RETRY, reason=Reason.RETRY),
        ended(claims[4], Verdict.FAIL, reason=Reason.TIMEOUT),
    )
    assert counted(store) == [(5, 4, False)]  # one runs again
    again = hand.claim_one()
    assert again.id == claims[3].id
    hand.end(again)
    assert counted(store) == [(5, 5, True)]
    assert len(callbacks(store)) == 1
    assert_clean(store)


@pytest.mark.parametrize("options", [{}, {"concurrency_key": "k"}, {"delay": 3600}])
def test_members_that_are_cancelled_while_they_wait_are_final(
    store: Store, options: dict[str, Any]
) -> None:
    work, _ = store_work(store, batch_of(3, **options))
    ids = [new.id for new in work.executions]
    cancelling.cancel(store, ids[0])
    assert cancelling.cancel_chunk(store, ids) == 2
    hand = Hand(store)
    assert hand.claim_one().job_id == "b"
    assert counted(store) == [(3, 3, True)]
    assert sweep(store) == 0
    # Retried in bulk, they run again, and the callback does not.
    assert retries.retry_chunk(store, ids) == 3
    assert sorted(drain(hand)) == sorted(ids)
    assert len(callbacks(store)) == 1


def test_members_that_are_retried_in_bulk_are_waited_for(store: Store) -> None:
    work, _ = store_work(store, batch_of(3), batch_of(2))
    ids = [new.id for new in work.executions]
    cancelling.cancel_chunk(store, [*ids[:2], ids[3]])
    assert retries.retry_chunk(store, ids) == 3
    assert sweep(store) == 0
    drain(Hand(store))
    assert counted(store) == [(3, 3, True), (2, 2, True)]
    assert len(callbacks(store)) == 2
    assert_clean(store)


def test_what_is_quarantined_is_final_for_its_batch(store: Store) -> None:
    store_work(store, batch_of(1))
    hand = Hand(store)
    claim = hand.claim_one()
    run(store, "UPDATE netscript_executions SET crashes = 2, losses = 2")
    suspects.record_crash(store, claim, Death(exit_code=None, signal=9, peak_memory=1), hand.id)
    assert status(store, claim.id) == "failed"
    assert hand.claim_one().job_id == "b"


def test_a_rescued_member_is_counted_once(timed_store: Store, clock: ManualClock) -> None:
    store_work(timed_store, batch_of(2))
    dead, hand = Hand(timed_store), Hand(timed_store)
    dead.register(lease=30)
    first, second = dead.claim()
    clock.advance(31)
    assert len(leases.rescue(timed_store, new_id(), no_folder())) == 2
    claims = hand.claim()
    hand.tick(*map(ended, claims))
    assert dead.tick(ended(first), ended(second)).stale == {first.id, second.id}
    assert counted(timed_store) == [(2, 2, True)]
    assert len(callbacks(timed_store)) == 1


@pytest.mark.trap("D-69")
def test_a_member_that_runs_again_before_the_batch_is_complete_is_waited_for(
    store: Store,
) -> None:
    store_work(store, batch_of(2))
    hand = Hand(store)
    first, second = hand.claim()
    # The notes of the failure and of the retry are both still to be taken.
    hand.tick(ended(first, Verdict.FAIL, reason=Reason.ERROR), look=False)
    retries.retry(store, first.id)
    hand.tick(ended(second), look=False)
    assert sweep(store) == 0
    again = hand.claim_one()
    assert again.id == first.id
    assert counted(store) == [(2, 1, False)]
    hand.tick(ended(again))
    assert counted(store) == [(2, 2, True)]
    assert len(callbacks(store)) == 1
    assert_clean(store)


@pytest.mark.trap("D-69")
def test_a_retry_whose_note_comes_late_does_not_complete_its_batch(store: Store) -> None:
    store_work(store, batch_of(2))
    hand = Hand(store)
    first, second = hand.claim()
    hand.tick(
        ended(first, Verdict.FAIL, reason=Reason.ERROR), ended(second), look=False
    )  # both are final, and nobody has looked
    retries.retry(store, first.id)
    # As if another tick had taken the retry's note, and not yet counted it.
    late = rows(store, "SELECT key, added FROM netscript_admissions WHERE added < 0")
    run(store, "DELETE FROM netscript_admissions WHERE added < 0")
    hand.tick()
    assert counted(store) == [(2, 2, False)]
    assert callbacks(store) == []
    for key, added in late:
        run(
            store,
            "INSERT INTO netscript_admissions (kind, key, added) VALUES ('batch', :key, :added)",
            key=key,
            added=added,
        )
    assert sweep(store) == 0
    # It ends again before anybody looks: the two notes cancel out, and are no drift.
    hand.tick(*map(ended, hand.tick(slots=1, look=False).claimed), look=False)
    assert counted(store) == [(2, 2, False)]
    assert sweep(store) == 0
    hand.register()
    run(store, "UPDATE netscript_workers SET started_at = 0")
    assert_clean(store)
    drain(hand)
    assert counted(store) == [(2, 2, True)]
    assert len(callbacks(store)) == 1
    assert_clean(store)


@pytest.mark.trap("D-69")
def test_a_member_that_runs_again_after_that_repeats_nothing(store: Store) -> None:
    store_work(store, batch_of(2))
    hand = Hand(store)
    first, second = hand.claim()
    hand.tick(ended(first, Verdict.FAIL, reason=Reason.ERROR), ended(second))
    drain(hand)
    for _ in range(2):
        retries.retry(store, first.id)
        claim = hand.claim_one()
        hand.end(claim, Verdict.FAIL, reason=Reason.ERROR)
        assert drain(hand) == []
    assert len(callbacks(store)) == 1
    assert counted(store) == [(2, 2, True)]
    assert_clean(store)


@pytest.mark.trap("D-69")
def test_an_end_that_is_told_twice_is_counted_once(store: Store) -> None:
    work, _ = store_work(store, batch_of(2))
    hand = Hand(store)
    first, _ = hand.claim()
    hand.tick(ended(first))
    assert hand.tick(ended(first)).stale == {first.id}
    with store.begin() as conn:
        told = [(work.batches[0].id, first.id, "completed")]
        assert not batches.record_done(conn, store.dialect, told)
    hand.tick()
    assert counted(store) == [(2, 1, False)]
    assert sweep(store) == 0


def test_the_sweep_has_a_lost_note_made_up_for(store: Store) -> None:
    store_work(store, batch_of(2), batch_of(1))
    hand = Hand(store)
    hand.tick(*map(ended, hand.claim(3)), look=False)
    run(store, "DELETE FROM netscript_admissions")
    drain(hand)
    assert callbacks(store) == []
    assert sweep(store) == 2
    assert sweep(store) == 0
    drain(hand)
    assert len(callbacks(store)) == 2
    assert counted(store) == [(2, 2, True), (1, 1, True)]
    assert_clean(store)


def test_a_batch_is_forgotten_with_its_set_after_a_while(
    timed_store: Store, clock: ManualClock
) -> None:
    clock.advance(24 * 3600)
    store_work(timed_store, batch_of(2))
    hand = Hand(timed_store)
    drain(hand)
    store_work(timed_store, batch_of(1))
    clock.advance(8 * 24 * 3600)
    while prune(timed_store, Retention(completed=7)):
        pass
    assert counted(timed_store) == [(1, 0, False)]  # what is not complete is not forgotten
    assert scalar(timed_store, "SELECT count(*) FROM netscript_batch_done") == 0
    drain(hand)
    assert counted(timed_store) == [(1, 1, True)]


# Several workers.


@pytest.mark.trap("D-66")
def test_the_last_two_of_a_batch_end_at_the_same_instant_two_hundred_times(store: Store) -> None:
    rounds = 200
    pair = [enqueue_job(a, {}), enqueue_job(c, {})]
    store_work(store, *(enqueue_batch(pair, enqueue_job(b, {})) for _ in range(rounds)))
    barrier = threading.Barrier(2)

    def end(hand: Hand) -> None:
        for claim in sorted(hand.claim(rounds), key=lambda claim: str(claim.batch_id)):
            barrier.wait(30)
            hand.tick(ended(claim))

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(end, Hand(store, [name])) for name in "ac"]:
            future.result(120)
    Hand(store).tick()
    assert len(callbacks(store)) == rounds
    assert counted(store) == [(2, 2, True)] * rounds
    assert_clean(store)


@pytest.mark.trap("D-66")
def test_a_thousand_members_and_several_workers_make_one_callback(store: Store) -> None:
    store_work(store, batch_of(1000))

    def work(_: int) -> int:
        hand, count = Hand(store), 0
        claims = hand.claim(20)
        while claims or not scalar(store, "SELECT count(completed_at) FROM netscript_batches"):
            count += len(claims)
            claims = hand.tick(*map(ended, claims), slots=20).claimed
        return count

    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(work, range(4)))
    assert counted(store) == [(1000, 1000, True)]
    assert callbacks(store) == ['{"all":1000}']
    assert sum(counts) >= 1000
    assert_clean(store)


@pytest.mark.trap("D-68")
def test_a_worker_killed_at_any_point_of_the_last_end_leaves_a_batch_that_completes(
    store: Store, database_url: str
) -> None:
    command = [sys.executable, "-m", "tests.integration.batch_dying", database_url]
    done = subprocess.run(
        command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    points = done.stdout.splitlines()
    assert points.count("COMMIT") >= 2
    first_commit = points.index("COMMIT")
    assert len(points) > first_commit + 3  # it was killed behind the commit, too
    open_ones = sum(not complete for _, _, complete in counted(store))
    assert open_ones > first_commit + 1
    leases.rescue(store, new_id(), no_folder())
    drain(Hand(store))
    assert counted(store) == [(2, 2, True)] * (len(points) + 1)
    assert len(callbacks(store)) == len(points) + 1
    assert sweep(store) == 0
    assert_clean(store)


def test_work_without_a_batch_asks_nothing_about_batches(store: Store) -> None:
    store_work(store, enqueue_job(a, {}))
    hand, seen = Hand(store), list[str]()
    claim = hand.claim_one()
    event.listen(store.engine, "before_cursor_execute", lambda *told: seen.append(told[2]))
    hand.tick(ended(claim))
    assert seen
    assert not [one for one in seen if "batch_done" in one or "netscript_batches" in one]
