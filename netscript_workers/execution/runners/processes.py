"""What both runners with processes share: attempts in children, and how these end.

An attempt ends by its child's word, by the child's death, or because somebody wants it: then the
child is asked, what it has started gets SIGTERM, and after a grace the whole tree SIGKILL.
"""

from __future__ import annotations

import asyncio
import json
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from netscript_workers.actions import JobCatalog
from netscript_workers.domain import ClaimedExecution, Death, Outcome
from netscript_workers.errors import NetscriptError
from netscript_workers.execution.context import Journal
from netscript_workers.execution.outcome import (
    Cancelled,
    Drained,
    Ending,
    TimedOut,
    cancelled,
    conclude,
    not_begun,
    not_started,
    overruled,
)
from netscript_workers.execution.runners import wire
from netscript_workers.execution.runners.children import Child, Nursery
from netscript_workers.execution.runners.wire import Message
from netscript_workers.jobs import JobDefinition

logger = logging.getLogger(__name__)

# How long a child that has nothing to do any more may take to leave.
_LEAVE_SECONDS = 2.0
# So much of the steps of earlier attempts goes into one frame.
_STEPS_BYTES = 4 * 2**20


@dataclass(slots=True)
class Attempt:
    """An execution and, once it has begun, the child that runs it."""

    claim: ClaimedExecution
    since: float = 0.0  # by the loop's clock: when it began to wait, or was given to its child
    child: Child | None = None
    has_begun: bool = False  # the child has told that it begins
    ending: Ending | None = None  # why it is to end
    outcome: Outcome | None = None  # as the child has told it
    is_over: bool = False  # the child has told so
    dropped: bool = False
    limit: asyncio.TimerHandle | None = None
    kill: asyncio.TimerHandle | None = None


