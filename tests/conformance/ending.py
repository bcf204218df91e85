"""Ending: fencing, retries, snoozes, steps, actions, and the way back from history."""

from __future__ import annotations

import pytest
from sqlalchemy import event

from netscript_workers.domain import Reason, Verdict
from netscript_workers.errors import ExecutionNotFoundError, StateError
from netscript_workers.store import retries
from netscript_workers.store.engine import Store
from netscript_workers.store.steps import FinishedStep, LogLine, Progress
from netscript_workers.store.tick import Work
from netscript_workers.testing import ManualClock
from tests.kit import Hand, detail, ended, new, put, scalar, status


def fail(store: Store, hand: Hand) -> str:
    claim = hand.claim_one()
    hand.end(claim, Verdict.FAIL, reason=Reason.ERROR, failure=Reason.ERROR, error="no")
    return claim.id


class Ending:
    """Only the current attempt may say how it ended, and what it says is stored whole."""

    def test_a_completed_execution_moves_to_history_with_its_result(self, store: Store) -> None:
        given = new()
        put(store, given)
        hand = Hand(store)
        hand.end(hand.claim_one(), result='{"ok":true}')
        record = detail(store, given.id).execution
        assert (record.status, record.result, record.error) == ("completed", {"ok": True}, None)
        assert record.finished_at is not None
        assert record.duration_ms is not None
        assert record.duration_ms >= 0
        assert scalar(store, "SELECT count(*) FROM netscript_executions") == 0
        assert scalar(store, "SELECT count(*) FROM netscript_execution_attempts") == 0

    def test_a_failed_execution_keeps_its_error_and_its_attempt(self, store: Store) -> None:
        given = new()
        put(store, given)
        hand = Hand(store)
        hand.end(
            hand.claim_one(),
            Verdict.FAIL,
            reason=Reason.ERROR,
            failure=Reason.ERROR,
            error="ValueError: no",
            detail="Traceback …",
        )
        told = detail(store, given.id)
        assert (told.execution.status, told.execution.reason) == ("failed", "error")
        assert told.execution.error == "ValueError: no"
        (attempt,) = told.attempts
        assert (attempt.attempt, attempt.outcome, attempt.detail) == (1, "error", "Traceback …")

    def test_a_retry_counts_the_attempt_and_waits(
        self, timed_store: Store, clock: ManualClock
    ) -> None:
        given = new(max_attempts=3)
        put(timed_store, given)
        hand = Hand(timed_store)
        hand.end(
            hand.claim_one(), Verdict.RETRY, reason=Reason.RETRY, failure=Reason.ERROR, delay=10.0
        )
        record = detail(timed_store, given.id).execution
        assert (record.status, record.reason, record.attempt) == ("scheduled", "retry", 2)
        assert hand.claim() == []
        clock.advance(11)
        assert hand.claim_one().attempt == 2
        assert len(detail(timed_store, given.id).attempts) == 1

    @pytest.mark.parametrize("verdict", [Verdict.SNOOZE, Verdict.RELEASE])
    def test_a_snooze_and_a_release_leave_the_attempt(self, store: Store, verdict: Verdict) -> None:
        given = new()
        put(store, given)
        hand = Hand(store)
        hand.end(hand.claim_one(), verdict)
        assert hand.claim_one().attempt == 1
        assert detail(store, given.id).attempts == ()

    def test_a_cancelled_execution_is_final(self, store: Store) -> None:
        given = new()
        put(store, given)
        hand = Hand(store)
        hand.end(hand.claim_one(), Verdict.CANCEL, reason=Reason.CANCELLED)
        assert status(store, given.id) == "cancelled"

    def test_a_result_under_an_old_token_is_refused(self, store: Store) -> None:
        given = new()
        put(store, given)
        hand, other = Hand(store), Hand(store)
        stale = hand.claim_one()
        hand.end(stale, Verdict.RELEASE)
        current = other.claim_one()
        done = hand.end(stale, result='"stale"')
        assert done.stale == {given.id}
        assert status(store, given.id) == "running"
        other.end(current, result='"mine"')
        assert hand.end(stale, result='"late"').stale == {given.id}
        assert detail(store, given.id).execution.result == "mine"

    def test_a_stale_result_brings_no_actions(self, store: Store) -> None:
        put(store, new())
        hand = Hand(store)
        stale = hand.claim_one()
        hand.end(stale, Verdict.RELEASE)
        hand.end(stale, actions=(new("b"),))
        assert scalar(store, "SELECT count(*) FROM netscript_executions WHERE job_id='b'") == 0

    def test_actions_are_stored_with_the_completion(self, store: Store) -> None:
        put(store, new())
        hand = Hand(store)
        follow_up = new("b", concurrency_key="k")
        hand.end(hand.claim_one(), actions=(follow_up,))
        assert [claim.id for claim in hand.claim()] == [follow_up.id]

    def test_n_results_and_n_claims_cost_one_commit(self, store: Store) -> None:
        put(store, *(new() for _ in range(40)))
        hand = Hand(store)
        claimed = hand.claim(20)
        commits: list[object] = []
        event.listen(store.engine, "commit", commits.append)
        done = hand.tick(*map(ended, claimed), slots=20)
        assert len(done.claimed) == 20
        assert len(commits) == 1

    def test_a_result_that_the_database_refuses_fails_alone(self, store: Store) -> None:
        given = [new() for _ in range(3)]
        put(store, *given)
        hand = Hand(store)
        claims = {claim.id: claim for claim in hand.claim()}
        # The same id twice breaks the primary key of the executions.
        twice = new("b")
        bad = ended(claims[given[1].id], actions=(twice, twice))
        done = hand.tick(ended(claims[given[0].id]), bad, ended(claims[given[2].id]), slots=5)
        assert done.stale == set()
        assert [status(store, one.id) for one in given] == ["completed", "failed", "completed"]
        refused = detail(store, given[1].id).execution
        assert refused.reason == "result refused"
        assert scalar(store, "SELECT count(*) FROM netscript_executions") == 0

    def test_steps_progress_and_logs_are_kept_under_the_token(self, store: Store) -> None:
        given = new()
        put(store, given)
        hand = Hand(store)
        claim = hand.claim_one()
        step = FinishedStep(claim.id, claim.token, "charge", '{"id":1}', 1)
        progress = [Progress(claim.id, claim.token, p, f"{p}") for p in (10.0, 40.0)]
        line = LogLine(claim.id, 1, 5, "INFO", "hello")
        hand.ticker.run(Work(steps=[step], progress=progress, logs=[line]))
        told = detail(store, given.id)
        assert [(one.name, one.result) for one in told.steps] == [("charge", {"id": 1})]
        assert told.execution.progress is not None
        assert (told.execution.progress.percent, told.execution.progress.message) == (40.0, "40.0")
        assert [one.message for one in told.logs] == ["hello"]

    def test_a_step_of_an_attempt_that_was_given_up_is_lost(self, store: Store) -> None:
        put(store, new())
        hand = Hand(store)
        stale = hand.claim_one()
        hand.end(stale, Verdict.RELEASE)
        step = FinishedStep(stale.id, stale.token, "charge", "1", 1)
        done = hand.ticker.run(
            Work(steps=[step], progress=[Progress(stale.id, stale.token, 1.0, None)])
        )
        assert done.lost_steps == {stale.id}
        assert detail(store, stale.id).execution.progress is None

    def test_a_retry_from_history_keeps_id_and_steps_and_goes_on_counting(
        self, store: Store
    ) -> None:
        given = new(max_attempts=1)
        put(store, given)
        hand = Hand(store)
        claim = hand.claim_one()
        hand.ticker.run(Work(steps=[FinishedStep(claim.id, claim.token, "s", "1", 1)]))
        hand.end(claim, Verdict.FAIL, reason=Reason.ERROR, failure=Reason.ERROR)
        retries.retry(store, given.id)
        again = hand.claim_one()
        assert (again.id, again.attempt, again.max_attempts) == (given.id, 2, 2)
        assert [step.name for step in detail(store, given.id).steps] == ["s"]
        assert scalar(store, "SELECT count(*) FROM netscript_execution_history") == 0

    @pytest.mark.trap("D-18")
    def test_a_keyed_retry_asks_for_its_key(self, store: Store) -> None:
        given = new(concurrency_key="k")
        put(store, given)
        hand = Hand(store)
        fail(store, hand)
        put(store, new(concurrency_key="k"))
        other = hand.claim_one()
        retries.retry(store, given.id)
        assert hand.claim() == []
        hand.end(other)
        assert [claim.id for claim in hand.claim()] == [given.id]

    @pytest.mark.trap("D-49")
    def test_a_retry_where_its_idempotency_key_is_used_again_loses_nothing(
        self, store: Store
    ) -> None:
        given = new(idempotency_key="k")
        put(store, given)
        hand = Hand(store)
        fail(store, hand)
        assert put(store, new(idempotency_key="k"))[0].duplicate
        retries.retry(store, given.id)
        assert hand.claim_one().id == given.id

    @pytest.mark.trap("D-49")
    @pytest.mark.parametrize("key", [None, "k"])
    def test_a_retry_beside_a_later_holder_of_its_idempotency_key_runs_both(
        self, timed_store: Store, clock: ManualClock, key: str | None
    ) -> None:
        first = new(idempotency_key="i", concurrency_key=key)
        put(timed_store, first)
        hand = Hand(timed_store)
        fail(timed_store, hand)
        clock.advance(73 * 3600)  # its window is over, so that the key has a new holder
        second = new(idempotency_key="i", concurrency_key=key)
        assert not put(timed_store, second)[0].duplicate
        retries.retry(timed_store, first.id)
        ran: list[str] = []
        while claims := hand.claim():
            ran += [claim.id for claim in claims]
            hand.tick(*map(ended, claims))
        assert sorted(ran) == sorted([first.id, second.id])
        (again,) = put(timed_store, new(idempotency_key="i"))
        assert (again.duplicate, again.execution_id) == (True, second.id)

    @pytest.mark.parametrize("state", ["queued", "running", "completed"])
    def test_what_has_not_failed_cannot_be_retried(self, store: Store, state: str) -> None:
        given = new()
        put(store, given)
        hand = Hand(store)
        if state != "queued":
            claim = hand.claim_one()
            if state == "completed":
                hand.end(claim)
        with pytest.raises(StateError, match=state):
            retries.retry(store, given.id)

    @pytest.mark.parametrize("id_", ["nonsense", "01900000-0000-7000-8000-000000000000", "\0"])
    def test_an_unknown_execution_cannot_be_retried(self, store: Store, id_: str) -> None:
        with pytest.raises(ExecutionNotFoundError):
            retries.retry(store, id_)
