"""Limits: how many executions run at a time, how many start in a second, a minute, an hour, a day.

Starts are spread evenly: of `100/m` one may start every 600 ms. Only what would come closer than
50 ms may come together, for nobody looks at the database more often than that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from netscript_workers.clock import MICROSECONDS
from netscript_workers.domain import Limit
from netscript_workers.errors import ConfigurationError
from netscript_workers.options import check_type

_PERIODS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
RATE_PATTERN = "^([1-9][0-9]{0,5})/([smhd])$"
_RATE = re.compile(RATE_PATTERN)
_TOGETHER = MICROSECONDS // 20
# What a column of the database holds.
_MOST_CONCURRENT = 2**31 - 1
_HINT = "Write how many and in what time, such as 10/s, 100/m, 1000/h or 1/d."


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate, in microseconds.

    Attributes:
        interval: From one start to the next.
        burst: How many may start together.
    """

    interval: int
    burst: int

    def take(self, used_until: int | None, now: int, wanted: int) -> tuple[int, int]:
        """Take as many starts as there are, at most those that are wanted.

        This is the generic cell rate algorithm: one number is all that is kept.

        Args:
            used_until: What the last call returned; None at first.
            now: The present.
            wanted: How many starts would be used.

        Returns:
            How many may start, and until when the rate is used up from then on.
        """
        used = self._used(used_until, now)
        free = (now - used) // self.interval + self.burst
        taken = max(min(free, wanted), 0)
        return taken, used + taken * self.interval

    def next_at(self, used_until: int | None, now: int) -> int:
        """Return when the next one may start; not before `now`."""
        return max(self._used(used_until, now) - (self.burst - 1) * self.interval, now)

    def _used(self, used_until: int | None, now: int) -> int:
        # No more than this is ever used ahead: the clock was set back, or the rate was lower.
        most = now + self.burst * self.interval
        return now if used_until is None or not now < used_until <= most else used_until


@lru_cache(maxsize=1024)
def parse_rate(text: str) -> Rate:
    """Read a rate such as `10/s`.

    Raises:
        ValueError: It is none; the message says what one looks like.
    """
    found = _RATE.fullmatch(text)
    if found is None:
        raise ValueError(_HINT)
    period = _PERIODS[found[2]] * MICROSECONDS
    interval = -(-period // int(found[1]))
    return Rate(interval, max(_TOGETHER // interval, 1))


def check_rate(owner: str, rate: str | None) -> None:
    """Refuse a rate that can't be read.

    Raises:
        ConfigurationError: It is none.
    """
    if rate is None:
        return
    check_type(owner, "rate", rate, str, "text such as 10/s")
    try:
        parse_rate(rate)
    except ValueError as error:
        raise ConfigurationError(f"{owner}: rate={rate!r} is no rate.", hint=str(error)) from error


def check_limits(owner: str, max_concurrency: int | None, rate: str | None) -> None:
    """Refuse limits of a job that can't be kept.

    Raises:
        ConfigurationError: They can't.
    """
    if max_concurrency is not None:
        check_type(owner, "max_concurrency", max_concurrency, int, "a whole number, or None")
        if not 1 <= max_concurrency <= _MOST_CONCURRENT:
            raise ConfigurationError(
                f"{owner}: max_concurrency={max_concurrency!r} must be from 1 to "
                f"{_MOST_CONCURRENT}.",
                hint="None stands for no limit; pause the topic to run none.",
            )
    check_rate(owner, rate)


def limit_of(max_concurrency: int | None, rate: str | None) -> Limit | None:
    """Return what an execution of a job waits for at its gate; None if the job has no limit."""
    if max_concurrency is not None:
        return "job limit"
    return None if rate is None else "rate limit"