class ProcessRunner(ABC):
    """Runs executions in children. Its methods are called on the loop's thread."""

    def __init__(
        self,
        jobs: Mapping[str, JobDefinition[Any, Any]],
        journal: Journal,
        on_end: Callable[[ClaimedExecution, Outcome | None], None],
        on_crash: Callable[[ClaimedExecution, Death], None],
        *,
        nursery: Nursery,
        kill_grace: float,
        catalog: JobCatalog | None = None,
    ) -> None:
        """Prepare.

        Args:
            jobs: The jobs by id.
            journal: Keeps steps, progress and log lines.
            on_end: Called with every end but a crash; without an outcome where it was dropped.
            on_crash: Called instead where a handler killed its process.
            nursery: What children need.
            kill_grace: Seconds from SIGTERM to SIGKILL.
            catalog: Where actions that name a job by its id look it up.
        """
        self._jobs = jobs
        self._journal = journal
        self._on_end, self._on_crash = on_end, on_crash
        self._nursery = nursery
        self._kill_grace = kill_grace
        self._catalog = catalog
        self._attempts: dict[str, Attempt] = {}
        # What each was given, the one that it runs first.
        self._children: dict[Child, deque[Attempt]] = {}
        self._childless = asyncio.Event()
        self._childless.set()
        self._asked: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def running(self) -> int:
        """How many executions run, or wait for a child that starts."""
        return len(self._attempts)

    @property
    def left(self) -> list[str]:
        """The ids of these executions."""
        return list(self._attempts)

    @property
    def in_threads(self) -> list[str]:
        """Nothing: whatever runs in a process can be ended."""
        return []

    @property
    def pids(self) -> list[int]:
        """The numbers of its processes."""
        return [child.pid for child in self._children]

    @abstractmethod
    def start(self, claim: ClaimedExecution) -> None:
        """Run an execution."""

    def cancel(self, execution_id: str) -> None:
        """End an execution because somebody wants it."""
        attempt = self._attempts.get(execution_id)
        if attempt is not None:
            self._want_end(attempt, Cancelled(), "cancel")

    def hand_back(self) -> None:
        """Let others have what no child has begun, whether it waits for one or in one."""
        for child in self._children:
            self._recall(child)
        for attempt in list(self._attempts.values()):
            if attempt.child is None:
                self._abandon(attempt)

    def drain(self) -> None:
        """End what can be ended; it is stored as not having had its turn."""
        for attempt in list(self._attempts.values()):
            self._want_end(attempt, Drained(), "drain")

    def kill(self) -> None:
        """End now what was asked to."""
        for attempt in list(self._attempts.values()):
            if attempt.child is not None and attempt.ending is not None:
                attempt.child.kill()

    def drop(self, execution_id: str) -> None:
        """End an attempt whose end nobody wants to hear of, because others have the execution."""
        attempt = self._attempts.get(execution_id)
        if attempt is not None:
            attempt.dropped = True
            self._recall(attempt.child)
            if attempt.child is None:
                self._abandon(attempt)
            else:
                attempt.child.kill()

    def drop_all(self) -> None:
        """Drop every attempt."""
        for execution_id in list(self._attempts):
            self.drop(execution_id)

    def close(self) -> None:
        """End every child."""
        self._closed = True
        for child in list(self._children):
            child.kill()

    async def wait_closed(self) -> None:
        """Wait until no child is left."""
        await self._childless.wait()

    # For those who run attempts in children of one kind or another.

    def _bear(self) -> Child | None:
        """Start a child; None, and a word in the log, if none is to be had."""
        try:
            child = Child(self._nursery, on_message=self._hear, on_death=self._died)
        except OSError as error:
            logger.error("no process starts: %s", type(error).__name__)  # noqa: TRY400 - no trace helps
            return None
        self._children[child] = deque()
        self._childless.clear()
        return child

    def _give(self, attempt: Attempt, child: Child) -> None:
        """Have a child that is ready run an attempt, after those that it was given before."""
        claim = attempt.claim
        if claim.job_id not in child.jobs:
            self._finish(attempt, not_started(claim, f"It does not find the job {claim.job_id}."))
            self._free(child)
            return
        attempt.child = child
        given = self._children[child]
        given.append(attempt)
        if len(given) == 1:
            self._limit(attempt)
        child.permit()
        child.tell({"t": "run", "claim": wire.dump_claim(claim)})

    def _limit(self, attempt: Attempt) -> None:
        """Let its time run, if there is a limit."""
        limit = self._jobs[attempt.claim.job_id].timeout
        if limit is not None and attempt.limit is None:
            call_later = asyncio.get_running_loop().call_later
            attempt.limit = call_later(limit, self._want_end, attempt, TimedOut(limit), None)

    @abstractmethod
    def _recall(self, child: Child | None) -> None:
        """Take back what a child has not begun, if it was given more than it runs."""

    def _finish(self, attempt: Attempt, outcome: Outcome | None) -> None:
        """Take an attempt off the list, and tell how it ended."""
        del self._attempts[attempt.claim.id]
        for timer in (attempt.limit, attempt.kill):
            if timer is not None:
                timer.cancel()
        self._on_end(attempt.claim, None if attempt.dropped else outcome)

    def _retire(self, child: Child) -> None:
        """Have a child leave that has nothing to do any more."""
        child.tell({"t": "leave"})
        asyncio.get_running_loop().call_later(_LEAVE_SECONDS, child.kill)

    @abstractmethod
    def _ready(self, child: Child) -> None:
        """Use a child that has started."""

    @abstractmethod
    def _done(self, attempt: Attempt, child: Child) -> None:
        """Deal with a child that has told how its attempt ended, as nobody had to make it."""

    @abstractmethod
    def _free(self, child: Child) -> None:
        """Deal with a child that has nothing to do."""

    @abstractmethod
    def _heard_recall(self, child: Child) -> None:
        """Deal with a child that may be given executions again."""

    @abstractmethod
    def _gone(self, child: Child, death: Death) -> None:
        """Deal with the loss of a child; what it ran is dealt with."""

    # Ending.

    def _want_end(self, attempt: Attempt, ending: Ending, word: str | None) -> None:
        """Ask an attempt to end; its child knows by itself when its time is over."""
        if attempt.is_over:
            return
        if attempt.ending is None or isinstance(ending, Cancelled):
            attempt.ending = ending
        self._recall(attempt.child)
        child = attempt.child
        if child is None:
            self._abandon(attempt)
            return
        if word is not None:
            child.tell({"t": word, "k": wire.key_of(attempt.claim)})
        child.terminate()
        if attempt.kill is None:
            call_later = asyncio.get_running_loop().call_later
            attempt.kill = call_later(self._kill_grace, child.kill)

    def _abandon(self, attempt: Attempt) -> None:
        """End an attempt that no child has begun."""
        is_cancelled = isinstance(attempt.ending, Cancelled)
        claim = attempt.claim
        self._finish(attempt, cancelled(claim) if is_cancelled else not_begun(claim))

    def _died(self, child: Child, death: Death) -> None:
        given = self._children.pop(child)
        if not self._children:
            self._childless.set()
        if given:
            self._end_with(given[0], death)
        self._gone(child, death)

    def _end_with(self, attempt: Attempt, death: Death) -> None:
        claim = attempt.claim
        if attempt.is_over or attempt.dropped:
            self._finish(attempt, attempt.outcome)
        elif attempt.ending is not None:
            outcome = conclude(self._jobs[claim.job_id], claim, attempt.ending)
            self._finish(attempt, outcome)
        elif self._closed or not attempt.has_begun:
            self._finish(attempt, not_begun(claim))
        else:
            del self._attempts[claim.id]
            if attempt.limit is not None:
                attempt.limit.cancel()
            logger.error("execution %s killed its process: %s", claim.id, death)
            self._on_crash(claim, death)

    # Hearing.

    def _hear(self, child: Child, message: Message) -> None:
        kind = message.get("t")
        if kind == "ready":
            child.jobs = frozenset(message["jobs"])
            if not child.is_dead:
                self._ready(child)
            return
        if kind == "recalled":
            child.is_deaf = False
            if not child.is_dead:
                self._heard_recall(child)
            return
        if kind == "span":  # of whatever attempt: what it says stands in it
            self._take_span(message)
            return
        given = self._children.get(child)
        attempt = given[0] if given else None
        if attempt is None or message.get("k") != wire.key_of(attempt.claim) or attempt.is_over:
            if kind == "ask":  # of a thread that outlived its attempt
                child.tell({"t": "reply", "n": message["n"], "value": False})
            return
        try:
            self._take(child, attempt, message)
        except (KeyError, TypeError) as error:
            raise wire.FrameError("a message that lacks something") from error

    def _take_span(self, message: Message) -> None:
        try:
            self._journal.traces.take(message)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise wire.FrameError("a span that is none") from error

    def _take(self, child: Child, attempt: Attempt, message: Message) -> None:
        claim = attempt.claim
        match message["t"]:
            case "begun":
                attempt.has_begun = True
                self._journal.traces.begun(claim)
                self._limit(attempt)
            case "progress":
                self._journal.save_progress(claim, message["percent"], message["message"])
            case "log":
                self._journal.save_log(claim, message["at"], message["level"], message["message"])
            case "event":
                about, at = message["about"], message["at"]
                self._journal.traces.event(claim, message["name"], about, at)
            case "ask":
                task = asyncio.get_running_loop().create_task(self._answer(child, claim, message))
                self._asked.add(task)
                task.add_done_callback(self._asked.discard)
            case "end":
                told = wire.load_outcome(claim, message["outcome"])
                if attempt.ending is not None:
                    told = overruled(self._jobs[claim.job_id], claim, attempt.ending, told)
                attempt.outcome = told
                attempt.is_over = True
                if attempt.limit is not None:
                    attempt.limit.cancel()
                if attempt.ending is None and not child.is_dead:
                    self._done(attempt, child)
                else:
                    child.kill()  # and with it whatever it has started; then this is over
            case _:
                raise wire.FrameError("a message of no known kind")

    async def _answer(self, child: Child, claim: ClaimedExecution, message: Message) -> None:
        number = message["n"]
        try:
            match message["what"]:
                case "steps":
                    self._send_steps(child, number, await self._journal.load_steps(claim))
                    return
                case "save":
                    name, value = message["name"], message["value"]
                    answer: Any = await self._journal.save_step(claim, name, value)
                case _:
                    answer = await self._prepare(message)
            child.tell({"t": "reply", "n": number, "value": answer})
        except NetscriptError as error:
            child.tell({"t": "reply", "n": number, "error": wire.dump_error(error)})
        except Exception as error:  # noqa: BLE001 - raised in the handler, as it is in-process
            name = type(getattr(error, "orig", None) or error).__name__
            logger.warning("execution %s: its process could not be answered: %s", claim.id, name)
            failed = NetscriptError(f"Its worker could not answer: {name}.")
            child.tell({"t": "reply", "n": number, "error": wire.dump_error(failed)})

    async def _prepare(self, message: Message) -> Message:
        if self._catalog is None:
            raise NetscriptError(f"There is no catalog to look up {message['job']} in.")
        payload = json.loads(message["payload"])
        found = await asyncio.to_thread(self._catalog.prepare, message["job"], payload)
        return wire.dump_prepared(found)

    def _send_steps(self, child: Child, number: int, steps: Mapping[str, str]) -> None:
        """Send them in as many frames as they need."""
        parts: dict[str, str] = {}
        size = 0
        for name, value in steps.items():
            if parts and size + len(value) > _STEPS_BYTES:
                child.tell({"t": "reply", "n": number, "parts": parts, "more": True})
                parts, size = {}, 0
            parts[name] = value
            size += len(value)
        child.tell({"t": "reply", "n": number, "parts": parts, "value": True})
