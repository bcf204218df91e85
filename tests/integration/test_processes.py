"""What runs in processes: crashes, timeouts, recycling, and nothing left behind."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from netscript_workers import JobContext, define_job_handler
from netscript_workers.assignment import WorkerOptions
from netscript_workers.domain import ClaimedExecution, RuntimeName
from netscript_workers.errors import ConfigurationError
from netscript_workers.execution.runners.pool import Recycling
from netscript_workers.jobs import JobDefinition
from netscript_workers.pump import Pump
from netscript_workers.registry import discover_jobs
from netscript_workers.store.engine import Store
from netscript_workers.worker import Worker
from tests.chaos.hostile import die_between_steps, survive
from tests.conformance.running import PATIENCE, PROJECT, working_on
from tests.kit import detail, rows
from tests.support import eventually_async, is_alive, write_project
from tests.working import Running, working

BOTH: tuple[RuntimeName, ...] = ("worker-process", "subprocess")


def _elsewhere(ctx: JobContext) -> None:
    raise AssertionError("it ran in its worker's own process")


def pids_in(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


@pytest.mark.trap("D-32")
@pytest.mark.parametrize("runtime", BOTH)
@pytest.mark.parametrize(
    ("how", "code", "number"),
    [("segfault", None, 11), ("exit", 7, None), ("killed", None, 9)],
)
async def test_a_crash_fails_its_own_execution_only_and_three_are_quarantine(
    sqlite_url: str, runtime: RuntimeName, how: str, code: int | None, number: int | None
) -> None:
    store = Store(sqlite_url)
    async with working_on(store, runtime) as at:
        guilty = at.enqueue_by_name("dies", {"how": how})
        good = [at.enqueue_by_name("good") for _ in range(6)]
        for id_ in good:
            told = await at.ended(id_, seconds=PATIENCE)
            assert (told.execution.status, told.execution.attempt) == ("completed", 1)
            assert told.attempts == ()
        told = await at.ended(guilty, seconds=PATIENCE)
    assert (told.execution.status, told.execution.reason) == ("failed", "crashed")
    assert told.execution.attempt == 1
    assert [one.outcome for one in told.attempts] == ["crashed"] * 3
    for one in told.attempts:
        assert (one.exit_code, one.signal) == (code, number)
        assert one.peak_memory is not None and one.peak_memory > 10 * 2**20
    store.dispose()


@pytest.mark.trap("D-84")
@pytest.mark.parametrize("runtime", BOTH)
async def test_a_timeout_ends_whatever_was_started_even_what_ignores_sigterm(
    store: Store, runtime: RuntimeName, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    async with working_on(store, runtime, concurrency=1) as at:
        told = await at.ended(at.enqueue_by_name("deaf", {"pids": str(pids)}), seconds=PATIENCE)
        # It is told of only when they are dead, its neighbours' slot with them.
        assert [pid for pid in pids_in(pids) if is_alive(pid)] == []
        after = await at.ended(at.enqueue_by_name("good"), seconds=PATIENCE)
        ours = at.worker.pids
    assert len(pids_in(pids)) == 2
    assert (told.execution.status, told.execution.reason) == ("failed", "timeout")
    assert told.execution.error == "It took longer than 0.5 s."
    assert after.execution.status == "completed"
    assert not any(Path(f"/proc/{pid}").exists() for pid in ours)


@pytest.mark.trap("D-84")
@pytest.mark.parametrize("runtime", BOTH)
async def test_cancelling_one_that_hears_nothing_ends_it_and_what_it_started(
    store: Store, runtime: RuntimeName, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    async with working_on(store, runtime) as at:
        given = at.enqueue_by_name("deaf-async", {"pids": str(pids)})
        child = int(await at.shows_progress(given, PATIENCE))
        at.worker.cancel(given)
        told = await at.ended(given, seconds=PATIENCE)
        assert not is_alive(child)
        assert [pid for pid in pids_in(pids) if is_alive(pid)] == []
    assert (told.execution.status, told.attempts) == ("cancelled", ())


@pytest.mark.parametrize("runtime", BOTH)
async def test_what_fails_because_it_is_cancelled_is_cancelled_and_does_not_run_again(
    sqlite_url: str, runtime: RuntimeName, tmp_path: Path
) -> None:
    # What it waits for is told to end before it is, so it fails of that.
    place = write_project(
        tmp_path / "shop",
        {
            "jobs/waiters.py": "import subprocess, sys\n"
            "from netscript_workers import JobContext, job\n"
            "@job(id='waiter')\n"
            "async def waiter(ctx: JobContext):\n"
            "    await ctx.report_progress(1, 'waits')\n"
            "    command = [sys.executable, '-S', '-c', 'import time; time.sleep(600)']\n"
            "    subprocess.run(command, check=True)\n"
        },
    )
    store = Store(sqlite_url)
    waiter = define_job_handler(_elsewhere, id="waiter")
    options: dict[str, Any] = {"project": (place, "jobs"), "runtime": runtime, "kill_grace": 30.0}
    async with working(store, waiter, concurrency=1, **options) as at:
        given = at.enqueue(waiter)
        await at.shows_progress(given, PATIENCE)
        at.worker.cancel(given)
        told = await at.ended(given, "cancelled", "scheduled", "failed", seconds=PATIENCE)
    assert (told.execution.status, told.attempts) == ("cancelled", ())
    store.dispose()


async def test_a_death_before_it_has_begun_is_not_laid_to_an_execution(sqlite_url: str) -> None:
    store = Store(sqlite_url)
    async with working_on(store, "worker-process", concurrency=1) as at:
        await results(at, "good", 1)
        *children, _guard = at.worker.pids
        for pid in children:
            os.kill(pid, signal.SIGSTOP)  # they take an order, and do nothing about it
        given = at.enqueue_by_name("good")
        await at.ended(given, "running", seconds=PATIENCE)
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        told = await at.ended(given, seconds=PATIENCE)
        assert (told.execution.status, told.attempts) == ("completed", ())
    store.dispose()


@pytest.mark.parametrize("runtime", BOTH)
async def test_what_its_worker_can_not_answer_is_raised_in_the_handler(
    sqlite_url: str, runtime: RuntimeName, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, keep, refused = Store(sqlite_url), Pump.save_step, list[str]()

    async def save_step(pump: Pump, claim: ClaimedExecution, name: str, value: str) -> bool:
        if not refused:
            refused.append(name)
            raise OSError("secret")
        return await keep(pump, claim, name, value)

    monkeypatch.setattr(Pump, "save_step", save_step)
    async with working_on(store, runtime) as at:
        told = await at.ended(at.enqueue_by_name("many-steps"), seconds=PATIENCE)
    assert refused
    assert told.attempts[0].outcome == "error"
    assert told.attempts[0].error == "NetscriptError: Its worker could not answer: OSError."
    assert "secret" not in str(told.attempts[0].detail)
    store.dispose()


@pytest.mark.parametrize("runtime", BOTH)
async def test_a_worker_that_leaves_takes_everything_along(
    store: Store, runtime: RuntimeName, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    async with working_on(store, runtime, grace=0.05, kill_grace=60.0) as at:
        given = at.enqueue_by_name("deaf-async", {"pids": str(pids)})
        await at.shows_progress(given, PATIENCE)
        ours = at.worker.pids
        at.worker.stop()
        assert await at.task == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in ours)
    assert not any(is_alive(pid) for pid in pids_in(pids))
    told = detail(store, given).execution
    assert (told.status, told.reason, told.attempt) == ("queued", "drained", 1)


@pytest.mark.trap("D-86")
async def test_a_thread_past_its_timeout_is_running_until_it_returns(sqlite_url: str) -> None:
    store, release = Store(sqlite_url), threading.Event()
    seen: list[JobContext] = []

    def block(ctx: JobContext) -> str:
        seen.append(ctx)
        release.wait()
        return "late"

    stuck = define_job_handler(block, id="stuck", timeout=0.05)
    async with working(store, stuck, concurrency=1) as at:
        first = at.enqueue(stuck, concurrency_key="k")
        await eventually_async(lambda: seen and seen[0].cancelled, what="its timeout")
        second = at.enqueue(stuck, concurrency_key="k")
        sql = "SELECT status FROM netscript_executions ORDER BY id"
        assert rows(store, sql) == [("running",), ("blocked",)]
        release.set()
        told = await at.ended(first, "scheduled", "failed")
        await at.ended(second, "scheduled", "failed", "completed")
    assert told.attempts[0].outcome == "timeout"
    store.dispose()


async def test_steps_survive_the_death_of_their_process(database_url: str, tmp_path: Path) -> None:
    await die_between_steps(database_url, tmp_path, times=3)


@pytest.mark.trap("D-32")
@pytest.mark.trap("D-84")
async def test_good_ones_complete_among_those_that_crash_leak_and_hide(
    database_url: str, tmp_path: Path
) -> None:
    await survive(database_url, tmp_path, good=20, each=2, slots=2)


async def results(at: Running, name: str, count: int, payload: Any = None) -> list[Any]:
    found: list[Any] = []
    for _ in range(count):
        told = await at.ended(at.enqueue_by_name(name, payload), seconds=PATIENCE)
        found.append(told.execution.result)
    return found


async def test_a_child_serves_its_runs_and_another_is_warm_before_it_goes(sqlite_url: str) -> None:
    store = Store(sqlite_url)
    options: dict[str, Any] = {"concurrency": 1, "recycling": Recycling(runs=3)}
    async with working_on(store, "worker-process", **options) as at:
        served: list[int] = []
        while len(set(served)) < 3:
            served += await results(at, "good", 1)
        counts = [served.count(pid) for pid in dict.fromkeys(served)]
        assert all(count >= 3 for count in counts[:-1])
        await eventually_async(
            lambda: sum(is_alive(pid) for pid in set(served)) <= 2, what="the end of the worn"
        )
    store.dispose()


async def test_a_child_that_has_grown_too_large_is_replaced(sqlite_url: str) -> None:
    store = Store(sqlite_url)
    options: dict[str, Any] = {"concurrency": 1, "recycling": Recycling(bytes=200 * 2**20)}
    async with working_on(store, "worker-process", **options) as at:
        (large,) = await results(at, "leaks", 1, {"mib": 200})
        await eventually_async(lambda: not is_alive(large), PATIENCE, "the large one's end")
        assert large not in await results(at, "good", 2)
    store.dispose()


async def test_a_thread_left_behind_does_not_speak_for_the_next_attempt(sqlite_url: str) -> None:
    store = Store(sqlite_url)
    async with working_on(store, "worker-process", concurrency=1) as at:
        (child,) = await results(at, "leaves-a-thread", 1)
        while True:  # until it was the same process's turn again
            told = await at.ended(at.enqueue_by_name("good"), seconds=PATIENCE)
            assert (told.logs, told.steps, told.execution.progress) == ((), (), None)
            if told.execution.result == child:
                break
    store.dispose()


@pytest.mark.parametrize("runtime", BOTH)
async def test_a_child_has_loaded_neither_sql_nor_http(
    sqlite_url: str, runtime: RuntimeName
) -> None:
    store = Store(sqlite_url)
    async with working_on(store, runtime) as at:
        (loaded,) = await results(at, "modules", 1)
    unwanted = {"sqlalchemy", "fastapi", "starlette", "uvicorn", "psycopg", "alembic"}
    assert not unwanted & set(loaded)
    store.dispose()


async def test_a_job_runs_where_it_says_and_takes_no_more_slots_than_there_are_processors(
    store: Store, tmp_path: Path
) -> None:
    record, hold = tmp_path / "record", tmp_path / "hold"
    record.touch()
    hold.touch()
    processors = os.cpu_count() or 1
    async with working_on(store, "in-process", every=True, concurrency=20) as at:
        given = {"record": str(record), "hold": str(hold)}
        held = [at.enqueue_by_name("in-a-pool", given) for _ in range(processors + 3)]
        await eventually_async(
            lambda: len(record.read_text().splitlines()) == processors, PATIENCE, "their starts"
        )
        (alone,) = await results(at, "on-its-own", 1)
        home = await results(at, "at-home", 5)
        assert home == [os.getpid()] * 5
        sql = "SELECT status, count(*) FROM netscript_executions GROUP BY status ORDER BY status"
        assert rows(store, sql) == [("queued", 3), ("running", processors)]
        hold.unlink()
        pool = {(await at.ended(id_, seconds=PATIENCE)).execution.result for id_ in held}
    assert os.getpid() not in {alone, *pool}
    assert alone not in pool


async def test_jobs_that_all_run_elsewhere_take_no_more_slots_either(
    sqlite_url: str, tmp_path: Path
) -> None:
    store, hold = Store(sqlite_url), tmp_path / "hold"
    hold.touch()
    processors = os.cpu_count() or 1
    elsewhere: JobDefinition[Any, Any] = discover_jobs(*PROJECT)["in-a-pool"]
    async with working(store, elsewhere, project=PROJECT, concurrency=20) as at:
        given = {"record": str(tmp_path / "record"), "hold": str(hold)}
        held = [at.enqueue(elsewhere, given) for _ in range(processors + 3)]
        await at.ended(held[0], "running", seconds=PATIENCE)
        sql = "SELECT status, count(*) FROM netscript_executions GROUP BY status ORDER BY status"
        await eventually_async(
            lambda: rows(store, sql) == [("queued", 3), ("running", processors)], PATIENCE
        )
        hold.unlink()
        for id_ in held:
            await at.ended(id_, seconds=PATIENCE)
    store.dispose()


@pytest.mark.parametrize("runtime", BOTH)
async def test_what_a_handler_starts_inherits_nothing_of_its_worker(
    sqlite_url: str, runtime: RuntimeName, tmp_path: Path
) -> None:
    place = write_project(
        tmp_path / "shop",
        {
            "jobs/lists.py": "import subprocess, sys\n"
            "from netscript_workers import JobContext, job\n"
            "@job(id='lists')\n"
            "def lists(ctx: JobContext):\n"
            "    command = ['ls', '-l', '/proc/self/fd']\n"
            "    held = subprocess.check_output(command, close_fds=False, text=True)\n"
            "    return {'held': held, 'safe': sys.flags.safe_path}\n"
        },
    )
    store = Store(sqlite_url)
    lists = define_job_handler(_elsewhere, id="lists")
    options: dict[str, Any] = {"project": (place, "jobs"), "runtime": runtime, "concurrency": 1}
    async with working(store, lists, **options) as at:
        told = (await at.ended(at.enqueue(lists), seconds=PATIENCE)).execution.result
    assert "pipe:" in told["held"]
    assert ".lock" not in told["held"] and "socket:" not in told["held"]
    assert told["safe"]
    store.dispose()


@pytest.mark.parametrize("runtime", BOTH)
async def test_where_no_process_starts_executions_wait_and_lose_nothing(
    sqlite_url: str, runtime: RuntimeName, tmp_path: Path
) -> None:
    store = Store(sqlite_url)
    broken = write_project(tmp_path / "shop", {"jobs/broken.py": "import nothing_like_this"})
    options: dict[str, Any] = {"project": (broken, "jobs"), "runtime": runtime, "concurrency": 1}
    lost = define_job_handler(_elsewhere, id="lost")
    async with working(store, lost, **options) as at:
        told = await at.ended(at.enqueue(lost), "scheduled", seconds=PATIENCE)
    assert (told.execution.reason, told.execution.attempt) == ("no process starts", 1)
    assert "exit code 1" in str(told.execution.error)
    assert told.attempts == ()
    store.dispose()


async def test_a_job_that_a_child_does_not_find_waits(sqlite_url: str, tmp_path: Path) -> None:
    store = Store(sqlite_url)
    strange = define_job_handler(_elsewhere, id="strange")
    options: dict[str, Any] = {"project": PROJECT, "runtime": "worker-process", "concurrency": 1}
    async with working(store, strange, **options) as at:
        told = await at.ended(at.enqueue(strange), "scheduled", seconds=PATIENCE)
    assert told.execution.error == "It does not find the job strange."
    store.dispose()


async def test_without_a_project_processes_are_refused(sqlite_url: str) -> None:
    store = Store(sqlite_url)
    lost = define_job_handler(_elsewhere, id="lost", runtime="web-worker")
    assert lost.runtime == "worker-process"
    with pytest.raises(ConfigurationError, match="need a project"):
        Worker(store, {"lost": lost}, WorkerOptions())
    store.dispose()


async def test_a_guard_that_was_killed_is_replaced(sqlite_url: str) -> None:
    store = Store(sqlite_url)
    async with working_on(store, "subprocess") as at:
        await results(at, "good", 1)
        (guard,) = at.worker.pids
        os.kill(guard, signal.SIGKILL)
        await results(at, "good", 1)
        (other,) = at.worker.pids
        assert other != guard
    assert not is_alive(other)
    store.dispose()


async def test_what_a_handler_leaves_running_ends_with_its_process(
    sqlite_url: str, tmp_path: Path
) -> None:
    # Its process ends, and with it what was started, even in a session of its own.
    place = write_project(
        tmp_path / "shop",
        {
            "jobs/daemons.py": "import subprocess, sys\n"
            "from netscript_workers import JobContext, job\n"
            "@job(id='daemon')\n"
            "def daemon(ctx: JobContext):\n"
            "    command = [sys.executable, '-S', '-c', 'import time; time.sleep(600)']\n"
            "    return subprocess.Popen(command, start_new_session=True).pid\n"
        },
    )
    store = Store(sqlite_url)
    daemon = define_job_handler(_elsewhere, id="daemon")
    options: dict[str, Any] = {"project": (place, "jobs"), "runtime": "subprocess"}
    async with working(store, daemon, **options) as at:
        told = await at.ended(at.enqueue(daemon), seconds=PATIENCE)
        await eventually_async(lambda: not is_alive(told.execution.result), what="its end")
    store.dispose()
