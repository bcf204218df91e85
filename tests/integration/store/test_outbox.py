"""The outbox and its idempotency keys."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from netscript_workers.domain import NewExecution
from netscript_workers.store import idempotency, outbox
from netscript_workers.store.dialects import SQLITE_CHUNK
from netscript_workers.store.engine import Store
from netscript_workers.store.idempotency import Key
from netscript_workers.store.outbox import Submission
from netscript_workers.store.retention import Retention, prune
from netscript_workers.testing import ManualClock
from tests.kit import Hand, detail, new, put, scalar, status

HOUR = 3_600_000_000


def test_an_execution_is_stored_as_it_was_given(store: Store) -> None:
    given = new(payload='{"a":1}', priority=70, correlation_id="c", traceparent="t", topic="x")
    put(store, given)
    record = detail(store, given.id).execution
    assert (record.payload, record.priority, record.topic) == ({"a": 1}, 70, "x")
    assert (record.status, record.attempt, record.triggered_by) == ("queued", 1, "api")
    assert (record.correlation_id, record.traceparent) == ("c", "t")
    assert record.started_at is None
    assert record.duration_ms is None


def test_what_json_allows_and_databases_do_not_is_kept(store: Store) -> None:
    given = new(payload='{"nul":"\\u0000","lone":"\\ud800"}')
    put(store, given)
    assert detail(store, given.id).execution.payload == {"nul": "\0", "lone": "\ud800"}


def test_a_delayed_execution_waits_until_it_is_due(timed_store: Store, clock: ManualClock) -> None:
    given = new(delay=60_000_000)
    put(timed_store, given)
    hand = Hand(timed_store)
    assert status(timed_store, given.id) == "scheduled"
    assert hand.claim() == []
    clock.advance(59.9)
    assert hand.claim() == []
    clock.advance(0.2)
    assert [claim.id for claim in hand.claim()] == [given.id]


def test_a_run_at_in_the_past_is_now(timed_store: Store, clock: ManualClock) -> None:
    given = new(run_at=clock.now() - HOUR)
    put(timed_store, given)
    record = detail(timed_store, given.id).execution
    assert record.status == "queued"
    assert record.run_at == record.created_at


def test_a_second_use_of_a_key_yields_the_first_execution(store: Store) -> None:
    first, second = new(idempotency_key="k"), new(idempotency_key="k")
    (one,) = put(store, first)
    (two,) = put(store, second)
    assert (one.duplicate, two.duplicate, two.conflict) == (False, True, False)
    assert two.execution_id == first.id
    assert scalar(store, "SELECT count(*) FROM netscript_executions") == 1


def test_a_key_with_another_payload_is_marked_as_a_conflict(store: Store) -> None:
    put(store, new(idempotency_key="k", payload='{"a":1}'))
    (two,) = put(store, new(idempotency_key="k", payload='{"a":2}'))
    assert (two.duplicate, two.conflict) == (True, True)


def test_keys_are_per_job(store: Store) -> None:
    put(store, new("a", idempotency_key="k"))
    (two,) = put(store, new("b", idempotency_key="k"))
    assert not two.duplicate


def test_duplicates_within_one_call_are_told_in_their_places(store: Store) -> None:
    first, second, other = (
        new(idempotency_key="k"),
        new(idempotency_key="k", payload='{"a":1}'),
        new(),
    )
    told = put(store, first, second, other)
    assert [one.execution_id for one in told] == [first.id, first.id, other.id]
    assert [one.duplicate for one in told] == [False, True, False]
    assert [one.conflict for one in told] == [False, True, False]


def test_a_key_is_free_again_after_its_window(timed_store: Store, clock: ManualClock) -> None:
    put(timed_store, new(idempotency_key="k"), window=HOUR)
    clock.advance(3599)
    assert put(timed_store, new(idempotency_key="k"), window=HOUR)[0].duplicate
    clock.advance(2)
    again = new(idempotency_key="k")
    (told,) = put(timed_store, again, window=HOUR)
    assert (told.duplicate, told.execution_id) == (False, again.id)


def test_a_key_outlives_its_pruned_execution(timed_store: Store, clock: ManualClock) -> None:
    first = new(idempotency_key="k")
    put(timed_store, first)
    hand = Hand(timed_store)
    hand.end(hand.claim_one())
    clock.advance(24 * 3600)
    assert prune(timed_store, Retention(completed=0.5)) > 0
    assert scalar(timed_store, "SELECT count(*) FROM netscript_execution_history") == 0
    (told,) = put(timed_store, new(idempotency_key="k"))
    assert (told.duplicate, told.execution_id) == (True, first.id)


def test_fifty_threads_with_one_key_make_one_execution(store: Store) -> None:
    with ThreadPoolExecutor(50) as pool:
        futures = [pool.submit(put, store, new(idempotency_key="k")) for _ in range(50)]
    told = [future.result()[0] for future in futures]
    assert sum(not one.duplicate for one in told) == 1
    assert len({one.execution_id for one in told}) == 1
    assert scalar(store, "SELECT count(*) FROM netscript_executions") == 1


def test_a_rolled_back_transaction_takes_no_key(store: Store) -> None:
    with store.engine.connect() as conn, conn.begin() as transaction:
        submission = Submission(executions=(new(idempotency_key="k"),))
        outbox.store(conn, store.dialect, [submission], now=store.now(conn))
        transaction.rollback()
    assert not put(store, new(idempotency_key="k"))[0].duplicate


def guarded(key: str, ref: str, *executions: NewExecution) -> Submission:
    return Submission(executions=executions, guard=Key("trigger:t", key, "f", ref))


def test_a_taken_guard_stores_nothing_of_its_submission(store: Store) -> None:
    first, second = new(), new(idempotency_key="own")
    with store.begin() as conn:
        now = store.now(conn)
        told = outbox.store(
            conn,
            store.dialect,
            [guarded("k", first.id, first), guarded("k", second.id, second)],
            now=now,
        )
    assert [receipt.duplicate_of for receipt in told] == [None, first.id]
    assert scalar(store, "SELECT count(*) FROM netscript_executions") == 1
    # Nor was the key of its execution taken.
    assert not put(store, new(idempotency_key="own"))[0].duplicate


def test_find_knows_only_keys_within_their_window(timed_store: Store, clock: ManualClock) -> None:
    put(timed_store, new(idempotency_key="k"), window=HOUR)
    names = [("job:a", "k"), ("job:a", "other")]
    with timed_store.read() as conn:
        found = idempotency.find(conn, timed_store.dialect, names, now=clock.now())
        later = idempotency.find(conn, timed_store.dialect, names, now=clock.now() + HOUR)
    assert list(found) == [("job:a", "k")]
    assert later == {}


def test_many_executions_of_one_call_cost_a_statement_a_chunk(store: Store) -> None:
    from sqlalchemy import event

    statements: list[str] = []

    def count(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(store.engine, "before_cursor_execute", count)
    put(store, *(new(idempotency_key=f"k{n}", concurrency_key=f"c{n}") for n in range(100)))
    chunks = -(-100 // SQLITE_CHUNK) if store.is_sqlite else 1
    assert len(statements) <= 5 + 3 * chunks, statements
