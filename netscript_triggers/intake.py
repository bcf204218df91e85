"""The intake: deliveries that wait are looked up and handled together, in a thread of their own.

A hand-over between threads costs more than most handlers do. So one thread, the one that has the
turn, takes all that has arrived, has it looked up in one read, and calls the `def` handlers one
after the other. When a handler blocks, another thread gets the turn and goes on with the rest:
nobody waits more than a few milliseconds for a neighbour's slow handler, and while several of a
trigger block, the next one is called beside the turn from the start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from netscript_triggers.lanes import Lanes

T = TypeVar("T", bound="Arrival")

THREADS = 64
# A handler that takes longer than this loses the turn.
PATIENCE = 0.005
# What is looked up, or stored, together.
AT_A_TIME = 256
# The loop hands over what it has gathered after this at the latest.
GATHER_SECONDS = 0.005
# What was handled waits no longer than this for others to be handled.
READY_SECONDS = 0.02

logger = logging.getLogger(__name__)


class Arrival:
    """Something that has arrived; who waits for what becomes of it waits for `future`.

    Attributes:
        lane: The trigger's id: those of one lane share what their handlers may block.
        since: When its handler could have been called, on the monotonic clock.
        called: Its handler was called.
        given_up: Its handler took too long: what it returns is not taken any more.
    """

    __slots__ = ("called", "future", "given_up", "lane", "since")

    future: asyncio.Future[Any]

    def __init__(self, lane: str) -> None:
        """Take it; the future is given when somebody waits."""
        self.lane = lane
        self.since = 0.0
        self.called = False
        self.given_up = False


@dataclass(slots=True)
class _Turn(Generic[T]):
    """What whoever has the turn works on, and the next one goes on with."""

    todo: Lanes[T]
    arrived: deque[T] = field(default_factory=deque[T])
    ready: list[T] = field(default_factory=list[T])
    ready_since: float = 0.0

    @property
    def is_ripe(self) -> bool:
        """Whether what is ready should not wait for what is still to be handled."""
        if not self.ready:
            return False
        return (
            not self.todo.can_take
            or len(self.ready) >= AT_A_TIME
            or time.monotonic() - self.ready_since > READY_SECONDS
        )


class Intake(Generic[T]):
    """Takes arrivals on the loop's thread; looks up, handles and passes them on in threads.

    One thread always stays free of handlers: when all others are blocked, what needs no handler
    here goes on, and what needs one is given up after its time.
    """

    def __init__(
        self,
        *,
        look_up: Callable[[Sequence[T]], Sequence[T]],
        handle: Callable[[T], Callable[[], None] | None],
        pass_on: Callable[[Sequence[T]], None],
        give_up: Callable[[T], None],
        limit: Callable[[], float],
        threads: int = THREADS,
    ) -> None:
        """Prepare; `start()` starts the first thread.

        Args:
            look_up: Answers those that are known, and returns those that are to be handled.
            handle: Calls the handler of one, and returns what keeps its outcome; None where there
                is nothing to be passed on.
            pass_on: Has stored what was handled.
            give_up: Called on the loop with one whose handler took too long.
            limit: Seconds that a handler may take from the moment it could have been called.
            threads: How many threads there are at most; one of them never calls a handler.
        """
        self._look_up = look_up
        self._handle = handle
        self._pass_on = pass_on
        self._give_up = give_up
        self._limit = limit
        self._most = threads
        self._loop: asyncio.AbstractEventLoop
        self._gathered: list[T] = []
        self._gathered_since = 0.0
        self._turn: _Turn[T] = _Turn(Lanes(threads - 1))
        self._changed = threading.Condition()
        # Which thread has the turn, by a number; None while nobody has it.
        self._holder: int | None = None
        self._turns = 0
        self._called: T | None = None
        self._called_at = 0.0
        self._open: dict[T, None] = {}
        self._idle = 0
        self._started = 0
        self._watching = False
        self._closed = False

    def start(self) -> None:
        """Start the first thread."""
        with self._changed:
            self._start_thread()

    def close(self) -> None:
        """Work on what has arrived, then end; a handler that blocks is left to itself.

        Called on the loop's thread.
        """
        with self._changed:
            self._closed = True
            self._give()
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._holder is None and not self._has_work(), timeout=PATIENCE * 20
            )

    # On the loop's thread.

    def put(self, arrival: T) -> None:
        """Take an arrival."""
        self._gathered.append(arrival)
        if len(self._gathered) == 1:
            self._loop = arrival.future.get_loop()
            self._gathered_since = time.monotonic()
            self._loop.call_soon(self._hand_over, 0)

    def _hand_over(self, before: int) -> None:
        """Give the threads what has arrived, once the loop has no more of it at hand.

        A thread that worked on the first of many would wrangle with the loop over the GIL for the
        rest of them, which costs both more than their work. So whoever has the turn ends it first,
        and what its answers bring goes along.
        """
        size = len(self._gathered)
        early = time.monotonic() - self._gathered_since < GATHER_SECONDS
        if before < size < AT_A_TIME and early:
            self._loop.call_soon(self._hand_over, size)
            return
        with self._changed:
            if self._holder is None:
                self._give()
        if not self._watching:
            self._watching = True
            self._watch_soon()

    def _give(self) -> None:
        self._turn.arrived.extend(self._gathered)
        self._gathered.clear()
        self._changed.notify()

    def _watch_soon(self) -> None:
        self._loop.call_later(PATIENCE, self._watch)

    def _watch(self) -> None:
        """Pass the turn on where a handler blocks; give up those that take too long."""
        with self._changed:
            now = time.monotonic()
            if self._called is not None and now - self._called_at > PATIENCE:
                self._leave_behind(self._called)
                self._give()
            late = self._too_late(now - self._limit())
            # Whoever has the turn may be looking up what is on no list meanwhile.
            self._watching = self._holder is not None or bool(self._open) or self._has_some()
        if self._watching:
            self._watch_soon()
        for arrival in late:
            self._give_up(arrival)

    def _too_late(self, before: float) -> list[T]:
        late: list[T] = []
        for arrival in self._open:
            if arrival.since >= before:
                break
            arrival.given_up = True
            late.append(arrival)
        for arrival in late:
            del self._open[arrival]
        if late:
            self._turn.todo.keep(lambda arrival: not arrival.given_up)
        return late

    # On the threads.

    def _start_thread(self) -> None:
        if self._started >= self._most:
            return
        name = f"netscript-intake-{self._started}"
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        with contextlib.suppress(RuntimeError):  # no more threads to be had; those there are go on
            thread.start()
            self._started += 1

    def _run(self) -> None:
        while (mine := self._wait_for_turn()) is not None:
            try:
                while self._go_on(mine):
                    pass
            except BaseException as error:  # noqa: BLE001 - nobody else would take the turn
                # Without the traceback, which may show what was delivered.
                logger.error("the intake lost a step: %s", type(error).__name__)  # noqa: TRY400 - no trace
                with self._changed:
                    if self._holder == mine:
                        self._end_turn()

    def _wait_for_turn(self) -> int | None:
        with self._changed:
            while self._holder is not None or not self._has_work():
                if self._closed and self._holder is None:
                    return None
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
            self._turns += 1
            self._holder = self._turns
            return self._turns

    def _may_call(self) -> bool:
        """Tell whether somebody else could go on if a handler blocked this thread."""
        return self._idle > 0 or self._started < self._most

    def _has_some(self) -> bool:
        return bool(self._turn.arrived or self._turn.todo or self._turn.ready)

    def _has_work(self) -> bool:
        turn = self._turn
        return bool(turn.arrived or turn.ready or (turn.todo.can_take and self._may_call()))

    def _go_on(self, mine: int) -> bool:
        """Do the next thing there is to do; False once the turn is over."""
        turn = self._turn
        arrival: T | None = None
        arrived: list[T] = []
        ready: list[T] = []
        with self._changed:
            if self._holder != mine:
                return False
            may_call = self._may_call()
            if turn.is_ripe or (turn.ready and not may_call):
                ready, turn.ready = turn.ready, ready
            elif may_call and (arrival := turn.todo.take()) is not None:
                arrival.called = True
                if turn.todo.is_slow(arrival.lane):
                    self._leave_behind(arrival)
                else:
                    self._called, self._called_at = arrival, time.monotonic()
            elif turn.arrived:
                arrived = [turn.arrived.popleft() for _ in range(min(len(turn.arrived), AT_A_TIME))]
            else:
                self._end_turn()
                return False
        if arrival is not None:
            self._call(arrival, mine)
        elif ready:
            self._pass_on(ready)
        else:
            self._admit(self._look_up(arrived))
        return True

    def _leave_behind(self, arrival: T) -> None:
        """Take the turn from the thread that calls this one's handler."""
        self._turn.todo.block(arrival.lane)
        self._holder = self._called = None
        if not self._idle:
            self._start_thread()
        self._changed.notify()
        self._ask_for_more()

    def _end_turn(self) -> None:
        self._holder = self._called = None
        self._changed.notify_all()
        self._ask_for_more()

    def _ask_for_more(self) -> None:
        """Have the loop hand over what it has kept while somebody had the turn."""
        if self._gathered:
            self._gathered_since = time.monotonic()
            with contextlib.suppress(RuntimeError):  # the loop was closed; nobody waits any more
                self._loop.call_soon_threadsafe(self._hand_over, 0)

    def _admit(self, arrivals: Sequence[T]) -> None:
        now = time.monotonic()
        with self._changed:
            for arrival in arrivals:
                arrival.since = now
                self._open[arrival] = None
            self._turn.todo.add(arrivals)

    def _call(self, arrival: T, mine: int) -> None:
        try:
            keep = self._handle(arrival)
        finally:
            has_turn = self._come_back(arrival, mine)
        with self._changed:
            if arrival.given_up:
                return
            del self._open[arrival]
            if keep is None:
                return
            keep()
            if has_turn:
                turn = self._turn
                if not turn.ready:
                    turn.ready_since = time.monotonic()
                turn.ready.append(arrival)
                return
        self._pass_on([arrival])

    def _come_back(self, arrival: T, mine: int) -> bool:
        """Tell whether the thread still has the turn after a handler."""
        with self._changed:
            if self._holder == mine:
                self._called = None
                return True
            self._turn.todo.unblock(arrival.lane)
            self._changed.notify()
            return False
