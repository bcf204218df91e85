"""Workers that sleep, block, or die of what they run, as real processes with short leases."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from netscript_workers.domain import NewExecution
from netscript_workers.store.engine import Store
from tests.kit import detail, new, put, rows, scalar
from tests.support import Process, eventually, write_project

pytestmark = pytest.mark.chaos

LEASE = 3.0
PATIENCE = 120.0

JOBS = """
import asyncio, ctypes, os, signal, time
from netscript_workers import JobContext, job

RECORD = os.open(os.environ["CHAOS_RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def note(what, ctx):
    os.write(RECORD, f"{what} {os.getpid()} {ctx.id} {ctx.fence_token}\\n".encode())

@job(id="sleeps")
async def sleeps(ctx: JobContext):
    note("start", ctx)
    await asyncio.sleep(ctx.payload["seconds"])
    return ctx.fence_token

@job(id="blocks")
async def blocks(ctx: JobContext):
    note("start", ctx)
    time.sleep(ctx.payload["seconds"])
    return ctx.fence_token

@job(id="hogs")
async def hogs(ctx: JobContext):
    note("start", ctx)
    ctypes.PyDLL(None).sleep(ctx.payload["seconds"])  # a call that keeps the interpreter's lock
    return ctx.fence_token

@job(id="kills")
async def kills(ctx: JobContext):
    note("start", ctx)
    os.kill(os.getpid(), signal.SIGSEGV)
"""


class Scene:
    """A project, its database, and what its handlers noted."""

    def __init__(self, place: Path, url: str) -> None:
        self.store = Store(url)
        self.place = write_project(place / "shop", {"jobs/zombies.py": JOBS})
        self.record = place / "record"
        self.record.touch()
        self._environment = {
            "NETSCRIPT_DATABASE_URL": url,
            "CHAOS_RECORD": str(self.record),
            "NETSCRIPT_LEASE_SECONDS": str(LEASE),
            "NETSCRIPT_HEARTBEAT_SECONDS": "0.5",
        }

    def worker(self) -> Process:
        command = ("-m", "netscript_triggers", "worker")
        return Process(*command, cwd=self.place, env=self._environment)

    def starts(self) -> list[list[str]]:
        return [line.split()[1:] for line in self.record.read_text().splitlines()]

    def wait_starts(self, count: int) -> None:
        eventually(lambda: len(self.starts()) >= count, PATIENCE, f"{count} starts")

    def wait_status(self, execution: NewExecution, wanted: str) -> None:
        def look() -> bool:
            return detail(self.store, execution.id).execution.status == wanted

        eventually(look, PATIENCE, f"{execution.job_id} being {wanted}")

    def wait_workers(self, count: int) -> None:
        sql = "SELECT count(*) FROM netscript_workers"
        eventually(lambda: scalar(self.store, sql) == count, PATIENCE, f"{count} workers")

    def result_is_of_the_last_start(self, execution: NewExecution) -> bool:
        tokens = [int(token) for _, id_, token in self.starts() if id_ == execution.id]
        return bool(detail(self.store, execution.id).execution.result == tokens[-1])


def payload(seconds: int) -> str:
    return f'{{"seconds": {seconds}}}'


@pytest.mark.trap("D-22")
def test_a_worker_stopped_past_its_lease_wakes_to_find_its_result_refused(
    tmp_path: Path, database_url: str
) -> None:
    scene = Scene(tmp_path, database_url)
    given = new("sleeps", payload(1), concurrency_key="k")
    following = new("sleeps", payload(0), concurrency_key="k")
    with scene.worker() as sleeper:
        scene.wait_workers(1)
        put(scene.store, given, following)
        scene.wait_starts(1)
        sleeper.signal(signal.SIGSTOP)
        with scene.worker():
            if scene.store.is_sqlite:
                # The lifeline that it holds shows that it is not dead: nobody takes its work.
                scene.wait_workers(2)
                time.sleep(LEASE * 2)
                assert len(scene.starts()) == 1
                sleeper.signal(signal.SIGCONT)
            else:
                scene.wait_status(given, "completed")
                sleeper.signal(signal.SIGCONT)
                assert sleeper.popen.wait(PATIENCE) == 1  # it noticed, and ended
            scene.wait_status(following, "completed")
            scene.wait_status(given, "completed")
    assert scene.result_is_of_the_last_start(given)
    assert len(scene.starts()) == (2 if scene.store.is_sqlite else 3)
    assert scalar(scene.store, "SELECT count(*) FROM netscript_concurrency_slots") == 0
    scene.store.dispose()


@pytest.mark.trap("D-25")
def test_a_handler_that_blocks_the_loop_past_its_lease_is_not_rescued(
    tmp_path: Path, database_url: str
) -> None:
    scene = Scene(tmp_path, database_url)
    given = new("blocks", payload(9))
    with scene.worker(), scene.worker():
        scene.wait_workers(2)
        put(scene.store, given)
        scene.wait_status(given, "completed")
    assert len(scene.starts()) == 1
    assert scene.result_is_of_the_last_start(given)
    assert detail(scene.store, given.id).attempts == ()
    scene.store.dispose()


@pytest.mark.trap("D-26")
def test_a_handler_that_holds_the_interpreter_past_its_lease_has_one_accepted_result(
    tmp_path: Path, database_url: str
) -> None:
    scene = Scene(tmp_path, database_url)
    given = new("hogs", payload(9), concurrency_key="k")
    with scene.worker(), scene.worker(), scene.worker():
        scene.wait_workers(3)
        put(scene.store, given)
        scene.wait_starts(1)
        if not scene.store.is_sqlite:
            # It holds up its worker's heartbeat, and every other's that tries it: that is a loss.
            eventually(lambda: len(detail(scene.store, given.id).attempts) > 0, PATIENCE)
            scene.wait_starts(2)
        else:
            scene.wait_status(given, "completed")
            assert len(scene.starts()) == 1
    tokens = [int(token) for _, _, token in scene.starts()]
    assert sorted(set(tokens)) == tokens
    result = detail(scene.store, given.id).execution.result
    assert result is None or result == tokens[-1]
    scene.store.dispose()


@pytest.mark.trap("D-32")
def test_one_that_kills_every_process_is_found_and_its_twenty_neighbours_complete(
    tmp_path: Path, database_url: str
) -> None:
    scene = Scene(tmp_path, database_url)
    guilty = new("kills", max_attempts=1)
    neighbours = [new("sleeps", payload(1)) for _ in range(20)]
    put(scene.store, *neighbours[:10], guilty, *neighbours[10:])
    for _ in range(2):  # each takes all of them, and dies of one
        with scene.worker() as victim:
            assert victim.popen.wait(PATIENCE) == -signal.SIGSEGV, victim.output
    with scene.worker() as survivor:
        for one in neighbours:
            scene.wait_status(one, "completed")
        scene.wait_status(guilty, "failed")
        assert survivor.popen.poll() is None
        assert survivor.terminate() == 0
    told = detail(scene.store, guilty.id)
    assert (told.execution.reason, told.execution.attempt) == ("crashed", 1)
    assert [one.outcome for one in told.attempts] == ["lost"] * 2 + ["crashed"] * 3
    assert {one.signal for one in told.attempts[2:]} == {signal.SIGSEGV}
    assert all((one.peak_memory or 0) > 10 * 2**20 for one in told.attempts[2:])
    sql = "SELECT DISTINCT status FROM netscript_execution_history WHERE job_id = 'sleeps'"
    assert rows(scene.store, sql) == [("completed",)]
    scene.store.dispose()
