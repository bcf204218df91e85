"""Instants: when a cron expression is due in a time zone, whatever the clocks there do.

croniter says which wall-clock times an expression names; which instants those are is said here.
(Given a zone, croniter fires a time that a clock change repeats twice.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from itertools import takewhile
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from netscript_workers.errors import ConfigurationError

SHIFTED = "shifted by clock change"
REPEATED = "repeated hour"

_SECOND = timedelta(seconds=1)
# No clock was ever set back by more than a day, and none is set twice within three hours.
_STRETCH = timedelta(hours=36)
_STEP = timedelta(hours=3)

_MAX_LENGTH = 512
_NAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
# The steps that make sense in each field: minute, hour, day, month, weekday.
_LONGEST_STEPS = (59, 23, 31, 12, 7)
# Only what cron has everywhere goes on to the parser: no hashed or random fields, no number that
# is long enough to fill the memory.
_VALUE = r"(?:\d{1,2}|[a-z]{3})"
_PART = re.compile(
    rf"(?:(?:\*|{_VALUE}(?:-{_VALUE})?)(?:/(\d{{1,2}}))?|\?|l[0-7]?|{_VALUE}#[1-5])", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Instant:
    """When something is due.

    Attributes:
        at: In UTC.
        note: What a clock change has to do with it, or what a scheduler did about it.
    """

    at: datetime
    note: str | None = None

    def noted(self, note: str) -> Instant:
        """Return it with one more note."""
        return Instant(self.at, f"{self.note}; {note}" if self.note else note)


class Instants(Protocol):
    """Knows the instants at which something is due."""

    def after(self, start: datetime) -> Iterator[Instant]:
        """Yield the instants after `start`, each once, in their order."""
        ...


_HINT = (
    "The five fields are minute (0-59), hour (0-23), day of the month (1-31), month (1-12) and day "
    "of the week (0-7 or mon-sun), as in 30 6 * * mon-fri."
)


def parse_cron(owner: str, expression: str) -> str:
    """Return an expression in its plain form: five fields, lower case, single blanks.

    Raises:
        ConfigurationError: It has not five fields, can't be read, or can never be due.
    """
    told = repr(expression if len(expression) <= 60 else f"{expression[:60]}…")
    if len(expression) > _MAX_LENGTH:
        raise ConfigurationError(f"{owner}: cron={told} is longer than {_MAX_LENGTH} characters.")
    plain = " ".join(expression.lower().split())
    plain = _NAMES.get(plain, plain)
    fields = plain.split()
    if plain.startswith("@"):
        raise ConfigurationError(
            f"{owner}: there is no cron={told}.", hint=f"Use one of {', '.join(_NAMES)}."
        )
    if len(fields) != 5:
        raise ConfigurationError(
            f"{owner}: cron={told} must have five fields.",
            hint=_HINT,
        )
    for field, longest in zip(fields, _LONGEST_STEPS, strict=True):
        for part in field.split(","):
            read = _PART.fullmatch(part)
            if read is None:
                raise ConfigurationError(
                    f"{owner}: cron={told} can't be read: {part[:40]!r}.", hint=_HINT
                )
            if read[1] is not None and int(read[1]) > longest:
                raise ConfigurationError(
                    f"{owner}: cron={told} steps over its own field: {part!r}.",
                    hint=f"Steps there go up to {longest}.",
                )
    _try(owner, plain, told)
    return plain


def _try(owner: str, plain: str, told: str) -> None:
    from croniter import (  # noqa: PLC0415 - what has no schedule need not wait for it
        CroniterBadDateError,
        CroniterError,
    )

    try:
        next(_walls(plain, datetime(2024, 1, 1)))  # noqa: DTZ001 - a wall-clock time
    except CroniterBadDateError as error:
        raise ConfigurationError(
            f"{owner}: cron={told} can never be due.", hint="No month has such a day."
        ) from error
    except (CroniterError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{owner}: cron={told} can't be read: {error}.", hint=_HINT
        ) from error


def parse_zone(owner: str, name: str) -> str:
    """Return the name of a time zone that there is.

    Raises:
        ConfigurationError: There is none of that name.
    """
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # a folder of zones is an OSError
        raise ConfigurationError(
            f"{owner}: there is no time zone {name[:80]!r}.",
            hint="Use a name such as Europe/Paris; without a system's own zones, install tzdata.",
        ) from error
    return name


@dataclass(frozen=True, slots=True)
class CronInstants:
    """The instants of a cron expression.

    An expression names wall-clock times. One that a clock change skips is due at the change, one
    that it repeats is due the first time. But one of every hour, or that says `*` or `*/n` for the
    minute and a range or a step for the hour, means an interval: it follows elapsed time, so a
    quarter of an hour is one on every day.
    """

    expression: str
    zone: str

    def after(self, start: datetime) -> Iterator[Instant]:
        """Yield the instants after `start`, each once, in their order."""
        found = _elapsed if _follows_elapsed_time(self.expression) else _named
        return found(self.expression, ZoneInfo(self.zone), start.astimezone(UTC))


@dataclass(frozen=True, slots=True)
class EveryInstants:
    """Instants at a distance of `seconds`, counted from `anchor`."""

    seconds: float
    anchor: datetime

    def after(self, start: datetime) -> Iterator[Instant]:
        """Yield the instants after `start`; the first one of all is one distance after `anchor`."""
        distance = timedelta(seconds=self.seconds)
        number = max((start - self.anchor) // distance, 0) + 1
        while True:
            yield Instant(self.anchor + number * distance)
            number += 1


@dataclass(frozen=True, slots=True)
class OneInstant:
    """A single instant."""

    at: datetime

    def after(self, start: datetime) -> Iterator[Instant]:
        """Yield it, if it is after `start`."""
        if self.at > start:
            yield Instant(self.at)


def recent(instants: Instants, start: datetime, until: datetime, limit: int) -> list[Instant]:
    """Return the last instants after `start` up to and with `until`, at most `limit` of them.

    What it costs depends on `limit`, not on how long the time between is.
    """
    window = timedelta(hours=1)
    while True:
        begin = max(start, until - window)
        found = list(takewhile(lambda one: one.at <= until, instants.after(begin)))
        if len(found) >= limit or begin == start:
            return found[-limit:]
        window *= 8


def _walls(expression: str, start: datetime) -> Iterator[datetime]:
    """Yield the wall-clock times after `start` that an expression names."""
    from croniter import croniter  # noqa: PLC0415 - what has no schedule need not wait for it

    walls: Any = croniter(expression, start)
    while True:
        yield walls.get_next(datetime)


@lru_cache(maxsize=256)
def _follows_elapsed_time(expression: str) -> bool:
    from croniter import croniter  # noqa: PLC0415 - what has no schedule need not wait for it

    minute, hour, *_ = expression.split()
    hours: Any = croniter.expand(expression)[0][1]
    if hours == ["*"] or hour.startswith("?"):
        return True
    # Single hours are named: if a clock change skips one, all of that day would be lost.
    spans = all(part.startswith("*") or "-" in part or "/" in part for part in hour.split(","))
    return minute.startswith("*") and spans


def _named(expression: str, zone: ZoneInfo, start: datetime) -> Iterator[Instant]:
    last = start
    for wall in _walls(expression, _shown(start, zone)):
        found = _first_shown(wall, zone)
        # Several that are skipped together are due together, and what comes a second time was due.
        if found.at > last:
            last = found.at
            yield found


def _first_shown(wall: datetime, zone: ZoneInfo) -> Instant:
    """Return when a clock first shows this time or, where it skips it, a later one."""
    first, second = (wall.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if first.utcoffset() == second.utcoffset():
        return Instant(first.astimezone(UTC))
    before, after = second.astimezone(UTC), first.astimezone(UTC)
    if before > after:
        return Instant(after, REPEATED)
    return Instant(_change_between(before, after, zone), SHIFTED)


def _elapsed(expression: str, zone: ZoneInfo, start: datetime) -> Iterator[Instant]:
    """Go from one clock change to the next: between them the wall clock is as good as any."""
    last = place = start
    while True:
        offset = _offset(place, zone)
        change = _next_change(place, place + _STRETCH, zone)
        end = change or place + _STRETCH
        begin = (place + offset).replace(tzinfo=None) - _SECOND
        for wall in _walls(expression, begin):
            at = wall.replace(tzinfo=UTC) - offset
            if at >= end:
                break
            if at > last:
                last = at
                again = at.astimezone(zone).fold == 1
                yield Instant(at, REPEATED if again else None)
        else:  # pragma: no cover - wall-clock times have no end
            return
        if change is not None:
            place = change
            continue
        # Nothing is named until then; a clock that is set back meanwhile repeats less than that.
        folds = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        place = max(end, min(folds) - _SECOND)


def _shown(at: datetime, zone: tzinfo) -> datetime:
    return at.astimezone(zone).replace(tzinfo=None)


def _offset(at: datetime, zone: tzinfo) -> timedelta:
    return at.astimezone(zone).utcoffset() or timedelta(0)


def _next_change(start: datetime, end: datetime, zone: tzinfo) -> datetime | None:
    """Return the first instant after `start` whose offset is another one, if it is before `end`."""
    offset = _offset(start, zone)
    before = start
    while before < end:
        after = min(before + _STEP, end)
        if _offset(after, zone) != offset:
            return _change_between(before, after, zone)
        before = after
    return None


def _change_between(before: datetime, after: datetime, zone: tzinfo) -> datetime:
    """Return when the offset changes; clocks are changed on a full second."""
    old = _offset(before, zone)
    low, high = int(before.timestamp()), -int(-after.timestamp() // 1)
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(datetime.fromtimestamp(middle, UTC), zone) == old:
            low = middle
        else:
            high = middle
    return datetime.fromtimestamp(high, UTC)
