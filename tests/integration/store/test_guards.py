"""Guards, companions, and keys that several want at once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import Table

from netscript_workers.domain import Enqueued, NewExecution
from netscript_workers.ids import new_id
from netscript_workers.store import idempotency, outbox
from netscript_workers.store.engine import Store
from netscript_workers.store.idempotency import Key
from netscript_workers.store.outbox import Receipt, Submission
from netscript_workers.store.schema import topics
from netscript_workers.testing import ManualClock
from tests.kit import new, put, rows, scalar

EXECUTIONS = "SELECT count(*) FROM netscript_executions"
HOUR = 3_600_000_000


def store_all(store: Store, *submissions: Submission) -> list[Receipt]:
    with store.begin() as conn:
        return outbox.store(conn, store.dialect, submissions, now=store.now(conn))


def guarded(key: str, *executions: NewExecution, content: str = "f") -> Submission:
    guard = Key("trigger:t", key, content, new_id())
    return Submission(executions=executions, guard=guard)


def test_a_guard_holds_between_calls_and_names_its_first_holder(store: Store) -> None:
    first = guarded("k", new())
    assert first.guard is not None
    (fresh,) = store_all(store, first)
    (again,) = store_all(store, guarded("k", new()))
    assert fresh.duplicate_of is None
    assert (again.duplicate_of, again.enqueued, again.conflict) == (first.guard.ref, (), False)
    assert scalar(store, EXECUTIONS) == 1


def test_a_guard_with_another_content_is_a_conflict(store: Store) -> None:
    store_all(store, guarded("k", content="one"))
    (told,) = store_all(store, guarded("k", content="two"))
    assert told.conflict


def test_a_guard_and_a_job_may_use_the_same_key(store: Store) -> None:
    (told,) = store_all(store, guarded("k", new(idempotency_key="k")))
    assert told.duplicate_of is None
    assert not told.enqueued[0].duplicate


def test_of_twenty_deliveries_at_once_one_is_taken(store: Store) -> None:
    def deliver(_: int) -> Receipt:
        return store_all(store, guarded("k", new(), new()))[0]

    with ThreadPoolExecutor(20) as pool:
        told = list(pool.map(deliver, range(20)))
    assert sum(receipt.duplicate_of is None for receipt in told) == 1
    assert len({receipt.duplicate_of for receipt in told if receipt.duplicate_of}) == 1
    assert scalar(store, EXECUTIONS) == 2


def test_an_expired_key_is_taken_once_however_many_want_it(
    timed_store: Store, clock: ManualClock
) -> None:
    old = new(idempotency_key="k")
    put(timed_store, old)
    clock.advance(73 * 3600)

    def take(_: int) -> Enqueued:
        return put(timed_store, new(idempotency_key="k"))[0]

    with ThreadPoolExecutor(10) as pool:
        told = list(pool.map(take, range(10)))
    (winner,) = [one.execution_id for one in told if not one.duplicate]
    assert {one.execution_id for one in told} == {winner}
    assert winner != old.id


def noting(seen: list[tuple[Enqueued, ...]], name: str) -> Any:
    def companion(enqueued: tuple[Enqueued, ...], now: int) -> tuple[Table, dict[str, Any]]:
        assert now > 0
        seen.append(enqueued)
        return topics, {"name": name, "paused": False}

    return companion


def names(store: Store) -> Sequence[str]:
    return [name for (name,) in rows(store, "SELECT name FROM netscript_topics ORDER BY name")]


def test_a_companion_is_stored_with_its_submission_and_knows_what_became_of_it(
    store: Store,
) -> None:
    put(store, new(idempotency_key="taken"))
    seen: list[tuple[Enqueued, ...]] = []
    fresh, duplicate = new(), new(idempotency_key="taken")
    given = Submission(executions=(fresh, duplicate), companion=noting(seen, "one"))
    (told,) = store_all(store, given)
    assert seen == [told.enqueued]
    assert [one.duplicate for one in told.enqueued] == [False, True]
    assert names(store) == ["one"]


def test_the_companion_of_a_duplicate_is_not_made(store: Store) -> None:
    seen: list[tuple[Enqueued, ...]] = []
    guard = Key("trigger:t", "k", "f", new_id())
    again = Key("trigger:t", "k", "f", new_id())
    store_all(
        store,
        Submission(guard=guard, companion=noting(seen, "one")),
        Submission(guard=again, companion=noting(seen, "two")),
    )
    assert names(store) == ["one"]
    assert len(seen) == 1


def test_only_so_many_expired_keys_are_pruned_at_a_time(
    timed_store: Store, clock: ManualClock
) -> None:
    put(timed_store, *(new(idempotency_key=str(n)) for n in range(5)), window=HOUR)
    clock.advance(3601)
    gone: list[int] = []
    for _ in range(3):
        with timed_store.begin() as conn:
            gone.append(idempotency.prune(conn, timed_store.dialect, now=clock.now(), limit=3))
    assert gone == [3, 2, 0]


def test_a_key_may_be_pruned_while_others_take_it(timed_store: Store, clock: ManualClock) -> None:
    put(timed_store, *(new(idempotency_key=str(n)) for n in range(50)), window=HOUR)
    clock.advance(3601)

    def prune(_: int) -> int:
        with timed_store.begin() as conn:
            return idempotency.prune(conn, timed_store.dialect, now=clock.now(), limit=7)

    with ThreadPoolExecutor(4) as pool:
        pruned = [pool.submit(prune, n) for n in range(8)]
        taken = [pool.submit(put, timed_store, new(idempotency_key=str(n))) for n in range(50)]
        assert not any(future.result()[0].duplicate for future in taken)
        assert sum(future.result() for future in pruned) <= 50
    assert scalar(timed_store, "SELECT count(*) FROM netscript_idempotency_keys") == 50
