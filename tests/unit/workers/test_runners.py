"""Parts of the runners by themselves: lanes, trees, the guard, a child's desk."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from typing import Any

import pytest

from netscript_workers import JobContext, define_job_handler
from netscript_workers.domain import Reason, Verdict
from netscript_workers.execution.runners import wire
from netscript_workers.execution.runners.child import Desk
from netscript_workers.execution.runners.guard import Guard, kill, lives, read
from netscript_workers.execution.runners.trees import descendants, kill_tree, resident_bytes
from netscript_workers.lanes import Lanes
from tests.support import eventually, is_alive
from tests.unit.fakes import claim_of

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
# Starts another one in a session of its own, and tells its number.
STARTS_ONE = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"],
                         start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def leader(*command: str) -> Generator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        command or SLEEP, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        yield process
        process.kill()


def test_lanes_share_what_is_free_and_take_no_more_than_their_own() -> None:
    lanes = Lanes(
        {"a": "in-process", "b": "subprocess", "c": "subprocess"},
        {"in-process": 10, "subprocess": 2},
    )
    assert sorted(lanes.shares(10, [])) == [('["a"]', 10), ('["b", "c"]', 2)]
    first, second = claim_of("b"), claim_of("a")
    lanes.take([first, second])
    assert sorted(lanes.shares(8, [first.id, second.id])) == [('["a"]', 8), ('["b", "c"]', 1)]
    assert sorted(lanes.shares(1, [first.id, second.id])) == [('["a"]', 1), ('["b", "c"]', 1)]
    assert sorted(lanes.shares(10, [])) == [('["a"]', 10), ('["b", "c"]', 2)]


def test_a_tree_is_killed_with_those_of_it_that_have_a_session_of_their_own() -> None:
    with leader(sys.executable, "-S", "-c", STARTS_ONE) as process:
        assert process.stdout is not None
        stray = int(process.stdout.readline())
        assert descendants(process.pid) == [stray]
        assert resident_bytes(process.pid) > 2**20
        kill_tree(process.pid)
        assert process.wait() == -signal.SIGKILL
        eventually(lambda: not is_alive(stray))
    assert resident_bytes(process.pid) == 0


def test_a_guard_whose_worker_ends_kills_what_it_knows_of_and_nothing_else() -> None:
    with leader() as known, leader() as forgotten:
        guard = Guard(os.open(os.devnull, os.O_RDONLY))
        guard.watch(known.pid)
        guard.watch(forgotten.pid)
        guard.forget(forgotten.pid)
        pid = guard.pid
        assert pid is not None and is_alive(pid)
        guard.close()  # its standard input ends, as it does when a worker dies
        assert not is_alive(pid)
        assert known.wait() == -signal.SIGKILL
        assert forgotten.poll() is None


def test_a_guard_reads_what_it_is_told_and_waits_for_the_living_only() -> None:
    groups: set[int] = set()
    read(b"+5\n+6\n-5\n", groups)
    assert groups == {6}
    with leader() as process:
        assert lives(process.pid)
        kill({process.pid})
        assert not lives(process.pid)  # nobody has reaped it yet
        assert process.wait() == -signal.SIGKILL


class _Line:
    """Refuses an end whose result is too long, as the wire does."""

    def __init__(self) -> None:
        self.told: list[wire.Message] = []

    def tell(self, message: wire.Message) -> None:
        wire.encode(message, limit=2_000)
        self.told.append(message)


@pytest.mark.parametrize("size", [10, 3_000])
def test_what_does_not_fit_between_processes_is_refused_with_a_reason(size: int) -> None:
    async def answer(ctx: JobContext) -> str:
        return "x" * size

    line: Any = _Line()
    job = define_job_handler(answer, id="answer")
    desk = Desk({"answer": job}, line)
    claim = claim_of("answer")
    desk._run(claim)
    desk._own.close()
    desk._beside.close()
    begun, told = line.told
    assert begun == {"t": "begun", "k": claim.token}
    outcome = wire.load_outcome(claim, told["outcome"])
    if size == 10:
        assert outcome.verdict is Verdict.COMPLETE
    else:
        assert (outcome.verdict, outcome.reason) == (Verdict.FAIL, Reason.RESULT_REFUSED)
        assert "2,000 fit between processes" in str(outcome.error)


@pytest.mark.parametrize("word", ["cancel", "drain"])
@pytest.mark.parametrize("is_async", [True, False])
def test_a_word_that_comes_before_its_attempt_has_begun_is_heeded(
    word: str, *, is_async: bool
) -> None:
    async def wait(ctx: JobContext) -> None:
        await ctx.wait_cancelled()
        raise RuntimeError("told to end")

    def wait_here(ctx: JobContext) -> None:
        while not ctx.cancelled:
            time.sleep(0.001)
        raise RuntimeError("told to end")

    line: Any = _Line()
    job = define_job_handler(wait if is_async else wait_here, id="wait", timeout=None)
    desk = Desk({"wait": job}, line)
    beside = threading.Thread(target=desk._beside.run_forever, daemon=True)
    beside.start()
    claim = claim_of("wait")
    # Of another one, whose claim drew the same token: not for this one.
    desk._hear({"t": "drain" if word == "cancel" else "cancel", "k": claim.token, "id": "other"})
    desk._hear({"t": word, "k": claim.token, "id": claim.id})
    desk._hear({"t": "run", "claim": wire.dump_claim(claim)})
    desk._work.get()()
    eventually(lambda: len(line.told) == 2)
    desk._beside.call_soon_threadsafe(desk._beside.stop)
    beside.join()
    desk._own.close()
    desk._beside.close()
    outcome = wire.load_outcome(claim, line.told[-1]["outcome"])
    assert outcome.verdict is (Verdict.CANCEL if word == "cancel" else Verdict.RELEASE)
