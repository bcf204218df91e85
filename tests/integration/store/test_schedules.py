"""Schedules: each instant once, whoever looks, whatever the clock and the deploys do."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from netscript_workers.scheduler import job_target
from netscript_workers.schedules import MAX_CATCH_UP, make_plan
from netscript_workers.store import fires
from netscript_workers.store.engine import Store
from netscript_workers.testing import ManualClock
from tests.integration.scheduling import (
    assert_each_once,
    by_cronsim,
    declared,
    executions,
    finish_all,
    fired,
    look,
    scheduler,
    set_clock,
    skipped,
    stored,
    utc,
)
from tests.kit import rows

START = utc("2026-01-01T10:00")
MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def at_start(clock: ManualClock) -> None:
    set_clock(clock, START)


@pytest.mark.trap("D-73")
def test_five_schedulers_that_look_at_once_fire_each_minute_once(
    database_url: str, timed_store: Store, clock: ManualClock
) -> None:
    stores = [Store(database_url, clock=clock) for _ in range(5)]
    five = [scheduler(one, declared(cron="* * * * *")) for one in stores]
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(look, five))
        for _ in range(10):
            clock.advance(60)
            list(pool.map(look, five))
    assert fired(timed_store) == by_cronsim("* * * * *", START, START + 10 * MINUTE)
    assert len(fired(timed_store)) == 10
    assert_each_once(timed_store)
    for one in stores:
        one.dispose()


@pytest.mark.trap("D-73")
@pytest.mark.trap("D-79")
@pytest.mark.parametrize("hours", [5, pytest.param(72, marks=pytest.mark.chaos)])
def test_virtual_days_of_five_schedulers_and_a_clock_that_steps(
    timed_store: Store, clock: ManualClock, hours: int
) -> None:
    five = [scheduler(timed_store, declared(cron="* * * * *")) for _ in range(5)]
    look(*five)
    chance = random.Random(79)
    jumps = {50: -90, 117: 7200, 183: -90, 184: -90, 250: 7200}
    for minute in range(hours * 60):
        clock.advance(60 + jumps.get(minute, 0))
        look(*chance.sample(five, chance.choice((1, 1, 1, 2, 5))))
    end = START + timedelta(seconds=hours * 3600 + sum(jumps.values()))
    every_minute = by_cronsim("* * * * *", START, end)
    came = fired(timed_store)
    assert len(came) == len(set(came))
    missed = [at for at in every_minute if at not in set(came)]
    # Of each two hours that never were, the last minute came; and nothing else was passed over.
    assert len(missed) == 2 * 120
    assert [at for at, _ in skipped(timed_store)] == missed[20:120] + missed[140:]
    assert_each_once(timed_store)


@pytest.mark.trap("D-79")
def test_a_clock_that_steps_back_brings_no_instant_again(
    timed_store: Store, clock: ManualClock
) -> None:
    one = scheduler(timed_store, declared(cron="* * * * *"))
    look(one)
    clock.advance(61)
    look(one)
    clock.advance(-90)
    look(one)
    # Even a definition that changes now, and looks for instants from now on, comes too late.
    look(scheduler(timed_store, declared(cron="*/1 * * * *")))
    clock.advance(90)
    look(one)
    assert fired(timed_store) == [START + MINUTE]
    clock.advance(7200)
    look(one)
    assert fired(timed_store) == [START + MINUTE, START + 121 * MINUTE]
    assert_each_once(timed_store)


@pytest.mark.trap("D-74")
def test_an_instant_between_two_schedulers_fires_once(
    timed_store: Store, clock: ManualClock
) -> None:
    daily = declared(cron="0 11 * * *")
    look(scheduler(timed_store, daily))
    clock.advance(3600 - 3)
    look(scheduler(timed_store, daily))
    clock.advance(3.7)
    look(scheduler(timed_store, daily))
    look(scheduler(timed_store, daily))
    assert fired(timed_store) == [START + timedelta(hours=1)]
    assert_each_once(timed_store)


@pytest.mark.trap("D-75")
def test_a_scheduler_with_an_old_idea_of_the_world_fires_nothing_again(
    timed_store: Store, clock: ManualClock
) -> None:
    cron = declared(cron="* * * * *")
    isolated, other = scheduler(timed_store, cron), scheduler(timed_store, cron)
    look(isolated, other)
    clock.advance(60)
    believed = stored(timed_store)
    assert believed.next_at is not None
    plan = make_plan(
        believed.schedule, anchor=believed.anchor, cursor=believed.next_at, now=believed.next_at
    )
    for _ in range(20):
        look(other)
        clock.advance(60)
    target = job_target({})
    assert fires.fire(timed_store, believed, plan, target) == []
    look(isolated)
    assert fired(timed_store) == by_cronsim("* * * * *", START, START + 21 * MINUTE)
    assert_each_once(timed_store)


@pytest.mark.trap("D-76")
@pytest.mark.parametrize("policy", ["skip", "latest", "all"])
def test_two_weeks_of_downtime(timed_store: Store, clock: ManualClock, policy: Any) -> None:
    often = declared("often", every=5, catch_up=policy)
    weekly = declared("weekly", cron="30 10 * * thu", catch_up=policy)
    look(scheduler(timed_store, often, weekly))
    back = START + timedelta(days=14, minutes=45, seconds=3)
    set_clock(clock, back)
    look(scheduler(timed_store, often, weekly))
    fives = [back - timedelta(seconds=3 + 5 * n) for n in range(250)][::-1]
    thursdays = by_cronsim("30 10 * * thu", START, back)
    assert len(thursdays) == 3
    many = {"skip": 0, "latest": 1, "all": MAX_CATCH_UP}[policy]
    assert fired(timed_store, "often") == fives[250 - many :]
    assert fired(timed_store, "weekly") == thursdays[3 - min(many, 3) :]
    # What did not fire is on record, the last hundred of it.
    passed = skipped(timed_store, "often")
    assert [at for at, _ in passed] == fives[150 - many : 250 - many]
    assert "as all before it since 2026-01-01T10:00:05Z" in passed[0][1]
    assert [at for at, _ in skipped(timed_store, "weekly")] == thursdays[: 3 - min(many, 3)]
    assert_each_once(timed_store, ["often", "weekly"])
    # And on it goes.
    clock.advance(2)
    look(scheduler(timed_store, often, weekly))
    assert fired(timed_store, "often")[-1] == back + timedelta(seconds=2)


@pytest.mark.trap("D-77")
def test_an_interval_of_a_week_comes_on_time_with_a_deploy_every_day(
    timed_store: Store, clock: ManualClock
) -> None:
    weekly = declared(every=7 * 86_400)
    for day in range(22):
        set_clock(clock, START + timedelta(days=day))
        deployed = scheduler(timed_store, weekly)
        look(deployed)
    assert fired(timed_store) == [START + timedelta(days=7 * n) for n in (1, 2, 3)]
    assert skipped(timed_store) == []
    assert_each_once(timed_store)


GAP, FOLD = ("job:gap", "shifted by clock change"), ("job:fold", "repeated hour")


@pytest.mark.trap("D-78")
@pytest.mark.parametrize("zone", ["America/New_York", "Europe/Paris"])
@pytest.mark.parametrize(
    ("start", "end", "in_new_york"),
    [
        ("2026-02-27T10:00", "2026-04-02T10:00", [GAP]),
        ("2026-10-20T10:00", "2026-11-04T10:00", [FOLD]),
        pytest.param("2026-01-01T10:00", "2027-01-01T10:00", [FOLD, GAP], marks=pytest.mark.chaos),
    ],
    ids=["spring", "autumn", "year"],
)
def test_every_night_through_both_clock_changes(
    timed_store: Store,
    clock: ManualClock,
    zone: str,
    start: str,
    end: str,
    in_new_york: list[tuple[str, str]],
) -> None:
    since, until = utc(start), utc(end)
    set_clock(clock, since)
    names = {"gap": "30 2 * * *", "fold": "30 1 * * *", "monthly": "0 0 1 * *"}
    nightly = scheduler(
        timed_store, *(declared(name, cron=cron, timezone=zone) for name, cron in names.items())
    )
    wait = nightly.turn()
    assert wait > 0
    while (upcoming := min(stored(timed_store, name).next_at or until for name in names)) < until:
        set_clock(clock, upcoming)
        look(nightly)
    for name, cron in names.items():
        assert fired(timed_store, name) == by_cronsim(cron, since, until, zone)
    nights = (until - since).days
    assert len(fired(timed_store, "gap")) == len(fired(timed_store, "fold")) == nights
    notes = rows(
        timed_store,
        "SELECT schedule_id, note FROM netscript_schedule_fires WHERE note IS NOT NULL ORDER BY 1",
    )
    if zone == "America/New_York":
        assert notes == in_new_york
    assert_each_once(timed_store, sorted(names))


@pytest.mark.trap("D-78")
def test_quarters_of_an_hour_follow_elapsed_time_through_a_change(
    timed_store: Store, clock: ManualClock
) -> None:
    for start, count in ((utc("2026-03-08T04:00"), 92), (utc("2026-11-01T03:00"), 100)):
        set_clock(clock, start)
        quarters = scheduler(
            timed_store, declared(f"q{count}", cron="*/15 * * * *", timezone="America/New_York")
        )
        look(quarters)
        for _ in range(30 * 4):
            clock.advance(900)
            look(quarters)
        came = fired(timed_store, f"q{count}")
        assert came == [start + n * timedelta(minutes=15) for n in range(1, 121)]
        new_york = ZoneInfo("America/New_York")
        days = [at.astimezone(new_york).date() for at in came]
        assert days.count(start.astimezone(new_york).date() + timedelta(days=1)) == count


@pytest.mark.trap("D-80")
def test_two_schedules_of_one_job_in_one_minute_are_two_executions(
    timed_store: Store, clock: ManualClock
) -> None:
    both = scheduler(timed_store, declared("a", cron="0 11 * * *"), declared("b", cron="0 * * * *"))
    look(both)
    clock.advance(3600)
    look(both)
    assert len(executions(timed_store)) == 2
    assert_each_once(timed_store, ["a", "b"])


@pytest.mark.trap("D-82")
def test_a_job_that_runs_longer_than_its_period(timed_store: Store, clock: ManualClock) -> None:
    both = scheduler(
        timed_store,
        declared("allow", cron="* * * * *"),
        declared("skip", cron="* * * * *", overlap="skip"),
    )
    look(both)
    for _ in range(3):
        clock.advance(60)
        look(both)
    assert fired(timed_store, "allow") == [START + n * MINUTE for n in (1, 2, 3)]
    assert fired(timed_store, "skip") == [START + MINUTE]
    assert skipped(timed_store, "skip") == [
        (START + n * MINUTE, "the one before is unfinished; overlap=skip") for n in (2, 3)
    ]
    assert finish_all(timed_store) == 4
    clock.advance(60)
    look(both)
    assert fired(timed_store, "skip") == [START + MINUTE, START + 4 * MINUTE]
    assert_each_once(timed_store, ["allow", "skip"])


@pytest.mark.trap("D-82")
def test_what_is_made_up_for_does_not_overlap_itself(
    timed_store: Store, clock: ManualClock
) -> None:
    one = scheduler(timed_store, declared(cron="* * * * *", overlap="skip", catch_up="all"))
    look(one)
    clock.advance(180)
    look(one)
    assert fired(timed_store) == [START + 3 * MINUTE]
    assert [note for _, note in skipped(timed_store)] == ["would overlap; overlap=skip"] * 2


def test_an_instant_that_was_past_when_it_was_defined_is_on_record(
    timed_store: Store, clock: ManualClock
) -> None:
    past, coming = START - MINUTE, START + MINUTE
    one = scheduler(timed_store, declared("past", at=past), declared("coming", at=coming))
    look(one)
    clock.advance(3600)
    look(one)
    assert skipped(timed_store, "past") == [(past, "past when it was defined")]
    assert fired(timed_store, "coming") == [coming]
    assert stored(timed_store, "coming").next_at is None


def test_jitter_delays_the_start_and_not_the_instant(
    timed_store: Store, clock: ManualClock
) -> None:
    one = scheduler(timed_store, declared(cron="* * * * *", jitter=50))
    look(one)
    clock.advance(60)
    look(one)
    ((late, status),) = rows(
        timed_store, "SELECT run_at - created_at, status FROM netscript_executions"
    )
    assert 0 < late <= 50_000_000
    assert status == "scheduled"
    assert fired(timed_store) == [START + MINUTE]


def test_a_job_that_nobody_registered_refuses_an_instant_and_holds_up_nobody(
    timed_store: Store, clock: ManualClock
) -> None:
    one = scheduler(
        timed_store, declared("a", target="unknown", cron="* * * * *"), declared(cron="* * * * *")
    )
    look(one)
    clock.advance(60)
    look(one)
    assert skipped(timed_store, "a") == [(START + MINUTE, "refused: job-not-found")]
    assert fired(timed_store) == [START + MINUTE]


def test_schedules_of_another_kind_are_left_to_others(
    timed_store: Store, clock: ManualClock
) -> None:
    one = scheduler(timed_store, declared(cron="* * * * *"))
    one._targets = {}
    clock.advance(0)
    assert one.turn() > 1
    clock.advance(3600)
    assert one.turn() > 1
    assert fired(timed_store) == []
