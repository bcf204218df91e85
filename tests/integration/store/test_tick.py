"""The tick: one commit for everything, and what cannot be stored fails alone."""

from __future__ import annotations

import pytest
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, OperationalError

from netscript_workers.domain import ClaimedExecution, Reason, Verdict
from netscript_workers.store import claims
from netscript_workers.store.engine import Store
from netscript_workers.store.steps import FinishedStep, LogLine, Progress
from netscript_workers.store.tick import Work
from netscript_workers.testing import ManualClock
from tests.kit import Hand, detail, ended, new, put, rows, run, scalar, status

EXECUTIONS = "SELECT count(*) FROM netscript_executions"


def everything(hand: Hand, claims_: list[ClaimedExecution], slots: int) -> Work:
    """Results, retries, actions, steps, progress and logs of one tick."""
    done, again, going = claims_
    return Work(
        ended=[
            ended(done, result="1", actions=(new("b", concurrency_key="k"), new("b"))),
            ended(again, Verdict.RETRY, reason=Reason.RETRY, failure=Reason.ERROR, delay=5.0),
        ],
        steps=[FinishedStep(going.id, going.token, "s", "1", 1)],
        progress=[Progress(going.id, going.token, 50.0, None)],
        logs=[LogLine(going.id, 1, 1, "INFO", "hello")],
        slots=slots,
        look=True,
    )


def test_all_that_a_tick_does_is_one_commit(store: Store) -> None:
    put(store, *(new() for _ in range(3)))
    hand = Hand(store)
    work = everything(hand, hand.claim(3), slots=5)
    commits: list[object] = []
    event.listen(store.engine, "commit", commits.append)
    done = hand.ticker.run(work)
    assert {claim.job_id for claim in done.claimed} == {"b"}
    assert len(done.claimed) == 2
    assert len(commits) == 1


