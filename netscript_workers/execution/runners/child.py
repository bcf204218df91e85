"""The process that runs handlers: `python -m netscript_workers.execution.runners.child`.

A `def` handler runs on the main thread, while its context lives on a loop in another; an async
handler runs on the main thread's own loop. It knows no database: what an attempt leaves behind goes
to the worker by the wire.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NoReturn, TypeVar

from typing_extensions import ParamSpec

from netscript_workers.actions import PreparedJob, prepare
from netscript_workers.domain import ClaimedExecution, Outcome
from netscript_workers.errors import NetscriptError, PayloadInvalidError
from netscript_workers.execution.outcome import too_long
from netscript_workers.execution.runners import wire
from netscript_workers.execution.runners.in_process import InProcessRunner
from netscript_workers.execution.runners.trees import descendants
from netscript_workers.execution.runners.wire import Message
from netscript_workers.jobs import JobDefinition
from netscript_workers.memory import spare_what_stays
from netscript_workers.payloads import to_stored_json
from netscript_workers.registry import discover_jobs
from netscript_workers.telemetry import spans
from netscript_workers.telemetry.attempts import NO_TRACES, Traces

A = ParamSpec("A")
T = TypeVar("T")
Jobs = Mapping[str, JobDefinition[Any, Any]]
_Work = SimpleQueue[Callable[[], None]]

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def main(parent: int, descriptor: int, lifeline: int, permits: int) -> NoReturn:
    """Run what the parent orders on this socket, one execution at a time, until it ends."""
    _end_with(parent)
    # A daemon that a handler starts would hold the line for ever, or the worker's life.
    for ours in (descriptor, lifeline, permits):
        os.set_inheritable(ours, False)  # noqa: FBT003 - it takes no names
    line = Line(socket.socket(fileno=descriptor))
    # A group's SIGTERM is for what handlers have started; for us the worker has its own words.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    setup = line.first()
    logging.basicConfig(
        level=setup["log_level"],
        stream=sys.stderr,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )
    try:
        jobs = discover_jobs(Path(setup["project"]), *setup["folders"])
    except NetscriptError as error:
        logging.getLogger(__name__).error("no job can run here: %s", error)  # noqa: TRY400 - the sentence says it
        leave(1)
    if setup["traces"]:
        from netscript_workers.telemetry import forwarding  # noqa: PLC0415 - loads the SDK

        forwarding.start(line.tell)
    spare_what_stays()
    Desk(jobs, line, permits, keep_logs=setup["keep_logs"]).serve()


class Line:
    """The child's end of the wire."""

    def __init__(self, connection: socket.socket) -> None:
        """Speak on a blocking socket."""
        self._socket = connection
        self._decoder = wire.Decoder()
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._asked: dict[int, Future[Message]] = {}
        self._parts: dict[int, Message] = {}

    def tell(self, message: Message) -> None:
        """Send a message; may be called from any thread.

        Raises:
            FrameTooLongError: It is too long.
        """
        self.send(wire.encode(message))

    def send(self, frames: bytes) -> None:
        """Send frames; may be called from any thread."""
        with self._lock:
            try:
                self._socket.sendall(frames)
            except OSError:
                end_group()

    def ask(self, key: str, what: str, **facts: Any) -> Future[Message]:
        """Ask the worker something for the attempt with this key."""
        number = next(self._numbers)
        answer: Future[Message] = Future()
        self._asked[number] = answer
        self.tell({"t": "ask", "k": key, "n": number, "what": what, **facts})
        return answer

    def first(self) -> Message:
        """Wait for the first message; nothing else is sent before it is answered."""
        while True:
            for message in self._read():
                return message

    def listen(self, on_message: Callable[[Message], None]) -> NoReturn:
        """Hear the worker, for ever."""
        while True:
            for message in self._read():
                if message["t"] == "reply":
                    self._reply(message)
                else:
                    on_message(message)

    def _read(self) -> list[Message]:
        try:
            data = self._socket.recv(262_144)
        except OSError:
            data = b""
        if not data:  # where the kernel does not end us with our parent
            end_group()
        return list(self._decoder.feed(data))

    def _reply(self, message: Message) -> None:
        number = message["n"]
        parts = self._parts.setdefault(number, {})
        parts.update(message.get("parts", {}))
        if message.get("more"):
            return
        del self._parts[number]
        asked = self._asked.pop(number)
        if "error" in message:
            asked.set_exception(wire.load_error(message["error"]))
        else:
            asked.set_result({**message, "parts": parts})


