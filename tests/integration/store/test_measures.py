"""Measures of the database: what they say, and that history costs them nothing."""

from __future__ import annotations

import pytest

from netscript_triggers.store.measures import read_inbox
from netscript_workers.store.engine import Store
from netscript_workers.store.measures import Measure, Measures, read_outbox
from netscript_workers.store.parking import park
from netscript_workers.telemetry import metering
from tests.integration.store.scenes import statements_of
from tests.integration.store.test_plans import explained
from tests.kit import Hand, ended, new, put, run

pytestmark = pytest.mark.fresh_database


def read(store: Store) -> list[Measure]:
    return Measures(store, [read_outbox, read_inbox]).read()


def looked(store: Store) -> list[tuple[str, object]]:
    """Return the statements of a look."""
    with statements_of(store) as seen, store.begin() as conn:
        now = store.now(conn)
        seen.clear()
        for one in (read_outbox, read_inbox):
            assert list(one(conn, store.dialect, now))
        return list(seen)


def told(store: Store) -> dict[tuple[str, ...], float]:
    return {(one.name, *key): value for one, value, key in read(store)}


def test_they_say_what_there_is(store: Store) -> None:
    hand = Hand(store)
    put(store, *(new(topic="orders") for _ in range(3)), new(topic="orders", delay=60_000_000))
    put(store, new(topic="orders", concurrency_key="k"), new(topic="orders", concurrency_key="k"))
    hand.tick(slots=2)
    found = told(store)
    assert found["netscript.database.up",] == 1
    assert found["netscript.topic.running", "orders"] == 2
    assert found["netscript.topic.scheduled", "orders"] == 1
    ready = found["netscript.topic.depth", "orders"] + found["netscript.topic.blocked", "orders"]
    assert ready == 3
    assert found["netscript.topic.oldest_wait", "orders"] >= 0
    assert found["netscript.topic.paused", "orders"] == 0
    assert found["netscript.workers.live",] == 0
    assert found["netscript.workers.slots",] == 0
    assert found["netscript.dead_letters",] == 0
    assert found["netscript.events.kept", "dead"] == 0


def test_a_job_that_nobody_knows_is_told(store: Store) -> None:
    Hand(store)
    put(store, new("stranger"), new("stranger"))
    park(store)
    assert told(store)["netscript.job.unserved", "stranger"] == 2


def test_history_costs_them_nothing(store: Store) -> None:
    hand = Hand(store)
    put(store, *(new() for _ in range(5)))
    before = looked(store)
    put(store, *(new() for _ in range(200)))
    hand.tick(slots=250)
    hand.tick(*map(ended, hand.claim(250)), slots=0)
    run(store, "ANALYZE")
    seen = looked(store)
    assert len(seen) == len(before) > 0
    for part, index in (
        ("status = 'failed' LIMIT", "netscript_history_status"),
        ("netscript_trigger_events WHERE status", "netscript_events_status"),
    ):
        some = [one for one in seen if part in one[0]]
        assert some, part
        for statement, parameters in some:
            assert "LIMIT" in statement
            plan = explained(store, statement, parameters)
            assert index in plan, plan


def test_whoever_asks_often_asks_the_database_seldom(store: Store) -> None:
    measures = Measures(store, [read_outbox])
    first = measures.read()
    assert all(measures.read() is first for _ in range(20))


def test_gauges_tell_as_long_as_somebody_watches(store: Store) -> None:
    measures = Measures(store, [read_outbox])
    gauge = metering.METERING.gauges[metering.DATABASE_UP]
    before = len(gauge.read())
    with measures.watched():
        assert dict(gauge.read())[()] >= 1
    assert len(gauge.read()) == before
