"""What several workers died of is claimed by itself, and its crashes are counted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from netscript_workers.domain import CRASH_BUDGET, Death, Reason, Verdict
from netscript_workers.store import leases, parking, retries, suspects
from netscript_workers.store.engine import Store
from netscript_workers.topics import Served
from tests.integration.store.scenes import no_folder
from tests.kit import Hand, detail, limit, lose, new, put, rows, run, scalar, status, sweep
from tests.modes import assert_clean
from tests.support import eventually

SEGFAULT = Death(exit_code=None, signal=11, peak_memory=84 * 2**20)


def crash(store: Store, times: int) -> None:
    hand = Hand(store)
    for _ in range(times):
        claim = hand.claim_suspect()
        assert claim is not None
        suspects.record_crash(store, claim, SEGFAULT, hand.id)


def test_after_one_loss_an_execution_is_claimed_like_any_and_after_two_by_itself(
    store: Store,
) -> None:
    once = lose(store, new(), times=1)
    assert Hand(store).claim_suspect() is None
    assert [claim.id for claim in Hand(store).claim()] == [once.id]
    twice = lose(store, new())
    innocent = new()
    put(store, innocent)
    assert detail(store, twice.id).execution.reason == "runs alone"
    hand = Hand(store)
    assert [claim.id for claim in hand.claim()] == [innocent.id]
    claim = hand.claim_suspect()
    assert claim is not None
    assert (claim.id, claim.losses, claim.attempt) == (twice.id, 2, 1)
    assert hand.claim_suspect() is None
    hand.end(claim, result='"alone"')
    assert detail(store, twice.id).execution.result == "alone"


def test_suspects_are_claimed_by_who_knows_and_serves_them_and_the_most_urgent_first(
    store: Store,
) -> None:
    late = lose(store, new("a", topic="x"))
    urgent = lose(store, new("a", topic="y", priority=100))
    assert suspects.claim(store, new().id, '["b"]', Served()) is None
    assert not suspects.any_waiting(store, '["a"]', Served(("z",)))
    run(store, "INSERT INTO netscript_topics (name, paused) VALUES ('y', :yes)", yes=True)
    found = suspects.claim(store, new().id, '["a"]', Served())
    assert found is not None and found.id == late.id
    assert not suspects.any_waiting(store, '["a"]', Served())
    run(store, "DELETE FROM netscript_topics")
    assert suspects.any_waiting(store, '["a"]', Served(("x", "y")))
    found = suspects.claim(store, new().id, '["a"]', Served(("y",)))
    assert found is not None and found.id == urgent.id


def test_a_suspect_is_claimed_once_however_many_look_at_once(store: Store) -> None:
    given = sorted(lose(store, new()).id for _ in range(6))
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(Hand(store).claim_suspect) for _ in range(6)]
        found = [answer.result() for answer in asked]
    ids = [claim.id for claim in found if claim is not None]
    assert sorted(set(ids)) == sorted(ids)
    while (claim := Hand(store).claim_suspect()) is not None:
        ids.append(claim.id)
    assert sorted(ids) == given


def test_a_suspect_that_fails_is_tried_again_alone(store: Store) -> None:
    given = lose(store, new(max_attempts=3))
    hand = Hand(store)
    claim = hand.claim_suspect()
    assert claim is not None
    hand.end(claim, Verdict.RETRY)
    assert hand.claim() == []
    again = hand.claim_suspect()
    assert again is not None
    assert (again.id, again.attempt) == (given.id, 2)


@pytest.mark.trap("D-32")
def test_crashes_have_a_budget_apart_from_attempts_and_end_in_quarantine(store: Store) -> None:
    given = lose(store, new(max_attempts=1, concurrency_key="k"))
    put(store, next_of_key := new(concurrency_key="k"))
    crash(store, CRASH_BUDGET - 1)
    told = detail(store, given.id).execution
    assert (told.status, told.reason, told.attempt) == ("queued", "runs alone", 1)
    assert Hand(store).claim() == []  # it keeps its key meanwhile
    crash(store, 1)
    record = detail(store, given.id)
    assert (record.execution.status, record.execution.reason) == ("failed", "crashed")
    assert record.execution.error == (
        "It killed its process 3 times while it ran alone: signal 11 (SIGSEGV), peak memory 84 MiB."
    )
    assert [one.outcome for one in record.attempts] == ["lost"] * 2 + ["crashed"] * 3
    last = record.attempts[-1]
    assert (last.exit_code, last.signal, last.peak_memory) == (None, 11, 84 * 2**20)
    assert [claim.id for claim in Hand(store).claim()] == [next_of_key.id]
    assert sweep(store) == 0


def test_a_crash_that_others_have_recorded_as_a_loss_changes_nothing(store: Store) -> None:
    given = lose(store, new())
    hand = Hand(store)
    hand.register(lease=-1)
    claim = hand.claim_suspect()
    assert claim is not None
    assert leases.rescue(store, new().id, no_folder()) == [given.id]
    suspects.record_crash(store, claim, SEGFAULT, hand.id)
    assert rows(store, "SELECT losses, crashes FROM netscript_executions") == [(3, 0)]


def test_a_retry_from_the_dead_letter_gives_the_budget_anew_and_runs_alone(store: Store) -> None:
    given = lose(store, new())
    crash(store, CRASH_BUDGET)
    retries.retry(store, given.id)
    assert Hand(store).claim() == []
    crash(store, CRASH_BUDGET - 1)
    assert status(store, given.id) == "queued"
    crash(store, 1)
    assert status(store, given.id) == "failed"


def test_a_retry_of_what_failed_otherwise_is_nobodys_suspect(store: Store) -> None:
    given = lose(store, new())
    hand = Hand(store)
    claim = hand.claim_suspect()
    assert claim is not None
    hand.end(claim, Verdict.FAIL)
    retries.retry(store, given.id)
    assert [(claim.id, claim.losses) for claim in hand.claim()] == [(given.id, 0)]


def test_a_suspect_is_not_taken_for_a_stranger(store: Store) -> None:
    Hand(store, ["a"]).register()
    suspect = lose(store, new("a"))
    strange = new("strange")
    put(store, strange)
    assert parking.park(store) == 1
    run(store, 'UPDATE netscript_workers SET jobs = \'["a", "strange"]\'')
    assert parking.unpark(store) == 1
    assert [claim.id for claim in Hand(store, ["a", "strange"]).claim()] == [strange.id]
    assert detail(store, suspect.id).execution.reason == "runs alone"


@pytest.mark.parametrize(
    ("death", "told"),
    [
        (SEGFAULT, "signal 11 (SIGSEGV), peak memory 84 MiB"),
        (Death(exit_code=3, signal=None, peak_memory=None), "exit code 3 without a result"),
        (Death(exit_code=None, signal=99, peak_memory=None), "signal 99"),
    ],
)
def test_a_death_is_told_in_words(death: Death, told: str) -> None:
    assert str(death) == told


def test_the_claim_of_a_suspect_draws_a_token_of_its_own(store: Store) -> None:
    lose(store, new())
    highest = scalar(store, "SELECT max(token) FROM netscript_executions")
    claim = Hand(store).claim_suspect()
    assert claim is not None
    assert claim.token > highest


@pytest.mark.parametrize("way", ["key", "gate", "delay"])
def test_a_suspect_says_why_it_waits_however_often_it_comes_back(store: Store, way: str) -> None:
    if way == "gate":
        limit(store, max_concurrency=1)
    given = lose(store, new(concurrency_key="k" if way == "key" else None, limited=way == "gate"))
    hand = Hand(store)
    hand.register(lease=3600)
    assert hand.claim_suspect() is not None
    assert_clean(store)
    leases.give_back_unknown(store, hand.id, ())
    assert detail(store, given.id).execution.reason == "runs alone"
    assert_clean(store)
    if way == "delay":
        claim = hand.claim_suspect()
        assert claim is not None
        hand.end(claim, Verdict.SNOOZE, reason=Reason.SNOOZE, delay=0.001)
        eventually(lambda: hand.tick().claimed or status(store, given.id) == "queued")
        assert detail(store, given.id).execution.reason == "runs alone"
    crash(store, CRASH_BUDGET)
    retries.retry(store, given.id)
    assert_clean(store)
    hand.tick()
    told = detail(store, given.id).execution
    assert (told.status, told.reason) == ("queued", "runs alone")
    assert_clean(store)
