"""The client and a real server, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack
from pathlib import Path

import pytest

from netscript_workers.client import (
    AsyncWorkersClient,
    ConflictError,
    ExecutionEndedError,
    MissingError,
    ProgressUpdate,
    RefusedError,
    Update,
    WorkersClient,
)
from netscript_workers.domain import ExecutionStatus
from netscript_workers.errors import WaitTimeoutError
from netscript_workers.store.migrations import upgrade
from tests.support import Process, free_port, wait_until_answers, write_project

JOBS = """
import asyncio
from netscript_workers import JobContext, JobResult, create_failure_result, job

@job(id="greet")
async def greet(ctx: JobContext[dict]) -> dict:
    return {"hello": ctx.payload["name"]}

@job(id="fail")
async def fail(ctx: JobContext[dict]) -> JobResult:
    return create_failure_result("declined", retry=False)

@job(id="slow")
async def slow(ctx: JobContext[dict]) -> None:
    await ctx.report_progress(40, "half")
    await ctx.wait_cancelled()
"""


@pytest.fixture
def url(tmp_path: Path, database_url: str) -> Generator[str]:
    upgrade(database_url)
    write_project(tmp_path, {"jobs/all.py": JOBS})
    port, run = free_port(), ("-m", "netscript_triggers")
    environment = {"NETSCRIPT_DATABASE_URL": database_url}
    with ExitStack() as stack:
        for command in (("serve", "--port", str(port)), ("worker",)):
            stack.enter_context(Process(*run, *command, cwd=tmp_path, env=environment))
        wait_until_answers(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
async def client(url: str) -> AsyncGenerator[AsyncWorkersClient]:
    async with AsyncWorkersClient(url) as made:
        yield made


async def test_a_job_is_triggered_waited_for_and_followed(
    client: AsyncWorkersClient, url: str
) -> None:
    heard = asyncio.create_task(_until_completed(client, "greet"))
    await asyncio.sleep(0.2)
    told = await client.trigger("greet", {"name": "Ada"}, idempotency_key="one")
    execution = await client.wait(told.execution_id, timeout=20, check=True)
    assert (execution.status, execution.result) == (ExecutionStatus.COMPLETED, {"hello": "Ada"})
    updates = await asyncio.wait_for(heard, 20)
    assert {one.execution.id for one in updates} == {told.execution_id}
    again = await client.trigger("greet", {"name": "Ada"}, idempotency_key="one")
    assert (again.execution_id, again.triggered) == (told.execution_id, False)
    with pytest.raises(ConflictError) as conflict:
        await client.trigger("greet", {"name": "Eve"}, idempotency_key="one")
    assert conflict.value.execution_id == told.execution_id
    with pytest.raises(MissingError, match='Did you mean "greet"'):
        await client.trigger("great")
    with pytest.raises(RefusedError):
        await client.trigger("greet", [1])  # pyright: ignore[reportArgumentType]

    failing = await client.trigger("fail")
    with pytest.raises(ExecutionEndedError, match="declined") as ended:
        await client.wait(failing.execution_id, timeout=20, check=True)
    assert ended.value.execution.status is ExecutionStatus.FAILED
    assert (await client.retry(failing.execution_id)).id == failing.execution_id
    await client.wait(failing.execution_id, timeout=20)

    with WorkersClient(url) as other:  # the same, without a loop
        found = await asyncio.to_thread(lambda: list(other.list(job_id="greet")))
    assert [one.id for one in found] == [told.execution_id]


async def test_what_runs_is_followed_and_cancelled(client: AsyncWorkersClient) -> None:
    told = await client.trigger("slow")
    async for change in client.subscribe(execution_id=told.execution_id):
        if isinstance(change, ProgressUpdate):
            assert (change.percent, change.message) == (40, "half")
            break
    with pytest.raises(WaitTimeoutError, match="has not ended within"):
        await client.wait(told.execution_id, timeout=0.2)
    await client.cancel(told.execution_id, reason="enough")
    ended = await client.wait(told.execution_id, timeout=20)
    assert ended.status is ExecutionStatus.CANCELLED
    with pytest.raises(ConflictError):
        await client.cancel(told.execution_id)


async def _until_completed(client: AsyncWorkersClient, job_id: str) -> list[Update]:
    found: list[Update] = []
    async for change in client.subscribe(job_id=job_id):
        assert isinstance(change, Update)
        found.append(change)
        if change.execution.status is ExecutionStatus.COMPLETED:
            break
    return found
