"""Executions that run alone, in real processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from netscript_workers import JobContext, JobDefinition, define_job_handler
from netscript_workers.domain import CRASH_BUDGET
from netscript_workers.store.engine import Store
from netscript_workers.store.lifelines import folder
from tests.kit import detail, lose, new, rows, run, scalar
from tests.support import eventually_async, write_project
from tests.working import working

pytestmark = pytest.mark.fresh_database

# A minute of a busy machine: what starts a process may take a while, what is tested does not.
PATIENCE = 60.0

JOBS = """
import asyncio, os, signal, time
from netscript_workers import JobContext, job

@job(id="segfaults")
async def segfaults(ctx: JobContext):
    os.kill(os.getpid(), signal.SIGSEGV)

def charge(order: str) -> str:
    return f"charged {order}"

@job(id="good")
async def good(ctx: JobContext):
    await ctx.report_progress(40, "half way")
    ctx.log.info("alone with %s", ctx.payload["order"])
    told = await ctx.step("charge", charge, ctx.payload["order"])
    return {"told": told, "pid": os.getpid(), "parent": os.getppid(), "attempt": ctx.attempt}

@job(id="fails")
async def fails(ctx: JobContext):
    raise ValueError("no such order")

@job(id="long")
async def long(ctx: JobContext):
    await ctx.report_progress(1, str(os.getpid()))
    await ctx.wait_cancelled()
    await asyncio.sleep(60)
"""


async def _elsewhere(ctx: JobContext) -> None:
    raise AssertionError("a suspect ran in its worker's own process")


def known(*names: str) -> list[JobDefinition[Any, Any]]:
    return [define_job_handler(_elsewhere, id=name) for name in names]


@pytest.fixture
def project(tmp_path: Path) -> tuple[Path, str]:
    return write_project(tmp_path / "shop", {"jobs/suspects.py": JOBS}), "jobs"


async def pid_of(store: Store, execution_id: str) -> int:
    def look() -> int:
        progress = detail(store, execution_id).execution.progress
        return int(progress.message or 0) if progress is not None else 0

    return await eventually_async(look, PATIENCE, "the child showing its number")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_steps_progress_logs_and_the_result_come_back_from_a_process_of_its_own(
    store: Store, project: tuple[Path, str]
) -> None:
    given = lose(store, new("good", json.dumps({"order": "o-1"})))
    async with working(store, *known("good"), project=project) as at:
        told = await at.ended(given.id, seconds=PATIENCE)
    assert told.execution.status == "completed", told
    result = told.execution.result
    assert (result["told"], result["attempt"]) == ("charged o-1", 1)
    assert result["pid"] != os.getpid() == result["parent"]
    assert [(step.name, step.result) for step in told.steps] == [("charge", "charged o-1")]
    assert [line.message for line in told.logs] == ["alone with o-1"]
    assert told.execution.progress is not None and told.execution.progress.percent == 40
    assert told.execution.worker_id == at.worker.id
    assert scalar(store, "SELECT count(*) FROM netscript_workers") == 0


@pytest.mark.trap("D-32")
async def test_what_kills_its_own_process_is_quarantined_and_what_only_fails_is_not(
    store: Store, project: tuple[Path, str]
) -> None:
    guilty = lose(store, new("segfaults", max_attempts=1))
    run(store, "UPDATE netscript_executions SET crashes = :most", most=CRASH_BUDGET - 1)
    failing = lose(store, new("fails", max_attempts=1))
    async with working(store, *known("segfaults", "fails"), project=project) as at:
        told = await at.ended(guilty.id, seconds=PATIENCE)
        failed = await at.ended(failing.id, seconds=PATIENCE)
    assert (told.execution.status, told.execution.reason) == ("failed", "crashed")
    assert "3 times while it ran alone: signal 11 (SIGSEGV)" in str(told.execution.error)
    assert [one.outcome for one in told.attempts] == ["lost", "lost", "crashed"]
    last = told.attempts[-1]
    assert (last.exit_code, last.signal, last.worker_id) == (None, 11, at.worker.id)
    assert last.peak_memory is not None and last.peak_memory > 10 * 2**20
    assert failed.execution.error == "ValueError: no such order"
    assert [one.outcome for one in failed.attempts] == ["lost", "lost", "error"]


async def test_a_suspect_takes_a_slot_and_a_drain_gives_it_back_unused(
    store: Store, project: tuple[Path, str]
) -> None:
    given = lose(store, new("long"))
    (long,) = defined = known("long")
    async with working(store, *defined, project=project, concurrency=1, grace=0.1) as at:
        pid = await pid_of(store, given.id)
        # Its process holds the worker's lifeline too: nobody takes it for dead before both are.
        (line,) = folder(store.parsed_url).glob("*.lock")
        held = [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()]
        assert str(line) in held
        waiting = at.enqueue(long)
        await asyncio.sleep(0.3)  # several looks of the tick
        assert detail(store, waiting).execution.status == "queued"
        at.worker.stop()
        assert await at.task == []
    await eventually_async(lambda: not is_alive(pid), what="the child's end")
    told = detail(store, given.id)
    assert (told.execution.status, told.execution.reason) == ("queued", "drained")
    sql = "SELECT losses, crashes, attempt FROM netscript_executions WHERE id = :id"
    assert rows(store, sql, id=given.id) == [(2, 0, 1)]


async def test_a_fenced_worker_ends_its_children_before_others_begin(
    store: Store, project: tuple[Path, str]
) -> None:
    given = lose(store, new("long"))
    async with working(store, *known("long"), project=project, heartbeat=0.1) as at:
        pid = await pid_of(store, given.id)
        with store.begin() as conn:
            conn.exec_driver_sql("DELETE FROM netscript_workers")
        await asyncio.gather(at.task, return_exceptions=True)
        await eventually_async(lambda: not is_alive(pid), what="the child's end")
    assert rows(store, "SELECT crashes FROM netscript_executions") == [(0,)]


async def test_a_child_that_cannot_start_costs_neither_attempt_nor_crash(
    store: Store, tmp_path: Path
) -> None:
    broken = write_project(tmp_path / "shop", {"jobs/broken.py": "import nothing_like_this"})
    given = lose(store, new("good"))
    async with working(store, *known("good"), project=(broken, "jobs")) as at:
        told = await at.ended(given.id, "scheduled", seconds=PATIENCE)
    assert (told.execution.reason, told.execution.attempt) == ("no process starts", 1)
    assert rows(store, "SELECT losses, crashes FROM netscript_executions") == [(2, 0)]
