"""Runners with processes where the system has no more threads, or has reaped their children."""

from __future__ import annotations

import threading

import pytest

from netscript_workers.domain import Death, RuntimeName
from netscript_workers.execution.runners.children import Child
from netscript_workers.store.engine import Store
from tests.conformance.running import PATIENCE, working_on

BOTH: tuple[RuntimeName, ...] = ("worker-process", "subprocess")


def refuse_threads(monkeypatch: pytest.MonkeyPatch, prefix: str, times: int) -> list[str]:
    """Have the first threads of this name not start; return the names of those."""
    start, refused = threading.Thread.start, list[str]()

    def maybe(thread: threading.Thread) -> None:
        if thread.name.startswith(prefix) and len(refused) < times:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", maybe)
    return refused


async def test_without_a_thread_no_process_is_started_and_its_slot_is_free_again(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(sqlite_url)
    refused = refuse_threads(monkeypatch, "netscript-child", 1)
    async with working_on(store, "subprocess", concurrency=1) as at:
        first = at.enqueue_by_name("good")
        told = await at.ended(first, "scheduled", seconds=PATIENCE)
        assert (told.execution.reason, told.attempts) == ("no process starts", ())
        after = await at.ended(at.enqueue_by_name("good"), seconds=PATIENCE)
        assert after.execution.status == "completed"
        # And of the process that had been started, nothing is left.
        assert len(at.worker.pids) <= 2
    assert len(refused) == 1
    store.dispose()


@pytest.mark.parametrize("runtime", BOTH)
async def test_a_crash_is_recorded_although_no_thread_is_to_be_had_at_first(
    sqlite_url: str, runtime: RuntimeName, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(sqlite_url)
    refused = refuse_threads(monkeypatch, "netscript-crash", 2)
    async with working_on(store, runtime) as at:
        told = await at.ended(at.enqueue_by_name("dies", {"how": "exit"}), seconds=PATIENCE)
    assert len(refused) == 2
    assert [one.outcome for one in told.attempts] == ["crashed"] * 3
    store.dispose()


@pytest.mark.parametrize("runtime", BOTH)
async def test_children_that_others_reap_are_dead_all_the_same(
    sqlite_url: str, runtime: RuntimeName, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, reap = Store(sqlite_url), Child._reap

    def too_late(child: Child) -> Death:
        reap(child)
        raise ChildProcessError

    monkeypatch.setattr(Child, "_reap", too_late)
    async with working_on(store, runtime) as at:
        good = await at.ended(at.enqueue_by_name("good"), seconds=PATIENCE)
        dead = await at.ended(at.enqueue_by_name("dies", {"how": "exit"}), seconds=PATIENCE)
    assert good.execution.status == "completed"
    assert [one.outcome for one in dead.attempts] == ["crashed"] * 3
    assert {one.error for one in dead.attempts} == {
        "It killed its process: an end that nobody saw."
    }
    assert {one.exit_code for one in dead.attempts} == {None}
    store.dispose()
