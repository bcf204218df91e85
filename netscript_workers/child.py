"""The process that runs one execution alone: `python -m netscript_workers.child`."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from sqlalchemy.exc import SQLAlchemyError

from netscript_workers.children import BEGUN, DRAIN, STORED, UNSAVED, Order
from netscript_workers.domain import ClaimedExecution, Outcome
from netscript_workers.execution.in_process import InProcessRunner
from netscript_workers.jobs import JobDefinition
from netscript_workers.loops import run_loop
from netscript_workers.pump import Pump, WorkerOptions
from netscript_workers.registry import discover_jobs, job_named
from netscript_workers.store import suspects
from netscript_workers.store.definitions import StoredCatalog
from netscript_workers.store.engine import Store
from netscript_workers.store.wake import make_bell

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1


def main(parent: int, told: int) -> int:
    """Run what the parent orders; tell it by bytes on `told` how far that came."""
    _end_with(parent)
    os.set_inheritable(told, False)  # noqa: FBT003 - it takes no names
    control = _take_stdin()
    # A group's SIGTERM or SIGINT is the parent's to hear: it says when to end.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    order = Order.load(control.readline())
    logging.basicConfig(
        level=order.log_level,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )
    jobs = discover_jobs(Path(order.project), order.jobs_dir)
    job_named(jobs, order.claim.job_id)
    store = Store(order.url)
    # Every path from here has begun: whatever ends this process is the execution's doing.
    is_stored = run_loop(lambda: _run(store, jobs, order, told, control))
    os.write(told, STORED if is_stored else UNSAVED)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # a thread that a handler has left behind keeps nobody


async def _run(
    store: Store,
    jobs: Mapping[str, JobDefinition[Any, Any]],
    order: Order,
    told: int,
    control: IO[bytes],
) -> bool:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    bell = make_bell(store.parsed_url)
    options = WorkerOptions(concurrency=1, window=order.window)
    pump = Pump(store, order.worker_id, jobs, options, bell=bell, loop=loop, claims=False)

    def ended(claim: ClaimedExecution, outcome: Outcome | None) -> None:
        pump.ended(claim, outcome)
        over.set()

    catalog = StoredCatalog(store, jobs)
    runner = InProcessRunner(jobs, pump, ended, threads=1, catalog=catalog)
    pump.runner = runner
    pump.start()
    os.write(told, BEGUN)
    runner.start(order.claim)
    _listen(control, loop, runner)
    await over.wait()
    await asyncio.to_thread(pump.stop)
    bell.close()
    try:
        return suspects.is_over(store, order.claim)
    except SQLAlchemyError:
        return False


def _take_stdin() -> IO[bytes]:
    """Keep the parent's pipe from handlers, and from what they start."""
    control = os.fdopen(os.dup(0), "rb")
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    return control


def _listen(control: IO[bytes], loop: asyncio.AbstractEventLoop, runner: InProcessRunner) -> None:
    """Hear the parent: a word to drain, or its end."""

    def listen() -> None:
        while line := control.readline():
            if line == DRAIN:
                loop.call_soon_threadsafe(runner.drain)
        os._exit(1)  # where the kernel does not end us with our parent

    threading.Thread(target=listen, name="netscript-parent", daemon=True).start()


def _end_with(parent: int) -> None:
    """Have the kernel end this process with its parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it was quicker
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
