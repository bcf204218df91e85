"""What is left of an execution: its row in history, its attempts, its way back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from netscript_workers import JobContext, Retry, job
from netscript_workers.clock import from_micros
from netscript_workers.domain import Reason, Verdict
from netscript_workers.errors import ExecutionNotFoundError, StateError
from netscript_workers.store import definitions, retries
from netscript_workers.store.engine import Store
from netscript_workers.store.steps import Progress
from netscript_workers.store.tick import Work
from netscript_workers.testing import ManualClock
from tests.kit import Hand, detail, new, put, rows, run, scalar, status


def test_history_keeps_everything_that_was_known(timed_store: Store, clock: ManualClock) -> None:
    put_at = clock.now()
    given = new(
        payload='{"a":1}',
        topic="x",
        priority=3,
        max_attempts=4,
        idempotency_key="i",
        concurrency_key="k",
        correlation_id="c",
        traceparent="p",
        tracestate="s",
        trigger_event_id=new().id,
    )
    put(timed_store, given)
    hand = Hand(timed_store)
    clock.advance(2)
    claim = hand.claim_one()
    hand.ticker.run(Work(progress=[Progress(claim.id, claim.token, 80.0, "almost")]))
    clock.advance(3)
    hand.end(claim, result='{"n":2}')
    record = detail(timed_store, given.id).execution
    assert (record.status, record.reason, record.error) == ("completed", None, None)
    assert (record.payload, record.result, record.topic) == ({"a": 1}, {"n": 2}, "x")
    assert (record.priority, record.attempt, record.max_attempts) == (3, 1, 4)
    assert (record.idempotency_key, record.concurrency_key) == ("i", "k")
    assert (record.correlation_id, record.traceparent) == ("c", "p")
    assert record.trigger_event_id == given.trigger_event_id
    assert record.worker_id == hand.id
    assert record.created_at == from_micros(put_at)
    assert record.started_at == from_micros(put_at + 2_000_000)
    assert record.finished_at == from_micros(put_at + 5_000_000)
    assert record.duration_ms == 3000
    assert record.progress is not None
    assert (record.progress.percent, record.progress.message) == (80.0, "almost")


def test_a_failure_may_leave_data_too(store: Store) -> None:
    put(store, new())
    hand = Hand(store)
    claim = hand.claim_one()
    hand.end(claim, Verdict.FAIL, reason=Reason.TIMEOUT, failure=Reason.TIMEOUT, result='{"a":1}')
    told = detail(store, claim.id)
    assert (told.execution.result, told.execution.reason) == ({"a": 1}, "timeout")
    assert [one.outcome for one in told.attempts] == ["timeout"]


def test_every_failed_attempt_leaves_its_own_record(timed_store: Store, clock: ManualClock) -> None:
    put(timed_store, new(max_attempts=3))
    hand = Hand(timed_store)
    tokens: list[int] = []
    for n in (1, 2):
        claim = hand.claim_one()
        tokens.append(claim.token)
        clock.advance(1)
        hand.end(claim, Verdict.RETRY, reason=Reason.RETRY, failure=Reason.ERROR, error=f"no {n}")
    last = hand.claim_one()
    hand.end(last, result="1")
    told = detail(timed_store, last.id)
    assert [(one.attempt, one.error) for one in told.attempts] == [(1, "no 1"), (2, "no 2")]
    assert [one.fence_token for one in told.attempts] == tokens
    assert {one.worker_id for one in told.attempts} == {hand.id}
    for one in told.attempts:
        assert one.started_at is not None
        assert (one.finished_at - one.started_at).total_seconds() == 1
    # The error of an earlier attempt is not the execution's.
    assert (told.execution.status, told.execution.error) == ("completed", None)


@pytest.mark.parametrize("verdict", [Verdict.RETRY, Verdict.SNOOZE])
def test_a_keyed_one_that_runs_again_at_once_goes_to_the_key_like_anybody(
    store: Store, verdict: Verdict
) -> None:
    first, second = new(concurrency_key="k"), new(concurrency_key="k")
    put(store, first, second)
    hand = Hand(store)
    done = hand.end(hand.claim_one(), verdict)
    assert done.claimed == []
    # It was enqueued first, so the key is its again, before the other has had a turn.
    assert [claim.id for claim in hand.claim()] == [first.id]
    assert detail(store, second.id).execution.reason == "concurrency key"


def test_a_snooze_with_strict_order_keeps_the_key(timed_store: Store, clock: ManualClock) -> None:
    first = new(concurrency_key="k", strict_order=True)
    put(timed_store, first, new(concurrency_key="k", strict_order=True))
    hand = Hand(timed_store, {"a": True})
    hand.end(hand.claim_one(), Verdict.SNOOZE, reason=Reason.SNOOZE, delay=60.0)
    assert hand.claim() == []
    clock.advance(61)
    claim = hand.claim_one()
    assert claim.id == first.id
    hand.end(claim, Verdict.FAIL, reason=Reason.ERROR, failure=Reason.ERROR)
    assert hand.claim_one().id != first.id


def test_a_drained_one_keeps_its_key_even_before_an_older_one(
    timed_store: Store, clock: ManualClock
) -> None:
    older, younger = new(concurrency_key="k", delay=5_000_000), new(concurrency_key="k")
    put(timed_store, older, younger)
    hand = Hand(timed_store)
    claim = hand.claim_one()
    clock.advance(6)
    hand.tick()  # the older one is due, and waits for the key
    hand.end(claim, Verdict.RELEASE, reason=Reason.DRAINED)
    assert [one.id for one in hand.claim()] == [younger.id]


@pytest.mark.parametrize("verdict", [Verdict.COMPLETE, Verdict.FAIL, Verdict.CANCEL])
def test_every_end_frees_the_key(store: Store, verdict: Verdict) -> None:
    first, second = new(concurrency_key="k"), new(concurrency_key="k")
    put(store, first, second)
    hand = Hand(store)
    hand.end(hand.claim_one(), verdict)
    assert [claim.id for claim in hand.claim()] == [second.id]


def fail(store: Store, hand: Hand, execution_id: str) -> None:
    claim = hand.claim_one()
    assert claim.id == execution_id
    hand.end(claim, Verdict.FAIL, reason=Reason.ERROR, failure=Reason.ERROR, error="no")


def test_of_two_retries_at_once_one_moves_it_and_the_other_is_told(store: Store) -> None:
    given = new(concurrency_key="k")
    put(store, given)
    hand = Hand(store)
    fail(store, hand, given.id)

    def retry(_: int) -> str:
        try:
            retries.retry(store, given.id)
        except StateError as error:
            return str(error)
        return "moved"

    with ThreadPoolExecutor(2) as pool:
        told = sorted(pool.map(retry, range(2)))
    assert told[1] == "moved"
    assert "can't be retried" in told[0]
    assert scalar(store, "SELECT count(*) FROM netscript_executions") == 1
    assert scalar(store, "SELECT count(*) FROM netscript_execution_history") == 0
    assert hand.claim_one().id == given.id


def test_a_cancelled_one_is_retried_as_the_attempt_it_was(store: Store) -> None:
    given = new(max_attempts=3)
    put(store, given)
    hand = Hand(store)
    hand.end(hand.claim_one(), Verdict.CANCEL, reason=Reason.CANCELLED)
    retries.retry(store, given.id)
    again = hand.claim_one()
    assert (again.attempt, again.max_attempts) == (1, 3)


def test_a_retry_starts_afresh_but_keeps_its_past(timed_store: Store, clock: ManualClock) -> None:
    given = new(max_attempts=1, priority=90, payload='{"a":1}')
    put(timed_store, given)
    hand = Hand(timed_store)
    claim = hand.claim_one()
    hand.ticker.run(Work(progress=[Progress(claim.id, claim.token, 80.0, None)]))
    hand.end(claim, Verdict.FAIL, reason=Reason.ERROR, failure=Reason.ERROR, error="no")
    clock.advance(3600)
    retries.retry(timed_store, given.id)
    told = detail(timed_store, given.id)
    record = told.execution
    assert (record.status, record.reason, record.progress) == ("queued", None, None)
    assert (record.started_at, record.finished_at, record.worker_id) == (None, None, None)
    assert record.run_at == from_micros(clock.now())
    assert record.created_at == from_micros(clock.now() - 3_600_000_000)
    assert len(told.attempts) == 1
    again = hand.claim_one()
    assert again.payload == '{"a":1}'
    assert again.token > claim.token
    hand.end(again, result="1")
    assert status(timed_store, given.id) == "completed"


def test_a_retry_gets_the_attempts_that_the_policy_gives_today(store: Store) -> None:
    @job(id="a", retry=Retry(max_attempts=5))
    async def today(ctx: JobContext[dict[str, int]]) -> None: ...

    given = new("a", max_attempts=1)
    put(store, given)
    hand = Hand(store)
    fail(store, hand, given.id)
    definitions.register(store, [today])
    retries.retry(store, given.id)
    again = hand.claim_one()
    assert (again.attempt, again.max_attempts) == (2, 6)


def test_a_retry_is_a_change_that_followers_see(store: Store) -> None:
    given = new()
    put(store, given)
    fail(store, Hand(store), given.id)
    retries.retry(store, given.id)
    (last,) = rows(store, "SELECT items FROM netscript_changes ORDER BY id DESC LIMIT 1")
    assert given.id in last[0]
    assert "queued" in last[0]


def test_a_pruned_execution_cannot_be_retried(store: Store) -> None:
    given = new()
    put(store, given)
    fail(store, Hand(store), given.id)
    run(store, "DELETE FROM netscript_execution_history")
    with pytest.raises(ExecutionNotFoundError):
        retries.retry(store, given.id)
