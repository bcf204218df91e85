"""Servers that die at every write between an event's receipt and its end; run by a chaos test.

One process imports everything and forks the rest. Each child is a server that takes one delivery
and runs whatever is due, also what children before it have left; it dies at one more point than the
last one did, until one lives through it all; then one dies when it is about to answer, and it goes
on from the first point again.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import traceback
from collections import Counter
from typing import Any

import pytest

from netscript_triggers import EnqueueJob, WebhookEvent, answers, enqueue_job, ingress, processor
from netscript_triggers.events import EventStatus
from netscript_workers import Retry
from netscript_workers.store.engine import Store
from tests.edge import Edge, charge, open_edge, trigger
from tests.faults import Points
from tests.kit import scalar
from tests.support import eventually_async

# Every third event fails at first, every fifth for good. A server that dies costs what it handles
# an attempt, and some events meet many of them.
RETRY = Retry(max_attempts=1000, initial_delay=0.01, max_delay=0.02, give_up_on=LookupError)
MODES = ("inline", "background")
# Which point that is varies with what else goes on.
AT_THE_ANSWER = 0


def three(event: WebhookEvent) -> list[EnqueueJob[Any]]:
    order = event.payload["order"]
    if order % 5 == 0:
        raise LookupError("not this one")
    if order % 3 == 0 and event.attempt == 1:
        raise ValueError("not yet")
    return [
        enqueue_job(charge, {"part": 1}, idempotency_key=str(order)),
        enqueue_job(charge, {"part": 2}, concurrency_key=str(order)),
        enqueue_job(charge, {"part": 3}),
    ]


def unended(store: Store) -> int:
    sql = "SELECT count(*) FROM netscript_trigger_events WHERE status NOT IN ('completed', 'dead')"
    found: int = scalar(store, sql)
    return found


async def serve(url: str, mode: str, order: int, die_at: int, pipe: int) -> None:
    processor.LEASE_SECONDS = 0.3  # the next child must not wait a minute for what this one leaves
    store = Store(url)
    webhook = trigger(three, dispatch=mode, retry=RETRY, circuit=None)
    async with open_edge(store, webhook, process=True) as edge:
        points = Points(
            die_at or sys.maxsize, lambda name: _tell(pipe, died=name), ("netscript-bell",)
        )
        send = answers.respond

        async def respond(*args: Any) -> None:
            if die_at == AT_THE_ANSWER:
                _tell(pipe, died="the answer")
                os.kill(os.getpid(), signal.SIGKILL)
            points.passed("the answer")
            await send(*args)

        monkeypatch = pytest.MonkeyPatch()
        monkeypatch.setattr(ingress, "respond", respond)
        answer = await edge.post({"order": order})
        assert answer.status_code == 202, answer.text
        _tell(pipe, acknowledged=answer.json()["event_id"])
        await _ends(edge, answer.json()["event_id"])


async def _ends(edge: Edge, event_id: str) -> None:
    def look() -> bool:
        status = edge.event(event_id).event.status
        return status in {EventStatus.COMPLETED, EventStatus.DEAD}

    async with asyncio.timeout(30):
        while not await asyncio.to_thread(look):
            await asyncio.sleep(0.01)


async def finish(url: str, orders: list[tuple[str, int]]) -> None:
    """Deliver all again, as their senders do, and run all that is left."""
    processor.LEASE_SECONDS = 0.3
    store = Store(url)
    for mode in MODES:
        webhook = trigger(three, dispatch=mode, retry=RETRY, circuit=None)
        async with open_edge(store, webhook, process=True) as edge:
            for _, order in [one for one in orders if one[0] == mode]:
                answer = await edge.post({"order": order})
                assert answer.status_code == 202, answer.text
            await eventually_async(lambda: unended(store) == 0, 60, "the end of all events")


def _tell(pipe: int, **fact: str) -> None:
    os.write(pipe, f"{json.dumps(fact)}\n".encode())


def in_a_child(work: Any) -> tuple[bool, dict[str, str]]:
    """Run it in a process of its own; tell whether it was killed, and what it said."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(work(writing))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = [json.loads(line) for line in pipe.read().decode().splitlines()]
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or status == 0, status
    return os.WIFSIGNALED(status), {name: value for fact in said for name, value in fact.items()}


def main(url: str, kills: int) -> None:
    """Kill so many servers in each mode; print what was acknowledged, and where each died."""
    orders: list[tuple[str, int]] = []
    acknowledged: dict[str, str] = {}
    points: Counter[str] = Counter()
    lived = 0
    for mode in MODES:
        killed, die_at = 0, AT_THE_ANSWER - 1
        while killed < kills:
            die_at += 1
            order = len(orders) + 1
            orders.append((mode, order))

            def work(pipe: int, *, mode: str = mode, order: int = order, at: int = die_at) -> Any:
                return serve(url, mode, order, at, pipe)

            was_killed, said = in_a_child(work)
            if "acknowledged" in said:
                acknowledged[said["acknowledged"]] = mode
            if was_killed:
                killed += 1
                points[f"{mode}: {said['died']}"] += 1
            else:
                lived, die_at = lived + 1, AT_THE_ANSWER - 1

    def end(_pipe: int) -> Any:
        return finish(url, orders)

    was_killed, _ = in_a_child(end)
    assert not was_killed
    told = {"orders": orders, "acknowledged": acknowledged, "points": points, "lived": lived}
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
