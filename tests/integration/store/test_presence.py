"""Workers and topics as they are read back, on both databases."""

from __future__ import annotations

import pytest

from netscript_workers import JobContext, define_job_handler
from netscript_workers.errors import StateError, WorkerNotFoundError
from netscript_workers.ids import new_id
from netscript_workers.records import TopicRecord, WorkerInfo
from netscript_workers.store import definitions, depths, leases, presence, topics
from netscript_workers.store.engine import Store
from netscript_workers.store.schema import executions
from netscript_workers.topics import Served, dump_topics, load_served
from tests.integration.store.crowds import multiply
from tests.kit import Hand, lose, new, put, run


def workers(store: Store) -> tuple[WorkerInfo, ...]:
    with store.read() as conn:
        page = presence.list_workers(conn, store.now(conn))
    assert page.total == len(page.workers)
    return page.workers


def listed(store: Store) -> dict[str, TopicRecord]:
    with store.snapshot() as conn:
        page = depths.list_topics(conn, store.dialect, store.now(conn))
    assert not page.more
    return {one.name: one for one in page.topics}


def test_a_worker_is_shown_with_what_it_runs(store: Store) -> None:
    put(store, *(new() for _ in range(3)))
    first, second = Hand(store), Hand(store)
    first.register()
    second.register()
    claimed = first.claim(2)
    newest, one = workers(store)
    assert (newest.id, newest.running, newest.executions) == (second.id, 0, ())
    assert (one.id, one.running, sorted(one.executions)) == (
        first.id,
        2,
        sorted(claim.id for claim in claimed),
    )
    assert (one.state, one.fresh, one.stalled, one.drain_requested) == (
        "running",
        True,
        False,
        False,
    )
    assert (one.jobs, one.topics, one.except_topics) == (("a",), None, ())
    assert 0 <= one.age_seconds < 60
    run(store, "UPDATE netscript_workers SET lease_until = 0")
    assert [one.fresh for one in workers(store)] == [False, False]


def test_many_executions_are_counted_and_some_are_named(store: Store) -> None:
    hand = Hand(store)
    hand.register()
    one = new()
    put(store, one)
    hand.claim()
    multiply(store, executions, one.id, 150)
    (shown,) = workers(store)
    assert (shown.running, len(shown.executions)) == (151, presence.MAX_NAMED)
    with store.read() as conn:
        assert presence.get_worker(conn, hand.id, store.now(conn)).running == 151


@pytest.mark.parametrize(
    "served", [Served(), Served(("x", "y")), Served(but=frozenset({"b", "a"}))]
)
def test_what_a_worker_serves_is_read_back(served: Served) -> None:
    assert load_served(dump_topics(served)) == served


def test_a_worker_is_told_to_leave_by_its_next_renewal(store: Store) -> None:
    hand = Hand(store)
    hand.register()
    told = presence.request_drain(store, hand.id)
    assert (told.state, told.drain_requested) == ("draining", True)
    assert presence.request_drain(store, hand.id).drain_requested  # again changes nothing
    with store.begin() as conn:
        renewed = leases.renew(store, conn, hand.id, 30)
    assert renewed == leases.Renewal(drain_requested=True)
    with pytest.raises(WorkerNotFoundError):
        presence.request_drain(store, new_id())
    with pytest.raises(WorkerNotFoundError):
        presence.request_drain(store, "no id at all")
    run(store, "UPDATE netscript_workers SET lease_until = 0")
    with pytest.raises(StateError, match="is given up"):
        presence.request_drain(store, hand.id)


def test_a_stall_is_kept_from_its_beginning_and_cleared(store: Store) -> None:
    hand, other = Hand(store), Hand(store)
    hand.register()
    other.register()
    for stalled in (True, True, False):
        with store.begin() as conn:
            assert leases.renew(store, conn, hand.id, 30, stalled=stalled)
        with store.read() as conn:
            alive, names = presence.live_workers(conn, store.now(conn))
            shown = presence.get_worker(conn, hand.id, store.now(conn))
        assert alive == 2
        assert shown.stalled is stalled
        assert len(names) == int(stalled)
        if stalled:
            assert hand.id in names[0]
            since = shown.stalled_at
            assert since is not None


def test_workers_that_are_leaving_make_nobody_ready(store: Store) -> None:
    told, leaving, stays = Hand(store), Hand(store), Hand(store)
    for one in (told, leaving, stays):
        one.register()
    with store.begin() as conn:
        assert leases.renew(store, conn, told.id, 30, stalled=True)
    presence.request_drain(store, told.id)
    leases.set_state(store, leaving.id, "draining")
    with store.read() as conn:
        assert presence.live_workers(conn, store.now(conn)) == (1, ())


def test_topics_are_those_of_jobs_of_rows_and_those_that_were_told_something(
    store: Store,
) -> None:
    async def handler(ctx: JobContext) -> None: ...

    lose(store, new(topic="alone"))
    definitions.register(store, [define_job_handler(handler, id="known", topic="of-a-job")])
    topics.pause(store, "paused")
    run(
        store,
        "INSERT INTO netscript_topics (name, paused, rate) VALUES ('slow', :no, '5/s')",
        no=False,
    )
    put(store, *(new(topic="ready") for _ in range(3)), new(topic="runs"))
    put(store, new(topic="later", delay=60_000_000), new(topic="keyed", concurrency_key="k"))
    run(store, "UPDATE netscript_executions SET run_at = run_at - 5000000 WHERE topic = 'ready'")
    Hand(store, topics=["runs"]).claim()
    found = listed(store)
    assert set(found) >= {"of-a-job", "paused", "ready", "runs", "later", "keyed", "alone"}
    ready = found["ready"]
    assert (ready.depth, ready.depth_is_exact, ready.counts_are_exact) == (3, True, True)
    assert ready.oldest_wait is not None
    assert 5 <= ready.oldest_wait < 60
    idle = found["of-a-job"]
    assert (idle.depth, idle.oldest_wait, idle.running, idle.paused) == (0, None, 0, False)
    assert found["runs"].running == 1
    assert found["later"].scheduled == 1
    assert found["keyed"].depth + found["keyed"].blocked == 1
    assert found["alone"].depth == 1
    assert found["paused"].paused
    assert (found["slow"].rate, found["slow"].paused, idle.rate) == ("5/s", False, None)
    topics.resume(store, "paused")
    assert not listed(store)["paused"].paused


def test_counting_ends_where_it_would_cost_more_than_a_glance(store: Store) -> None:
    one, blocked = new(topic="deep"), new(topic="deep", concurrency_key="k")
    put(store, one)
    put(store, blocked)
    multiply(store, executions, one.id, depths.COUNTED + 50)
    deep = listed(store)["deep"]
    assert (deep.depth, deep.depth_is_exact, deep.counts_are_exact) == (10_000, False, True)
    multiply(store, executions, blocked.id, depths.COUNTED + 50)
    deep = listed(store)["deep"]
    assert not deep.counts_are_exact
    assert deep.blocked >= depths.COUNTED
    with store.snapshot() as conn:
        unheard = depths.get_topic(conn, store.dialect, "unheard of", store.now(conn))
    assert (unheard.depth, unheard.running, unheard.rate) == (0, 0, None)
