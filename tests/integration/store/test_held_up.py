"""What a user's open transaction holds keeps only those waiting that need it."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from netscript_workers import JobContext, JobResult, create_success_result, job
from netscript_workers.domain import ClaimedExecution
from netscript_workers.store.engine import Store
from netscript_workers.store.held_up import HeldUp
from netscript_workers.store.outcomes import Settled
from tests.integration.store.scenes import users_transaction
from tests.kit import Hand, ended, new, put, rows, scalar, status
from tests.modes import a, again, ready
from tests.working import working

pytestmark = pytest.mark.postgres
OF_A = "SELECT count(*) FROM netscript_executions WHERE job_id = 'a'"


@pytest.fixture
def store(postgres_url: str) -> Generator[Store]:
    made = Store(postgres_url)
    yield made
    made.dispose()


def keyed(claim: ClaimedExecution, key: str = "k") -> Settled:
    return ended(claim, actions=(ready(again("once", 1, key)),))


def test_an_end_whose_key_a_user_holds_holds_up_nothing_else(store: Store) -> None:
    put(store, *(new("b") for _ in range(4)))
    hand = Hand(store)
    one, two, three = hand.claim(3)
    with users_transaction(store, again("once", 1)):
        done = hand.tick(keyed(one), keyed(two, "other"), ended(three), slots=1)
        assert len(done.claimed) == 1
        assert status(store, three.id) == "completed"
        assert status(store, one.id) == "running"
        hand.ticker.store_held_up()
        assert status(store, two.id) == "completed"
        assert status(store, one.id) == "running"
        assert hand.ticker.held_up.ids == {one.id}
        # Another tick is as quick as ever.
        assert hand.tick(ended(done.claimed[0])).stale == set()
    assert hand.ticker.store_held_up().others
    assert status(store, one.id) == "completed"
    assert not hand.ticker.held_up
    assert scalar(store, OF_A) == 2


def test_what_is_held_up_is_stored_once_when_its_tick_fails_for_another_reason(
    store: Store,
) -> None:
    put(store, *(new("b") for _ in range(2)))
    hand = Hand(store)
    one, two = hand.claim(2)
    twice = new("b")
    with users_transaction(store, again("once", 1)):
        done = hand.tick(keyed(one), ended(two, actions=(twice, twice)))
        assert set(done.refused) == {two.id}
        assert status(store, two.id) == "failed"
        assert hand.ticker.held_up.ids == {one.id}
    hand.ticker.store_held_up()
    assert status(store, one.id) == "completed"
    assert scalar(store, OF_A) == 1


def test_of_those_that_wait_a_round_meets_few_and_others_next_time(store: Store) -> None:
    put(store, *(new("b") for _ in range(4)))
    held, tried = HeldUp(), list[str]()
    ends = [ended(claim) for claim in Hand(store).claim(4)]
    first, second, third, last = (end.claim.id for end in ends)
    held.add(ends)

    def take(end: Settled) -> bool:
        tried.append(end.claim.id)
        return end.claim.id == third

    held.go_round(take)
    assert tried == [first, second]
    held.go_round(take)
    assert tried == [first, second, third, last, first]
    assert held.ids == {first, second, last}
    assert 0 < held.due_in() < 60


async def test_a_worker_with_one_slot_works_on_beside_a_user_who_holds_a_key(store: Store) -> None:
    @job(id="held")
    async def held(ctx: JobContext) -> JobResult:
        return create_success_result(actions=[again("once", 1)])

    @job(id="free")
    async def free(ctx: JobContext) -> None: ...

    async with working(store, a, held, free, concurrency=1) as at:
        with users_transaction(store, again("once", 1)):
            waits = at.enqueue(held, {})
            for _ in range(3):
                await at.ended(at.enqueue(free, {}))
            assert status(store, waits) == "running"
        assert (await at.ended(waits)).execution.status == "completed"
    of_a = rows(store, f"{OF_A} UNION ALL {OF_A.replace('executions', 'execution_history')}")
    assert sum(count for (count,) in of_a) == 1
