"""The intake: deliveries that wait are looked up and handled together, in a thread of their own.

A hand-over between threads costs more than most handlers do. So one thread, the one that has the
turn, takes all that has arrived, has it looked up in one read, and calls the `def` handlers one
after the other. When a handler blocks, another thread gets the turn and goes on with the rest:
nobody waits more than a few milliseconds for a neighbour's slow handler.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound="Arrival")

THREADS = 32
# A handler that takes longer than this loses the turn.
PATIENCE = 0.005


class Arrival:
    """Something that has arrived; who waits for what becomes of it waits for `future`.

    Attributes:
        since: When its handler could have been called, on the monotonic clock.
        given_up: Its handler took too long: what it returns is not taken any more.
    """

    __slots__ = ("future", "given_up", "since")

    future: asyncio.Future[Any]

    def __init__(self) -> None:
        """Take it; the future is given when somebody waits."""
        self.since = 0.0
        self.given_up = False


@dataclass(slots=True)
class _Turn(Generic[T]):
    """What whoever has the turn works on, and the next one goes on with."""

    arrived: deque[T] = field(default_factory=deque[T])
    todo: deque[T] = field(default_factory=deque[T])
    ready: list[T] = field(default_factory=list[T])


class Intake(Generic[T]):
    """Takes arrivals on the loop's thread; looks up, handles and passes them on in threads.

    `limit` is how many seconds a handler may take from the moment it could have been called.
    """

    def __init__(
        self,
        *,
        look_up: Callable[[Sequence[T]], Sequence[T]],
        handle: Callable[[T], bool],
        pass_on: Callable[[Sequence[T]], None],
        give_up: Callable[[T], None],
        limit: Callable[[], float],
        threads: int = THREADS,
    ) -> None:
        """Prepare; `start()` starts the first thread.

        Args:
            look_up: Answers those that are known, and returns those that are to be handled.
            handle: Calls the handler of one, and tells whether it is to be passed on.
            pass_on: Has stored what was handled.
            give_up: Called on the loop with one whose handler took too long.
            limit: Seconds that a handler may take from the moment it could have been called.
            threads: How many handlers can block at once.
        """
        self._look_up = look_up
        self._handle = handle
        self._pass_on = pass_on
        self._give_up = give_up
        self._limit = limit
        self._most = threads
        self._turn: _Turn[T] = _Turn()
        self._changed = threading.Condition()
        # Which thread has the turn, by a number; None while nobody has it.
        self._holder: int | None = None
        self._turns = 0
        self._called_at: float | None = None
        self._open: dict[T, None] = {}
        self._idle = 0
        self._threads: list[threading.Thread] = []
        self._watching = False
        self._closed = False

    def start(self) -> None:
        """Start the first thread."""
        with self._changed:
            self._start_thread()

    def close(self) -> None:
        """Work on what has arrived, then end; a handler that blocks is left to itself."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._holder is None, timeout=PATIENCE * 20)

    # On the loop's thread.

    def put(self, arrival: T) -> None:
        """Take an arrival."""
        with self._changed:
            self._turn.arrived.append(arrival)
            if self._holder is None:
                self._changed.notify()
        if not self._watching:
            self._watching = True
            self._watch_soon(arrival.future.get_loop())

    def _watch_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(PATIENCE, self._watch, loop)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Pass the turn on where a handler blocks; give up those that take too long."""
        now = time.monotonic()
        late: list[T] = []
        with self._changed:
            if self._called_at is not None and now - self._called_at > PATIENCE:
                self._holder = self._called_at = None
                if not self._idle and len(self._threads) < self._most:
                    self._start_thread()
                self._changed.notify()
            for arrival in self._open:
                if now - arrival.since <= self._limit():
                    break
                arrival.given_up = True
                late.append(arrival)
            for arrival in late:
                del self._open[arrival]
            # Whoever has the turn may be looking up what is on no list meanwhile.
            self._watching = self._holder is not None or bool(self._open) or self._has_work()
        if self._watching:
            self._watch_soon(loop)
        for arrival in late:
            self._give_up(arrival)

    # On the threads.

    def _start_thread(self) -> None:
        name = f"netscript-intake-{len(self._threads)}"
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        while (mine := self._wait_for_turn()) is not None:
            while self._go_on(mine):
                pass

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

    def _has_work(self) -> bool:
        return bool(self._turn.arrived or self._turn.todo or self._turn.ready)

    def _go_on(self, mine: int) -> bool:
        """Do the next thing there is to do; False once the turn is over."""
        turn = self._turn
        arrival: T | None = None
        arrived: list[T] = []
        ready: list[T] = []
        with self._changed:
            if self._holder != mine:
                return False
            if turn.todo:
                arrival = turn.todo.popleft()
                if arrival.given_up:
                    return True
                self._called_at = time.monotonic()
            elif turn.ready:
                ready, turn.ready = turn.ready, ready
            elif turn.arrived:
                arrived.extend(turn.arrived)
                turn.arrived.clear()
            else:
                self._holder = None
                self._changed.notify_all()
                return False
        if arrival is not None:
            self._call(arrival, mine)
        elif ready:
            self._pass_on(ready)
        else:
            self._admit(self._look_up(arrived))
        return True

    def _admit(self, arrivals: Sequence[T]) -> None:
        now = time.monotonic()
        with self._changed:
            for arrival in arrivals:
                arrival.since = now
                self._open[arrival] = None
            self._turn.todo.extend(arrivals)

    def _call(self, arrival: T, mine: int) -> None:
        wanted = self._handle(arrival)
        with self._changed:
            has_turn = self._holder == mine
            if has_turn:
                self._called_at = None
            if arrival.given_up:
                return
            del self._open[arrival]
            if wanted and has_turn:
                self._turn.ready.append(arrival)
                return
        if wanted:
            self._pass_on([arrival])
