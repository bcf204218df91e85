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
from functools import partial
from typing import Any

import pytest

from netscript_workers import JobContext, define_job_handler
from netscript_workers.domain import ClaimedExecution, Reason, Verdict
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
    minders: set[int] = set()
    read(b"+5\n+6\n*7\n*8\n-5\n-8\n", groups, minders)
    assert (groups, minders) == ({6}, {7})
    with leader() as process:
        assert lives(process.pid)
        kill({process.pid})
        assert not lives(process.pid)  # nobody has reaped it yet
        assert process.wait() == -signal.SIGKILL


class _Line:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.told: list[wire.Message] = []

    def tell(self, message: wire.Message) -> None:
        self.send(wire.encode(message))

    def send(self, frames: bytes) -> None:
        self.told += wire.Decoder().feed(frames)


@contextlib.contextmanager
def permits(count: int) -> Generator[int]:
    """Yield the end of a pipe that holds so many."""
    given, giving = os.pipe()
    os.set_blocking(given, False)
    os.write(giving, b"." * count)
    yield given
    os.close(given)
    os.close(giving)


def order(desk: Desk, *claims: ClaimedExecution) -> None:
    for claim in claims:
        desk._hear({"t": "run", "claim": wire.dump_claim(claim)})


def do_all(desk: Desk) -> None:
    """Do what is to be done on the main thread."""
    while not desk._work.empty():
        desk._work.get()()


@pytest.mark.parametrize("size", [10, 3_000])
def test_what_does_not_fit_between_processes_is_refused_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    async def answer(ctx: JobContext) -> str:
        return "x" * size

    monkeypatch.setattr(wire, "encode", partial(wire.encode, limit=2_000))
    line: Any = _Line()
    job = define_job_handler(answer, id="answer")
    claim = claim_of("answer")
    with permits(1) as given:
        desk = Desk({"answer": job}, line, given)
        order(desk, claim)
        do_all(desk)
        desk._own.close()
        desk._beside.close()
    begun, told = line.told
    assert begun == {"t": "begun", "k": wire.key_of(claim)}
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
    given, giving = os.pipe()
    os.write(giving, b".")
    desk = Desk({"wait": job}, line, given)
    beside = threading.Thread(target=desk._beside.run_forever, daemon=True)
    beside.start()
    claim = claim_of("wait")
    # Of another one, whose claim drew the same token: not for this one.
    other = claim._replace(id="other")
    desk._hear({"t": "drain" if word == "cancel" else "cancel", "k": wire.key_of(other)})
    desk._hear({"t": word, "k": wire.key_of(claim)})
    order(desk, claim)
    desk._work.get()()

    def over() -> bool:
        do_all(desk)
        return len(line.told) == 2

    eventually(over)
    os.close(given)
    os.close(giving)
    desk._beside.call_soon_threadsafe(desk._beside.stop)
    beside.join()
    desk._own.close()
    desk._beside.close()
    outcome = wire.load_outcome(claim, line.told[-1]["outcome"])
    assert outcome.verdict is (Verdict.CANCEL if word == "cancel" else Verdict.RELEASE)


def test_a_child_begins_none_of_those_that_were_taken_back() -> None:
    ran: list[str] = []

    async def note(ctx: JobContext) -> None:
        ran.append(ctx.id)

    line: Any = _Line()
    job = define_job_handler(note, id="note")
    first, second, third, last = (claim_of("note")._replace(id=name) for name in "abcd")
    with permits(1) as given:  # of three: two were taken back before they were begun
        desk = Desk({"note": job}, line, given)
        order(desk, first, second, third)
        do_all(desk)
        assert ran == ["a"]
        desk._hear({"t": "recall"})
    with permits(1) as given:
        desk._permits = given
        order(desk, last)
        do_all(desk)
    desk._own.close()
    desk._beside.close()
    assert ran == ["a", "d"]
    assert [one["t"] for one in line.told] == ["begun", "end", "recalled", "begun", "end"]


def test_the_end_of_one_goes_with_the_beginning_of_the_next() -> None:
    async def nothing(_: JobContext) -> None: ...

    sent: list[list[str]] = []

    class Counting(_Line):
        def send(self, frames: bytes) -> None:
            sent.append([one["t"] for one in wire.Decoder().feed(frames)])

    line: Any = Counting()
    job = define_job_handler(nothing, id="nothing")
    with permits(2) as given:
        desk = Desk({"nothing": job}, line, given)
        order(desk, *(claim_of("nothing")._replace(id=name) for name in "ab"))
        do_all(desk)
    desk._own.close()
    desk._beside.close()
    assert sent == [["begun"], ["end", "begun"], ["end"]]
