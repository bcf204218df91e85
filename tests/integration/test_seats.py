"""What a pool has claimed ahead: it waits for nobody's long execution, crash or leave."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from itertools import accumulate
from pathlib import Path

import pytest

from netscript_workers import JobContext, define_job_handler
from netscript_workers.execution.runners import pool as pool_runner
from netscript_workers.execution.runners.seats import Seats
from netscript_workers.store import definitions
from netscript_workers.store.engine import Store
from tests.kit import assert_slots_exact, detail, put, scalar, status
from tests.kit import new as new_execution
from tests.support import eventually_async, write_project
from tests.working import Running, working

PATIENCE = 60.0
RUNNING = "SELECT count(*) FROM netscript_executions WHERE status = 'running'"
JOBS = '''
import ctypes, os, signal, time
from pathlib import Path
from netscript_workers import JobContext, Retry, job

@job(id="quick")
def quick(ctx: JobContext):
    if path := ctx.payload.get("path"):
        with open(path, "a") as file:
            file.write(f"{ctx.id}\\n")

@job(id="sleeps", timeout=None)
async def sleeps(ctx: JobContext):
    Path(ctx.payload["hold"] + ".began").touch()
    while Path(ctx.payload["hold"]).exists():
        time.sleep(0.05)

@job(id="holds", timeout=None)
def holds(ctx: JobContext):
    """Let no other thread of its process do anything, as some C extensions do."""
    while Path(ctx.payload["hold"]).exists():
        ctypes.PyDLL(None).usleep(500_000)

@job(id="narrow", max_concurrency=2)
def narrow(ctx: JobContext):
    """Write down from when until when it ran, by one clock for all processes."""
    began = time.monotonic_ns()
    time.sleep(0.001)
    with open(ctx.payload["path"], "a") as file:
        file.write(f"{ctx.id} {began} {time.monotonic_ns()}\\n")

@job(id="dies", retry=Retry(max_attempts=1))
def dies(ctx: JobContext):
    os.kill(os.getpid(), signal.SIGKILL)
'''


def _elsewhere(ctx: JobContext) -> None:
    raise AssertionError("it ran in its worker's own process")


@asynccontextmanager
async def pool(store: Store, place: Path, slots: int, **options: float) -> AsyncGenerator[Running]:
    """Yield a worker whose executions were so short that it claims ahead."""
    project = write_project(place / "project", {"jobs/some.py": JOBS})
    jobs = [define_job_handler(_elsewhere, id=one) for one in ("quick", "sleeps", "holds", "dies")]
    jobs.append(define_job_handler(_elsewhere, id="narrow", max_concurrency=2))
    definitions.register(store, jobs)
    async with working(
        store,
        *jobs,
        concurrency=slots,
        runtime="worker-process",
        project=(project, "jobs"),
        **options,
    ) as at:
        while ahead(at) < 10:
            ids = [at.enqueue_by_name("quick") for _ in range(10)]
            for one in ids:
                await at.ended(one, seconds=PATIENCE)
        yield at


def ahead(at: Running) -> int:
    assert at.worker._pump is not None
    return at.worker._pump.ahead()


def put_all(store: Store, first: str, payload: str, others: int, path: Path) -> list[str]:
    """Store one, and others behind it, in one commit: the worker claims them together."""
    given = [new_execution(first, payload)]
    given += [new_execution("quick", f'{{"path": "{path}"}}') for _ in range(others)]
    put(store, *given)
    return [one.id for one in given]


@pytest.mark.trap("D-20")
@pytest.mark.parametrize("kind", ["sleeps", "holds"])
async def test_what_was_claimed_behind_a_long_one_is_handed_back_and_another_worker_has_it(
    store: Store, tmp_path: Path, kind: str
) -> None:
    hold, path = tmp_path / "hold", tmp_path / "ran"
    hold.touch()
    other = Store(store.parsed_url.render_as_string(hide_password=False))
    async with pool(store, tmp_path, 1) as at:
        long, *quick = put_all(store, kind, f'{{"hold": "{hold}"}}', 8, path)
        await at.ended(long, "running", seconds=PATIENCE)
        assert at.worker._pump is not None
        at.worker._pump.look()
        await eventually_async(lambda: ahead(at) == 0, PATIENCE, "nothing being claimed ahead")
        await eventually_async(lambda: scalar(store, RUNNING) == 1, PATIENCE, "one that runs")
        assert {status(store, one) for one in quick} == {"queued"}
        async with working(other, define_job_handler(note, id="quick"), concurrency=4) as second:
            for one in quick:
                told = await second.ended(one, seconds=PATIENCE)
                assert (told.execution.status, told.execution.attempt) == ("completed", 1)
        hold.unlink()
        await at.ended(long, seconds=PATIENCE)
    assert not path.exists(), "it ran where it was taken back"
    other.dispose()


async def note(ctx: JobContext) -> None:
    """Take what the other worker has handed back."""


async def test_a_crash_costs_those_behind_it_nothing(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "ran"
    async with pool(store, tmp_path, 2) as at:
        guilty, *quick = put_all(store, "dies", "{}", 40, path)
        for one in quick:
            told = await at.ended(one, seconds=PATIENCE)
            assert (told.execution.status, told.attempts) == ("completed", ())
        told = await at.ended(guilty, seconds=PATIENCE)
        assert (told.execution.status, told.execution.reason) == ("failed", "crashed")
    assert sorted(path.read_text().split()) == sorted(quick)


async def test_a_worker_that_leaves_gives_back_what_it_has_not_begun(
    store: Store, tmp_path: Path
) -> None:
    hold, path = tmp_path / "hold", tmp_path / "ran"
    hold.touch()
    async with pool(store, tmp_path, 1, grace=0.2, kill_grace=0.2) as at:
        long, *quick = put_all(store, "sleeps", f'{{"hold": "{hold}"}}', 8, path)
        await at.ended(long, "running", seconds=PATIENCE)
    assert {status(store, one) for one in (long, *quick)} == {"queued"}
    assert all(detail(store, one).execution.attempt == 1 for one in quick)
    assert not path.exists()


async def test_the_more_urgent_run_first(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "ran"
    async with pool(store, tmp_path, 1) as at:
        payload = f'{{"path": "{path}"}}'
        usual = [new_execution("quick", payload) for _ in range(300)]
        urgent = [new_execution("quick", payload, priority=100) for _ in range(5)]
        put(store, *usual, *urgent)
        for one in usual:
            await at.ended(one.id, seconds=PATIENCE)
    assert set(path.read_text().split()[:5]) == {one.id for one in urgent}


@pytest.mark.trap("D-20")
async def test_what_is_claimed_ahead_overlaps_no_more_than_its_job_and_its_key_allow(
    store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "ran"
    async with pool(store, tmp_path, 4) as at:
        payload = f'{{"path": "{path}"}}'
        given = [
            new_execution(
                "narrow",
                payload,
                limited="job limit",
                concurrency_key="k" if number % 3 == 0 else None,
                priority=50 + number % 2,
            )
            for number in range(90)
        ]
        put(store, *(new_execution("quick") for _ in range(60)), *given)
        for one in given:
            told = await at.ended(one.id, seconds=PATIENCE)
            assert (told.execution.status, told.execution.attempt) == ("completed", 1)
    lives = [line.split() for line in path.read_text().splitlines()]
    assert len(lives) == len(given)
    spans = {id_: (int(began), int(end)) for id_, began, end in lives}
    assert _most_at_once(list(spans.values())) <= 2
    keyed = [spans[one.id] for one in given if one.concurrency_key is not None]
    assert _most_at_once(keyed) == 1
    assert keyed == sorted(keyed), "those of a key run in the order in which they came"
    assert_slots_exact(store)


def _most_at_once(spans: Iterable[tuple[int, int]]) -> int:
    steps = sorted([(at, 1) for at, _ in spans] + [(at, -1) for _, at in spans])
    return max(accumulate(step for _, step in steps))


def test_the_shorter_executions_are_the_more_are_claimed_ahead_and_none_behind_long_ones() -> None:
    seats = Seats(4)
    assert seats.ahead == 0
    for _ in range(50):
        seats.took(0.01)
    assert seats.ahead == 4 * 5
    for _ in range(100):
        seats.took(0.0001)
    assert seats.ahead == 4 * 64
    seats.held_up()
    assert seats.ahead == 0
    for _ in range(50):
        seats.took(0.2)
    assert seats.ahead == 0


@pytest.mark.trap("D-34")
async def test_what_was_claimed_ahead_goes_back_as_soon_as_its_worker_is_to_leave(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold, began, path = tmp_path / "hold", tmp_path / "hold.began", tmp_path / "ran"
    async with pool(store, tmp_path, 1, grace=PATIENCE) as at:
        hold.touch()
        # Nothing but the leave is to take back what waits.
        monkeypatch.setattr(pool_runner, "PATIENCE_SECONDS", 3600.0)
        long, *quick = put_all(store, "sleeps", f'{{"hold": "{hold}"}}', 8, path)
        assert at.worker._pump is not None
        at.worker._pump.look()
        await eventually_async(
            lambda: began.exists() and scalar(store, RUNNING) > 1, PATIENCE, "a claim ahead"
        )
        at.worker.stop()
        await eventually_async(lambda: scalar(store, RUNNING) == 1, 10, "one that runs")
        hold.unlink()
        await at.task
    assert status(store, long) == "completed"
    assert {(status(store, one), detail(store, one).execution.attempt) for one in quick} == {
        ("queued", 1)
    }
    assert not path.exists(), "it ran where it was taken back"


@pytest.mark.trap("D-34")
@pytest.mark.parametrize("runtime", ["worker-process", "subprocess"])
async def test_what_waits_for_a_process_that_starts_goes_back_when_its_worker_is_to_leave(
    store: Store, tmp_path: Path, runtime: str
) -> None:
    hold, path = tmp_path / "hold", tmp_path / "ran"
    hold.touch()
    slow = (
        f"import time\nwhile __import__('os').path.exists({str(hold)!r}):\n    time.sleep(0.02)\n"
    )
    project = write_project(tmp_path / "project", {"jobs/some.py": slow + JOBS})
    given = [new_execution("quick", f'{{"path": "{path}"}}') for _ in range(2)]
    put(store, *given)
    async with working(
        store,
        define_job_handler(_elsewhere, id="quick"),
        concurrency=2,
        runtime=runtime,
        project=(project, "jobs"),
        grace=PATIENCE,
    ) as at:
        await eventually_async(lambda: scalar(store, RUNNING) == 2, PATIENCE, "both being claimed")
        at.worker.stop()
        await eventually_async(lambda: scalar(store, RUNNING) == 0, 10, "both going back")
        assert await at.task == []
    for one in given:
        told = detail(store, one.id).execution
        assert (told.status, told.attempt) == ("queued", 1)
    assert not path.exists()
