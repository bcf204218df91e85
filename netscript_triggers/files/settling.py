"""When a file is finished: nothing says so but that it has stopped changing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from netscript_workers.errors import ConfigurationError

_SOONEST = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Stability:
    """When a file counts as finished: it was the same in several looks.

    Args:
        interval: Seconds between two looks.
        checks: So many looks have to find the same size, time of change and inode.

    Raises:
        ConfigurationError: A value makes no sense.
    """

    interval: float = 1.0
    checks: int = 3

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        check_seconds("Stability", "interval", self.interval)
        if type(self.checks) is not int or self.checks < 1:
            raise ConfigurationError(
                f"Stability(checks={self.checks!r}) must be a whole number, 1 or more."
            )

    @property
    def seconds(self) -> float:
        """What it takes at least."""
        return self.interval * (self.checks - 1)


def check_seconds(owner: str, name: str, value: Any) -> None:
    """Refuse what is no number of seconds.

    Raises:
        ConfigurationError: It is none.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:
        raise ConfigurationError(
            f"{owner}: {name}={value!r} must be a number of seconds, zero or more."
        )


class Stamp(NamedTuple):
    """What tells that a file was touched: size in bytes, time of change in nanoseconds, inode."""

    size: int
    mtime_ns: int
    inode: int


@dataclass(slots=True)
class _Look:
    stamp: Stamp
    since: float
    looks: int
    next_at: float


class Settling:
    """The files that are not finished yet. The caller says what time it is."""

    def __init__(self, stability: Stability, debounce: float) -> None:
        """Know of no file yet."""
        self._stability = stability
        self._debounce = debounce
        self._files: dict[str, _Look] = {}

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, path: str) -> bool:
        return path in self._files

    @property
    def stamps(self) -> dict[Stamp, str]:
        """The paths by their stamps."""
        return {look.stamp: path for path, look in self._files.items()}

    def note(self, path: str, stamp: Stamp, now: float) -> None:
        """Take a file up, or notice that it has changed."""
        known = self._files.get(path)
        if known is None or known.stamp != stamp:
            self._files[path] = _Look(stamp, now, 1, now + self._wait)

    def due(self, now: float) -> list[str]:
        """Return the files that should be looked at."""
        return [path for path, look in self._files.items() if look.next_at <= now]

    def next_at(self) -> float:
        """Return when the next one should be looked at."""
        return min((look.next_at for look in self._files.values()), default=math.inf)

    def look(self, path: str, stamp: Stamp, now: float) -> bool:
        """Take in how a file looks now; tell whether it is finished."""
        known = self._files[path]
        if known.stamp != stamp:
            self.note(path, stamp, now)
            return False
        known.looks += 1
        known.next_at = now + self._wait
        return known.looks >= self._stability.checks and now - known.since >= self._debounce

    def forget(self, path: str) -> None:
        """Let go of a file."""
        self._files.pop(path, None)

    def clear(self) -> None:
        """Let go of all."""
        self._files.clear()

    @property
    def _wait(self) -> float:
        """Seconds until the next look."""
        once = self._stability.checks == 1
        return max(self._debounce if once else self._stability.interval, _SOONEST)
