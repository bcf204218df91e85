"""The runner `worker-process`: a pool of long-lived interpreters with an execution at a time each.

One more than needed is always kept warm: when a child dies, the spare serves in its place at once,
and a child that has served its time goes on serving until another one can.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import Any

from netscript_workers.domain import ClaimedExecution, Death
from netscript_workers.execution.outcome import START_AGAIN_SECONDS, handed_back, not_started
from netscript_workers.execution.runners.children import Child
from netscript_workers.execution.runners.processes import Attempt, ProcessRunner
from netscript_workers.execution.runners.seats import PATIENCE_SECONDS, Seats
from netscript_workers.execution.runners.trees import resident_bytes

logger = logging.getLogger(__name__)

_SPARE = 1
# A child that is busy with short executions is weighed so often; else after each.
_WEIGH_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Recycling:
    """When a child has served its time.

    Attributes:
        runs: After so many executions.
        bytes: When it holds more memory than this after one.
    """

    runs: int = 10_000
    bytes: int = 512 * 2**20


class PoolRunner(ProcessRunner):
    """Runs executions in a pool of interpreters that are started before they are needed."""

    def __init__(
        self, *args: Any, size: int, recycling: Recycling | None = None, **kwargs: Any
    ) -> None:
        """Start the pool.

        Args:
            *args: Those of every runner with processes.
            size: How many executions run at a time.
            recycling: When a child has served its time.
            **kwargs: Those of every runner with processes.
        """
        super().__init__(*args, **kwargs)
        self._size = size
        self._recycling = recycling or Recycling()
        self._fresh: deque[Child] = deque()
        self._worn: deque[Child] = deque()
        self._warming: set[Child] = set()
        self._good = 0  # children that are neither worn nor leaving, warm or not
        self._waiting: deque[Attempt] = deque()
        self._time = asyncio.get_running_loop().time
        self._seats = Seats(size)
        self._patience: asyncio.TimerHandle | None = None
        self._again: asyncio.TimerHandle | None = None
        self._balance()

    @property
    def ahead(self) -> int:
        """How many executions may wait here for a child, beyond those that run."""
        return self._seats.ahead

    def start(self, claim: ClaimedExecution) -> None:
        """Run an execution in a child that is warm, or in the next one that is."""
        attempt = Attempt(claim, since=self._time())
        self._attempts[claim.id] = attempt
        self._waiting.append(attempt)
        self._balance()
        self._keep_waiting()

    def close(self) -> None:
        """End every child, and start no more."""
        for timer in (self._again, self._patience):
            if timer is not None:
                timer.cancel()
        super().close()

    def _keep_waiting(self) -> None:
        """See to it that nobody waits here for long."""
        if self._patience is None and (
            self._waiting or any(len(given) > 1 for given in self._children.values())
        ):
            call_later = asyncio.get_running_loop().call_later
            self._patience = call_later(PATIENCE_SECONDS, self._hand_back)

    def _hand_back(self) -> None:
        """Let others have what was claimed ahead and has waited for too long, the last first."""
        self._patience = None
        late = self._time() - PATIENCE_SECONDS
        for child, given in self._children.items():
            if len(given) > 1 and given[0].since <= late:
                self._seats.held_up()
                self._recall(child)
        self._balance()
        while (
            self._waiting and len(self._attempts) > self._size and self._waiting[-1].since <= late
        ):
            self._seats.held_up()
            attempt = self._waiting.pop()
            self._finish(attempt, handed_back(attempt.claim))
        self._keep_waiting()

    def _recall(self, child: Child | None) -> None:
        count = 0 if child is None or child.is_dead else child.take_back()
        if child is None or not count:
            return
        child.tell({"t": "recall"})
        child.is_deaf = True
        given = self._children[child]
        for _ in range(count):
            attempt = given.pop()
            attempt.child = None
            if attempt.limit is not None:
                attempt.limit.cancel()
                attempt.limit = None
            self._waiting.appendleft(attempt)
        self._keep_waiting()
        # Not at once: whoever takes them back may have something else in mind for them.
        asyncio.get_running_loop().call_soon(self._balance)

    def _heard_recall(self, child: Child) -> None:
        if not self._children[child]:
            self._free(child)

    def _balance(self) -> None:
        """Give what waits to who is free, start who is missing, let go of who is worn."""
        while self._waiting and (child := self._choose()) is not None:
            attempt = self._waiting.popleft()
            if not self._children[child]:
                attempt.since = self._time()
            self._give(attempt, child)
        while self._good < self._size + _SPARE and self._again is None and not self._closed:
            born = self._bear()
            if born is None:
                self._fail("No process is to be had.")
                return
            self._warming.add(born)
            self._good += 1
        while self._fresh and self._worn:
            self._retire(self._worn.popleft())

    def _choose(self) -> Child | None:
        """Return who is to have the next execution: whoever is idle, or else has the least."""
        found: Child | None = None
        busy, least = 0, 1 + self._seats.each
        for child, given in self._children.items():
            if not given:
                continue
            busy += 1
            serves = given[0].ending is None and not child.is_worn and not child.is_deaf
            if serves and len(given) < least:
                found, least = child, len(given)
        idle = self._fresh or self._worn
        return idle.popleft() if idle and busy < self._size else found

    def _ready(self, child: Child) -> None:
        self._warming.discard(child)
        self._fresh.append(child)
        self._balance()

    def _done(self, attempt: Attempt, child: Child) -> None:
        self._children[child].popleft()
        child.runs += 1
        now = self._time()
        self._seats.took(now - attempt.since)
        self._finish(attempt, attempt.outcome)
        if not child.is_worn and self._is_worn(child, now):
            child.is_worn = True
            self._good -= 1  # another one is started in its place
            self._recall(child)
        if given := self._children[child]:
            given[0].since = now
        self._free(child)

    def _free(self, child: Child) -> None:
        if not (self._children[child] or child.is_deaf):
            (self._worn if child.is_worn else self._fresh).append(child)
        self._balance()

    def _is_worn(self, child: Child, now: float) -> bool:
        limits = self._recycling
        if child.runs >= limits.runs:
            return True
        if self._children[child] and now < child.weighed_at + _WEIGH_SECONDS:
            return False
        child.weighed_at = now
        return resident_bytes(child.pid) > limits.bytes

    def _died(self, child: Child, death: Death) -> None:
        given = self._children[child]
        while len(given) > 1:  # whoever it was that killed it, these had not begun
            attempt = given.pop()
            attempt.child = None
            self._waiting.appendleft(attempt)
        super()._died(child, death)

    def _gone(self, child: Child, death: Death) -> None:
        for idle in (self._fresh, self._worn):
            if child in idle:
                idle.remove(child)
        if not child.is_worn:
            self._good -= 1
        if child in self._warming:
            self._warming.discard(child)
            if not self._closed:
                self._fail(f"No process starts: {death}.")
        self._balance()

    def _fail(self, told: str) -> None:
        """Put off what waits: a new child is tried for only after a while."""
        if self._again is None:
            logger.error("the pool starts no process for %g s: %s", START_AGAIN_SECONDS, told)
            call_later = asyncio.get_running_loop().call_later
            self._again = call_later(START_AGAIN_SECONDS, self._try_again)
        if any(child not in self._warming for child in self._children):
            return  # there are others that serve
        while self._waiting:
            attempt = self._waiting.popleft()
            self._finish(attempt, not_started(attempt.claim, told))

    def _try_again(self) -> None:
        self._again = None
        self._balance()

    def _abandon(self, attempt: Attempt) -> None:
        self._waiting.remove(attempt)
        super()._abandon(attempt)
