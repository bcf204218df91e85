"""The network between us and PostgreSQL breaks: at any byte, in any direction, or silently."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator

import pytest

from netscript_triggers import WebhookEvent, enqueue_job
from netscript_workers import JobContext, JobResult, create_success_result, job
from netscript_workers.domain import Enqueued
from netscript_workers.ids import new_id
from netscript_workers.store.engine import Store
from netscript_workers.store.lifelines import Lifeline, folder
from netscript_workers.store.wake import Waiter, make_bell
from tests.edge import Edge, open_edge, trigger
from tests.integration.store.test_bells import seconds_to_wake
from tests.kit import new, put, rows, scalar
from tests.proxy import COMMIT, Direction, Moment, Proxy
from tests.support import eventually, eventually_async
from tests.working import working

pytestmark = [pytest.mark.postgres, pytest.mark.fresh_database]

PATIENCE = 0.5
# What a sender waits at most: a ping or a statement without an answer, then a new connection.
LONGEST = 9.0
LIVE = "SELECT count(*) FROM netscript_executions"


@job(id="charge")
async def charge(ctx: JobContext[dict[str, str]]) -> None: ...


def two_jobs(event: WebhookEvent) -> list[object]:
    return [enqueue_job(charge, {"id": event.payload["id"], "n": str(n)}) for n in range(2)]


@pytest.fixture
def direct(postgres_url: str) -> Iterator[Store]:
    opened = Store(postgres_url)
    yield opened
    opened.dispose()


@contextlib.asynccontextmanager
async def edge_behind(url: str) -> AsyncGenerator[Edge]:
    store = Store(url, patience=PATIENCE)
    async with open_edge(store, trigger(two_jobs)) as edge:
        first = await edge.post({"id": "warm-up"})
        assert first.status_code == 202
        yield edge
    store.dispose()


def stored(direct: Store) -> Counter[str]:
    """Return how often each delivery is stored; all its executions must be there too."""
    events = rows(direct, "SELECT CAST(id AS text), body, executions FROM netscript_trigger_events")
    owners = Counter(
        owner for (owner,) in rows(
            direct, "SELECT CAST(trigger_event_id AS text) FROM netscript_executions"
        )
    )  # fmt: skip
    assert owners == {id_: 2 for id_, _, _ in events}
    assert all(len(json.loads(executions)) == 2 for _, _, executions in events)
    return Counter(json.loads(bytes(body))["id"] for _, body, _ in events)


@pytest.mark.trap("D-42")
@pytest.mark.parametrize("moment", ["before", "within", "after"])
async def test_a_commit_that_is_cut_is_a_503_and_the_redelivery_makes_it_one(
    postgres_proxy: tuple[Proxy, str], direct: Store, moment: Moment
) -> None:
    proxy, url = postgres_proxy
    async with edge_behind(url) as edge:
        done = proxy.cut_at(COMMIT, moment)
        answer = await edge.post({"id": "order"})
        assert done.is_set() and answer.status_code == 503
        assert "Retry-After" in answer.headers
        taken = moment == "after"
        assert stored(direct)["order"] == (1 if taken else 0)
        again = await edge.post({"id": "order"})
        assert again.status_code == 202
        assert again.json()["duplicate"] is taken
        assert len(again.json()["executions"]) == 2
    assert stored(direct) == {"warm-up": 1, "order": 1}


@pytest.mark.trap("D-42")
@pytest.mark.parametrize("direction", ["to_server", "to_client"])
async def test_wherever_an_accept_is_cut_it_is_stored_whole_or_not_at_all(
    postgres_proxy: tuple[Proxy, str], direct: Store, direction: Direction
) -> None:
    proxy, url = postgres_proxy
    statuses: Counter[int] = Counter()
    async with edge_behind(url) as edge:
        before = proxy.passed[direction]
        assert (await edge.post({"id": "measure"})).status_code == 202
        size = proxy.passed[direction] - before
        points = 24
        for point in range(points):
            proxy.cut_after(size * point // points, direction)
            body = {"id": f"order-{point:03}"}
            status = 0
            for _ in range(5):
                status = (await edge.post(body)).status_code
                statuses[status] += 1
                if status == 202:
                    break
            assert status == 202
            proxy.heal()
    assert set(statuses) <= {202, 503}
    assert statuses[503] >= points // 2  # the rest fell on connections that were remade silently
    assert set(stored(direct).values()) == {1}
    assert len(stored(direct)) == points + 2


@pytest.mark.trap("D-58")
async def test_a_server_without_its_database_refuses_and_goes_on_by_itself(
    postgres_proxy: tuple[Proxy, str], direct: Store
) -> None:
    proxy, url = postgres_proxy
    async with edge_behind(url) as edge:
        proxy.cut()
        answers = await asyncio.gather(*(edge.post({"id": f"no-{n}"}) for n in range(8)))
        assert {answer.status_code for answer in answers} == {503}
        assert stored(direct) == {"warm-up": 1}
        proxy.heal()
        assert (await edge.post({"id": "yes"})).status_code == 202
    assert stored(direct) == {"warm-up": 1, "yes": 1}


@pytest.mark.trap("D-58")
@pytest.mark.parametrize("where", ["idle", "COMMIT"])
async def test_a_database_that_falls_silent_costs_a_sender_a_503_and_not_for_ever(
    postgres_proxy: tuple[Proxy, str], direct: Store, where: str
) -> None:
    proxy, url = postgres_proxy
    async with edge_behind(url) as edge:
        if where == "idle":
            proxy.stall()
        else:
            proxy.cut_at(COMMIT, "stall")
        first = asyncio.create_task(edge.post({"id": "order"}))
        await asyncio.sleep(0.3)
        second = asyncio.create_task(edge.post({"id": "later"}))
        async with asyncio.timeout(LONGEST):
            assert (await first).status_code == 503
            assert (await second).status_code == 503
        assert stored(direct) == {"warm-up": 1}
        proxy.heal()

        async def both_taken() -> bool:
            answers = [await edge.post({"id": name}) for name in ("order", "later")]
            return all(answer.status_code == 202 for answer in answers)

        taken: bool = await eventually_async(both_taken, what="both of them being taken")
        assert taken
    # Of the silent commit nobody knew what became of it; the redelivery made it one.
    assert stored(direct) == {"warm-up": 1, "order": 1, "later": 1}


def told(enqueued: list[Enqueued]) -> set[str]:
    return {one.execution_id for one in enqueued}


@pytest.mark.trap("D-58")
@pytest.mark.parametrize("how", ["cut", "stall"])
async def test_results_that_end_while_the_database_is_away_are_stored_once_it_is_back(
    postgres_proxy: tuple[Proxy, str], direct: Store, how: str
) -> None:
    proxy, url = postgres_proxy
    store, runs = Store(url, patience=PATIENCE), Counter[str]()
    away = asyncio.Event()

    @job(id="slow")
    async def slow(ctx: JobContext[dict[str, str]]) -> dict[str, int]:
        runs[ctx.id] += 1
        await away.wait()
        return {"token": ctx.fence_token}

    async with working(store, slow, concurrency=20):
        ids = told(put(direct, *(new("slow") for _ in range(12))))
        await eventually_async(lambda: len(runs) == 12, what="all of them running")
        proxy.cut() if how == "cut" else proxy.stall()
        away.set()  # they all end now, and nobody can be told
        await asyncio.sleep(0.5)
        assert scalar(direct, LIVE) == 12
        later = told(put(direct, *(new("slow") for _ in range(5))))
        proxy.heal()
        await eventually_async(lambda: scalar(direct, LIVE) == 0, 20, "all of them stored")
    assert runs == dict.fromkeys(ids | later, 1)
    found = rows(direct, "SELECT status, token, result FROM netscript_execution_history")
    assert [json.loads(result)["token"] for _, _, result in found] == [t for _, t, _ in found]
    assert {status for status, _, _ in found} == {"completed"} and len(found) == 17
    store.dispose()


@pytest.mark.trap("D-58")
async def test_a_tick_whose_answer_is_lost_after_the_commit_doubles_and_loses_nothing(
    postgres_proxy: tuple[Proxy, str], direct: Store
) -> None:
    proxy, url = postgres_proxy
    store, runs, follow_ups = Store(url), Counter[str](), Counter[str]()

    @job(id="next")
    async def following(ctx: JobContext[dict[str, str]]) -> None:
        follow_ups[ctx.payload["of"]] += 1

    @job(id="first")
    async def first(ctx: JobContext[dict[str, str]]) -> JobResult:
        runs[ctx.id] += 1
        await ctx.step("once", lambda: 1)
        return create_success_result(actions=[enqueue_job(following, {"of": ctx.id})])

    cuts = 0
    keyed = [new("first", concurrency_key=f"key-{n % 5}") for n in range(40)]
    ids = told(put(direct, *keyed, *(new("first") for _ in range(40))))
    # The commits that are cut are those of ticks.
    async with working(store, first, following, concurrency=4, scheduler=False):
        done = proxy.cut_at(COMMIT, "after")
        deadline = time.monotonic() + 30
        while scalar(direct, LIVE) and time.monotonic() < deadline:
            if done.is_set() and cuts < 8:
                cuts += 1
                done = proxy.cut_at(COMMIT, "after", skip=2)
            await asyncio.sleep(0.01)
        assert scalar(direct, LIVE) == 0
    assert cuts >= 4
    # Claims whose answer was lost were given back before anybody ran them.
    assert runs == dict.fromkeys(ids, 1)
    assert follow_ups == dict.fromkeys(ids, 1)
    assert scalar(direct, "SELECT count(*) FROM netscript_execution_history") == 160
    assert scalar(direct, "SELECT count(*) FROM netscript_concurrency_slots") == 0
    store.dispose()


@pytest.mark.trap("D-58")
def test_a_listener_that_was_cut_off_hears_again_and_does_not_spin(
    postgres_proxy: tuple[Proxy, str], postgres_url: str
) -> None:
    proxy, url = postgres_proxy
    store, bell = Store(url), make_bell(Store(postgres_url).parsed_url)
    id_ = new_id()
    line = Lifeline(folder(store.parsed_url), id_)
    waiter = Waiter(store, id_)
    assert seconds_to_wake(waiter, bell.ring) < 2.0
    proxy.cut()
    started, turns = time.monotonic(), 0
    while time.monotonic() - started < 1.5:  # cut off: every wait takes its time
        waiter.wait(0.25)
        turns += 1
    assert turns <= 10
    proxy.heal()
    eventually(lambda: waiter.wait(0.05) and proxy.connections, what="listening again")
    waits = sorted(seconds_to_wake(waiter, bell.ring) for _ in range(3))
    assert waits[1] < 0.5
    waiter.close()
    line.cut()
    bell.close()
    store.dispose()