class Desk:
    """Takes orders one after the other and has them run."""

    def __init__(
        self, jobs: Jobs, line: Line, permits: int, *, keep_logs: int = logging.INFO
    ) -> None:
        """Prepare.

        Args:
            jobs: To be run.
            line: For whom.
            permits: The end of a pipe that holds a byte for each order.
            keep_logs: Log lines from this level on are sent.
        """
        self._keep_logs = keep_logs
        self._jobs = jobs
        self._line = line
        self._permits = permits
        self._work: _Work = SimpleQueue()
        self._orders: deque[ClaimedExecution] = deque()
        self._taking = threading.Lock()  # an order and its permit, or all that are left
        self._said = b""  # the last end, until it is known what comes next
        self._current: ClaimedExecution | None = None
        self._open: ClaimedExecution | None = None  # under way, so that it can be told to end
        self._words: dict[str, str] = {}  # by the attempt's key: how it is to end
        self._over = asyncio.Event()
        self._own = asyncio.Runner()
        self._own_loop = self._own.get_loop()
        self._beside = asyncio.new_event_loop()
        self._here = self._make_runner(_MainThread(self._work))

    def serve(self) -> NoReturn:
        """Do on the main thread whatever is to be done there, until told to leave."""
        name = "netscript-context"
        threading.Thread(target=self._beside.run_forever, name=name, daemon=True).start()
        listen = threading.Thread(target=self._listen, name="netscript-parent", daemon=True)
        listen.start()
        self._line.tell({"t": "ready", "jobs": list(self._jobs)})
        while True:
            self._work.get()()

    def _make_runner(self, threads: Executor) -> InProcessRunner:
        journal = _Journal(self._line)
        catalog = _Catalog(self._jobs, self._line, self._key)
        return InProcessRunner(
            self._jobs,
            journal,
            self._end,
            threads=threads,
            catalog=catalog,
            keep_logs=self._keep_logs,
        )

    def _key(self) -> str:
        return "" if self._current is None else wire.key_of(self._current)

    def _listen(self) -> NoReturn:
        try:
            self._line.listen(self._hear)
        finally:  # deaf, it would hold its attempt for ever
            end_group()

    def _hear(self, message: Message) -> None:
        match message["t"]:
            case "run":
                self._orders.append(wire.load_claim(message["claim"]))
                self._work.put(self._next)
            case "recall":  # their permits are gone already
                with self._taking:
                    self._orders.clear()
                    self._line.tell({"t": "recalled"})
            case "cancel" | "drain" as word:
                # Kept first, for its order may still wait.
                wanted = message["k"]
                self._words[wanted] = word
                current = self._current
                if current is not None and wire.key_of(current) == wanted:
                    self._loop_of(current).call_soon_threadsafe(self._heed, current)
            case "leave":
                self._work.put(lambda: leave(0))
            case _:
                end_group()

    def _heed(self, claim: ClaimedExecution) -> None:
        """End it as was wanted, if it is under way."""
        if self._open is not claim:
            return
        match self._words.pop(wire.key_of(claim), None):
            case "cancel":
                self._here.cancel(claim.id)
            case "drain":
                self._here.drain()
            case _:
                pass

    def _loop_of(self, claim: ClaimedExecution) -> asyncio.AbstractEventLoop:
        return self._own_loop if self._jobs[claim.job_id].is_async else self._beside

    def _next(self) -> None:
        """Run the next execution, unless one is under way."""
        claim = self._begin()
        if claim is None:
            return
        if self._jobs[claim.job_id].is_async:
            self._own_loop.run_until_complete(self._attempts(claim))
        else:
            self._run_beside(claim)

    def _begin(self) -> ClaimedExecution | None:
        """Tell of the next execution that it begins, and how the last one ended; return it."""
        if self._current is not None:
            return None
        said, self._said = self._said, b""
        claim = self._take()
        if claim is None:
            if said:
                self._line.send(said)
            return None
        self._current = claim
        # From here on its death is its doing.
        self._line.send(said + wire.encode({"t": "begun", "k": wire.key_of(claim)}))
        return claim

    async def _attempts(self, claim: ClaimedExecution) -> None:
        """Run an attempt on this thread's loop, and those that are to run here after it.

        To leave the loop and enter it again for each would take longer than many handlers do.
        """
        while True:
            await self._attempt(claim)
            following = self._begin()
            if following is None:
                return
            if not self._jobs[following.job_id].is_async:
                self._run_beside(following)
                return
            claim = following

    def _run_beside(self, claim: ClaimedExecution) -> None:
        """Run an attempt on the other loop; its handler comes to the main thread by the queue."""
        asyncio.run_coroutine_threadsafe(self._attempt(claim), self._beside)

    def _take(self) -> ClaimedExecution | None:
        """Take the next order, if its permit was not taken back."""
        with self._taking:
            if not self._orders:
                return None
            claim = self._orders.popleft()
            try:
                return claim if os.read(self._permits, 1) else None
            except BlockingIOError:  # and so were those of all that are left
                self._orders.clear()
                return None

    async def _attempt(self, claim: ClaimedExecution) -> None:
        over = self._over = asyncio.Event()
        self._here.start(claim)
        self._open = claim
        self._heed(claim)  # what was wanted before
        await over.wait()

    def _end(self, claim: ClaimedExecution, outcome: Outcome | None) -> None:
        key = wire.key_of(claim)
        self._open = None
        self._words.pop(key, None)
        told = None if outcome is None else wire.dump_outcome(outcome)
        try:
            self._said = wire.encode({"t": "end", "k": key, "outcome": told})
        except wire.FrameTooLongError as error:
            refused = wire.dump_outcome(too_long(claim, str(error)))
            self._said = wire.encode({"t": "end", "k": key, "outcome": refused})
        over = self._over  # the next order may be begun as soon as there is no current one
        self._current = None
        self._work.put(self._next)
        over.set()


