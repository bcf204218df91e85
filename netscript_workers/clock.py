"""Time as this project keeps it: microseconds since the Unix epoch, in UTC."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

MICROSECONDS = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The last instant a datetime can hold, so that whatever is stored can also be shown.
MAX_MICROS = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)


class Clock(Protocol):
    """Tells the time; tests pass one that they move by hand."""

    def now(self) -> int:
        """Return microseconds since the epoch."""
        ...


class SystemClock:
    """The clock of this machine."""

    def now(self) -> int:
        """Return microseconds since the epoch."""
        return time.time_ns() // 1000


SYSTEM_CLOCK = SystemClock()


class ManualClock:
    """A clock that only moves when told to."""

    def __init__(self, start: datetime | None = None) -> None:
        """Stand at `start`, or at the system's present."""
        self._now = to_micros(start) if start is not None else SYSTEM_CLOCK.now()

    def now(self) -> int:
        """Return microseconds since the epoch."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move by `seconds`; a negative number steps back, as clocks in the world do."""
        self._now += round(seconds * MICROSECONDS)


def to_micros(when: datetime) -> int:
    """Convert an aware datetime; a naive one is taken as UTC."""
    aware = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1)


def from_micros(micros: int) -> datetime:
    """Convert to an aware UTC datetime."""
    return _EPOCH + timedelta(microseconds=micros)


def to_rfc3339(micros: int) -> str:
    """Format as RFC 3339 in UTC with microseconds and a `Z`."""
    return from_micros(micros).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
