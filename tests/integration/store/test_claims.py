"""Claiming: how much, of what, in which order."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from netscript_workers.domain import NewExecution
from netscript_workers.ids import new_id
from netscript_workers.store import claims
from netscript_workers.store.engine import Store
from netscript_workers.testing import ManualClock
from tests.kit import Hand, new, put


def test_due_executions_are_promoted_in_chunks_and_tell_when_the_next_is_due(
    timed_store: Store, clock: ManualClock
) -> None:
    put(timed_store, *(new(delay=1_000_000) for _ in range(claims.PROMOTED_AT_A_TIME + 10)))
    put(timed_store, new(delay=60_000_000))
    clock.advance(2)
    hand = Hand(timed_store)
    first = hand.tick(slots=1000)
    second = hand.tick(slots=1000)
    assert len(first.claimed) + len(second.claimed) == claims.PROMOTED_AT_A_TIME + 10
    assert second.next_in == pytest.approx(58, abs=0.1)


def test_the_probe_sees_ready_due_and_noted_work(timed_store: Store, clock: ManualClock) -> None:
    def probe() -> claims.Probe:
        with timed_store.read() as conn:
            return claims.probe(conn, timed_store.dialect, new_id())

    assert probe() == claims.Probe(ready=False, notes=False, next_due=None)
    put(timed_store, new(delay=5_000_000))
    assert probe().next_due == clock.now() + 5_000_000
    put(timed_store, new(concurrency_key="k"))
    assert probe().notes
    put(timed_store, new())
    assert probe().ready


def keyed(n: int) -> NewExecution:
    return new(concurrency_key=f"k{n % 10}")


def test_the_claim_reads_the_partial_index_however_much_is_blocked(store: Store) -> None:
    put(store, *(keyed(n) for n in range(2000)))
    put(store, *(new() for _ in range(20)))
    with store.begin() as conn:
        if store.is_sqlite:
            conn.exec_driver_sql("ANALYZE")
            asked = "EXPLAIN QUERY PLAN "
        else:
            conn.exec_driver_sql("ANALYZE netscript_executions")
            asked = "EXPLAIN "
        bound = {"topic": "default", "jobs": '["a"]', "slots": 5, "worker": new().id, "now": 1}
        if store.is_sqlite:
            bound["token"] = 1
        else:
            bound["low"] = 0
        statement = store.dialect.claim()
        plan = conn.execute(text(asked + statement.text), bound).all()
    assert "netscript_executions_ready" in str(plan)
