"""What every contestant shares: the commands, the handlers' stopwatch, the line of JSON.

It runs in each peer's own environment, so it imports nothing but the standard library. A contestant
is run as `python -m benchmarks.contestants.NAME COMMAND [COUNT]`; where its store is, BENCH_URL
tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import json
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

URL = os.environ.get("BENCH_URL", "")
SLOTS = int(os.environ.get("BENCH_SLOTS", "100"))
# Where handlers in processes of their own leave a byte each.
RAN = os.environ.get("BENCH_RAN", "")
BATCH = 1000
_SETTLE_SECONDS = 60.0
_SETTLE_LOOK = 0.005


class Contestant:
    """A job queue with one no-op job, as its own documentation would set it up.

    What one can't do it leaves out: the roster does not ask for it.
    """

    def setup(self) -> Any:
        """Make its schema; the store is empty."""

    def open(self) -> Any:
        """Prepare to enqueue."""

    def put(self, sent: int) -> Any:
        """Enqueue one execution, durably, whose handler calls `ran(sent)`."""
        raise NotImplementedError

    def fill(self, count: int) -> Any:
        """Enqueue many, by its best interface for that."""
        raise NotImplementedError

    def settled(self) -> int:
        """Count what is finished, according to the store; called from a thread of its own."""
        raise NotImplementedError

    def waiting(self) -> int:
        """Count what is enqueued, according to the store."""
        raise NotImplementedError

    def work(self) -> Any:
        """Run a worker with as many slots as told, until it is killed."""
        raise NotImplementedError

    def pool(self, count: int) -> Any:
        """Run workers in as many processes as there are slots, until they are killed."""
        raise NotImplementedError

    def has_settled(self, count: int) -> bool:
        """Tell whether all is finished that handlers have run; called from a thread of its own."""
        return self.waiting() == 0


class _Stopwatch:
    """Sees handlers run: when the first began, how many there were, how late they came."""

    def __init__(self, count: int, *, keep: bool) -> None:
        self.all_ran = threading.Event()
        self.began = 0.0
        self.cpu = 0.0
        self.delays: dict[int, int] = {}
        self.seen = 0
        self._keep = keep
        self._last = count - 1
        self._numbers = itertools.count()

    def ran(self, sent: int) -> None:
        number = next(self._numbers)
        self.seen = number + 1
        if self._keep:
            self.delays[sent] = time.monotonic_ns() - sent
        elif number == 0:
            self.began, self.cpu = time.monotonic(), cpu_seconds()
        if number == self._last:
            self.all_ran.set()


_stopwatch = _Stopwatch(0, keep=False)


def ran(sent: int) -> None:
    """Tell that a handler runs. Every contestant's handler does this and nothing else."""
    if RAN:
        os.write(_record(), b".")
    else:
        _stopwatch.ran(sent)


@cache
def _record() -> int:
    return os.open(RAN, os.O_WRONLY | os.O_APPEND)


def handled() -> int:
    """Return how many handlers have run."""
    return _stopwatch.seen