def test_a_tick_costs_the_same_statements_for_one_and_for_a_hundred(store: Store) -> None:
    statements: list[str] = []

    def note(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    put(store, *(new(concurrency_key=f"k{n}") for n in range(101)), *(new() for _ in range(101)))
    hand = Hand(store)
    first, *others = hand.claim(202)
    event.listen(store.engine, "before_cursor_execute", note)
    hand.tick(ended(first), look=False)
    alone = len(statements)
    statements.clear()
    hand.tick(*map(ended, others[:100]), look=False)
    assert len(statements) <= alone + 3  # the keys' slots, which the first may not have had
    assert len(statements) <= 12


def test_a_tick_that_breaks_off_stores_and_claims_nothing(store: Store) -> None:
    put(store, *(new() for _ in range(4)))
    hand = Hand(store)
    work = everything(hand, hand.claim(3), slots=5)
    before = rows(store, "SELECT id, status, token FROM netscript_executions ORDER BY id")

    def cut(conn: object) -> None:
        raise DBAPIError("COMMIT", None, ConnectionError("cut"))

    event.listen(store.engine, "commit", cut)
    with pytest.raises(DBAPIError):
        hand.ticker.run(work)
    event.remove(store.engine, "commit", cut)
    assert rows(store, "SELECT id, status, token FROM netscript_executions ORDER BY id") == before
    assert scalar(store, "SELECT count(*) FROM netscript_execution_steps") == 0
    # The same work is taken by the next tick.
    assert hand.ticker.run(work).stale == set()
    assert status(store, work.ended[0].claim.id) == "completed"


def test_a_cut_while_items_are_stored_one_by_one_refuses_none_of_them(store: Store) -> None:
    given = [new(), new()]
    put(store, *given)
    hand = Hand(store)
    good, bad = hand.claim(2)
    twice = new("b")
    work = Work(ended=[ended(good), ended(bad, actions=(twice, twice))])

    def cut(conn: object) -> None:  # the first commit of all is that of the good one alone
        raise OperationalError("COMMIT", None, ConnectionError("cut"))

    event.listen(store.engine, "commit", cut)
    with pytest.raises(OperationalError):
        hand.ticker.run(work)
    event.remove(store.engine, "commit", cut)
    assert [status(store, one.id) for one in given] == ["running", "running"]
    hand.ticker.run(work)
    assert [status(store, one.id) for one in given] == ["completed", "failed"]


def test_a_refused_result_leaves_its_error_and_an_attempt(store: Store) -> None:
    put(store, new())
    hand = Hand(store)
    claim = hand.claim_one()
    twice = new("b")
    done = hand.tick(ended(claim, result='"x"', actions=(twice, twice)))
    told = detail(store, claim.id)
    assert list(done.refused) == [claim.id]
    assert (told.execution.status, told.execution.reason) == ("failed", "result refused")
    assert told.execution.error is not None
    assert "database refused" in told.execution.error
    assert told.execution.result is None
    assert [one.outcome for one in told.attempts] == ["result refused"]


def test_a_refused_result_frees_its_key(store: Store) -> None:
    first, second = new(concurrency_key="k"), new(concurrency_key="k")
    put(store, first, second)
    hand = Hand(store)
    twice = new("b")
    done = hand.tick(ended(hand.claim_one(), actions=(twice, twice)), slots=3)
    assert [claim.id for claim in done.claimed] == [second.id]


def test_several_bad_results_among_good_ones_each_fail_alone(store: Store) -> None:
    given = [new() for _ in range(9)]
    put(store, *given)
    hand = Hand(store)
    twice = new("b")
    ends = [
        ended(claim, actions=(twice, twice) if place % 3 == 1 else (new("b"),))
        for place, claim in enumerate(hand.claim(9))
    ]
    done = hand.tick(*ends, slots=20)
    assert len(done.refused) == 3
    assert len(done.claimed) == 6  # the actions of the good ones, and none of the bad ones
    told = [status(store, one.claim.id) for one in ends]
    assert told == ["completed", "failed", "completed"] * 3


def test_a_stale_end_among_bad_ones_stays_stale(store: Store) -> None:
    put(store, new(), new())
    hand = Hand(store)
    stale, bad = hand.claim(2)
    hand.end(stale, Verdict.RELEASE)
    twice = new("b")
    done = hand.tick(ended(stale, actions=(twice, twice)), ended(bad, actions=(twice, twice)))
    assert done.stale == {stale.id}
    assert status(store, stale.id) == "queued"
    assert status(store, bad.id) == "failed"


def test_an_action_whose_key_is_taken_does_not_fail_its_execution(store: Store) -> None:
    put(store, new("b", idempotency_key="k"))
    put(store, new("a"))
    hand = Hand(store, ["a"])
    claim = hand.claim_one()
    hand.end(claim, actions=(new("b", idempotency_key="k"), new("b", idempotency_key="own")))
    assert status(store, claim.id) == "completed"
    keys = rows(store, "SELECT idempotency_key FROM netscript_executions ORDER BY idempotency_key")
    assert keys == [("k",), ("own",)]


def test_only_a_completion_should_bring_actions_and_they_come_once(store: Store) -> None:
    put(store, new())
    hand = Hand(store)
    claim = hand.claim_one()
    end = ended(claim, actions=(new("b", delay=60_000_000),))
    hand.tick(end)
    assert hand.tick(end).stale == {claim.id}  # an answer that was lost, so it is told again
    assert scalar(store, EXECUTIONS) == 1


def test_a_tick_tells_when_the_next_is_due(timed_store: Store, clock: ManualClock) -> None:
    hand = Hand(timed_store)
    assert hand.tick(slots=1).next_in is None
    put(timed_store, new(delay=90_000_000), new(delay=30_000_000))
    assert hand.tick(slots=1).next_in == pytest.approx(30)
    clock.advance(10)
    assert hand.tick(slots=1, look=False).next_in == pytest.approx(20)
    clock.advance(20)
    done = hand.tick(slots=1, look=False)  # known to be due without a look
    assert len(done.claimed) == 1
    assert done.next_in == pytest.approx(60)


def test_a_backoff_of_its_own_is_known_without_a_look(
    timed_store: Store, clock: ManualClock
) -> None:
    put(timed_store, new())
    hand = Hand(timed_store)
    claim = hand.claim_one()
    done = hand.tick(ended(claim, Verdict.RETRY, delay=2.0), look=False)
    assert done.next_in == pytest.approx(2.0)
    clock.advance(2.0)
    assert [one.id for one in hand.tick(slots=1, look=False).claimed] == [claim.id]


def test_a_tick_without_a_look_leaves_notes_alone(store: Store) -> None:
    hand = Hand(store)
    hand.tick(slots=1)
    put(store, new(concurrency_key="k"))
    assert hand.tick(slots=1, look=False).claimed == []
    assert scalar(store, "SELECT count(*) FROM netscript_admissions") == 1
    assert len(hand.tick(slots=1).claimed) == 1


def test_a_tick_says_whether_there_may_be_more(store: Store) -> None:
    put(store, *(new() for _ in range(3)))
    hand = Hand(store)
    assert hand.tick(slots=2).full
    assert not hand.tick(slots=2).full


def test_what_becomes_ready_beyond_the_own_slots_is_told_to_others(
    timed_store: Store, clock: ManualClock
) -> None:
    put(timed_store, *(new(delay=1_000_000) for _ in range(5)))
    hand = Hand(timed_store)
    assert not hand.tick(slots=1).others
    clock.advance(1)
    assert hand.tick(slots=1).others
    assert not hand.tick(slots=10).others


def test_more_than_one_chunk_of_due_work_is_told_to_others(
    timed_store: Store, clock: ManualClock
) -> None:
    put(timed_store, *(new(delay=1_000_000) for _ in range(claims.PROMOTED_AT_A_TIME)))
    clock.advance(1)
    assert Hand(timed_store).tick(slots=1000).others


def test_a_pause_is_seen_by_the_very_next_claim(store: Store) -> None:
    put(store, *(new(topic="x") for _ in range(3)))
    hand = Hand(store)
    assert len(hand.claim(1)) == 1
    run(store, "INSERT INTO netscript_topics (name, paused) VALUES ('x', :yes)", yes=True)
    assert hand.tick(slots=1, look=False).claimed == []


def test_topics_share_the_slots_and_one_with_little_leaves_its_share(store: Store) -> None:
    put(store, *(new(topic="big") for _ in range(20)), *(new(topic="small") for _ in range(2)))
    put(store, *(new(topic="other") for _ in range(20)))
    claimed = [claim.topic for claim in Hand(store).claim(12)]
    count = {topic: claimed.count(topic) for topic in set(claimed)}
    assert sum(count.values()) == 12
    assert count["small"] == 2
    assert min(count["big"], count["other"]) >= 4


def test_every_topic_gets_its_turn_however_many_there_are(store: Store) -> None:
    put(store, *(new(topic=f"t{n % 7}") for n in range(70)))
    hand = Hand(store)
    served = {hand.claim_one().topic for _ in range(7)}
    assert len(served) == 7


def test_the_claim_hands_over_what_the_attempt_needs(store: Store) -> None:
    event_id = new().id
    given = new(
        "b",
        payload='{"a":1}',
        topic="x",
        max_attempts=7,
        priority=9,
        concurrency_key="k",
        correlation_id="c",
        traceparent="p",
        tracestate="s",
        trigger_event_id=event_id,
    )
    put(store, given)
    claim = Hand(store).claim_one()
    assert (claim.id, claim.kind, claim.job_id, claim.topic) == (given.id, "job", "b", "x")
    assert (claim.payload, claim.attempt, claim.max_attempts) == ('{"a":1}', 1, 7)
    assert (claim.priority, claim.concurrency_key, claim.losses) == (9, "k", 0)
    assert (claim.correlation_id, claim.traceparent, claim.tracestate) == ("c", "p", "s")
    assert claim.trigger_event_id == event_id
    assert claim.started_at > 0
