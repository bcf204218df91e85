"""Schedules: `@schedule` and `define_schedule`, and the payload of their events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol, Required, TypedDict, cast
from zoneinfo import ZoneInfo

from typing_extensions import TypeVar, Unpack

from netscript_triggers.circuits import Circuit
from netscript_triggers.defining import (
    DEFAULT_CIRCUIT,
    DEFAULT_RETRY,
    check_id,
    check_running,
    facts_of,
    takes_context,
)
from netscript_triggers.definitions import Actions, ScheduleDefinition
from netscript_triggers.events import ScheduledTime
from netscript_workers.clock import to_micros, to_rfc3339
from netscript_workers.errors import PayloadInvalidError
from netscript_workers.options import check_names
from netscript_workers.retries import Retry
from netscript_workers.schedules import CatchUp, Overlap, make_schedule

R = TypeVar("R", bound=Actions | Awaitable[Actions])

_TIMING = ("cron", "every", "at", "timezone", "catch_up", "overlap", "jitter")


class ScheduleOptions(TypedDict, total=False):
    """The options of a schedule; `define_schedule` says what each means."""

    id: Required[str]
    cron: str | None
    every: float | None
    at: datetime | None
    timezone: str
    catch_up: CatchUp
    overlap: Overlap
    jitter: float
    circuit: Circuit | None
    retry: Retry
    description: str | None


class _Decorator(Protocol):
    def __call__(self, handler: Callable[..., R], /) -> ScheduleDefinition[R]: ...


def schedule(**options: Unpack[ScheduleOptions]) -> _Decorator:
    """Make a schedule of a function that takes an event and returns actions.

    Args:
        **options: Those of `define_schedule`.

    Raises:
        ConfigurationError: The handler or an option can't work.
    """

    def decorate(handler: Callable[..., R], /) -> ScheduleDefinition[R]:
        return define_schedule(handler, **options)

    return decorate


def define_schedule(
    handler: Callable[..., R], **options: Unpack[ScheduleOptions]
) -> ScheduleDefinition[R]:
    """Make a schedule; the functional form of `@schedule`.

    Any number of workers may fire it: each instant becomes one event. The handler runs in the
    worker that fires, for 5 s at most, and its actions are stored together with the event and the
    fact that the instant is dealt with. Each worker that is there may call it for an instant; what
    one of them returns is stored. If it raises, the event is kept as `failed`, and a server
    tries it again.

    Args:
        handler: A `def` or `async def` function of an event (and a `TriggerContext`, if it takes
            two arguments). It returns a list of actions, one action or None.
        **options:
            id: Unique in the project.
            cron: Five fields, or a name such as `@daily`. Give one of `cron`, `every` and `at`.
                A wall-clock time that a clock change skips fires once, shifted; one that it
                repeats fires once; what is due more often than hourly follows elapsed time.
            every: Seconds between two instants, counted from when it was first seen.
            at: One instant; a naive one is taken as UTC.
            timezone: The zone of `cron`, by its IANA name.
            catch_up: What becomes of instants that nobody was there for: `"latest"` fires the last
                of them, `"skip"` none, `"all"` the last 100, each.
            overlap: `"skip"` passes over an instant while the event of the one before, or an
                execution that it led to, is unfinished.
            jitter: The executions start up to so many seconds after the instant, always the same
                number for the same instant.
            circuit: When its handler is left alone because it keeps failing; None for never.
            retry: How often and how soon a failing handler is tried again.
            description: By default the first line of the handler's docstring.

    Raises:
        ConfigurationError: The handler or an option can't work.
    """
    owner = f'schedule "{options.get("id", "?")}"'
    check_names(owner, options, ScheduleOptions.__annotations__, required=("id",))
    check_id("schedule", options["id"])
    retry = options.get("retry", DEFAULT_RETRY)
    circuit = options.get("circuit", DEFAULT_CIRCUIT)
    check_running(owner, retry, None, circuit)
    timing: dict[str, Any] = {name: value for name, value in options.items() if name in _TIMING}
    return ScheduleDefinition(
        handler=handler,
        id=options["id"],
        schedule=make_schedule(owner, **timing),
        model=None,
        dispatch="inline",
        events=(),
        concurrency=None,
        circuit=circuit,
        retry=retry,
        takes_context=takes_context(handler, owner),
        **facts_of(handler, options.get("description")),
    )


def schedule_id(trigger_id: str) -> str:
    """Return the id that a trigger's schedule has among all schedules."""
    return f"trigger:{trigger_id}"


def instant_name(at: datetime) -> str:
    """Return the idempotency key of an instant's event, whoever runs it."""
    return f"schedule:{to_rfc3339(to_micros(at))}"


def scheduled_time(at: datetime, timezone: str, note: str | None = None) -> ScheduledTime:
    """Return the payload of the event of an instant.

    Args:
        at: The instant.
        timezone: The schedule's zone.
        note: What is to be said about it.
    """
    return {
        "scheduled_for": to_rfc3339(to_micros(at)),
        "local_time": at.astimezone(ZoneInfo(timezone)).isoformat(),
        "timezone": timezone,
        "note": note,
    }


def complete_time(given: Any, timezone: str, now: datetime) -> ScheduledTime:
    """Return the payload of an event that is made by hand, of which all may be left out.

    Args:
        given: What was given; `scheduled_for` is by default the present.
        timezone: The schedule's zone.
        now: The present.

    Raises:
        PayloadInvalidError: It is no such payload.
    """
    fields = ScheduledTime.__annotations__
    if not isinstance(given, Mapping) or not given.keys() <= fields.keys():
        raise PayloadInvalidError(
            f"The payload of a schedule has these fields only: {', '.join(fields)}.",
            hint='Give {}, or {"scheduled_for": "2026-01-31T09:00:00Z"}.',
        )
    facts = cast("Mapping[str, Any]", given)
    note = facts.get("note")
    if note is not None and not isinstance(note, str):
        raise PayloadInvalidError("note must be text.")
    return scheduled_time(_instant(facts.get("scheduled_for"), now), timezone, note)


def at_instant(given: Any, at: datetime) -> Any:
    """Return a payload that was given by hand, as the one of an instant."""
    if not isinstance(given, Mapping):
        return given  # `complete_time` has the words for it
    facts = cast("Mapping[str, Any]", given)
    return {**facts, "scheduled_for": to_rfc3339(to_micros(at))}


def _instant(given: Any, now: datetime) -> datetime:
    if given is None:
        return now
    try:
        at = datetime.fromisoformat(given)
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise PayloadInvalidError(
            f"scheduled_for={given!r} is no time.", hint="Write it as 2026-01-31T09:00:00Z."
        ) from None