def cpu_seconds() -> float:
    """Return the CPU time of this process, its threads and the children it has waited for."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def tell(**facts: Any) -> None:
    """Print the one line that the driver reads."""
    print(json.dumps(facts), flush=True)


def _leave(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


async def _await(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


async def _fill(contestant: Contestant, count: int) -> None:
    await _await(contestant.open())
    before, cpu = time.monotonic(), cpu_seconds()
    await _await(contestant.fill(count))
    seconds, cpu = time.monotonic() - before, cpu_seconds() - cpu
    found = await asyncio.to_thread(contestant.waiting)
    tell(n=count, seconds=seconds, cpu=cpu, found=found)


async def _single(contestant: Contestant, count: int) -> None:
    await _await(contestant.open())
    await _await(contestant.put(0))
    before, cpu = time.monotonic(), cpu_seconds()
    for number in range(count):
        told = contestant.put(number)
        if told is not None and inspect.isawaitable(told):
            await told
    seconds, cpu = time.monotonic() - before, cpu_seconds() - cpu
    found = await asyncio.to_thread(contestant.waiting)
    tell(n=count, seconds=seconds, cpu=cpu, found=found - 1)


async def _send(contestant: Contestant, count: int) -> None:
    """Enqueue at random intervals; the worker in the other process tells how late it started."""
    await _await(contestant.open())
    took: list[tuple[int, int]] = []
    for _ in range(count):
        await asyncio.sleep(random.uniform(0.02, 0.06))
        before = time.monotonic_ns()
        told = contestant.put(before)
        if told is not None and inspect.isawaitable(told):
            await told
        took.append((before, time.monotonic_ns() - before))
    await asyncio.sleep(0.5)  # a process that is gone at once takes its last bell with it
    tell(took=took)


def _work(contestant: Contestant, count: int, *, keep: bool) -> None:
    global _stopwatch  # noqa: PLW0603 - the handlers of every framework reach it by import alone
    _stopwatch = _Stopwatch(count, keep=keep)
    report = _report_delays if keep else _report_drained
    threading.Thread(target=report, args=(contestant, count), daemon=True).start()
    told = contestant.work()
    if inspect.isawaitable(told):
        _run(told)


def _report_drained(contestant: Contestant, count: int) -> None:
    _stopwatch.all_ran.wait()
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        settled = contestant.settled()
        now = time.monotonic()
        seconds, cpu = now - _stopwatch.began, cpu_seconds() - _stopwatch.cpu
        if settled >= count or now > deadline:
            break
        time.sleep(_SETTLE_LOOK)
    tell(n=count, seconds=seconds, cpu=cpu, found=settled)
    _leave(0)


def _report_delays(_contestant: Contestant, _count: int) -> None:
    _stopwatch.all_ran.wait()
    time.sleep(0.1)
    tell(delays=list(_stopwatch.delays.items()))
    _leave(0)


def _pool(contestant: Contestant, count: int) -> None:
    threading.Thread(target=_report_pool, args=(contestant, count), daemon=True).start()
    told = contestant.pool(count)
    if inspect.isawaitable(told):
        _run(told)


def _report_pool(contestant: Contestant, count: int) -> None:
    """Measure from when a tenth has run, so that nobody's start counts, to the last one's end."""
    record = Path(RAN)

    def wait_for(share: int) -> int:
        while (size := record.stat().st_size) < share:
            time.sleep(_SETTLE_LOOK)
        return size

    before = wait_for(count // 10)
    began = time.monotonic()
    wait_for(count // 2)
    looked = time.monotonic()
    memory = sum(_pss_mib(pid) for pid in (os.getpid(), *_descendants(os.getpid())))
    looked = time.monotonic() - looked
    wait_for(count)
    deadline = time.monotonic() + _SETTLE_SECONDS
    while not contestant.has_settled(count) and time.monotonic() < deadline:
        time.sleep(_SETTLE_LOOK)
    seconds = time.monotonic() - began - looked
    found = count if contestant.has_settled(count) else 0
    tell(n=count - before, seconds=seconds, found=found, memory=memory / SLOTS)
    for pid in list(_descendants(os.getpid())):  # they hold the pipe that the driver reads
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    _leave(0)


def _descendants(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            for child in (task / "children").read_text(encoding="ascii").split():
                yield int(child)
                yield from _descendants(int(child))


def _pss_mib(pid: int) -> float:
    """Return the memory of a process, and of what it shares with others its share."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


def _run(main: Awaitable[Any]) -> None:
    """Run on uvloop where the contestant's environment has it."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with contextlib.suppress(ImportError):
        from uvloop import new_event_loop  # noqa: PLC0415 - not everybody's

        factory = new_event_loop

    async def run() -> None:
        await main

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run())


def main(contestant: Contestant) -> None:
    """Do what the command line says."""
    command, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
    commands: dict[str, Callable[[], Any]] = {
        "setup": lambda: _run(_await(contestant.setup())),
        "fill": lambda: _run(_fill(contestant, count)),
        "single": lambda: _run(_single(contestant, count)),
        "send": lambda: _run(_send(contestant, count)),
        "drain": lambda: _work(contestant, count, keep=False),
        "pool": lambda: _pool(contestant, count),
        "receive": lambda: _work(contestant, count, keep=True),
    }
    commands[command]()
    _leave(0)