class _MainThread(Executor):
    """Has calls done on the main thread, which serves the desk's queue."""

    def __init__(self, work: _Work) -> None:
        self._work = work

    def submit(self, fn: Callable[A, T], /, *args: A.args, **kwargs: A.kwargs) -> Future[T]:
        done: Future[T] = Future()

        def call() -> None:
            try:
                done.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - whoever waits for it hears of it
                done.set_exception(error)

        self._work.put(call)
        return done


class _Journal:
    """Sends what an attempt leaves behind to the worker, who keeps it."""

    traces: Traces = NO_TRACES

    def __init__(self, line: Line) -> None:
        self._line = line
        if spans.recorder is not None:
            from netscript_workers.telemetry.forwarding import ChildTraces  # noqa: PLC0415 - the SDK

            self.traces = ChildTraces(wire.key_of, line.tell)

    async def load_steps(self, claim: ClaimedExecution) -> Mapping[str, str]:
        told = await asyncio.wrap_future(self._line.ask(wire.key_of(claim), "steps"))
        steps: dict[str, str] = told["parts"]
        return steps

    async def save_step(self, claim: ClaimedExecution, name: str, value: str) -> bool:
        asked = self._line.ask(wire.key_of(claim), "save", name=name, value=value)
        return bool((await asyncio.wrap_future(asked))["value"])

    def save_progress(self, claim: ClaimedExecution, percent: float, message: str | None) -> None:
        note = {"t": "progress", "k": wire.key_of(claim), "percent": percent, "message": message}
        self._line.tell(note)

    def save_log(self, claim: ClaimedExecution, at: int, level: str, message: str) -> None:
        line = {"t": "log", "k": wire.key_of(claim), "at": at, "level": level, "message": message}
        self._line.tell(line)


class _Catalog:
    """The jobs that are here; the worker knows of others."""

    def __init__(self, jobs: Jobs, line: Line, key: Callable[[], str]) -> None:
        self._jobs, self._line, self._key = jobs, line, key

    def prepare(self, job_id: str, payload: Any) -> PreparedJob:
        if job_id in self._jobs:
            return prepare(self._jobs[job_id], payload)
        try:
            text = to_stored_json({} if payload is None else payload)
        except ValueError as error:
            raise PayloadInvalidError(f'The payload of job "{job_id}": {error}') from error
        asked = self._line.ask(self._key(), "prepare", job=job_id, payload=text)
        return wire.load_prepared(asked.result()["value"])


def leave(code: int) -> NoReturn:
    """End with all that handlers have started, and without waiting for threads of theirs."""
    for pid in descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def end_group() -> NoReturn:
    """End at once, with all that handlers have started: the worker is gone."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def _end_with(parent: int) -> None:
    """Have the kernel end this process with its parent, and give it its orphans."""
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if os.getppid() != parent:  # it was quicker
        os._exit(1)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
