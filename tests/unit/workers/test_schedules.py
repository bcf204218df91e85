from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import BaseModel

from netscript_workers import JobContext, define_job_handler
from netscript_workers.errors import ConfigurationError
from netscript_workers.instants import Instant
from netscript_workers.schedules import (
    MAX_CATCH_UP,
    Declared,
    Plan,
    Schedule,
    make_plan,
    make_schedule,
    preview,
    starts_at,
    told_late,
)

START = datetime(2026, 1, 1, 10, tzinfo=UTC)


def made(**options: Any) -> Schedule:
    return make_schedule("x", **options)


def plan(schedule: Schedule, *, cursor: datetime, now: datetime) -> Plan:
    return make_plan(schedule, anchor=START, cursor=cursor, now=now)


def times(instants: list[Any]) -> list[datetime]:
    return [one.at for one in instants]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "give one of cron, every and at"),
        ({"cron": "* * * * *", "every": 5}, "give one of"),
        ({"cron": 5}, "cron=5 must be five fields"),
        ({"every": 0.5}, "every=0.5 must be 1 to"),
        ({"every": float("nan")}, "every=nan"),
        ({"every": float("inf")}, "every=inf"),
        ({"every": "30"}, "a number of seconds"),
        ({"every": True}, "a number of seconds"),
        ({"at": "2026-01-01"}, "must be a datetime"),
        ({"every": 5, "timezone": "Nowhere"}, "there is no time zone 'Nowhere'"),
        ({"every": 5, "timezone": None}, "the name of a zone"),
        ({"every": 5, "catch_up": "some"}, '"latest", "skip", "all"'),
        ({"every": 5, "overlap": "queue"}, '"allow", "skip"'),
        ({"every": 5, "jitter": -1}, "jitter=-1"),
        ({"every": 5, "jitter": 1e9}, "jitter=1000000000.0"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        made(**options)
    assert told in str(refusal.value)


def test_a_schedule_is_read_as_it_was_written() -> None:
    for one in (
        made(cron="@daily", timezone="Europe/Paris", catch_up="all", overlap="skip", jitter=3),
        made(every=30),
        made(at=START.astimezone(timezone(timedelta(hours=2)))),
    ):
        assert Schedule.read(one.write()) == one
    assert made(at=START.replace(tzinfo=None)) == made(at=START)


@pytest.mark.parametrize(
    "facts",
    [
        {"until": "2027-01-01"},
        {"cron": None},
        {"cron": None, "calendar": "quarters"},
    ],
)
def test_what_a_newer_version_wrote_is_not_read_as_something_else(facts: dict[str, Any]) -> None:
    written = json.loads(made(cron="@daily").write())
    with pytest.raises(ValueError, match="another version"):
        Schedule.read(json.dumps(written | facts))


def test_a_fingerprint_tells_definitions_apart() -> None:
    def of(**options: Any) -> str:
        return Declared(id="job:a", kind="job", target="a", schedule=made(**options)).fingerprint

    every = {of(every=5), of(every=6), of(cron="@daily"), of(cron="@daily", jitter=1), of(at=START)}
    assert len(every) == 5
    assert of(cron="@daily") == of(cron="0  0 * * *")


def test_a_preview_names_what_clock_changes_do() -> None:
    nightly = made(cron="30 2 * * *", timezone="America/New_York")
    assert [
        (one.at.isoformat(), one.note) for one in preview(nightly, 2, START.replace(month=3, day=7))
    ] == [
        ("2026-03-08T07:00:00+00:00", "shifted by clock change"),
        ("2026-03-09T06:30:00+00:00", None),
    ]
    early = made(cron="30 1 * * *", timezone="America/New_York")
    (one,) = preview(early, 1, datetime(2026, 11, 1, tzinfo=UTC))
    assert (one.at.isoformat(), one.note) == ("2026-11-01T05:30:00+00:00", "repeated hour")
    assert times(preview(made(every=60), 2, START)) == [
        START + timedelta(minutes=1),
        START + timedelta(minutes=2),
    ]
    assert preview(made(at=START), 5, START) == []
    assert len(preview(made(cron="@yearly"))) == 5


def test_an_instant_that_has_come_fires_under_every_policy() -> None:
    for policy in ("latest", "skip", "all"):
        found = plan(
            made(cron="* * * * *", catch_up=policy), cursor=START, now=START + timedelta(seconds=5)
        )
        assert times(found.fires) == [START]
        assert found.fires[0].note is None
        assert found.skipped == []
        assert found.next_at == START + timedelta(minutes=1)


@pytest.mark.trap("D-76")
@pytest.mark.parametrize("every", [{"every": 5}, {"cron": "0 10 * * thu"}])
def test_two_weeks_of_downtime_under_each_policy(every: dict[str, Any]) -> None:
    now = START + timedelta(days=14, seconds=3)  # a Thursday again
    all_of_them = 14 * 86_400 // 5 if "every" in every else 2
    cursor = START + timedelta(seconds=5) if "every" in every else START + timedelta(days=7)
    last = START + timedelta(days=14)

    skip = plan(made(**every, catch_up="skip"), cursor=cursor, now=now)
    assert skip.fires == []
    latest = plan(made(**every, catch_up="latest"), cursor=cursor, now=now)
    assert times(latest.fires) == [last]
    made_up = plan(made(**every, catch_up="all"), cursor=cursor, now=now)
    assert len(made_up.fires) == min(all_of_them, MAX_CATCH_UP)
    assert times(made_up.fires)[-1] == last
    for found in (skip, latest, made_up):
        assert found.next_at is not None
        assert found.next_at > now
        passed = times(found.skipped)
        assert passed == sorted(passed)
        assert len(passed) == min(all_of_them - len(found.fires), 100)
        assert all("missed; catch_up=" in (one.note or "") for one in found.skipped)
        if all_of_them > 200:
            told = found.skipped[0].note or ""
            assert "as all before it since 2026-01-01T10:00:05Z" in told


def test_what_is_made_up_for_says_how_late_it_is() -> None:
    assert told_late(Instant(START), START + timedelta(minutes=1)) == Instant(START)
    late = told_late(Instant(START, "repeated hour"), START + timedelta(minutes=50))
    assert late.note == "repeated hour; caught up 3000 s late"


def test_a_scheduler_that_was_slow_skips_nothing_that_came_just_now() -> None:
    slow = plan(
        made(every=5, catch_up="skip"),
        cursor=START + timedelta(seconds=5),
        now=START + timedelta(seconds=21),
    )
    assert times(slow.fires) == [START + timedelta(seconds=20)]
    assert len(slow.skipped) == 3


def test_a_schedule_of_one_instant_ends() -> None:
    found = plan(made(at=START), cursor=START, now=START + timedelta(days=1))
    assert times(found.fires) == [START]
    assert found.next_at is None


def test_a_cursor_that_is_no_instant_any_more_fires_nothing() -> None:
    # As after an update of the zones: the hour of the day is another one now.
    found = plan(made(cron="0 11 * * *"), cursor=START, now=START)
    assert found.fires == []
    assert found.next_at == START + timedelta(hours=1)


def test_jitter_is_the_same_for_whoever_asks_and_spreads() -> None:
    spread = made(every=60, jitter=30)
    starts = {starts_at(f"job:{n}", spread, START) - START for n in range(50)}
    assert len(starts) == 50
    assert all(timedelta(0) <= one <= timedelta(seconds=30) for one in starts)
    assert max(starts) - min(starts) > timedelta(seconds=15)
    assert starts_at("job:1", spread, START) == starts_at("job:1", spread, START)
    assert starts_at("job:1", made(every=60), START) == START


class Report(BaseModel):
    day: str


class Named(BaseModel):
    day: str = "today"


def nightly(ctx: JobContext[Named]) -> None: ...


def demanding(ctx: JobContext[Report]) -> None: ...


def test_a_job_keeps_its_schedule() -> None:
    job = define_job_handler(
        nightly, cron="@daily", timezone="Europe/Paris", catch_up="skip", overlap="skip", jitter=9
    )
    assert job.schedule == made(
        cron="0 0 * * *", timezone="Europe/Paris", catch_up="skip", overlap="skip", jitter=9
    )
    assert define_job_handler(nightly).schedule is None


def test_a_job_that_needs_a_payload_has_no_schedule() -> None:
    with pytest.raises(ConfigurationError, match="empty payload, which its model refuses"):
        define_job_handler(demanding, cron="@daily")


@pytest.mark.parametrize(
    "options",
    [{"timezone": "Europe/Paris"}, {"catch_up": "all"}, {"overlap": "skip"}, {"jitter": 1}],
)
def test_options_of_a_schedule_need_one(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="says nothing without cron"):
        define_job_handler(nightly, **options)


def test_a_job_is_refused_with_its_name() -> None:
    with pytest.raises(ConfigurationError, match=r'job "nightly": cron=.* can never be due'):
        define_job_handler(nightly, cron="0 0 31 2 *")
