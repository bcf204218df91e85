"""What a claim costs is what it takes, whatever else the database holds.

Counted in pages and in steps of SQLite's machine; `benchmarks/claim_latency.py` times it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from netscript_workers.domain import ClaimedExecution, ExecutionStatus
from netscript_workers.store import parking, queries
from netscript_workers.store.engine import Store
from netscript_workers.store.queries import ExecutionFilter
from netscript_workers.store.schema import executions, history
from tests.integration.store.crowds import cost, multiply
from tests.kit import Hand, assert_slots_exact, ended, new, put, run, scalar

pytestmark = pytest.mark.fresh_database

MANY = 4000
FREE = 300
RUNNING = "SELECT count(*) FROM netscript_executions WHERE status = 'running'"


@pytest.fixture
def one_connection(database_url: str) -> Iterator[Store]:
    store = Store(database_url, pool_size=1)
    yield store
    store.dispose()


def blocked_on(keys: int) -> Callable[[Store], None]:
    """Have so many keys held by running executions, and very many wait for them."""

    def prepare(store: Store) -> None:
        first = [new("keyed", concurrency_key=f"k{n}") for n in range(keys)]
        second = [new("keyed", concurrency_key=f"k{n}") for n in range(keys)]
        put(store, *first, *second)
        holder = Hand(store, ["keyed"])
        assert len(holder.claim(2 * keys)) == keys
        holder.tick(slots=0)
        for waiting in second:
            multiply(store, executions, waiting.id, MANY // keys)

    return prepare


def strangers(store: Store) -> None:
    """Queue very many of a job that nobody knows, ahead of all others; maintenance sees them."""
    Hand(store).register()
    one = new("nobody-knows")
    put(store, one)
    multiply(store, executions, one.id, MANY, sort_at="e.sort_at - 3600000000 + n")
    assert parking.park(store) == MANY + 1


def later(store: Store) -> None:
    one = new(delay=3_600_000_000)
    put(store, one)
    multiply(store, executions, one.id, MANY)


def finished(store: Store) -> None:
    one = new()
    put(store, one)
    hand = Hand(store)
    hand.end(hand.claim_one())
    multiply(store, history, one.id, MANY * 5)


def settle_down(store: Store) -> None:
    """What autovacuum does on PostgreSQL sooner or later; nobody does it on SQLite."""
    if not store.is_sqlite:
        with store.read() as conn:
            conn.exec_driver_sql("VACUUM ANALYZE netscript_executions")


@pytest.mark.parametrize(
    "crowd",
    [
        pytest.param(blocked_on(1), id="blocked on one key", marks=pytest.mark.trap("D-05")),
        pytest.param(blocked_on(200), id="blocked on 200 keys", marks=pytest.mark.trap("D-06")),
        pytest.param(strangers, id="of a job nobody knows"),
        pytest.param(later, id="due later"),
        pytest.param(finished, id="finished", marks=pytest.mark.trap("D-62")),
    ],
)
def test_neither_a_claim_nor_an_end_costs_more_in_a_crowd(
    one_connection: Store, crowd: Callable[[Store], None]
) -> None:
    store = one_connection
    hand = Hand(store)
    running: list[ClaimedExecution] = []

    def claim() -> None:
        claimed = hand.claim(10)
        assert len(claimed) == 10
        assert all(one.concurrency_key is None for one in claimed)
        running.extend(claimed)

    def end() -> None:
        ends = [ended(running.pop(0)) for _ in range(10)]
        assert hand.tick(*ends, look=False).stale == set()

    put(store, *(new() for _ in range(FREE)))
    settle_down(store)
    claim()
    alone = [cost(store, claim), cost(store, end)]
    crowd(store)
    settle_down(store)
    claim()
    crowded = [cost(store, claim), cost(store, end)]
    assert [spent <= 2 * few for spent, few in zip(crowded, alone, strict=True)] == [True, True], (
        alone,
        crowded,
    )
    assert_slots_exact(store)


@pytest.mark.trap("D-05")
def test_the_end_of_a_holder_costs_no_more_the_more_wait_for_its_key(
    one_connection: Store,
) -> None:
    store, hand = one_connection, Hand(one_connection)
    waiting = [new(concurrency_key="k") for _ in range(9)]
    put(store, *waiting)
    running = hand.claim(1)

    def end_and_claim() -> None:
        running[:] = hand.tick(*map(ended, running), slots=1).claimed
        assert len(running) == 1

    end_and_claim()
    few = cost(store, end_and_claim)
    multiply(store, executions, waiting[-1].id, MANY)
    settle_down(store)
    end_and_claim()
    assert cost(store, end_and_claim) <= 2 * few


@pytest.mark.trap("D-19")
def test_a_tick_that_was_planned_for_a_small_table_costs_no_more_in_a_large_one(
    one_connection: Store,
) -> None:
    store, hand = one_connection, Hand(one_connection)
    if not store.is_sqlite:
        run(store, "ALTER TABLE netscript_executions SET (autovacuum_enabled = off)")
    old = new(concurrency_key="k")
    put(store, new(concurrency_key="k"), old, *(new() for _ in range(200)))
    Hand(store).tick(slots=0)
    multiply(store, executions, old.id, MANY // 2)  # they wait, and are older than all others
    run(store, "ANALYZE")
    running = hand.claim(5)

    def end_and_claim() -> None:
        running[:] = hand.tick(*map(ended, running), slots=5).claimed
        assert len(running) == 5

    for _ in range(15):  # prepared by now, and with plans that are kept
        end_and_claim()
    few = cost(store, end_and_claim)
    multiply(store, executions, old.id, 5 * MANY)
    assert cost(store, end_and_claim) <= 2 * few


@pytest.mark.trap("D-62")
@pytest.mark.parametrize(
    "wanted",
    [
        ExecutionFilter(),
        ExecutionFilter(statuses=(ExecutionStatus.COMPLETED,)),
        ExecutionFilter(statuses=(ExecutionStatus.QUEUED,)),
        ExecutionFilter(job_id="a"),
        ExecutionFilter(topic="default"),
    ],
    ids=str,
)
def test_a_page_of_executions_costs_no_more_the_more_are_finished(
    one_connection: Store, wanted: ExecutionFilter
) -> None:
    store = one_connection
    given = [new() for _ in range(60)]
    put(store, *given)
    hand = Hand(store)
    hand.tick(*map(ended, hand.claim(50)))

    def page() -> None:
        with store.begin() as conn:
            queries.list_executions(conn, wanted, limit=20, now=0)

    few = cost(store, page)
    multiply(store, history, given[0].id, MANY)
    assert cost(store, page) <= 2 * few


# Switches that change the join of the claim's two halves, and those that keep or drop its plan.
JOINS = ["enable_nestloop = off", "enable_material = off"]
PLANS = ["", *JOINS, "plan_cache_mode = force_generic_plan", "plan_cache_mode = force_custom_plan"]


@pytest.mark.trap("D-19")
@pytest.mark.parametrize("plan", PLANS)
def test_a_claim_of_ten_takes_ten_whatever_the_planner_believes(
    one_connection: Store, plan: str
) -> None:
    store = one_connection
    if store.is_sqlite and plan:
        pytest.skip("SQLite's planner has no such switches")
    if not store.is_sqlite:
        run(store, "ALTER TABLE netscript_executions SET (autovacuum_enabled = off)")
    one = new()
    put(store, one, *(new() for _ in range(29)))
    run(store, "ANALYZE")
    if plan:
        with store.engine.connect() as conn:
            conn.exec_driver_sql(f"SET {plan}")
            conn.commit()
    hand = Hand(store)
    for _ in range(15):  # prepared by now, and with the plan of a tiny table
        assert len(hand.claim(1)) == 1
    small = cost(store, lambda: hand.claim(1))
    assert small
    multiply(store, executions, new_ready(store), 20_000)
    before = scalar(store, RUNNING)
    spent = cost(store, lambda: hand.claim(10))
    assert scalar(store, RUNNING) == before + 10
    # Without nested loops all of the table is read, as whoever set that has asked for.
    assert spent <= 30 * small or "nestloop" in plan, (spent, small)


def new_ready(store: Store) -> str:
    one = new()
    put(store, one)
    return one.id
