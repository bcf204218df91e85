"""Idempotency modes, batches and limits of jobs together: who waits at a gate may be replaced."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from netscript_workers import JobContext, enqueue_batch, enqueue_job, job
from netscript_workers.store import definitions
from netscript_workers.store.engine import Store
from netscript_workers.testing import ManualClock
from tests.batching import callbacks, counted, store_work
from tests.kit import Hand, assert_slots_exact, ended, rows, scalar, status
from tests.modes import MODES, arrive, assert_clean

LEFT = "SELECT count(*) FROM netscript_executions"


@job(id="a", max_concurrency=2)
async def narrow(ctx: JobContext[dict[str, int]]) -> None: ...


@job(id="a", rate="20/s")
async def slow(ctx: JobContext[dict[str, int]]) -> None: ...


@job(id="a", max_concurrency=2, rate="20/s")
async def both(ctx: JobContext[dict[str, int]]) -> None: ...


@job(id="b", max_concurrency=1)
async def closing(ctx: JobContext[dict[str, Any]]) -> None: ...


@pytest.mark.parametrize("limited", [narrow, slow, both], ids=["places", "rate", "both"])
@pytest.mark.parametrize("seed", range(2))
def test_whatever_mode_comes_to_a_gate_what_came_last_runs_and_places_stay_exact(
    timed_store: Store, clock: ManualClock, limited: Any, seed: int
) -> None:
    store, chance, hand = timed_store, random.Random(seed), Hand(timed_store)
    definitions.register(store, [limited])
    wanted: dict[str, int] = {}  # by the id of one that nobody has claimed
    under_way: list[Any] = []
    ran: dict[str, int] = {}

    def claim() -> None:
        for one in hand.claim(3):
            ran[one.id] = json.loads(one.payload)["n"]
            assert ran[one.id] == wanted.pop(one.id)
            under_way.append(one)

    for number in range(150):
        mode = chance.choice(["once", *MODES])
        options: dict[str, Any] = {"delay": chance.choice([None, 0.05, 0.3])}
        if chance.random() < 0.4:
            options["concurrency_key"] = "c"
        if chance.random() < 0.8:
            options |= {"idempotency_key": f"k{chance.randrange(6)}", "idempotency": mode}
        (told,) = arrive(store, enqueue_job(limited, {"n": number}, **options))
        if not told.duplicate or (mode == "replace" and told.execution_id in wanted):
            wanted[told.execution_id] = number
        if chance.random() < 0.6:
            claim()
        if under_way and chance.random() < 0.6:
            hand.end(under_way.pop(chance.randrange(len(under_way))))
        assert len(under_way) <= (limited.max_concurrency or 150)
        clock.advance(chance.choice([0.0, 0.02, 0.1]))
    for _ in range(600):
        if not scalar(store, LEFT):
            break
        clock.advance(0.1)
        claim()
        hand.tick(*map(ended, under_way))
        under_way.clear()
    assert scalar(store, LEFT) == 0
    assert wanted == {}
    assert_slots_exact(store)
    assert_clean(store)


def test_one_that_has_a_place_is_replaced_where_it_stands(store: Store) -> None:
    definitions.register(store, [narrow])
    key: dict[str, Any] = {"idempotency_key": "k", "idempotency": "replace"}
    (first,) = arrive(store, enqueue_job(narrow, {"n": 1}, **key))
    hand = Hand(store)
    hand.tick()
    assert status(store, first.execution_id) == "queued"
    (second,) = arrive(store, enqueue_job(narrow, {"n": 2}, delay=60, **key))
    assert second.execution_id == first.execution_id
    assert json.loads(hand.claim_one().payload) == {"n": 2}


def test_one_that_waits_at_a_gate_and_is_put_off_lets_the_next_one_in(store: Store) -> None:
    definitions.register(store, [narrow])
    key: dict[str, Any] = {"idempotency_key": "k", "idempotency": "replace"}
    hand = Hand(store)
    arrive(store, *(enqueue_job(narrow, {"n": n}) for n in range(2)))
    held = hand.claim()
    (first,) = arrive(store, enqueue_job(narrow, {"n": 2}, **key))
    (behind,) = arrive(store, enqueue_job(narrow, {"n": 3}))
    assert hand.claim() == []
    arrive(store, enqueue_job(narrow, {"n": 4}, delay=60, **key))
    assert status(store, first.execution_id) == "scheduled"
    done = hand.tick(ended(held[0]), slots=5)
    assert [one.id for one in done.claimed] == [behind.execution_id]
    assert_slots_exact(store)


def test_the_callback_of_a_batch_waits_for_its_own_gate(store: Store) -> None:
    definitions.register(store, [narrow, closing])
    (before,) = arrive(store, enqueue_job(closing, {"all": 0}))
    hand = Hand(store)
    blocking = hand.claim_one()
    assert blocking.id == before.execution_id
    members = [enqueue_job(narrow, {"n": n}) for n in range(5)]
    store_work(store, enqueue_batch(members, on_complete=enqueue_job(closing, {"all": 5})))
    for _ in range(20):
        done = hand.tick(slots=10)
        assert all(one.job_id == "a" for one in done.claimed)
        hand.tick(*map(ended, done.claimed))
    assert counted(store) == [(5, 5, True)]
    assert rows(store, "SELECT status FROM netscript_executions WHERE token IS NULL") == [
        ("blocked",)
    ]
    hand.end(blocking)
    last = hand.claim_one()
    assert (last.job_id, json.loads(last.payload)) == ("b", {"all": 5})
    hand.end(last)
    assert len(callbacks(store)) == 2
    assert_slots_exact(store)
    assert_clean(store)
