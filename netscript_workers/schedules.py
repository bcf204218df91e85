"""Schedules: what is due when, and what becomes of instants that were missed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Literal, TypeAlias, get_args

from cronsim import CronSim, CronSimError

from netscript_workers.clock import MAX_MICROS, from_micros, to_micros, to_rfc3339
from netscript_workers.errors import ConfigurationError
from netscript_workers.instants import (
    CronInstants,
    EveryInstants,
    Instant,
    Instants,
    OneInstant,
    parse_cron,
    parse_zone,
    recent,
)
from netscript_workers.options import OptionError, check_type

CatchUp: TypeAlias = Literal["latest", "skip", "all"]
Overlap: TypeAlias = Literal["allow", "skip"]

# How many missed instants `catch_up="all"` makes up for, the latest ones.
MAX_CATCH_UP = 100
# How many of those that are passed over are recorded one by one.
MAX_RECORDED = 100
# What is due that much ago was missed; until then somebody was merely slow.
MISSED_AFTER = timedelta(seconds=60)

_USUAL = {"timezone": "UTC", "catch_up": "latest", "overlap": "allow", "jitter": 0.0}
_TIMES = frozenset({"cron", "every", "at"})
_SHORTEST = 1.0
_LONGEST = 10 * 366 * 86_400.0
_DAY = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When something is due: one of `cron`, `every` and `at`.

    Attributes:
        cron: Five fields, in their plain form.
        every: Seconds between two instants, counted from when the schedule was first seen.
        at: One instant.
        timezone: The zone of `cron`.
        catch_up: What becomes of instants that nobody was there for: the latest one fires, or
            none (`skip`), or the last 100 (`all`).
        overlap: Whether an instant fires while what the one before led to is unfinished.
        jitter: Up to so many seconds later than the instant it starts.
    """

    cron: str | None = None
    every: float | None = None
    at: datetime | None = None
    timezone: str = "UTC"
    catch_up: CatchUp = "latest"
    overlap: Overlap = "allow"
    jitter: float = 0.0

    def instants(self, anchor: datetime) -> Instants:
        """Return the instants; those of `every` are counted from `anchor`."""
        if self.cron is not None:
            return CronInstants(self.cron, self.timezone)
        if self.every is not None:
            return EveryInstants(self.every, anchor)
        assert self.at is not None
        return OneInstant(self.at)

    def is_timed_like(self, other: Schedule) -> bool:
        """Tell whether both have the same instants."""
        return self._timing == other._timing

    @property
    def _timing(self) -> tuple[Any, ...]:
        return self.cron, self.every, self.at, self.timezone

    def write(self) -> str:
        """Write it as JSON."""
        at = None if self.at is None else to_micros(self.at)
        return json.dumps({**asdict(self), "at": at}, sort_keys=True)

    def told(self) -> dict[str, Any]:
        """Return it as JSON for people."""
        at = None if self.at is None else to_rfc3339(to_micros(self.at))
        return {**asdict(self), "at": at}

    @classmethod
    def from_told(cls, told: Mapping[str, Any]) -> Schedule:
        """Read what `told` has returned, among other facts."""
        facts: dict[str, Any] = {one.name: told[one.name] for one in fields(cls)}
        if facts["at"] is not None:
            facts["at"] = datetime.fromisoformat(facts["at"])
        return cls(**facts)

    def words(self) -> str:
        """Say when it is due, for people."""
        if self.every is not None:
            return f"Every {self.every:g} seconds"
        if self.at is not None:
            return f"Once, at {self.at:%Y-%m-%d %H:%M:%S} UTC"
        assert self.cron is not None
        try:
            said = CronSim(self.cron, datetime(2000, 1, 1)).explain()  # noqa: DTZ001 - of no day
        except CronSimError:
            return self.cron
        return said if self.timezone == "UTC" else f"{said}, {self.timezone}"

    @classmethod
    def read(cls, written: str) -> Schedule:
        """Read what `write` wrote.

        Raises:
            ValueError: This version can't know what is meant, as a newer one wrote it.
        """
        facts: dict[str, Any] = json.loads(written)
        if facts.get("at") is not None:
            facts["at"] = from_micros(facts["at"])
        unknown = facts.keys() - _USUAL.keys() - _TIMES
        if unknown or all(facts.get(name) is None for name in _TIMES):
            raise ValueError("a schedule of another version")
        return cls(**facts)


def make_schedule(
    owner: str,
    *,
    cron: str | None = None,
    every: float | None = None,
    at: datetime | None = None,
    timezone: str = "UTC",
    catch_up: CatchUp = "latest",
    overlap: Overlap = "allow",
    jitter: float = 0.0,
) -> Schedule:
    """Check what somebody wrote; `owner` names it in errors.

    Raises:
        ConfigurationError: There is not exactly one of `cron`, `every` and `at`, an expression
            can't be read or is never due, a zone is unknown, or a value can't be meant.
    """
    if [cron, every, at].count(None) != 2:
        raise ConfigurationError(f"{owner}: give one of cron, every and at.")
    check_type(owner, "timezone", timezone, str, 'the name of a zone, such as "Europe/Paris"')
    zone = parse_zone(owner, timezone)
    if cron is not None:
        check_type(owner, "cron", cron, str, 'five fields, such as "*/5 * * * *"')
        cron = parse_cron(owner, cron)
    if every is not None:
        every = _seconds(owner, "every", every, _SHORTEST, _LONGEST)
    if at is not None:
        check_type(owner, "at", at, datetime, "a datetime")
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    _one_of(owner, "catch_up", catch_up, get_args(CatchUp))
    _one_of(owner, "overlap", overlap, get_args(Overlap))
    return Schedule(
        cron=cron,
        every=every,
        at=at,
        timezone=zone,
        catch_up=catch_up,
        overlap=overlap,
        jitter=_seconds(owner, "jitter", jitter, 0.0, _DAY),
    )


