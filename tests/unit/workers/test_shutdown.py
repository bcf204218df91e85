"""The shutdown manager: order, together, in time, and a report of what did not stop."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

import pytest

from netscript_workers import ShutdownManager, ShutdownReport, ShutdownResource
from netscript_workers.errors import DuplicateIdError, StateError


async def test_lower_priorities_stop_first_and_equal_ones_together() -> None:
    manager = ShutdownManager()
    order: list[str] = []
    both = asyncio.Barrier(2)

    async def together(name: str) -> None:
        await both.wait()  # neither comes past it alone
        order.append(name)

    manager.register(ShutdownResource("last", lambda: order.append("last"), priority=10))
    manager.register(ShutdownResource("a", lambda: together("a")))
    manager.register(ShutdownResource("b", lambda: together("b")))
    manager.register(ShutdownResource("first", lambda: order.append("first"), priority=-1))
    report = await manager.shutdown("told to")
    assert order[0] == "first"
    assert sorted(order[1:3]) == ["a", "b"]
    assert order[3] == "last"
    assert report.stopped == order
    assert (report.state, report.failed, report.timed_out) == ("stopped", {}, [])
    assert report.is_clean
    assert (manager.state, manager.reason) == ("stopped", "told to")


async def test_what_fails_is_told_with_its_reason_and_keeps_nobody() -> None:
    manager = ShutdownManager()

    def broken() -> None:
        raise OSError("no such pipe")

    def exits_in_thread() -> None:
        raise SystemExit(4)

    async def cancels() -> None:
        raise asyncio.CancelledError

    manager.register(ShutdownResource("broken", broken))
    manager.register(ShutdownResource("in-thread", exits_in_thread))
    manager.register(ShutdownResource("cancels", cancels))
    manager.register(ShutdownResource("fine", lambda: None, priority=1))
    report = await manager.shutdown()
    assert report.stopped == ["fine"]
    assert report.failed["broken"] == "OSError: no such pipe"
    assert report.failed["cancels"] == "it was cancelled"
    assert "SystemExit" in report.failed["in-thread"]
    assert str(report).startswith("stopped: fine; failed: broken (OSError: no such pipe)")


async def test_the_timeout_bounds_the_whole_whatever_hangs() -> None:
    manager = ShutdownManager(timeout=30.0)
    release = threading.Event()
    told: list[str] = []

    async def deaf() -> None:
        while not release.is_set():
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                told.append("cancelled")

    manager.register(ShutdownResource("quick", lambda: None))
    manager.register(ShutdownResource("deaf", deaf))
    manager.register(ShutdownResource("in-thread", release.wait))
    manager.register(ShutdownResource("never-told", lambda: told.append("late"), priority=1))
    started = time.monotonic()
    report = await manager.shutdown(timeout=0.2)
    assert 0.2 <= time.monotonic() - started < 10
    assert report.stopped == ["quick"]
    assert sorted(report.timed_out) == ["deaf", "in-thread", "never-told"]
    assert "late" not in told
    release.set()
    await asyncio.sleep(0.1)


async def test_a_second_call_gets_the_same_report_and_cancelling_one_stops_nothing() -> None:
    manager = ShutdownManager()
    entered, release = asyncio.Event(), asyncio.Event()
    calls: list[int] = []

    async def slow() -> None:
        calls.append(1)
        entered.set()
        await release.wait()

    manager.register(ShutdownResource("slow", slow))
    waiting = asyncio.create_task(manager.wait_for_shutdown())
    first = asyncio.create_task(manager.shutdown("one"))
    second = asyncio.create_task(manager.shutdown("two"))
    given_up = asyncio.create_task(manager.shutdown("three"))
    await entered.wait()
    assert manager.state == "shutting-down"
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    assert not waiting.done()
    release.set()
    reports = await asyncio.gather(first, second, waiting)
    assert all(report is reports[0] for report in reports)
    assert await manager.shutdown() is reports[0]
    assert (calls, manager.reason) == ([1], "one")


async def test_ids_are_unique_and_nothing_is_registered_once_it_has_begun() -> None:
    manager = ShutdownManager()
    stopped: list[str] = []
    manager.register(ShutdownResource("a", lambda: stopped.append("a")))
    with pytest.raises(DuplicateIdError, match='resource "a" already'):
        manager.register(ShutdownResource("a", lambda: stopped.append("other")))
    assert manager.unregister("a")
    assert not manager.unregister("a")
    manager.register(ShutdownResource("a", lambda: stopped.append("again")))

    async def late() -> None:
        with pytest.raises(StateError, match="shutdown has begun"):
            manager.register(ShutdownResource("late", lambda: None))
        assert not manager.unregister("a")

    manager.register(ShutdownResource("late-one", late))
    assert (await manager.shutdown()).is_clean
    assert stopped == ["again"]
    with pytest.raises(StateError):
        manager.register(ShutdownResource("b", lambda: None))


async def test_signals_are_aborted_before_anything_stops() -> None:
    manager = ShutdownManager()
    order: list[str] = []
    controller = manager.create_abort_controller()
    signal = controller.signal
    assert (signal.aborted, signal.reason) == (False, None)
    waiting = asyncio.create_task(signal.wait())

    def bad() -> None:
        raise ValueError

    def gone() -> None:
        order.append("gone")

    signal.add_callback(bad)
    signal.add_callback(gone)
    signal.add_callback(lambda: order.append("callback"))
    signal.remove_callback(gone)
    manager.register(ShutdownResource("a", lambda: order.append("stop"), priority=-100))
    await manager.shutdown("the end")
    assert order == ["callback", "stop"]
    assert (signal.aborted, signal.reason) == (True, "the end")
    assert await waiting == "the end"
    signal.add_callback(lambda: order.append("at once"))
    assert order[-1] == "at once"
    assert manager.create_abort_controller().signal.reason == "the end"


async def test_a_controller_aborts_its_own_signal_once() -> None:
    manager = ShutdownManager()
    one, other = manager.create_abort_controller(), manager.create_abort_controller()
    one.abort("enough")
    one.abort("more")
    assert (one.signal.reason, other.signal.aborted) == ("enough", False)
    heard: list[str] = []
    manager.create_abort_controller().signal.add_callback(lambda: heard.append("kept"))
    del one, other
    gc.collect()
    assert len(manager._signals) == 1
    assert await manager.shutdown() == ShutdownReport("stopped")
    assert heard == ["kept"]


def test_a_negative_timeout_is_refused() -> None:
    with pytest.raises(ValueError, match="zero or more seconds"):
        ShutdownManager(timeout=-1)
