"""Tallies: numbers that are kept here and read when somebody collects them.

To hand each number to the SDK takes five microseconds, a tenth of what an execution costs. So what
happens often is only counted, and read as seldom as it is collected.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

# Values of an instrument's attributes, in their order.
Key: TypeAlias = tuple[str, ...]
Reading: TypeAlias = tuple[Key, float]

# Whatever users call their jobs and topics, an instrument has no more series than this.
MAX_SERIES = 1_000
OTHERS = "(others)"


class Count:
    """Adds up, by key; may be called from any thread."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._lock = threading.Lock()
        self._values: dict[Key, float] = {}

    def add(self, number: float, *key: str) -> None:
        """Add a number."""
        with self._lock:
            values = self._values
            if key not in values and len(values) >= MAX_SERIES:
                key = (OTHERS,) * len(key)
            values[key] = values.get(key, 0) + number

    def read(self) -> list[Reading]:
        """Return what has come together."""
        with self._lock:
            return list(self._values.items())


class Spread(NamedTuple):
    """How values are spread: how many lie under each bound and over the last, and their sum."""

    counts: tuple[int, ...]
    total: float
    least: float
    most: float


class _Buckets:
    __slots__ = ("counts", "least", "most", "total")

    def __init__(self, size: int) -> None:
        self.counts = [0] * size
        self.total = 0.0
        self.least = float("inf")
        self.most = float("-inf")


class Distribution:
    """Sorts values into buckets, by key; may be called from any thread."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """Begin with nothing; a bucket takes what is at most its bound."""
        self.bounds = tuple(bounds)
        self._lock = threading.Lock()
        self._buckets: dict[Key, _Buckets] = {}
        self._listeners: list[Callable[[float, Key], None]] = []

    def listen(self, listener: Callable[[float, Key], None]) -> None:
        """Have this called with every value."""
        self._listeners.append(listener)

    def record(self, value: float, *key: str) -> None:
        """Take a value."""
        self.record_all([value], *key)

    def record_all(self, values: list[float], *key: str) -> None:
        """Take some values; they are put in order."""
        values.sort()
        with self._lock:
            buckets = self._of(key)
            counts, bounds = buckets.counts, self.bounds
            if len(values) < len(bounds):
                for value in values:
                    counts[bisect_left(bounds, value)] += 1
            else:  # of many in order it is quicker to find where the bounds lie
                before = 0
                for place, bound in enumerate(bounds):
                    within = bisect_right(values, bound)
                    counts[place] += within - before
                    before = within
                counts[-1] += len(values) - before
            buckets.total += sum(values)
            buckets.least = min(buckets.least, values[0])
            buckets.most = max(buckets.most, values[-1])
        for listener in self._listeners:
            for value in values:
                listener(value, key)

    def _of(self, key: Key) -> _Buckets:
        found = self._buckets.get(key)
        if found is None and len(self._buckets) >= MAX_SERIES:
            key = (OTHERS,) * len(key)
            found = self._buckets.get(key)
        if found is None:
            found = self._buckets[key] = _Buckets(len(self.bounds) + 1)
        return found

    def read(self) -> list[tuple[Key, Spread]]:
        """Return what has come together."""
        with self._lock:
            return [
                (key, Spread(tuple(one.counts), one.total, one.least, one.most))
                for key, one in self._buckets.items()
            ]


class Gauge:
    """Is told what is, by those who know, when somebody collects."""

    def __init__(self) -> None:
        """Know of nobody."""
        self._sources: list[Callable[[], Iterable[Reading]]] = []

    def watch(self, source: Callable[[], Iterable[Reading]]) -> Callable[[], None]:
        """Ask this whenever somebody collects; return what ends that."""
        self._sources.append(source)

        def end() -> None:
            if source in self._sources:
                self._sources.remove(source)

        return end

    def read(self) -> list[Reading]:
        """Return what is; what several tell under one key is added up."""
        found: dict[Key, float] = {}
        for source in list(self._sources):
            for key, value in source():
                found[key] = found.get(key, 0) + value
        return list(found.items())