def make_cron_schedule(owner: str, cron: str | None, **rules: Any) -> Schedule | None:
    """Check the options of what may have a cron expression; without one they say nothing.

    Raises:
        ConfigurationError: As `make_schedule`, or an option is given that says nothing.
    """
    if cron is not None:
        return make_schedule(owner, cron=cron, **rules)
    for name, value in rules.items():
        if value != _USUAL[name]:
            raise ConfigurationError(
                f"{owner}: {name}={value!r} says nothing without cron.",
                hint=f"Give cron, or leave {name} out.",
            )
    return None


def _seconds(owner: str, name: str, value: float, least: float, most: float) -> float:
    check_type(owner, name, value, (int, float), "a number of seconds")
    if not (math.isfinite(value) and least <= value <= most):
        raise ConfigurationError(f"{owner}: {name}={value!r} must be {least:g} to {most:g} s.")
    return float(value)


def _one_of(owner: str, name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        told = ", ".join(f'"{one}"' for one in known)
        raise OptionError(f"{owner}: {name}={value!r} must be one of {told}.")


def preview(schedule: Schedule, count: int = 5, from_: datetime | None = None) -> list[Instant]:
    """Return the next instants after `from_`, by default the present.

    A note says what a clock change has to do with one. Those of `every` are counted from `from_`.
    """
    start = (from_ or datetime.now(UTC)).astimezone(UTC)
    return list(islice(schedule.instants(start).after(start), count))


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A schedule as the code of some process has it.

    Attributes:
        id: Of the schedule.
        kind: What it sets off; only schedulers that know the kind fire it.
        target: The id of the job or trigger that it sets off.
    """

    id: str
    kind: str
    target: str
    schedule: Schedule

    @property
    def fingerprint(self) -> str:
        """Tells one version of the definition from another."""
        text = f"{self.kind}\n{self.target}\n{self.schedule.write()}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done about the instants that have come.

    Attributes:
        fires: Those that fire, in their order.
        skipped: Those that are passed over, with the reason as a note.
        next_at: The first instant to come; None if there is none.
    """

    fires: list[Instant]
    skipped: list[Instant]
    next_at: datetime | None


def is_instant(schedule: Schedule, anchor: datetime, at: datetime) -> bool:
    """Tell whether something is due at that very instant.

    Args:
        schedule: Of which schedule.
        anchor: Where `every` is counted from.
        at: The instant.
    """
    found = next(schedule.instants(anchor).after(at - timedelta(microseconds=1)), None)
    return found is not None and found.at == at


def make_plan(schedule: Schedule, *, anchor: datetime, cursor: datetime, now: datetime) -> Plan:
    """Look back from the cursor, never from the present: nothing between them is overlooked.

    Args:
        schedule: Which policy holds.
        anchor: Where `every` is counted from.
        cursor: The first instant that nobody has dealt with yet.
        now: The database's present.
    """
    instants = schedule.instants(anchor)
    before = cursor - timedelta(microseconds=1)
    asked = MAX_CATCH_UP + MAX_RECORDED + 1
    due = recent(instants, before, now, asked)
    more = len(due) == asked
    if more:
        due = due[1:]
    fires = _chosen(schedule, due, now)
    passed = due[: len(due) - len(fires)][-MAX_RECORDED:]
    skipped = [one.noted(f"missed; catch_up={schedule.catch_up}") for one in passed]
    if skipped and (more or len(passed) + len(fires) < len(due)):
        skipped[0] = skipped[0].noted(f"as all before it since {cursor:%Y-%m-%dT%H:%M:%SZ}")
    upcoming = next(instants.after(now), None)
    return Plan(
        fires=fires,
        skipped=skipped,
        next_at=None if upcoming is None or _is_beyond(upcoming.at) else upcoming.at,
    )


def _chosen(schedule: Schedule, due: list[Instant], now: datetime) -> list[Instant]:
    if schedule.catch_up == "all":
        return due[-MAX_CATCH_UP:]
    if schedule.catch_up == "skip" and due and now - due[0].at > MISSED_AFTER:
        return []
    return due[-1:]


def told_late(instant: Instant, now: datetime) -> Instant:
    """Return an instant that fires now, with a note if it was missed."""
    late = now - instant.at
    if late <= MISSED_AFTER:
        return instant
    return instant.noted(f"caught up {late.total_seconds():.0f} s late")


def _is_beyond(at: datetime) -> bool:
    return to_micros(at) >= MAX_MICROS


def starts_at(schedule_id: str, schedule: Schedule, instant: datetime) -> datetime:
    """Return when what an instant sets off starts: the same for whoever asks."""
    digest = hashlib.sha256(f"{schedule_id}@{to_micros(instant)}".encode()).digest()
    share = int.from_bytes(digest[:4], "big") / 2**32
    return instant + timedelta(seconds=schedule.jitter * share)
