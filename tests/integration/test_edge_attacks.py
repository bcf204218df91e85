"""What attackers send, over real sockets to a real server: what they are told, and what is left."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from netscript_workers.store.migrations import upgrade
from tests.attacks import (
    BODY,
    JOBS,
    QUICK,
    SECRET,
    TRIGGERS,
    Attack,
    attack,
    request,
    signed,
    statuses,
)
from tests.support import Process, free_port, wait_until_answers, write_project

SECONDS = 1.0
"""The server's patience: 15 s by default."""


@dataclass(frozen=True)
class Server:
    port: int
    place: Path
    process: Process

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def events(self) -> int:
        with closing(sqlite3.connect(self.place / "edge.db")) as conn:
            found: int = conn.execute("SELECT count(*) FROM netscript_trigger_events").fetchone()[0]
            return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("edge")
    write_project(place, {"jobs/charge.py": JOBS, "triggers/hooks.py": TRIGGERS})
    url = f"sqlite:///{place / 'edge.db'}"
    upgrade(url)
    port = free_port()
    environment = {
        "NETSCRIPT_DATABASE_URL": url,
        "NETSCRIPT_REQUEST_TIMEOUT": str(SECONDS),
        "NETSCRIPT_MAX_CONNECTIONS": "40",
        "EDGE_SECRET": SECRET,
    }
    command = ("-m", "netscript_triggers", "serve", "--port", str(port))
    with Process(*command, cwd=place, env=environment) as process:
        wait_until_answers(f"http://127.0.0.1:{port}", "/health")
        yield Server(port, place, process)
        assert process.terminate() == 0, process.output
        for never in ("Traceback", SECRET, "INFO\n", "Exception in ASGI"):
            assert never not in process.output, process.output


@pytest.mark.parametrize("one", QUICK, ids=lambda one: one.name.replace(" ", "-")[:40])
async def test_an_attack_is_told_what_it_must_be_and_no_more(server: Server, one: Attack) -> None:
    before, since = server.events(), time.monotonic()
    told = await attack(server.port, one)
    assert told in one.told
    assert time.monotonic() - since < 2 * SECONDS
    assert server.events() == before + told.count(202)


async def test_who_is_slow_is_ended_in_time_and_costs_nobody_else(server: Server) -> None:
    head = b"POST /webhooks/payment HTTP/1.1\r\nHost: localhost\r\n"
    body = b"Content-Length: 100\r\n\r\n"
    kept = request(close=False)
    slow: dict[str, tuple[bytes, bytes, tuple[int, ...]]] = {
        "nothing": (b"", b"", ()),
        "a head that drips": (head, b"X: y\r\n", (408,)),
        "a line that drips": (head + b"X: ", b"x", (408,)),
        "a body that drips": (head + body, b"x", (408,)),
        "chunks that drip": (head + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", (408,)),
        "a second head that drips": (kept + head, b"X: y\r\n", (202, 408)),
        "line ends after an answer": (kept, b"\r\n", (202,)),
        "what follows a refusal": (head + b"Content-Length: x\r\n\r\n", b"x", (400,)),
        "a body that is too large": (head + b"Content-Length: 9999999\r\n\r\n", b"x", (413,)),
    }

    async def drip(first: bytes, then: bytes) -> tuple[float, tuple[int, ...]]:
        since = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(first)

        async def go_on() -> None:
            while then:
                await asyncio.sleep(SECONDS / 10)
                writer.write(then)

        going = asyncio.create_task(go_on())
        told = await statuses(reader)
        going.cancel()
        writer.close()
        return time.monotonic() - since, told

    tasks = {name: asyncio.create_task(drip(*how[:2])) for name, how in slow.items()}
    waits: list[float] = []
    while not all(task.done() for task in tasks.values()):
        since = time.monotonic()
        assert await attack(server.port, Attack("good", (request(),), ())) == (202,)
        waits.append(time.monotonic() - since)
        await asyncio.sleep(0.05)
    for name, task in tasks.items():
        seconds, told = await task
        assert told == slow[name][2], name
        assert seconds < 2 * SECONDS, name
    assert len(waits) > 5 and max(waits) < SECONDS / 2


async def test_one_connection_too_many_ends_the_one_that_waited_longest(server: Server) -> None:
    opened = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(60)]
    since = time.monotonic()
    assert await attack(server.port, Attack("good", (request(),), ())) == (202,)
    assert time.monotonic() - since < SECONDS / 2
    assert await opened[0][0].read() == b""
    assert time.monotonic() - since < SECONDS / 2
    for _reader, writer in opened:
        writer.close()


async def test_all_who_prove_nothing_are_told_the_same(server: Server) -> None:
    refused = (
        request(BODY, sign=b"other"),
        request(BODY).replace(b"X-NetScript-Signature", b"X-Other"),
        request(path="/webhooks/unset"),
        request(path="/webhooks/of/other"),
        request(path="/webhooks/of/acme", sign=b"other"),
        request(BODY, "X-NetScript-Signature: x"),
    )
    answers: set[bytes] = set()
    for raw in refused:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(raw)
        answers.add(await reader.read())
        writer.close()
    (answer,) = answers
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["title"] == "Unauthorized"


async def test_too_many_are_told_when_to_come_back(server: Server) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        url, true = f"{server.url}/webhooks/paced", signed(BODY)
        tried = [
            "0" * 64,
            "0" * 64,
            true,
            "0" * 64,
            true,
            "0" * 64,
            true,
        ]  # forged use up none
        told = [
            await client.post(url, content=BODY, headers={"X-NetScript-Signature": signature})
            for signature in tried
        ]
    assert [answer.status_code for answer in told] == [401, 401, 202, 401, 202, 429, 429]
    assert 1700 < int(told[-1].headers["retry-after"]) <= 1800


async def test_an_event_of_a_tenant_has_its_path(server: Server) -> None:
    assert await attack(server.port, Attack("", (request(path="/webhooks/of/%61cme"),), ())) == (
        202,
    )
    async with httpx.AsyncClient(trust_env=False) as client:
        listed = await client.get(f"{server.url}/api/v1/events", params={"trigger_id": "of"})
        found = listed.json()["events"][0]["id"]
        event = (await client.get(f"{server.url}/api/v1/events/{found}")).json()
    assert event["headers"][":path"] == "/webhooks/of/%61cme"
