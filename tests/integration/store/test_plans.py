"""Query plans: what runs on every tick goes through its index, in the index's order."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest

from netscript_workers.domain import NewExecution
from netscript_workers.ids import new_id
from netscript_workers.store import batches, cancelling, claims, entrance, leases
from netscript_workers.store.engine import Store
from netscript_workers.store.entrance import Asked
from netscript_workers.store.explain import explain
from netscript_workers.store.retention import Retention, prune
from tests.integration.store.scenes import no_folder, statements_of
from tests.kit import Hand, ended, new, put, rows, run, sweep

pytestmark = pytest.mark.fresh_database


@pytest.fixture(autouse=True)
def some_work(store: Store) -> None:
    """A little of everything, so that every statement has something to find."""
    many: list[NewExecution] = []
    for n in range(40):
        many += [
            new(topic=f"t{n % 3}", priority=n),
            new(concurrency_key=f"k{n % 5}"),
            new(delay=60_000_000 + n),
        ]
    put(store, *many)
    hand = Hand(store)
    hand.tick(*map(ended, hand.claim(20)), slots=20)
    run(store, "ANALYZE")


def explained(store: Store, statement: str, parameters: object) -> str:
    with store.engine.connect() as conn:  # rolled back: ANALYZE runs what it explains
        if store.is_sqlite:
            asked = f"EXPLAIN QUERY PLAN {statement}"
        else:
            # The tables are small here; what is asked is whether the index can serve at all.
            for setting in ("enable_seqscan", "enable_sort", "enable_bitmapscan"):
                conn.exec_driver_sql(f"SET LOCAL {setting} = off")
            # Without ANALYZE the plans of subqueries in a recursive part are not shown.
            asked = f"EXPLAIN ANALYZE {statement}"
        found = conn.exec_driver_sql(asked, cast("Any", parameters))
        return "\n".join(str(row[-1]) for row in found)


def plan_of(seen: list[tuple[str, object]], store: Store, part: str) -> str:
    for statement, parameters in seen:
        if part in statement:
            return explained(store, statement, parameters)
    raise AssertionError(f"no statement says {part!r}: {[statement for statement, _ in seen]}")


def sorts(plan: str) -> bool:
    return "Sort" in plan or "TEMP B-TREE" in plan


def scans(plan: str) -> bool:
    """Tell whether all live executions are read."""
    lines = plan.splitlines()
    return any("Seq Scan on netscript_executions" in line for line in lines) or any(
        line.startswith("SCAN netscript_executions") and "INDEX" not in line for line in lines
    )


def test_the_claim_walks_the_ready_index_in_its_order(store: Store) -> None:
    with statements_of(store) as seen:
        Hand(store).claim(5)
    plan = plan_of(seen, store, "SET status = 'running'")
    assert "netscript_executions_ready" in plan
    assert not scans(plan), plan
    assert not sorts(plan), plan


def test_topics_with_ready_work_are_found_by_leaps_through_the_ready_index(store: Store) -> None:
    with statements_of(store) as seen:
        Hand(store).claim(5)
    plan = plan_of(seen, store, "RECURSIVE t(topic)")
    assert plan.count("netscript_executions_ready") >= 2
    assert not scans(plan), plan


def test_promotion_walks_the_due_index(store: Store) -> None:
    with statements_of(store) as seen, store.begin() as conn:
        claims.promote(conn, store.dialect, store.now(conn))
        claims.next_due(conn)
    for part in ("SET status = CASE", "SELECT run_at"):
        plan = plan_of(seen, store, part)
        assert "netscript_executions_due" in plan
        assert not scans(plan), plan
        assert not sorts(plan), plan


def test_the_next_of_a_key_is_found_in_the_blocked_index(store: Store) -> None:
    with statements_of(store) as seen, store.begin() as conn:
        asked = Asked(keys={"k1", "new"})
        entrance.let_in(conn, store.dialect, asked, store.now(conn))
    plan = plan_of(seen, store, "e.status = 'blocked' AND e.concurrency_key")
    assert "netscript_executions_blocked" in plan
    assert not scans(plan), plan


def test_the_sweep_leaps_through_the_blocked_index(store: Store) -> None:
    with statements_of(store) as seen:
        sweep(store)
    plan = plan_of(seen, store, "RECURSIVE b(key)")
    assert plan.count("netscript_executions_blocked") >= 2
    assert not scans(plan), plan


def test_the_sweep_of_batches_reads_those_that_are_open_and_all_notes_once(store: Store) -> None:
    sql = """
        INSERT INTO netscript_batches (id, expected, done, created_at, completed_at)
        VALUES (:id, 1, 1, 1, 1)"""
    for _ in range(50):
        run(store, sql, id=new_id())
    run(store, "ANALYZE netscript_batches")
    with statements_of(store) as seen, store.begin() as conn:
        batches.sweep(conn, store.dialect, "")
    plan = plan_of(seen, store, "FROM netscript_batches")
    # By both columns: what is complete is not read.
    assert re.search(r"completed_at=\? AND id>\?|completed_at IS NULL\) AND \(id >", plan), plan
    once = "MATERIALIZE n" if store.is_sqlite else "Group Key: netscript_admissions.key"
    assert once in plan, plan


def test_what_a_worker_is_to_end_is_found_in_the_index_of_cancels(store: Store) -> None:
    with statements_of(store) as seen, store.begin() as conn:
        cancelling.orders(conn, new_id())
    plan = plan_of(seen, store, "cancel_requested AND worker_id")
    assert "netscript_executions_cancelling" in plan
    assert not scans(plan), plan


def test_no_explanation_and_no_cancel_reads_all_that_is_live(store: Store) -> None:
    Hand(store, ["a"]).register()
    by_status = (
        "SELECT CAST(min(CAST(id AS text)) AS text) FROM netscript_executions GROUP BY status"
    )
    ids = [id_ for (id_,) in rows(store, by_status)]
    assert len(ids) == 4
    with statements_of(store) as seen:
        for id_ in ids:
            with store.begin() as conn:
                explain(conn, store.dialect, id_, now=store.now(conn))
            cancelling.cancel(store, id_)
    assert len(seen) > 20
    for statement, parameters in seen:
        if "netscript_executions" in statement and not statement.startswith("PRAGMA"):
            plan = explained(store, statement, parameters)
            assert not scans(plan), (statement, plan)


def test_what_a_worker_has_is_found_in_the_running_index(store: Store) -> None:
    hand = Hand(store)
    hand.register()
    hand.claim(3)
    with statements_of(store) as seen:
        leases.give_back_unknown(store, hand.id, set())
        leases.deregister(store, hand.id)
    for part in ("SELECT id FROM netscript_executions WHERE status = 'running'", "losses + "):
        assert "netscript_executions_running" in plan_of(seen, store, part)


def test_orphans_are_found_by_leaps_through_the_running_index(store: Store) -> None:
    with statements_of(store) as seen, store.begin() as conn:
        conn.execute(leases._OTHERS_AND_ORPHANS, {"id": new().id}).all()
    plan = plan_of(seen, store, "RECURSIVE w(worker_id)")
    assert plan.count("netscript_executions_running") >= 2
    assert not scans(plan), plan
    assert leases.rescue(store, new().id, no_folder())


def test_finishing_goes_by_the_primary_key(store: Store) -> None:
    hand = Hand(store)
    claimed = hand.claim(5)
    with statements_of(store) as seen:
        hand.tick(*map(ended, claimed))
    for part in ("INSERT INTO netscript_execution_history", "DELETE FROM netscript_executions"):
        assert not scans(plan_of(seen, store, part))


def test_retention_walks_an_index_of_history(store: Store) -> None:
    with statements_of(store) as seen:
        prune(store, Retention())
    plan = plan_of(seen, store, "DELETE FROM netscript_execution_history")
    # Ids grow with time, so PostgreSQL may prefer the primary key.
    assert "netscript_history_status" in plan or "history_pkey" in plan
    assert not sorts(plan), plan


def test_a_heartbeat_touches_no_index(store: Store) -> None:
    hand = Hand(store)
    hand.register()
    with statements_of(store) as seen, store.begin() as conn:
        leases.renew(store, conn, hand.id, 30)
    written = [statement for statement, _ in seen if statement.strip().startswith("UPDATE")]
    assert len(written) == 1
    assert "netscript_workers" in written[0]


@pytest.mark.postgres
def test_no_plan_is_compiled_however_costly_it_looks(postgres_url: str) -> None:
    store = Store(postgres_url)
    asked = "SELECT id FROM netscript_workers WHERE lease_until > 5"  # there is no index for it
    plan = "\n".join(str(line) for (line,) in rows(store, f"EXPLAIN {asked}"))
    store.dispose()
    assert "Seq Scan" in plan
    assert "JIT" not in plan
