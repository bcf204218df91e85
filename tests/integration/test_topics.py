"""Topics with limits and topics with slots of their own, in real workers."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from netscript_workers import JobContext, JobDefinition, define_job_handler
from netscript_workers.domain import ClaimedExecution
from netscript_workers.isolation import Isolation
from netscript_workers.store import suspects
from netscript_workers.store.engine import Store
from netscript_workers.store.explain import explain
from netscript_workers.store.tick import Work
from netscript_workers.topics import Places, Served, TopicPlan, TopicRule
from tests.kit import Hand, lose, new, put, rows, scalar, status
from tests.support import eventually_async
from tests.working import Running, working

RUNNING = "SELECT topic, count(*) FROM netscript_executions WHERE status = 'running' GROUP BY topic"


class Shop:
    """Jobs of several topics that run until they are let go; counts how many run at once."""

    def __init__(self, *topics: str) -> None:
        self.release = asyncio.Event()
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.jobs = [self._job(topic) for topic in topics]

    def _job(self, topic: str) -> JobDefinition[Any, Any]:
        async def hold(ctx: JobContext) -> None:
            self.now[topic] += 1
            self.most[topic] = max(self.most[topic], self.now[topic])
            try:
                await self.release.wait()
                await asyncio.sleep(0)
            finally:
                self.now[topic] -= 1

        return define_job_handler(hold, id=f"hold-{topic}", topic=topic)


async def run_out(store: Store, shop: Shop) -> None:
    """Let all go, and wait until nothing is left."""
    shop.release.set()
    left = "SELECT count(*) FROM netscript_executions"
    await eventually_async(lambda: scalar(store, left) == 0, 20, "everything ending")


def fill(at: Running, shop: Shop, count: int) -> None:
    for definition in shop.jobs:
        for _ in range(count):
            at.enqueue(definition)


async def test_a_topic_has_no_more_running_than_its_limit_and_others_use_the_rest(
    store: Store,
) -> None:
    shop = Shop("payments", "mails")
    rules = (TopicRule(name="payments", concurrency=2),)
    async with working(store, *shop.jobs, concurrency=6, topic_rules=rules) as at:
        fill(at, shop, 8)
        await eventually_async(lambda: dict(shop.now) == {"payments": 2, "mails": 4})
        assert dict(rows(store, RUNNING)) == {"payments": 2, "mails": 4}
        await run_out(store, shop)
    assert shop.most["payments"] == 2
    assert shop.most["mails"] <= 6


async def test_what_waits_for_a_bounded_topic_of_a_worker_with_free_slots_says_so(
    store: Store,
) -> None:
    shop = Shop("payments")
    rules = (TopicRule(name="payments", concurrency=1),)
    async with working(store, *shop.jobs, concurrency=6, topic_rules=rules) as at:
        at.enqueue(*shop.jobs)
        await eventually_async(lambda: shop.now["payments"] == 1)
        waiting = at.enqueue(*shop.jobs)
        with store.snapshot() as conn:
            told = explain(conn, store.dialect, waiting, now=store.now(conn))
        assert (told.code, told.facts["slots"]) == ("topic-busy", 1)
        await run_out(store, shop)


async def test_a_distributed_topic_is_left_to_workers_that_name_it_and_has_slots_of_its_own(
    store: Store,
) -> None:
    shop, other = Shop("reports", "mails"), Shop("reports", "mails")
    rules = (TopicRule(name="reports", concurrency=3, mode="distributed"),)
    async with working(store, *shop.jobs, concurrency=2, topic_rules=rules) as at:
        fill(at, shop, 4)
        await eventually_async(lambda: shop.now["mails"] == 2)
        assert scalar(store, "SELECT concurrency FROM netscript_workers") == 2
        named = ("reports", "mails")
        async with working(
            store, *other.jobs, concurrency=1, topic_rules=rules, topics=named
        ) as second:
            await eventually_async(lambda: dict(other.now) == {"reports": 3, "mails": 1})
            sql = "SELECT concurrency FROM netscript_workers WHERE id = :id"
            assert scalar(store, sql, id=second.worker.id) == 4
            shop.release.set()
            await run_out(store, other)
    assert shop.most["reports"] == 0
    assert other.most["reports"] == 3


async def test_a_limit_holds_for_what_runs_alone_too(store: Store) -> None:
    rules = (TopicRule(name="payments", concurrency=1),)
    hand = Hand(store, ["a"])
    suspect = lose(store, new(topic="payments"))
    isolation = Isolation(
        store,
        hand.id,
        jobs=["a"],
        topics=TopicPlan(None, rules, 5).served,
        on_end=lambda claim, outcome: None,
        on_wanted=lambda: None,
    )
    isolation.runner = object()  # type: ignore[assignment]
    assert isolation.look()
    assert isolation.claim(Places(5, {"payments": 0})) is None
    assert status(store, suspect.id) == "queued"
    claim = isolation.claim(Places(5, {"payments": 1}))
    assert claim is not None
    assert claim.id == suspect.id


def test_no_look_for_what_runs_alone_is_in_vain_while_its_topic_is_full(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = (TopicRule(name="x", concurrency=1), TopicRule(name="y", concurrency=1))
    suspect = lose(store, new(topic="x"))
    isolation = Isolation(
        store,
        Hand(store, ["a"]).id,
        jobs=["a"],
        topics=TopicPlan(None, rules, 5).served,
        on_end=lambda claim, outcome: None,
        on_wanted=lambda: None,
    )
    isolation.runner = object()  # type: ignore[assignment]
    looks: list[Served] = []

    def claim(*args: Any) -> ClaimedExecution | None:
        looks.append(args[-1])
        return suspects.claim(*args)

    monkeypatch.setattr("netscript_workers.isolation.suspects", SimpleNamespace(claim=claim))
    isolation.want()
    for y in (0, 1, 0, 1):  # what is free of another topic makes no difference
        assert isolation.claim(Places(5, {"x": 0, "y": y})) is None
        assert isolation.claim(Places(0, {"x": 0, "y": y})) is None
    assert len(looks) == 2, "it looks once, and once more when y, left out by then, has a place"
    isolation.want()
    assert isolation.claim(Places(0, {"x": 1, "y": 1})) is None
    assert len(looks) == 3
    found = isolation.claim(Places(5, {"x": 1, "y": 0}))
    assert found is not None
    assert found.id == suspect.id
    assert isolation.claim(Places(5, {"x": 0, "y": 0})) is None
    assert len(looks) == 5
    for _ in range(3):
        assert isolation.claim(Places(5, {"x": 0, "y": 0})) is None
    assert len(looks) == 5
    assert isolation.claim(Places(5, {"x": 1, "y": 1})) is None
    assert isolation.claim(Places(5, {"x": 1, "y": 1})) is None
    assert len(looks) == 6


async def test_limits_of_topics_and_of_runtimes_hold_together(store: Store) -> None:
    put(store, *(new(job, topic=topic) for job in "ab" for topic in "xy" for _ in range(5)))
    hand = Hand(store, ["a", "b"])
    lanes = (('["a"]', 3), ('["b"]', 9))
    done = hand.ticker.run(Work(slots=9, lanes=lanes, places=Places(8, {"x": 4}, {}), look=True))
    found = Counter((claim.job_id, claim.topic) for claim in done.claimed)
    assert sum(count for (job, _), count in found.items() if job == "a") == 3
    assert sum(count for (_, topic), count in found.items() if topic == "x") <= 4
    assert sum(found.values()) == 8


async def test_slots_apart_are_filled_when_the_shared_ones_are_full(store: Store) -> None:
    put(store, *(new(topic=topic) for topic in "xy" for _ in range(5)))
    done = Hand(store).ticker.run(Work(slots=2, places=Places(0, {}, {"y": 2}), look=True))
    assert [claim.topic for claim in done.claimed] == ["y", "y"]
    assert not done.passed_over


async def test_a_topic_that_is_full_is_nobodys_stranger(store: Store) -> None:
    put(store, new(topic="x"))
    hand = Hand(store)
    done = hand.ticker.run(Work(slots=5, places=Places(5, {"x": 0}), look=True))
    assert (done.claimed, done.passed_over) == ([], False)
    stranger = Hand(store, ["other"]).ticker.run(Work(slots=5, look=True))
    assert (stranger.claimed, stranger.passed_over) == ([], True)
    (claim,) = hand.claim()
    assert claim.topic == "x"
