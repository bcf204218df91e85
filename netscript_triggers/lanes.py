"""Lanes: what waits for its handler, trigger by trigger, so that one that blocks leaves room."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar


class InLane(Protocol):
    """Something that waits in a lane."""

    @property
    def lane(self) -> str:
        """The trigger's id."""
        ...


T = TypeVar("T", bound=InLane)

# One handler that blocks may be an exception; of several at a time that is not to be expected.
_SLOW = 2


class Lanes(Generic[T]):
    """Gives out what waits, lane after lane.

    A lane whose handlers block gets no more threads than it leaves to all others: the first one at
    most half of them, the next one half of the rest. Not safe for threads by itself.
    """

    def __init__(self, threads: int) -> None:
        """Prepare for handlers that run in so many threads."""
        self._free = threads
        self._waiting: dict[str, deque[T]] = {}
        self._blocked: Counter[str] = Counter()

    def add(self, several: Iterable[T]) -> None:
        """Have them wait."""
        for one in several:
            self._waiting.setdefault(one.lane, deque()).append(one)

    def take(self) -> T | None:
        """Return the next one that may be handled."""
        lane = self._next()
        if lane is None:
            return None
        waiting = self._waiting.pop(lane)
        first = waiting.popleft()
        if waiting:  # the other lanes come first now
            self._waiting[lane] = waiting
        return first

    @property
    def can_take(self) -> bool:
        """Whether there is one that may be handled."""
        return self._next() is not None

    def keep(self, wanted: Callable[[T], bool]) -> None:
        """Forget all that are not wanted any more."""
        kept = {lane: deque(filter(wanted, waiting)) for lane, waiting in self._waiting.items()}
        self._waiting = {lane: waiting for lane, waiting in kept.items() if waiting}

    def block(self, lane: str) -> None:
        """A handler of this lane keeps a thread to itself."""
        self._blocked[lane] += 1
        self._free -= 1

    def unblock(self, lane: str) -> None:
        """It has come to its end."""
        self._blocked[lane] -= 1
        self._free += 1
        if not self._blocked[lane]:
            del self._blocked[lane]

    def is_slow(self, lane: str) -> bool:
        """Tell whether the next handler of this lane is likely to block as well."""
        return self._blocked[lane] >= _SLOW

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def _next(self) -> str | None:
        for lane in self._waiting:
            if self._blocked[lane] < max(self._free, 1):
                return lane
        return None
