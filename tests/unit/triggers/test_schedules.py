"""Schedules as triggers: what is refused, what their events tell."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from netscript_triggers import ScheduleEvent, define_schedule, enqueue_job, schedule
from netscript_triggers.definitions import ScheduleDefinition
from netscript_triggers.schedules import complete_time, instant_name, scheduled_time
from netscript_triggers.testing import fire
from netscript_workers import PayloadInvalidError
from netscript_workers.errors import ConfigurationError
from netscript_workers.instants import SHIFTED
from netscript_workers.schedules import Schedule, is_instant, make_schedule, preview

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def report(event: ScheduleEvent) -> Any:
    """Send the report of a day."""
    return enqueue_job("report", {"day": event.scheduled_for.date().isoformat()})


def test_both_forms_make_the_same_value() -> None:
    options: Any = {"id": "report", "cron": "@daily", "timezone": "Europe/Paris", "jitter": 5}
    for made in (define_schedule(report, **options), schedule(**options)(report)):
        assert isinstance(made, ScheduleDefinition)
        assert (made.kind, made.id, made.dispatch) == ("schedule", "report", "inline")
        assert made.schedule == Schedule(cron="0 0 * * *", timezone="Europe/Paris", jitter=5.0)
        assert made.description == "Send the report of a day."
    assert repr(made).startswith("<schedule 'report' from ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "give one of cron, every and at"),
        ({"cron": "@daily", "every": 5.0}, "give one of cron, every and at"),
        ({"cron": "* * * * * *"}, "cron='\\* \\* \\* \\* \\* \\*'"),
        ({"cron": "0 0 31 2 *"}, "can never be due"),
        ({"cron": "@daily", "timezone": "Mars/Olympus"}, "Mars/Olympus"),
        ({"every": 0.5}, "every=0.5 must be 1"),
        ({"every": 5, "overlap": "never"}, "overlap='never' must be one of"),
        ({"every": 5, "catch_up": "some"}, "catch_up='some' must be one of"),
        ({"every": 5, "retry": 3}, "retry"),
        ({"every": 5, "concurrency": 3}, "concurrency"),
        ({"every": 5, "id": "no blanks"}, "no blanks"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_schedule_s_name(
    options: dict[str, Any], said: str
) -> None:
    given: Any = {"id": "report", **options}
    with pytest.raises(ConfigurationError, match=said) as refused:
        define_schedule(report, **given)
    assert "schedule" in str(refused.value)


async def test_a_handler_is_tested_with_the_time_it_is_for() -> None:
    made = define_schedule(report, id="report", cron="30 2 * * *", timezone="Europe/Paris")
    payload = scheduled_time(NOON, "Europe/Paris")
    assert await fire(made, payload) == [enqueue_job("report", {"day": "2026-03-01"})]


def test_the_payload_tells_the_instant_and_the_wall_clock() -> None:
    told = scheduled_time(datetime(2026, 7, 1, 22, 30, tzinfo=UTC), "Europe/Paris", SHIFTED)
    assert told == {
        "scheduled_for": "2026-07-01T22:30:00.000000Z",
        "local_time": "2026-07-02T00:30:00+02:00",
        "timezone": "Europe/Paris",
        "note": SHIFTED,
    }


@pytest.mark.parametrize(
    ("given", "instant"),
    [
        ({}, NOON),
        ({"scheduled_for": None}, NOON),
        ({"scheduled_for": "2026-01-31T09:00:00Z"}, datetime(2026, 1, 31, 9, tzinfo=UTC)),
        ({"scheduled_for": "2026-01-31T09:00:00+02:00"}, datetime(2026, 1, 31, 7, tzinfo=UTC)),
        ({"scheduled_for": "2026-01-31"}, datetime(2026, 1, 31, tzinfo=UTC)),
    ],
)
def test_what_is_left_out_by_hand_is_filled_in(given: Any, instant: datetime) -> None:
    assert complete_time(given, "Asia/Tokyo", NOON) == scheduled_time(instant, "Asia/Tokyo")


@pytest.mark.parametrize(
    "given",
    [
        None,
        [],
        "now",
        {"day": 1},
        {"scheduled_for": "soon"},
        {"scheduled_for": 5},
        {"scheduled_for": "0001-01-01T00:00:00+14:00"},
        {"note": 5},
    ],
)
def test_what_is_no_time_is_refused_by_hand(given: Any) -> None:
    with pytest.raises(PayloadInvalidError):
        complete_time(given, "UTC", NOON)


def test_an_instant_has_one_name_in_whatever_zone_it_is_told() -> None:
    assert instant_name(NOON) == "schedule:2026-03-01T12:00:00.000000Z"
    assert instant_name(NOON.astimezone(ZoneInfo("Asia/Tokyo"))) == instant_name(NOON)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cron": "*/5 * * * *"}, "Every fifth minute of every hour"),
        ({"cron": "30 2 * * *", "timezone": "Europe/Paris"}, "At 02:30 every day, Europe/Paris"),
        ({"cron": "@monthly"}, "At 00:00 on the first day of every month"),
        ({"every": 90}, "Every 90 seconds"),
        ({"at": datetime(2027, 1, 1, 9, tzinfo=UTC)}, "Once, at 2027-01-01 09:00:00 UTC"),
    ],
)
def test_a_schedule_in_words(options: dict[str, Any], words: str) -> None:
    assert make_schedule("s", **options).words() == words


@pytest.mark.parametrize(
    "cron",
    ["0 0 L * *", "0 12 * * L5", "0 0 * * 1#2", "0 0 ? * MON", "5-10/2 3 1 1 0"],
)
def test_words_never_fail(cron: str) -> None:
    assert make_schedule("s", cron=cron).words()


def test_what_is_told_of_a_schedule_is_read_back() -> None:
    given: list[dict[str, Any]] = [
        {"cron": "30 2 * * *", "timezone": "Europe/Paris", "jitter": 3.5, "overlap": "skip"},
        {"every": 90.0, "catch_up": "all"},
        {"at": NOON},
    ]
    for options in given:
        made = make_schedule("s", **options)
        assert Schedule.from_told({**made.told(), "dispatch": "inline"}) == made


def test_instants_are_told_from_what_lies_between_them() -> None:
    daily = make_schedule("s", cron="0 12 * * *")
    assert is_instant(daily, NOON, NOON)
    assert not is_instant(daily, NOON, NOON + timedelta(microseconds=1))
    every = make_schedule("s", every=90.0)
    assert is_instant(every, NOON, NOON + timedelta(seconds=180))
    assert not is_instant(every, NOON, NOON + timedelta(seconds=100))


def test_a_preview_notes_what_a_clock_change_does() -> None:
    nightly = make_schedule("s", cron="30 2 * * *", timezone="Europe/Paris")
    found = preview(nightly, 2, datetime(2026, 3, 28, 12, tzinfo=UTC))
    assert [(one.at.isoformat(), one.note) for one in found] == [
        ("2026-03-29T01:00:00+00:00", SHIFTED),
        ("2026-03-30T00:30:00+00:00", None),
    ]
