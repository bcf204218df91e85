"""Limits by key: how often somebody may do something, for as many somebodies as memory allows."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from netscript_workers.clock import MICROSECONDS
from netscript_workers.rates import Rate

# Whoever was heard of longest ago is forgotten first.
MAX_KEYS = 10_000


class Limiter:
    """A rate for each key."""

    def __init__(self, rate: Rate, now: Callable[[], float] = time.monotonic) -> None:
        """Prepare.

        Args:
            rate: Of every key.
            now: Seconds on a clock that is never set.
        """
        self._rate = rate
        self._now = now
        self._used: OrderedDict[Hashable, int] = OrderedDict()

    def take(self, key: Hashable) -> int:
        """Take one; return 0, or the seconds after which there is one again."""
        now = self._micros()
        taken, used = self._rate.take(self._used.get(key), now, 1)
        if not taken:
            return self.wait(key)
        self._used[key] = used
        self._used.move_to_end(key)
        if len(self._used) > MAX_KEYS:
            self._used.popitem(last=False)
        return 0

    def wait(self, key: Hashable) -> int:
        """Return the seconds after which there is one, 0 if there is one now; take nothing."""
        now = self._micros()
        return math.ceil((self._rate.next_at(self._used.get(key), now) - now) / MICROSECONDS)

    def _micros(self) -> int:
        return int(self._now() * MICROSECONDS)


def per_minute(count: int) -> Rate:
    """Return the rate of so many in a minute, all of which may come together."""
    return Rate(max(60 * MICROSECONDS // count, 1), count)
