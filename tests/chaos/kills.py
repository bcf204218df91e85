"""Processes killed with SIGKILL under load, and what must be true afterwards."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx

from netscript_triggers.store.verify import verify
from netscript_workers.domain import SUSPECT_AFTER, NewExecution
from netscript_workers.store.engine import Store
from tests.chaos.lives import NOTE, Life, check_overlaps, read_lives
from tests.kit import new, put, rows, scalar
from tests.support import Process, eventually, free_port, wait_until_answers, write_project

SECRET = "whsec_chaos"

JOBS = (
    NOTE
    + """
@job(id="work")
async def work(ctx: JobContext):
    note("start", ctx)
    await asyncio.sleep(ctx.payload["seconds"])
    note("end", ctx)
    return {"token": ctx.fence_token}
"""
)

TRIGGERS = """
from netscript_triggers import enqueue_job, webhook

@webhook(id="orders", path="/webhooks/orders", verifier="hmac-sha256", secret_env="WEBHOOK_SECRET")
def orders(event):
    order = event.payload
    return [
        enqueue_job("work", {"seconds": 0}, idempotency_key=f"{order['id']}-{n}" if n else None)
        for n in range(order["actions"])
    ]
"""


def project(place: Path) -> Path:
    return write_project(place, {"jobs/work.py": JOBS, "triggers/orders.py": TRIGGERS})


@dataclass
class Report:
    """What a run showed."""

    kills: int = 0
    lost: int = 0
    restarts_ms: list[float] = field(default_factory=list[float])
    alone_ms: list[float] = field(default_factory=list[float])
    seconds: float = 0.0

    def __str__(self) -> str:
        waits = sorted(self.restarts_ms)
        told = f"{self.kills} kills, {self.lost} attempts lost, {self.seconds:.0f} s"
        if waits:
            middle, last = waits[len(waits) // 2], waits[-1]
            told += f"; a lost execution started again after p50 {middle:.0f} ms, max {last:.0f} ms"
        if self.alone_ms:
            told += f"; {len(self.alone_ms)} began to run alone after {max(self.alone_ms):.0f} ms"
        return told


class Workers:
    """Two workers that are killed in turn, each only while both work."""

    def __init__(self, place: Path, url: str, record: Path, concurrency: int) -> None:
        self._place = place
        self._record = record
        self._environment = {
            "NETSCRIPT_DATABASE_URL": url,
            "WORKERS_CONCURRENCY": str(concurrency),
            "CHAOS_RECORD": str(record),
        }
        self.killed: dict[int, int] = {}
        self._both = [self._start(), self._start()]

    def _start(self) -> Process:
        command = ("-m", "netscript_triggers", "worker", "--log-level", "error")
        return Process(*command, cwd=self._place, env=self._environment)

    def _begun(self, process: Process) -> bool:
        assert process.popen.poll() is None, process.output
        return f" {process.popen.pid} " in self._record.read_text()

    def kill_one(self, chance: random.Random) -> None:
        for process in self._both:
            eventually(partial(self._begun, process), 30, "a worker's first start")
        time.sleep(chance.uniform(0.0, 0.4))
        place = chance.randrange(2)
        process = self._both[place]
        # Until this instant its attempts live for certain.
        self.killed[process.popen.pid] = time.time_ns()
        process.kill()
        self._both[place] = self._start()

    def stop(self) -> None:
        for process in self._both:
            process.kill()


def drain_under_kills(
    url: str, place: Path, *, executions: int, kills: int, concurrency: int, seconds: float
) -> Report:
    """Drain a backlog with two workers that are killed; return what it showed, or fail."""
    store, chance, record = Store(url), random.Random(4), place / "record"
    record.touch()
    keys = max(2, executions // 120)
    backlog = [_piece(number, keys, seconds) for number in range(executions)]
    for start in range(0, executions, 500):
        put(store, *backlog[start : start + 500])
    report, began = Report(), time.monotonic()
    workers = Workers(project(place / "shop"), url, record, concurrency)
    try:
        for _ in range(kills):
            workers.kill_one(chance)
            report.kills += 1
        left = "SELECT count(*) FROM netscript_executions"
        assert scalar(store, left) > 0, "the backlog was drained before the kills were over"
        eventually(lambda: scalar(store, left) == 0, 300, "the end of the backlog")
    finally:
        workers.stop()
    report.seconds = time.monotonic() - began
    lives = read_lives(record)
    _check_results(store, backlog, lives)
    check_overlaps(lives, workers.killed)
    _check_restarts(lives, workers.killed, report)
    found = verify(store)
    assert not found.findings, str(found)
    store.dispose()
    return report


def _piece(number: int, keys: int, seconds: float) -> NewExecution:
    key = f"key-{number % keys}" if number % 3 == 0 else None
    payload = json.dumps({"key": key, "seconds": seconds})
    return new("work", payload, concurrency_key=key)


def _check_results(store: Store, backlog: Iterable[NewExecution], lives: list[Life]) -> None:
    """Every execution completed, with one result: that of an attempt which ran to its end."""
    sql = "SELECT CAST(id AS text), status, token, result FROM netscript_execution_history"
    found = {id_: (status, token, result) for id_, status, token, result in rows(store, sql)}
    assert found.keys() == {one.id for one in backlog}
    ended = {(life.execution, life.token) for life in lives if life.end is not None}
    for id_, (status, token, result) in found.items():
        assert status == "completed"
        assert json.loads(result) == {"token": token}
        assert (id_, token) in ended
    # Nobody's slot is left behind.
    assert scalar(store, "SELECT count(*) FROM netscript_concurrency_slots") == 0


def _check_restarts(lives: list[Life], killed: dict[int, int], report: Report) -> None:
    by_execution: defaultdict[str, list[Life]] = defaultdict(list)
    for life in sorted(lives, key=lambda life: life.start):
        by_execution[life.execution].append(life)
    for same in by_execution.values():
        lost = [(life, again) for life, again in pairwise(same) if life.end is None]
        report.lost += len(lost)
        for losses, (life, again) in enumerate(lost, start=1):
            wait = (again.start - life.death(killed)) / 1e6
            (report.alone_ms if losses >= SUSPECT_AFTER else report.restarts_ms).append(wait)
    slow = [wait for wait in report.restarts_ms if wait > 1000]
    assert not slow, f"{len(slow)} of {report.lost} took longer than 1 s: {report}"
    # These wait for one of a few interpreters to start, beside those that wait with them.
    assert max(report.alone_ms, default=0) < 60_000, str(report)


@dataclass
class Order:
    id: str
    actions: int
    answer: dict[str, Any] | None = None

    @property
    def body(self) -> bytes:
        return json.dumps({"id": self.id, "actions": self.actions}).encode()

    @property
    def headers(self) -> dict[str, str]:
        digest = hmac.new(SECRET.encode(), self.body, hashlib.sha256).hexdigest()
        return {"X-NetScript-Signature": digest, "Content-Type": "application/json"}


class Servers:
    """Two servers that are killed in turn while senders post."""

    def __init__(self, place: Path, url: str) -> None:
        self._place = place
        self._environment = {
            "NETSCRIPT_DATABASE_URL": url,
            "WEBHOOK_SECRET": SECRET,
            "CHAOS_RECORD": "/dev/null",
        }
        self.ports = [free_port(), free_port()]
        self._both = [self._start(port) for port in self.ports]

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    def _start(self, port: int) -> Process:
        command = ("-m", "netscript_triggers", "serve", "--log-level", "error")
        return Process(*command, "--port", str(port), cwd=self._place, env=self._environment)

    def wait(self, place: int) -> None:
        wait_until_answers(self.urls[place], seconds=60)

    def kill(self, place: int) -> None:
        self._both[place].kill()
        self._both[place] = self._start(self.ports[place])

    def stop(self) -> None:
        for process in self._both:
            process.kill()


@dataclass
class Senders:
    """Posts orders; one whose answer was lost is sent again, as providers do."""

    urls: list[str]
    orders: list[Order] = field(default_factory=list[Order])
    statuses: Counter[str] = field(default_factory=Counter[str])
    stopping: bool = False

    async def run(self, senders: int) -> None:
        limits = httpx.Limits(max_connections=senders * 2)
        async with httpx.AsyncClient(timeout=10, trust_env=False, limits=limits) as client:
            await asyncio.gather(*(self._send(client, number) for number in range(senders)))

    async def _send(self, client: httpx.AsyncClient, number: int) -> None:
        chance, count = random.Random(number), 0
        while not self.stopping:
            count += 1
            order = Order(f"order-{number}-{count}", chance.randrange(4))
            self.orders.append(order)
            while order.answer is None and not self.stopping:
                await self._post(client, order, chance.choice(self.urls))

    async def _post(self, client: httpx.AsyncClient, order: Order, url: str) -> None:
        try:
            answer = await client.post(
                f"{url}/webhooks/orders", content=order.body, headers=order.headers
            )
        except httpx.TransportError as error:
            self.statuses[type(error).__name__] += 1
            await asyncio.sleep(0.02)
            return
        self.statuses[str(answer.status_code)] += 1
        if answer.status_code == 202:
            order.answer = answer.json()
        else:
            assert answer.status_code == 503, answer.text
            await asyncio.sleep(0.05)


def accept_under_kills(url: str, place: Path, *, kills: int, senders: int = 16) -> str:
    """Post orders to two servers that are killed; return what it showed, or fail."""
    store, chance = Store(url), random.Random(5)
    servers = Servers(project(place), url)
    try:
        for number in range(2):
            servers.wait(number)
        load = Senders(servers.urls)

        async def drive() -> None:
            sending = asyncio.create_task(load.run(senders))
            for number in range(kills):
                victim = number % 2
                await asyncio.to_thread(servers.wait, victim)
                await asyncio.sleep(chance.uniform(0.05, 0.4))
                assert not sending.done(), sending.exception()
                await asyncio.to_thread(servers.kill, victim)
            for number in range(2):
                await asyncio.to_thread(servers.wait, number)
            load.stopping = True
            await sending

        asyncio.run(drive())
        accepted = _check_events(store, load.orders)
        answered = [order for order in load.orders if order.answer is not None]
        before = _counts(store)
        assert asyncio.run(_redeliver(answered, servers.urls)) == 0
        assert _counts(store) == before
        # Those whose 202 was lost may be stored or not; either way they are whole, and once.
        unanswered = [order for order in load.orders if order.answer is None]
        fresh = asyncio.run(_redeliver(unanswered, servers.urls))
        assert _counts(store)[0] == before[0] + fresh
        assert asyncio.run(_redeliver(load.orders, servers.urls)) == 0
    finally:
        servers.stop()
    _check_events(store, load.orders)
    found = verify(store)
    assert not found.findings, str(found)
    store.dispose()
    return f"{kills} kills, {accepted} accepted of {len(load.orders)}, {dict(load.statuses)}"


def _counts(store: Store) -> tuple[int, int]:
    events = scalar(store, "SELECT count(*) FROM netscript_trigger_events")
    return events, scalar(store, "SELECT count(*) FROM netscript_executions")


def _check_events(store: Store, orders: list[Order]) -> int:
    """Every 202 has its event and executions; no event has a part of its actions."""
    sql = "SELECT CAST(id AS text), status, body, executions FROM netscript_trigger_events"
    events = {
        id_: (status, json.loads(bytes(body)), json.loads(ids))
        for id_, status, body, ids in rows(store, sql)
    }
    sql = "SELECT CAST(id AS text), CAST(trigger_event_id AS text) FROM netscript_executions"
    owners = dict(rows(store, sql))
    bodies = Counter(order["id"] for _, order, _ in events.values())
    assert not [id_ for id_, count in bodies.items() if count > 1], "an order became two events"
    for id_, (status, order, ids) in events.items():
        assert status == "completed"
        assert len(ids) == order["actions"]
        assert all(owners[execution] == id_ for execution in ids)
    assert sum(len(ids) for _, _, ids in events.values()) == len(owners)
    accepted = [order for order in orders if order.answer is not None]
    for order in accepted:
        assert order.answer is not None
        status, body, ids = events[order.answer["event_id"]]
        assert (body["id"], ids) == (order.id, order.answer["executions"])
    return len(accepted)


async def _redeliver(orders: list[Order], urls: list[str]) -> int:
    """Send everything again; return how many were new, which only the unanswered may be."""
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        gate = asyncio.Semaphore(16)

        async def again(order: Order, number: int) -> int:
            async with gate:
                answer = await client.post(
                    f"{urls[number % 2]}/webhooks/orders",
                    content=order.body,
                    headers=order.headers,
                )
            assert answer.status_code == 202, answer.text
            told = answer.json()
            if order.answer is not None:
                assert told == {**order.answer, "duplicate": True}
            order.answer = told
            return 0 if told["duplicate"] else 1

        return sum(await asyncio.gather(*(again(one, n) for n, one in enumerate(orders))))
