"""Claimers and enqueuers let loose at the same instant, round after round."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeAlias

from sqlalchemy import create_engine, make_url
from sqlalchemy.orm import Session

from netscript_workers import JobContext, configure_sqlite, enqueue, enqueue_job, job
from netscript_workers.domain import ClaimedExecution
from netscript_workers.store import definitions
from netscript_workers.store.engine import Store
from tests.kit import Hand, assert_slots_exact, ended, new, put, run, scalar

Act: TypeAlias = Callable[[], list[ClaimedExecution]]

RUNNING = "SELECT count(*) FROM netscript_executions WHERE status = 'running'"


@job(id="a")
async def a(ctx: JobContext[dict[str, int]]) -> None: ...


@job(id="b", max_concurrency=2)
async def b(ctx: JobContext[dict[str, int]]) -> None: ...


def open_store(url: str, pool_size: int) -> Store:
    """Open a store whose commits don't wait for the disk: what races here is not the disk."""
    store = Store(url)
    if not store.is_sqlite:
        name = make_url(url).database
        with store.read() as conn:
            conn.exec_driver_sql(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    store.dispose()
    return Store(url, pool_size=pool_size)


def at_once(pool: ThreadPoolExecutor, acts: Sequence[Callable[[], Any]]) -> list[Any]:
    """Do these in threads that a barrier releases together; return what each returned."""
    barrier = threading.Barrier(len(acts))

    def one(act: Callable[[], Any]) -> Any:
        barrier.wait(30)
        return act()

    return [future.result() for future in [pool.submit(one, act) for act in acts]]


def claim_one_key_at_once(url: str, *, rounds: int, most: int = 8) -> str:
    """Have 2 to 8 workers claim twenty executions of one key at the same instant."""
    store = open_store(url, most + 2)
    hands = [Hand(store) for _ in range(most)]
    wins = 0
    with ThreadPoolExecutor(most + 1) as pool:
        for number in range(rounds):
            claimers = hands[: 2 + number % (most - 1)]
            put(store, *(new(concurrency_key=f"k{number}") for _ in range(20)))
            another = partial(_enqueue, store, f"k{number}")
            found = _claims(pool, [*(partial(_claim, hand) for hand in claimers), another])
            assert len(found) == scalar(store, RUNNING) == 1
            others = claimers[1:]  # again, while the one that runs ends
            acts: list[Act] = [partial(_end_and_claim, claimers[0], found)]
            acts += [*(partial(_claim, hand) for hand in others), another]
            next_one = _claims(pool, acts)
            assert len(next_one) == scalar(store, RUNNING) <= 1
            wins += len(next_one)
            assert_slots_exact(store)
            for table in ("executions", "concurrency_slots", "admissions"):
                run(store, f"DELETE FROM netscript_{table}")
    store.dispose()
    return f"{rounds} rounds; the next one started at once in {wins} of them"


def _claims(pool: ThreadPoolExecutor, acts: Sequence[Act]) -> list[ClaimedExecution]:
    return [claim for claims in at_once(pool, acts) for claim in claims]


def _claim(hand: Hand) -> list[ClaimedExecution]:
    return hand.claim(20)


def _enqueue(store: Store, key: str) -> list[ClaimedExecution]:
    put(store, new(concurrency_key=key))
    return []


def _end_and_claim(hand: Hand, running: Sequence[ClaimedExecution]) -> list[ClaimedExecution]:
    return hand.tick(*map(ended, running), slots=20).claimed


def enqueue_crosswise(url: str, *, rounds: int) -> str:
    """Have users' transactions name the same keys in opposite order while workers work.

    Concurrency keys one call at a time, of jobs with a limit and without, idempotency keys within
    one call: none may lead to a deadlock. On PostgreSQL both users have named their first key
    before either names its second.
    """
    store = open_store(url, 6)
    parsed = make_url(url)
    if not store.is_sqlite:
        parsed = parsed.set(drivername="postgresql+psycopg")
    engine = create_engine(parsed)
    if store.is_sqlite:
        configure_sqlite(engine)
    chance = random.Random(9)
    done = threading.Event()
    definitions.register(store, [a, b])

    def work() -> int:
        hand, mine, count = Hand(store), list[ClaimedExecution](), 0
        while not done.is_set() or mine:
            mine = hand.tick(*map(ended, mine), slots=5).claimed
            count += len(mine)
        return count

    def user(number: int, keys: Sequence[str], middle: threading.Barrier) -> None:
        with Session(engine) as session:
            enqueue(session, enqueue_job(a, {"n": number}, concurrency_key=keys[0]))
            if not store.is_sqlite:  # there is one writer at a time
                middle.wait(30)
            enqueue(session, enqueue_job(b, {"n": number}, concurrency_key=keys[1]))
            enqueue(session, enqueue_job(b, {"n": number}))
            enqueue(
                session,
                *(enqueue_job(a, {"n": 0}, idempotency_key=f"{key}-{number}") for key in keys),
            )
            session.commit()

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(work) for _ in range(2)]
        try:
            for number in range(rounds):
                one, other = chance.sample(["a", "b", "c"], 2)
                middle = threading.Barrier(2)
                users = [
                    pool.submit(user, number, keys, middle) for keys in ((one, other), (other, one))
                ]
                for future in users:
                    future.result(60)
        finally:
            done.set()
        finished = sum(worker.result() for worker in workers)
    hand = Hand(store)
    while scalar(store, "SELECT count(*) FROM netscript_executions"):
        left = hand.claim(50)
        finished += len(left)
        hand.tick(*map(ended, left))
    assert finished == rounds * 8  # six of the two users, and two that both have named
    assert_slots_exact(store)
    engine.dispose()
    store.dispose()
    return f"{rounds} rounds, {finished} executions"
