"""A worker inside somebody's own program."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from netscript_workers import JobContext, job, start_workers
from netscript_workers.actions import Cause, enqueue_job, resolve
from netscript_workers.domain import TriggeredBy
from netscript_workers.errors import (
    ConfigurationError,
    DuplicateIdError,
    SchemaOutdatedError,
    StateError,
    WorkerFencedError,
)
from netscript_workers.store.engine import Store
from tests.kit import detail, new, put, run, scalar, status
from tests.support import eventually_async, write_project

pytestmark = pytest.mark.fresh_database

WORKERS = "SELECT count(*) FROM netscript_workers"


@job(id="greet")
async def greet(ctx: JobContext[dict[str, str]]) -> str:
    return f"hello {ctx.payload['name']}"


def enqueue(store: Store, definition: Any, payload: Any = None) -> str:
    one = resolve(enqueue_job(definition, payload), None, Cause(triggered_by=TriggeredBy.API))
    (told,) = put(store, one)
    return told.execution_id


async def ends(store: Store, execution_id: str, wanted: str = "completed") -> None:
    await eventually_async(lambda: status(store, execution_id) == wanted, 20)


async def test_a_worker_runs_jobs_that_are_handed_to_it_and_stops_in_order(store: Store) -> None:
    url = store.parsed_url.render_as_string(hide_password=False)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    runtime = await start_workers(database_url=url, jobs=[greet], concurrency=3)
    assert runtime.state == "running"
    assert scalar(store, "SELECT id FROM netscript_workers") == runtime.id
    assert scalar(store, "SELECT concurrency FROM netscript_workers") == 3
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    id_ = enqueue(store, greet, {"name": "you"})
    await ends(store, id_)
    assert detail(store, id_).execution.result == "hello you"
    waiting = asyncio.create_task(runtime.wait())
    report = await runtime.stop("enough")
    assert report.is_clean
    assert {"executions", "tick", "runners", "heartbeat", "registration"} <= set(report.stopped)
    assert report.stopped.index("executions") < report.stopped.index("tick")
    assert report.stopped.index("heartbeat") < report.stopped.index("registration")
    assert await waiting is report
    assert await runtime.stop() is report
    assert (runtime.state, scalar(store, WORKERS)) == ("stopped", 0)
    with pytest.raises(StateError, match="was stopped"):
        await runtime.start()


async def test_a_worker_lives_as_long_as_a_fastapi_application(store: Store) -> None:
    url = store.parsed_url.render_as_string(hide_password=False)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with await start_workers(database_url=url, jobs=[greet]) as worker:
            app.state.worker = worker
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/greetings")
    async def post_greeting() -> dict[str, str]:
        return {"id": await asyncio.to_thread(enqueue, store, greet, {"name": "web"})}

    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        assert scalar(store, WORKERS) == 1
        told = (await client.post("/greetings")).json()
        await ends(store, told["id"])
    assert scalar(store, WORKERS) == 0
    assert app.state.worker.state == "stopped"


async def test_it_starts_when_told_to_and_stopping_before_that_is_no_error(store: Store) -> None:
    url = store.parsed_url.render_as_string(hide_password=False)
    runtime = await start_workers(auto_start=False, database_url=url, jobs=[greet])
    assert (runtime.state, scalar(store, WORKERS)) == ("new", 0)
    with pytest.raises(StateError, match="not started"):
        await runtime.wait()
    async with runtime:
        assert (await runtime.start()) is runtime
        assert scalar(store, WORKERS) == 1
    never = await start_workers(False, database_url=url, jobs=[greet])
    assert (await never.stop()).is_clean
    assert never.state == "stopped"


async def test_cancelling_who_waits_stops_it_and_gives_back_what_runs(store: Store) -> None:
    url = store.parsed_url.render_as_string(hide_password=False)
    began = asyncio.Event()

    @job(id="endless")
    async def endless(ctx: JobContext) -> None:
        began.set()
        await asyncio.sleep(60)

    async def program() -> None:
        runtime = await start_workers(database_url=url, jobs=[endless], shutdown_timeout=0)
        await runtime.wait()

    task = asyncio.create_task(program())
    await eventually_async(lambda: scalar(store, WORKERS) == 1)
    id_ = enqueue(store, endless)
    await asyncio.wait_for(began.wait(), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    record = detail(store, id_).execution
    assert (record.status, record.reason, record.attempt) == ("queued", "drained", 1)
    assert scalar(store, WORKERS) == 0


async def test_a_report_tells_what_would_not_stop(store: Store) -> None:
    url = store.parsed_url.render_as_string(hide_password=False)
    began, release = asyncio.Event(), asyncio.Event()

    @job(id="deaf")
    async def deaf(ctx: JobContext) -> None:
        began.set()
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    runtime = await start_workers(database_url=url, jobs=[deaf], shutdown_timeout=0)
    enqueue(store, deaf)
    await asyncio.wait_for(began.wait(), 20)
    report = await runtime.stop()
    assert "1 executions run on" in report.failed["executions"]
    assert "stays on the list" in report.failed["registration"]
    assert {"tick", "runners", "heartbeat"} <= set(report.stopped)
    release.set()


async def test_who_waits_hears_that_the_lease_was_lost(store: Store) -> None:
    url = store.parsed_url.render_as_string(hide_password=False)
    runtime = await start_workers(
        database_url=url, jobs=[greet], heartbeat_seconds=0.1, lease_seconds=10
    )
    run(store, "DELETE FROM netscript_workers")
    with pytest.raises(WorkerFencedError):
        await asyncio.wait_for(runtime.wait(), 20)
    assert runtime.state == "stopped"
    await runtime.stop()


async def test_what_cannot_work_is_refused_with_a_sentence(
    empty_database_url: str, tmp_path: Any
) -> None:
    with pytest.raises(SchemaOutdatedError, match="netscript db upgrade"):
        await start_workers(database_url=empty_database_url, jobs=[greet])
    with pytest.raises(ConfigurationError, match="There are no jobs in"):
        await start_workers(database_url=empty_database_url, project_dir=tmp_path)
    with pytest.raises(ConfigurationError, match=r'no setting "databse_url".*"database_url"'):
        await start_workers(databse_url="x", jobs=[greet])  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match="concurrency: 0 can't be used"):
        await start_workers(concurrency=0, jobs=[greet])
    with pytest.raises(ConfigurationError, match="is no job"):
        await start_workers(jobs=["greet"])  # type: ignore[list-item]

    @job(id="greet")
    async def other(ctx: JobContext) -> None: ...

    with pytest.raises(DuplicateIdError, match='called "greet"'):
        await start_workers(jobs=[greet, other])


async def test_jobs_without_a_folder_run_in_this_process_only(store: Store) -> None:
    url = store.parsed_url.render_as_string(hide_password=False)
    with pytest.raises(ConfigurationError, match="need a project"):
        await start_workers(database_url=url, jobs=[greet], runtime="subprocess")


LOGS = """
import os
from netscript_workers import JobContext, job

@job
async def speaks(ctx: JobContext) -> int:
    for level in ("debug", "info", "warning", "error"):
        getattr(ctx.log, level)(level)
    return os.getpid()
"""


@pytest.mark.parametrize("runtime", ["in-process", "worker-process", "subprocess"])
async def test_log_lines_from_a_level_on_are_kept_wherever_jobs_run(
    sqlite_url: str, tmp_path: Path, runtime: Any
) -> None:
    place = write_project(tmp_path / "shop", {"embedded_jobs/speaks.py": LOGS})
    store = Store(sqlite_url)
    settings: Any = {"database_url": sqlite_url, "project_dir": place, "jobs_dir": "embedded_jobs"}
    kept: dict[str, list[str]] = {}
    for level in ("debug", "warning"):
        settings |= {"runtime": runtime, "log_level": level, "concurrency": 1}
        async with await start_workers(**settings):
            one = new("speaks")
            put(store, one)
            await ends(store, one.id)
        told = detail(store, one.id)
        kept[level] = [line.message for line in told.logs]
        assert (told.execution.result == os.getpid()) is (runtime == "in-process")
    assert kept == {
        "debug": ["debug", "info", "warning", "error"],
        "warning": ["warning", "error"],
    }
    store.dispose()
