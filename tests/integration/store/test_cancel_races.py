"""Those who cancel and retry at the same instant as others claim, end, cancel and retry."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from netscript_triggers.store.verify import verify
from netscript_workers.domain import ClaimedExecution, NewExecution, Reason, Verdict
from netscript_workers.errors import StateError
from netscript_workers.store import bulk, cancelling, retries
from netscript_workers.store.engine import Store
from netscript_workers.store.queries import ExecutionFilter
from tests.chaos.races import at_once, open_store
from tests.kit import Hand, assert_slots_exact, detail, ended, new, put, rows, status

ROUNDS = 15


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    opened = open_store(database_url, 8)
    yield opened
    assert_slots_exact(opened)
    report = verify(opened)
    assert not report.findings, report
    opened.dispose()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as opened:
        yield opened


def cancel(store: Store, one: NewExecution) -> bool:
    try:
        cancelling.cancel(store, one.id)
    except StateError:
        return False
    return True


def retry(store: Store, one: NewExecution) -> bool:
    try:
        retries.retry(store, one.id)
    except StateError:
        return False
    return True


def discard(store: Store, one: NewExecution) -> bool:
    try:
        retries.discard(store, one.id)
    except StateError:
        return False
    return True


def drain(store: Store, hand: Hand) -> list[str]:
    """Run what is ready to its end; return the ids in the order in which they ran."""
    ran: list[str] = []
    while claims := hand.claim():
        ran += [claim.id for claim in claims]
        hand.tick(*map(ended, claims))
    return ran


@pytest.mark.parametrize("key", [None, "k"])
def test_of_those_who_cancel_at_once_one_does_it(
    store: Store, pool: ThreadPoolExecutor, key: str | None
) -> None:
    for _ in range(ROUNDS):
        given, after = new(concurrency_key=key), new(concurrency_key=key)
        put(store, given, after)
        Hand(store).tick()
        told = at_once(pool, [partial(cancel, store, given)] * 3)
        assert sorted(told) == [False, False, True]
        assert status(store, given.id) == "cancelled"
        assert drain(store, Hand(store)) == [after.id]


@pytest.mark.parametrize("key", [None, "k"])
def test_a_claim_beside_a_cancel_is_either_too_late_or_asked_to_end(
    store: Store, pool: ThreadPoolExecutor, key: str | None
) -> None:
    for _ in range(ROUNDS):
        given, after = new(concurrency_key=key), new(concurrency_key=key)
        put(store, given, after)
        hand = Hand(store)
        hand.tick()
        claims, done = at_once(pool, [partial(hand.claim, 1), partial(cancel, store, given)])
        assert done
        claims += hand.claim(1) if not claims else []
        record = detail(store, given.id).execution
        if given.id in {claim.id for claim in claims}:
            assert (record.status, record.cancel_requested) == ("running", True)
            hand.tick(*(ended(one, Verdict.RELEASE, reason=Reason.DRAINED) for one in claims))
        else:
            assert [claim.id for claim in claims] == [after.id]
            hand.tick(*map(ended, claims))
        assert status(store, given.id) == "cancelled"
        drain(store, hand)
        assert status(store, after.id) == "completed"


@pytest.mark.parametrize("verdict", [Verdict.COMPLETE, Verdict.RETRY])
def test_an_end_beside_a_cancel_is_stored_once(
    store: Store, pool: ThreadPoolExecutor, verdict: Verdict
) -> None:
    for _ in range(ROUNDS):
        given, after = (new(concurrency_key="k") for _ in range(2))
        put(store, given, after)
        hand = Hand(store)
        claim = hand.claim_one()
        facts = {} if verdict is Verdict.COMPLETE else {"failure": Reason.ERROR, "delay": 600.0}
        end = partial(hand.end, claim, verdict, reason=None, **facts)
        _, cancelled = at_once(pool, [end, partial(cancel, store, given)])
        expected = "completed" if verdict is Verdict.COMPLETE else "cancelled"
        assert status(store, given.id) == expected
        assert cancelled or verdict is Verdict.COMPLETE
        assert drain(store, hand) == [after.id]


@pytest.mark.trap("D-16")
def test_the_end_of_a_holder_beside_the_cancel_of_the_next_one_leaves_nobody_behind(
    store: Store, pool: ThreadPoolExecutor
) -> None:
    for _ in range(ROUNDS):
        holder, second, third = (new(concurrency_key="k") for _ in range(3))
        put(store, holder, second, third)
        hand = Hand(store)
        claim = hand.claim_one()
        at_once(pool, [partial(hand.end, claim), partial(cancel, store, second)])
        assert status(store, second.id) == "cancelled"
        # One look, as after any bell: nobody has to wait for the sweep.
        assert [one.id for one in hand.claim()] == [third.id]
        hand.end(ClaimedExecution._make(_claim_of(store, hand, third)))
        assert_slots_exact(store)


def _claim_of(store: Store, hand: Hand, one: NewExecution) -> list[object]:
    names = ", ".join(ClaimedExecution._fields)
    (row,) = rows(store, f"SELECT {names} FROM netscript_executions WHERE id = :id", id=one.id)
    return list(row)


def test_of_those_who_retry_discard_and_retry_at_once_one_does_it(
    store: Store, pool: ThreadPoolExecutor
) -> None:
    hand = Hand(store)
    for _ in range(ROUNDS):
        given = new(concurrency_key="k")
        put(store, given)
        hand.end(hand.claim_one(), Verdict.FAIL, reason=Reason.ERROR, failure=Reason.ERROR)
        told = at_once(
            pool,
            [
                partial(retry, store, given),
                partial(retry, store, given),
                partial(discard, store, given),
            ],
        )
        # What was discarded may be retried, and what was retried may not be discarded.
        assert sum(told[:2]) == 1
        assert status(store, given.id) == "blocked"
        assert drain(store, hand) == [given.id]


def test_retries_in_bulk_at_once_share_the_work_and_count_it_once(
    store: Store, pool: ThreadPoolExecutor
) -> None:
    many = [new(concurrency_key=f"k{n % 3}" if n % 2 else None) for n in range(300)]
    put(store, *many)
    hand = Hand(store)
    facts = {"reason": Reason.ERROR, "failure": Reason.ERROR}
    while claims := hand.claim(100):
        hand.tick(*(ended(claim, Verdict.FAIL, **facts) for claim in claims))
    told = at_once(pool, [partial(bulk.retry_many, store, ExecutionFilter())] * 3)
    assert sum(one.count for one in told) == 300
    assert sorted(drain(store, hand)) == sorted(one.id for one in many)


@pytest.mark.trap("D-09")
@pytest.mark.trap("D-16")
def test_cancels_in_bulk_beside_workers_neither_deadlock_nor_lose_anything(
    store: Store, pool: ThreadPoolExecutor
) -> None:
    for number in range(6):
        unwanted, wanted = f"bad{number}", f"good{number}"
        many = [
            new(correlation_id=unwanted if n % 2 else wanted, concurrency_key=f"k{n % 5}")
            for n in range(100)
        ]
        many += [new(correlation_id=unwanted) for _ in range(50)]
        put(store, *many)
        filter_ = ExecutionFilter(correlation_id=unwanted)
        hands = [Hand(store) for _ in range(3)]
        told = at_once(
            pool,
            [
                *(partial(drain, store, hand) for hand in hands),
                partial(bulk.cancel_many, store, filter_),
                partial(bulk.cancel_many, store, filter_),
            ],
        )
        drain(store, hands[0])
        ran = [id_ for ids in told[:3] for id_ in ids]
        assert len(ran) == len(set(ran))
        finals = dict(
            rows(store, "SELECT CAST(id AS text), status FROM netscript_execution_history")
        )
        assert {finals[one.id] for one in many if one.correlation_id == wanted} == {"completed"}
        cancelled = sum(
            finals[one.id] == "cancelled" for one in many if one.correlation_id == unwanted
        )
        # What was marked while it ran has completed all the same: these hands hear nothing.
        assert cancelled <= sum(one.count for one in told[3:]) <= 100
        assert not set(ran) & {one.id for one in many if finals[one.id] == "cancelled"}
