"""The timeouts of many attempts, with one timer for all that have the same limit."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Deadlines(Generic[T]):
    """Tells when something has lasted too long. Lives on a loop.

    A timer each would cost more than a short attempt does. What has the same limit comes due in
    the order in which it began, so that one timer, for the first of them, is enough.
    """

    def __init__(self, on_late: Callable[[T], None]) -> None:
        """Call `on_late` once with whatever lasts longer than its limit."""
        self._on_late = on_late
        self._queues: dict[float, _Queue[T]] = {}

    def begin(self, item: T, limit: float) -> None:
        """Expect the end of an item within so many seconds."""
        queue = self._queues.get(limit)
        if queue is None:
            queue = self._queues[limit] = _Queue(limit, self._on_late)
        queue.add(item)

    def end(self, item: T, limit: float) -> None:
        """Take note that it has ended."""
        self._queues[limit].waiting.pop(item, None)

    def close(self) -> None:
        """Expect nothing any more."""
        for queue in self._queues.values():
            queue.close()


class _Queue(Generic[T]):
    def __init__(self, limit: float, on_late: Callable[[T], None]) -> None:
        self._limit = limit
        self._on_late = on_late
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        # By when, the earliest first; to remove any of them must not cost more than another.
        self.waiting: OrderedDict[T, float] = OrderedDict()

    def add(self, item: T) -> None:
        at = self.waiting[item] = self._loop.time() + self._limit
        if self._timer is None:
            self._timer = self._loop.call_at(at, self._look)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self.waiting.clear()

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self.waiting:
            item, at = next(iter(self.waiting.items()))
            if at > now:
                self._timer = self._loop.call_at(at, self._look)
                return
            del self.waiting[item]
            self._on_late(item)
