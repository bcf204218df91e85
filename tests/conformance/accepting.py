"""Accepting: whole or not at all, and once for each key."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy.exc import IntegrityError

from netscript_workers.domain import NewExecution
from netscript_workers.store import idempotency, outbox
from netscript_workers.store.engine import Store
from netscript_workers.store.idempotency import Key
from netscript_workers.store.inserts import SQLITE_CHUNK
from netscript_workers.store.outbox import Companion, Receipt, Submission
from netscript_workers.store.retention import Retention, prune
from netscript_workers.store.schema import topics
from netscript_workers.testing import ManualClock
from tests.integration.store.scenes import statements_of
from tests.kit import Hand, detail, new, put, scalar

EXECUTIONS = "SELECT count(*) FROM netscript_executions"
HOUR = 3_600_000_000


def store_all(store: Store, *submissions: Submission) -> list[Receipt]:
    with store.begin() as conn:
        return outbox.store(conn, store.dialect, submissions, now=store.now(conn))


def row_of(name: str) -> Companion:
    """Return a companion: a row of another table, of which there may be one."""
    return lambda _enqueued, _now: (topics, {"name": name, "paused": False})


def guarded(key: str, ref: str, *executions: NewExecution) -> Submission:
    return Submission(executions=executions, guard=Key("trigger:t", key, "f", ref))


class Accepting:
    """What is given to the store is kept whole, once per key, or not at all."""

    def test_an_execution_is_stored_as_it_was_given(self, store: Store) -> None:
        given = new(payload='{"a":1}', priority=70, correlation_id="c", traceparent="t", topic="x")
        put(store, given)
        record = detail(store, given.id).execution
        assert (record.payload, record.priority, record.topic) == ({"a": 1}, 70, "x")
        assert (record.status, record.attempt, record.triggered_by) == ("queued", 1, "api")
        assert (record.correlation_id, record.traceparent) == ("c", "t")
        assert record.started_at is None
        assert record.duration_ms is None

    def test_what_json_allows_and_databases_do_not_is_kept(self, store: Store) -> None:
        given = new(payload='{"nul":"\\u0000","lone":"\\ud800"}')
        put(store, given)
        assert detail(store, given.id).execution.payload == {"nul": "\0", "lone": "\ud800"}

    def test_a_rolled_back_transaction_takes_no_key(self, store: Store) -> None:
        with store.engine.connect() as conn, conn.begin() as transaction:
            submission = Submission(executions=(new(idempotency_key="k"),))
            outbox.store(conn, store.dialect, [submission], now=store.now(conn))
            transaction.rollback()
        assert not put(store, new(idempotency_key="k"))[0].duplicate

    def test_a_companion_that_cannot_be_stored_takes_all_with_it(self, store: Store) -> None:
        store_all(store, Submission(companion=row_of("one")))
        again = Submission(executions=(new(idempotency_key="k"),), companion=row_of("one"))
        with pytest.raises(IntegrityError):
            store_all(store, again)
        assert scalar(store, EXECUTIONS) == 0
        assert not put(store, new(idempotency_key="k"))[0].duplicate

    def test_a_second_use_of_a_key_yields_the_first_execution(self, store: Store) -> None:
        first, second = new(idempotency_key="k"), new(idempotency_key="k")
        (one,) = put(store, first)
        (two,) = put(store, second)
        assert (one.duplicate, two.duplicate, two.conflict) == (False, True, False)
        assert two.execution_id == first.id
        assert scalar(store, "SELECT count(*) FROM netscript_executions") == 1

    def test_a_key_with_another_payload_is_marked_as_a_conflict(self, store: Store) -> None:
        put(store, new(idempotency_key="k", payload='{"a":1}'))
        (two,) = put(store, new(idempotency_key="k", payload='{"a":2}'))
        assert (two.duplicate, two.conflict) == (True, True)

    def test_keys_are_per_job(self, store: Store) -> None:
        put(store, new("a", idempotency_key="k"))
        (two,) = put(store, new("b", idempotency_key="k"))
        assert not two.duplicate

    def test_keys_are_compared_exactly(self, store: Store) -> None:
        keys = ["k", "K", "k ", " k", "ｋ", "k\u0301", "\u1e31", "%", "_", "k'", '"']  # noqa: RUF001
        told = put(store, *(new(idempotency_key=key) for key in keys))
        assert not any(one.duplicate for one in told)
        again = put(store, *(new(idempotency_key=key) for key in keys))
        assert [one.execution_id for one in again] == [one.execution_id for one in told]

    @pytest.mark.trap("D-45")
    def test_duplicates_within_one_call_are_told_in_their_places(self, store: Store) -> None:
        first, second, other = (
            new(idempotency_key="k"),
            new(idempotency_key="k", payload='{"a":1}'),
            new(),
        )
        told = put(store, first, second, other)
        assert [one.execution_id for one in told] == [first.id, first.id, other.id]
        assert [one.duplicate for one in told] == [False, True, False]
        assert [one.conflict for one in told] == [False, True, False]

    @pytest.mark.trap("D-45")
    def test_two_calls_in_one_transaction_know_of_each_other(self, store: Store) -> None:
        first = new(idempotency_key="k")
        with store.begin() as conn:
            now = store.now(conn)
            outbox.store(conn, store.dialect, [Submission(executions=(first,))], now=now)
            (told,) = outbox.store(
                conn,
                store.dialect,
                [Submission(executions=(new(idempotency_key="k"), new()))],
                now=now,
            )
        assert [one.duplicate for one in told.enqueued] == [True, False]
        assert told.enqueued[0].execution_id == first.id

    @pytest.mark.trap("D-43")
    def test_fifty_threads_with_one_key_make_one_execution(self, store: Store) -> None:
        with ThreadPoolExecutor(50) as pool:
            futures = [pool.submit(put, store, new(idempotency_key="k")) for _ in range(50)]
        told = [future.result()[0] for future in futures]
        assert sum(not one.duplicate for one in told) == 1
        assert len({one.execution_id for one in told}) == 1
        assert scalar(store, "SELECT count(*) FROM netscript_executions") == 1

    @pytest.mark.trap("D-46")
    def test_a_key_is_free_again_after_its_window(
        self, timed_store: Store, clock: ManualClock
    ) -> None:
        put(timed_store, new(idempotency_key="k"), window=HOUR)
        clock.advance(3599)
        assert put(timed_store, new(idempotency_key="k"), window=HOUR)[0].duplicate
        clock.advance(2)
        again = new(idempotency_key="k")
        (told,) = put(timed_store, again, window=HOUR)
        assert (told.duplicate, told.execution_id) == (False, again.id)

    @pytest.mark.trap("D-46")
    def test_a_key_outlives_its_pruned_execution(
        self, timed_store: Store, clock: ManualClock
    ) -> None:
        first = new(idempotency_key="k")
        put(timed_store, first)
        hand = Hand(timed_store)
        hand.end(hand.claim_one())
        clock.advance(24 * 3600)
        assert prune(timed_store, Retention(completed=0.5)) > 0
        assert scalar(timed_store, "SELECT count(*) FROM netscript_execution_history") == 0
        (told,) = put(timed_store, new(idempotency_key="k"))
        assert (told.duplicate, told.execution_id) == (True, first.id)

    def test_find_knows_only_keys_within_their_window(
        self, timed_store: Store, clock: ManualClock
    ) -> None:
        put(timed_store, new(idempotency_key="k"), window=HOUR)
        names = [("job:a", "k"), ("job:a", "other")]
        with timed_store.read() as conn:
            found = idempotency.find(conn, timed_store.dialect, names, now=clock.now())
            later = idempotency.find(conn, timed_store.dialect, names, now=clock.now() + HOUR)
        assert list(found) == [("job:a", "k")]
        assert later == {}

    def test_a_taken_guard_stores_nothing_of_its_submission(self, store: Store) -> None:
        first, second = new(), new(idempotency_key="own")
        told = store_all(store, guarded("k", first.id, first), guarded("k", second.id, second))
        assert [receipt.duplicate_of for receipt in told] == [None, first.id]
        assert scalar(store, EXECUTIONS) == 1
        # Nor was the key of its execution taken.
        assert not put(store, new(idempotency_key="own"))[0].duplicate

    def test_many_executions_of_one_call_cost_a_statement_a_chunk(self, store: Store) -> None:
        with statements_of(store) as seen:
            put(store, *(new(idempotency_key=f"k{n}", concurrency_key=f"c{n}") for n in range(100)))
        chunks = -(-100 // SQLITE_CHUNK) if store.is_sqlite else 1
        assert len(seen) <= 5 + 3 * chunks, seen
