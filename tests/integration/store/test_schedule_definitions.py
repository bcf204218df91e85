"""Whose definition of a schedule holds, through deploys, roll-backs and removals."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from netscript_workers.scheduler import Scheduler
from netscript_workers.store.engine import Store
from netscript_workers.testing import ManualClock
from tests.integration.scheduling import (
    assert_each_once,
    by_cronsim,
    declared,
    fired,
    look,
    scheduler,
    set_clock,
    skipped,
    stored,
    utc,
)
from tests.kit import run, scalar

START = utc("2026-01-01T10:00")
MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def at_start(clock: ManualClock) -> None:
    set_clock(clock, START)


def leave(store: Store, one: Scheduler) -> None:
    one.stop()
    one.start()  # it finds that it was stopped, and says goodbye
    one._thread.join(10)
    assert scalar(store, "SELECT count(*) FROM netscript_schedulers WHERE id = :id", id=one.id) == 0


@pytest.mark.trap("D-81")
def test_an_old_process_that_restarts_last_rewrites_nothing(
    timed_store: Store, clock: ManualClock
) -> None:
    old, new = declared(cron="0 * * * *"), declared(cron="*/20 * * * *")
    first = scheduler(timed_store, old)
    look(first)
    second = scheduler(timed_store, new, declared("added", cron="*/30 * * * *"))
    look(second)
    leave(timed_store, first)
    again = scheduler(timed_store, old)
    look(again)
    assert stored(timed_store).schedule == new.schedule
    assert stored(timed_store).version == 2
    assert stored(timed_store, "added").enabled
    for _ in range(60):
        clock.advance(60)
        look(again, second)
    assert fired(timed_store) == [START + n * 20 * MINUTE for n in (1, 2, 3)]
    assert fired(timed_store, "added") == [START + n * 30 * MINUTE for n in (1, 2)]
    assert_each_once(timed_store, ["added", "tick"])


@pytest.mark.trap("D-81")
def test_a_roll_back_holds_when_the_last_of_the_newer_is_gone(
    timed_store: Store, clock: ManualClock
) -> None:
    old, new = declared(cron="0 * * * *"), declared(cron="*/20 * * * *")
    look(scheduler(timed_store, old))
    clock.advance(3600)
    killed = scheduler(timed_store, new)
    look(killed)
    back = scheduler(timed_store, old)
    for _ in range(5):
        assert stored(timed_store).schedule == new.schedule
        clock.advance(30)
        look(back)
    clock.advance(60)  # nobody has seen the newer one for longer than it takes
    look(back)
    assert stored(timed_store).schedule == old.schedule
    assert stored(timed_store).version == 3
    # And should it live after all, its definition is the newer one.
    look(killed)
    assert stored(timed_store).schedule == new.schedule


@pytest.mark.trap("D-79")
def test_who_sees_the_clock_jump_takes_nobody_for_dead(
    timed_store: Store, clock: ManualClock
) -> None:
    old, new = declared(cron="0 * * * *"), declared(cron="*/20 * * * *")
    first = scheduler(timed_store, old)
    second = scheduler(timed_store, new)
    look(first, second)
    clock.advance(7200)
    look(first)
    assert stored(timed_store).schedule == new.schedule
    assert fired(timed_store) == [START + timedelta(hours=2)]
    clock.advance(60)
    look(second, first)
    assert stored(timed_store).schedule == new.schedule


@pytest.mark.trap("D-81")
def test_a_schedule_that_is_removed_from_the_code_is_disabled_and_kept(
    timed_store: Store, clock: ManualClock
) -> None:
    removed, kept = declared("removed", cron="* * * * *"), declared(cron="* * * * *")
    older = scheduler(timed_store, removed, kept)
    look(older)
    newer = scheduler(timed_store, kept)
    look(newer)
    assert stored(timed_store, "removed").enabled  # somebody has it
    leave(timed_store, older)
    look(newer)
    assert not stored(timed_store, "removed").enabled
    clock.advance(600)
    look(newer)
    assert fired(timed_store, "removed") == []
    assert len(fired(timed_store)) == 1
    # Should anybody have it again, its cursor is where it was.
    look(scheduler(timed_store, removed, kept))
    assert fired(timed_store, "removed") == [START + 10 * MINUTE]


def test_a_changed_expression_counts_from_now_and_another_policy_changes_no_cursor(
    timed_store: Store, clock: ManualClock
) -> None:
    look(scheduler(timed_store, declared(cron="*/10 * * * *")))
    clock.advance(1900)
    look(scheduler(timed_store, declared(cron="*/7 * * * *")))
    assert fired(timed_store) == []
    assert stored(timed_store).next_at == START + 35 * MINUTE
    # What the old one still owed is on record, as the new one does not name it.
    note = "definition changed before it fired"
    assert skipped(timed_store) == [(START + n * 10 * MINUTE, note) for n in (1, 2, 3)]
    clock.advance(3600)
    look(scheduler(timed_store, declared(cron="*/7 * * * *", catch_up="all")))
    assert fired(timed_store) == by_cronsim("*/7 * * * *", START + 32 * MINUTE, START + 91 * MINUTE)
    assert stored(timed_store).version == 3


@pytest.mark.trap("D-74")
@pytest.mark.trap("D-81")
def test_an_instant_that_comes_during_a_deploy_is_fired_by_the_new_definition_that_names_it(
    timed_store: Store, clock: ManualClock
) -> None:
    ten = START + timedelta(days=1)
    old = scheduler(timed_store, declared(cron="0 10 * * *"), declared("gone", cron="0 10 * * *"))
    look(old)
    set_clock(clock, ten - timedelta(seconds=10))
    look(old)
    leave(timed_store, old)
    set_clock(clock, ten + timedelta(seconds=5))
    new = scheduler(
        timed_store, declared(cron="0 10,15 * * *"), declared("gone", cron="0 15 * * *")
    )
    look(new)
    assert (fired(timed_store), skipped(timed_store)) == ([ten], [])
    assert fired(timed_store, "gone") == []
    assert skipped(timed_store, "gone") == [(ten, "definition changed before it fired")]
    set_clock(clock, ten + timedelta(hours=6))
    look(new)
    assert fired(timed_store) == [ten, ten + timedelta(hours=5)]
    assert fired(timed_store, "gone") == [ten + timedelta(hours=5)]
    assert_each_once(timed_store, ["gone", "tick"])


def test_an_expression_that_becomes_the_one_instant_it_owes_fires_it(
    timed_store: Store, clock: ManualClock
) -> None:
    eleven = START + timedelta(hours=1)
    look(scheduler(timed_store, declared(cron="0 11 * * *")))
    set_clock(clock, eleven + timedelta(seconds=5))
    look(scheduler(timed_store, declared(at=eleven)))
    assert (fired(timed_store), skipped(timed_store)) == ([eleven], [])


def test_of_what_was_owed_for_long_the_last_hundred_are_on_record(
    timed_store: Store, clock: ManualClock
) -> None:
    look(scheduler(timed_store, declared(cron="* * * * *")))
    clock.advance(200 * 60)
    look(scheduler(timed_store, declared(every=3600)))
    told = skipped(timed_store)
    assert [at for at, _ in told] == [START + n * MINUTE for n in range(101, 201)]
    assert "as all before it since 2026-01-01T10:01:00Z" in told[0][1]


def of_a_newer_version(store: Store, name: str) -> None:
    written = json.dumps(json.loads(stored(store, name).definition) | {"until": 0})
    sql = "UPDATE netscript_schedules SET definition = :written, fingerprint = 'x' WHERE id = :id"
    run(store, sql, written=written, id=f"job:{name}")


@pytest.mark.trap("D-81")
def test_a_schedule_of_a_newer_version_is_left_to_who_knows_it_and_holds_up_no_other(
    timed_store: Store, clock: ManualClock
) -> None:
    one = scheduler(timed_store, declared("newer", cron="* * * * *"), declared(cron="* * * * *"))
    look(one)
    of_a_newer_version(timed_store, "newer")
    clock.advance(60)
    look(one)
    assert fired(timed_store) == [START + MINUTE]
    assert fired(timed_store, "newer") == []
    assert stored(timed_store, "newer").next_at == START + MINUTE  # for whoever can read it
    # Once this version's definition is the one that holds again, it goes on from there.
    look(scheduler(timed_store, declared("newer", cron="* * * * *"), declared("other", every=60)))
    assert fired(timed_store, "newer") == [START + MINUTE]
