from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise, takewhile
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from netscript_workers.instants import (
    REPEATED,
    SHIFTED,
    CronInstants,
    EveryInstants,
    OneInstant,
    parse_cron,
    parse_zone,
    recent,
)

NEW_YORK, PARIS = "America/New_York", "Europe/Paris"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def local(text: str, zone: str = NEW_YORK, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC)


def found(expression: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    instants = CronInstants(parse_cron("x", expression), zone).after(start)
    return [one.at for one in takewhile(lambda one: one.at < end, instants)]


def by_cronsim(expression: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    theirs = CronSim(expression, start.astimezone(ZoneInfo(zone)))
    in_utc = (one.astimezone(UTC) for one in theirs)
    return list(takewhile(lambda one: one < end, in_utc))


@pytest.mark.trap("D-78")
@pytest.mark.parametrize("zone", [NEW_YORK, PARIS, "Australia/Lord_Howe", "Pacific/Apia"])
@pytest.mark.parametrize(
    "expression",
    [
        "30 2 * * *",
        "30 1 * * *",
        "0,30 2 * * *",
        "15 1,2,3 * * *",
        "0 * * * *",
        "*/20 1-3 * * *",
        "5 4 * * sun",
        "0 0 1 * *",
        "0 0 29 2 *",
        "10-20/3 1-3 * 3,4,9,10,11 *",
        "30 2 8-14 3 *",
        "59 23 * * 1-5",
    ],
)
def test_a_year_has_the_instants_that_cronsim_finds(expression: str, zone: str) -> None:
    years = (utc("2026-01-01"), utc("2027-01-01" if "29 2" not in expression else "2045-01-01"))
    mine = found(expression, zone, *years)
    assert mine
    assert mine == by_cronsim(expression, zone, *years)


@pytest.mark.parametrize("zone", [NEW_YORK, PARIS])
def test_every_minute_of_the_weeks_around_a_change(zone: str) -> None:
    for start in ("2026-03-07", "2026-03-28", "2026-10-24", "2026-10-31"):
        days = (utc(start), utc(start) + timedelta(days=2))
        mine = found("* * * * *", zone, *days)
        assert mine == by_cronsim("* * * * *", zone, *days)
        assert len(mine) == 2 * 24 * 60 - 1


@pytest.mark.trap("D-78")
def test_a_time_that_is_skipped_comes_once_at_the_change() -> None:
    (one,) = islice(CronInstants("30 2 * * *", NEW_YORK).after(local("2026-03-08T00:00")), 1)
    assert (one.at, one.note) == (local("2026-03-08T03:00"), SHIFTED)
    day = found("30 2 * * *", NEW_YORK, local("2026-03-08T00:00"), local("2026-03-09T00:00"))
    assert day == [one.at]


@pytest.mark.trap("D-78")
def test_a_time_that_is_repeated_comes_once_the_first_time() -> None:
    day = (local("2026-11-01T00:00"), local("2026-11-02T00:00"))
    (one,) = islice(CronInstants("30 1 * * *", NEW_YORK).after(day[0]), 1)
    assert (one.at, one.note) == (local("2026-11-01T01:30", fold=0), REPEATED)
    assert found("30 1 * * *", NEW_YORK, *day) == [one.at]
    # Whoever asks between the two is told of the next day.
    between = local("2026-11-01T01:10", fold=1)
    assert found("30 1 * * *", NEW_YORK, between, day[1] + timedelta(days=1)) == [
        local("2026-11-02T01:30")
    ]


@pytest.mark.trap("D-78")
def test_a_quarter_of_an_hour_is_one_on_every_day() -> None:
    year = found("*/15 * * * *", NEW_YORK, local("2025-12-31T23:59"), local("2027-01-01T00:00"))
    assert {after - before for before, after in pairwise(year)} == {timedelta(minutes=15)}
    days = Counter(one.astimezone(ZoneInfo(NEW_YORK)).date() for one in year)
    assert Counter(days.values()) == {96: 363, 92: 1, 100: 1}


@pytest.mark.trap("D-78")
@pytest.mark.parametrize("expression", ["*/15 2 * * *", "* 2 * * *", "*/15 2,14 8 3 *"])
def test_minutes_of_a_single_hour_come_at_the_change_that_skips_it(expression: str) -> None:
    day = (local("2026-03-08T00:00"), local("2026-03-08T10:00"))
    assert found(expression, NEW_YORK, *day) == [local("2026-03-08T03:00")]


def test_minutes_of_a_single_hour_that_is_repeated_come_once() -> None:
    day = found("*/30 1 * * *", NEW_YORK, local("2026-11-01T00:00"), local("2026-11-02T00:00"))
    assert day == [local("2026-11-01T01:00"), local("2026-11-01T01:30")]


def test_hours_of_a_list_are_named_times_and_shift() -> None:
    # Here cronsim, as Debian's cron, would pass over the skipped hour.
    day = found("0 */2 * * *", NEW_YORK, local("2026-03-08T00:30"), local("2026-03-08T07:00"))
    assert day == [local(f"2026-03-08T0{hour}:00") for hour in (3, 4, 6)]


def test_times_that_are_skipped_together_come_together() -> None:
    day = found("0,30 2,3 * * *", NEW_YORK, local("2026-03-08T00:00"), local("2026-03-09T00:00"))
    assert day == [local("2026-03-08T03:00"), local("2026-03-08T03:30")]


def test_a_day_of_the_month_or_of_the_week() -> None:
    either = found("0 0 1 * mon", "UTC", utc("2026-01-01"), utc("2026-02-03"))
    assert [one.day for one in either] == [5, 12, 19, 26, 1, 2]


def test_an_interval_is_counted_from_its_anchor_however_late_one_asks() -> None:
    weekly = EveryInstants(7 * 86_400, utc("2026-01-01T10:00"))
    assert [one.at for one in islice(weekly.after(utc("2026-01-01T10:00")), 2)] == [
        utc("2026-01-08T10:00"),
        utc("2026-01-15T10:00"),
    ]
    assert next(weekly.after(utc("2026-02-01"))).at == utc("2026-02-05T10:00")
    assert next(weekly.after(utc("2025-01-01"))).at == utc("2026-01-08T10:00")
    assert next(weekly.after(utc("2026-01-08T10:00"))).at == utc("2026-01-15T10:00")


def test_one_instant_comes_once() -> None:
    at = utc("2026-01-01T10:00")
    assert [one.at for one in OneInstant(at).after(at - timedelta(microseconds=1))] == [at]
    assert list(OneInstant(at).after(at)) == []


def test_recent_finds_the_last_ones_of_a_long_time_cheaply() -> None:
    minutes = CronInstants("* * * * *", "UTC")
    began = time.process_time()
    last = recent(minutes, utc("2006-01-01"), utc("2026-01-01"), 3)
    assert time.process_time() - began < 2  # all ten million would take minutes
    assert [one.at for one in last] == [
        utc("2025-12-31T23:58"),
        utc("2025-12-31T23:59"),
        utc("2026-01-01T00:00"),
    ]
    yearly = CronInstants("0 0 1 1 *", "UTC")
    assert len(recent(yearly, utc("2020-01-01"), utc("2026-01-01"), 100)) == 6
    assert recent(yearly, utc("2026-01-01"), utc("2026-06-01"), 100) == []


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("@daily", "0 0 * * *"),
        ("@Hourly", "0 * * * *"),
        ("@yearly", "0 0 1 1 *"),
        ("  */5   *\t* * * ", "*/5 * * * *"),
        ("0 9 * * MON-FRI", "0 9 * * mon-fri"),
        ("0 0 1 JAN,jul ?", "0 0 1 jan,jul ?"),
        ("0 0 l * *", "0 0 l * *"),
        ("0 0 * * fri#2", "0 0 * * fri#2"),
        ("0 0 * * 7", "0 0 * * 7"),
        ("0 0 29 2 *", "0 0 29 2 *"),
        ("0 0 31 2 1", "0 0 31 2 1"),
    ],
)
def test_an_expression_is_kept_in_its_plain_form(given: str, plain: str) -> None:
    assert parse_cron("x", given) == plain
    assert next(CronInstants(plain, PARIS).after(utc("2026-01-01"))).at > utc("2026-01-01")


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("* * * * * *", "must have five fields"),
        ("0 0 12 * * * 2030", "must have five fields"),
        ("* * * *", "must have five fields"),
        ("", "must have five fields"),
        ("@reboot", "Use one of @yearly"),
        ("@every 5m", "Use one of @yearly"),
        ("0 0 31 2 *", "can never be due"),
        ("0 0 30 feb *", "can never be due"),
        ("0 0 31 4,6,9,11 *", "can never be due"),
        ("60 * * * *", "can't be read"),
        ("* 24 * * *", "can't be read"),
        ("* * 0 * *", "can't be read"),
        ("* * * 13 *", "can't be read"),
        ("* * * * 8", "can't be read"),
        ("* * * * foo", "can't be read"),
        ("*/0 * * * *", "can't be read"),
        ("*/90 * * * *", "steps over its own field"),
        ("0 */25 * * *", "steps over its own field"),
        ("1, * * * *", "can't be read"),
        ("h * * * *", "can't be read"),
        ("r * * * *", "can't be read"),
        ("1.5 * * * *", "can't be read"),
        ("-1 * * * *", "can't be read"),
        ("\u0661 * * * *", "can't be read"),
        ("0 0 1w * *", "can't be read"),
        ("0-99999999 * * * *", "can't be read"),
    ],
)
def test_an_expression_that_cannot_be_meant_is_refused(expression: str, told: str) -> None:
    with pytest.raises(ValueError, match="cron=") as refusal:
        parse_cron("x", expression)
    assert told in str(refusal.value)


def test_a_crafted_expression_costs_next_to_nothing() -> None:
    began = time.process_time()
    for expression in (f"{'1,' * 1_000_000}1 * * * *", f"*/{'9' * 100_000} * * * *", "*" * 10**7):
        with pytest.raises(ValueError, match="is longer than 512 characters") as refusal:
            parse_cron("x", expression)
        assert len(str(refusal.value)) < 200
    for expression in ("*/" + "9" * 400 + " * * * *", "0-" + "9" * 400 + " * * * *", "(" * 500):
        with pytest.raises(ValueError, match="cron="):
            parse_cron("x", expression)
    longest = f"{'0-59,' * 90}0 * * * *"
    assert parse_cron("x", longest) == longest
    assert time.process_time() - began < 2


@pytest.mark.parametrize("name", ["Europe/Pariss", "", "../etc/passwd", "America", "/etc", "a\0b"])
def test_an_unknown_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="there is no time zone"):
        parse_zone("x", name)
