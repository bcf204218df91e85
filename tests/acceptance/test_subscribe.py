"""The live stream of a real server: seen by a subscriber whose server is killed and comes back."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from httpx_sse import ServerSentEvent, connect_sse

from netscript_workers.store.migrations import upgrade
from tests.support import Process, free_port, wait_until_answers, write_project

JOBS = """
from netscript_workers import JobContext, job

@job(id="greet")
async def greet(ctx: JobContext[dict]) -> dict:
    return {"hello": ctx.payload["name"]}
"""


@pytest.fixture
def project(tmp_path: Path, database_url: str) -> Path:
    place = tmp_path / "shop"
    write_project(place, {"jobs/greet.py": JOBS})
    upgrade(database_url)
    return place


@contextmanager
def _serving(project: Path, url: str, port: int) -> Generator[Process]:
    command = ("-m", "netscript_triggers", "serve", "--port", str(port))
    with Process(*command, cwd=project, env={"NETSCRIPT_DATABASE_URL": url}) as process:
        wait_until_answers(f"http://127.0.0.1:{port}")
        yield process


@contextmanager
def _subscribed(base: str, resume: str | None = None) -> Generator[Iterator[ServerSentEvent]]:
    headers = {} if resume is None else {"Last-Event-ID": resume}
    url = f"{base}/api/v1/workers/subscribe"
    with (
        httpx.Client(trust_env=False, timeout=20) as client,
        connect_sse(client, "GET", url, params={"job_id": "greet"}, headers=headers) as source,
    ):
        assert source.response.status_code == 200
        assert source.response.headers["content-type"].startswith("text/event-stream")
        assert source.response.headers["cache-control"] == "no-store"
        yield source.iter_sse()


def _trigger(base: str, name: str) -> str:
    answer = httpx.post(
        f"{base}/api/v1/workers/jobs/greet/trigger", json={"name": name}, trust_env=False
    )
    assert answer.status_code == 202, answer.text
    found: str = answer.json()["execution_id"]
    return found


def test_a_subscriber_goes_on_where_it_was_when_its_server_is_killed(
    project: Path, database_url: str
) -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    with _serving(project, database_url, port) as server, _subscribed(base) as events:
        opening = next(events)
        assert (opening.event, opening.retry) == ("heartbeat", 1000)
        first = _trigger(base, "Ada")
        heard = next(events)
        assert json.loads(heard.data)["id"] == first
        missed = [_trigger(base, "Bob"), _trigger(base, "Eve")]
        server.signal(signal.SIGKILL)
    with _serving(project, database_url, port) as server:
        with _subscribed(base, resume=heard.id) as events:
            assert next(events).event == "heartbeat"
            assert [json.loads(next(events).data)["id"] for _ in missed] == missed
            last = _trigger(base, "Zoe")
            heard = next(events)
            assert (heard.event, json.loads(heard.data)["id"]) == ("execution.updated", last)
            began = time.monotonic()
            assert server.terminate() == 0, server.output  # although somebody listens
            assert time.monotonic() - began < 5
            assert {one.event for one in events} <= {"heartbeat"}
        assert "Traceback" not in server.output
