"""A server's accept path in a process that dies, again and again; run as a program by a test.

One process imports everything and forks the rest: each child opens the database anew, as a server
that was started again does.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from itertools import count
from typing import Any

from netscript_triggers import EnqueueJob, WebhookEvent, answers, enqueue_job, ingress
from netscript_workers.store.engine import Store
from tests.edge import charge, open_edge, trigger
from tests.faults import Points


def three(event: WebhookEvent) -> list[EnqueueJob[Any]]:
    order = str(event.payload["order"])
    return [
        enqueue_job(charge, {"part": 1}, idempotency_key=order),
        enqueue_job(charge, {"part": 2}, concurrency_key=order),
        enqueue_job(charge, {"part": 3}, idempotency_key=f"{order}-late", delay=60),
    ]


async def deliver(url: str, order: int, die_at: int, pipe: int) -> None:
    store = Store(url)
    async with open_edge(store, trigger(three)) as edge:
        if die_at:
            points = Points(die_at, lambda name: os.write(pipe, name.encode()))
            send = answers.respond

            async def respond(*args: Any) -> None:
                points.passed("the answer")
                await send(*args)

            ingress.__dict__["respond"] = respond
        answer = await edge.post({"order": order})
        assert answer.status_code == 202, answer.text
        os.write(pipe, answer.text.encode())


def in_a_child(url: str, order: int, die_at: int) -> tuple[bool, str]:
    """Deliver in a process of its own; tell whether it was killed, and what it said last."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(deliver(url, order, die_at, writing))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or status == 0, status
    return os.WIFSIGNALED(status), said


def main(url: str) -> None:
    """Kill at each point in turn, then deliver again; print a line for each order."""
    for order in count(1):
        killed, point = in_a_child(url, order, order)
        _, answer = in_a_child(url, order, 0)
        told = {"order": order, "killed_at": point if killed else None, "again": answer}
        print(json.dumps(told), flush=True)
        if not killed:
            return


if __name__ == "__main__":
    main(sys.argv[1])
