"""The scheduler at work: in a worker, alone, without its database; what it costs, what it keeps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import event

from netscript_workers import JobContext, define_job_handler
from netscript_workers.clock import to_micros
from netscript_workers.scheduler import JOB, Scheduler, declared_jobs, job_target
from netscript_workers.store import definitions, leases, schedules
from netscript_workers.store.engine import Store
from netscript_workers.store.findings import Report, Terms
from netscript_workers.store.retention import Retention, prune
from netscript_workers.store.verify_fires import check_fires
from netscript_workers.testing import ManualClock
from tests.integration.scheduling import (
    TICK,
    assert_each_once,
    declared,
    executions,
    finish_all,
    fired,
    is_known,
    look,
    scheduler,
    set_clock,
    skipped,
    stored,
    utc,
)
from tests.integration.store.scenes import no_folder
from tests.kit import Hand, rows, run, scalar
from tests.proxy import Proxy
from tests.support import eventually, eventually_async
from tests.working import working

START = utc("2026-01-01T10:00")
MINUTE = timedelta(minutes=1)


def running(store: Store, *given: Any) -> Scheduler:
    one = scheduler(store, *given)
    one.start()
    return one


def hourly(ctx: JobContext) -> str | None:
    return ctx.correlation_id


async def test_a_worker_fires_what_its_jobs_declare_and_runs_it(store: Store) -> None:
    job = define_job_handler(hourly, cron="0 * * * *")
    schedules.declare(store, "01a20ca3-d42f-72c6-b60b-7fbbccc8d150", declared_jobs([job]))
    run(store, "UPDATE netscript_schedules SET next_at = next_at - 7200000000")
    async with working(store, job) as at_work:
        name = f"SELECT correlation_id FROM netscript_execution_history WHERE job_id = '{job.id}'"
        ran = await eventually_async(lambda: scalar(store, name), what="the job having run")
        assert at_work.worker.id == scalar(
            store,
            "SELECT CAST(id AS text) FROM netscript_schedulers WHERE id = :id",
            id=at_work.worker.id,
        )
    ((cause, instant, result),) = rows(
        store, "SELECT triggered_by, correlation_id, result FROM netscript_execution_history"
    )
    assert (cause, instant, result) == ("cron", ran, f'"{ran}"')
    assert ran.startswith("job:hourly@")
    assert ran.endswith(":00:00.000000Z")
    assert_each_once(store, ["hourly"])
    # It has said goodbye.
    gone = "SELECT count(*) FROM netscript_schedulers WHERE id = :id"
    assert scalar(store, gone, id=at_work.worker.id) == 0


async def test_a_worker_without_a_scheduler_declares_and_fires_nothing(store: Store) -> None:
    async with working(store, define_job_handler(hourly, cron="0 * * * *"), scheduler=False) as it:
        assert (
            await it.run(define_job_handler(hourly, id="hourly"))
        ).execution.status == "completed"
    assert rows(store, "SELECT id FROM netscript_schedules") == []


def test_a_scheduler_sleeps_until_the_next_instant(store: Store) -> None:
    one = running(store, declared(every=1.0))
    eventually(lambda: len(fired(store)) >= 3, 20)
    one.stop()
    came = fired(store)
    assert all((at - came[0]) % timedelta(seconds=1) == timedelta(0) for at in came)
    assert_each_once(store)


def test_a_scheduler_is_woken_by_a_change(timed_store: Store, clock: ManualClock) -> None:
    set_clock(clock, START)
    one = running(timed_store, declared(cron="0 0 1 1 *"))
    eventually(lambda: is_known(timed_store))
    run(timed_store, "UPDATE netscript_schedules SET next_at = :now", now=to_micros(START))
    one.wake()
    eventually(lambda: stored(timed_store).next_at == utc("2027-01-01T00:00"))
    one.stop()
    assert len(skipped(timed_store)) + len(fired(timed_store)) == 0  # it is no instant of its own


def test_the_scheduler_of_a_dead_worker_is_gone_with_it(store: Store) -> None:
    dead = Hand(store)
    dead.register(lease=-1)
    definitions.register(store, [TICK])
    look(Scheduler(store, [declared(cron="@yearly")], {JOB: job_target({})}, id=dead.id))
    other = scheduler(store)
    look(other)
    assert stored(store).enabled
    leases.rescue(store, other.id, no_folder())
    look(other)
    assert not stored(store).enabled


def test_disabled_jobs_declare_nothing() -> None:
    on = define_job_handler(hourly, cron="@hourly")
    off = define_job_handler(hourly, id="off", cron="@hourly", enabled=False)
    assert [one.id for one in declared_jobs([on, off, TICK])] == ["job:hourly"]


def test_an_idle_scheduler_costs_a_statement_a_minute(
    timed_store: Store, clock: ManualClock
) -> None:
    set_clock(clock, START)
    one = scheduler(timed_store, declared(cron="0 * * * *"))
    assert 40 < one.turn() <= 60
    seen: list[str] = []

    def note(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    for engine in (timed_store.engine, timed_store._reader):
        event.listen(engine, "before_cursor_execute", note)
    for _ in range(10):
        clock.advance(60)
        assert 40 < one.turn() <= 60
    assert len([text for text in seen if not text.strip().startswith("BEGIN")]) == 10


@pytest.mark.trap("D-83")
def test_schedules_go_on_by_themselves_when_the_database_is_back(
    timed_store: Store, clock: ManualClock
) -> None:
    set_clock(clock, START)
    one = running(
        timed_store, declared(cron="* * * * *"), declared("all", every=60, catch_up="all")
    )
    eventually(lambda: is_known(timed_store, "all"))
    run(timed_store, "ALTER TABLE netscript_schedulers RENAME TO netscript_hidden")
    clock.advance(600)
    failed: list[str] = []

    def note(_context: object) -> None:
        failed.append("here")

    for engine in (timed_store.engine, timed_store._reader):
        event.listen(engine, "handle_error", note)
    one.wake()
    eventually(lambda: failed, what="a look that failed")
    assert fired(timed_store) == []
    run(timed_store, "ALTER TABLE netscript_hidden RENAME TO netscript_schedulers")
    eventually(lambda: fired(timed_store) and len(fired(timed_store, "all")) == 10, 60)
    one.stop()
    assert fired(timed_store) == [START + 10 * MINUTE]
    assert fired(timed_store, "all") == [START + n * MINUTE for n in range(1, 11)]
    assert_each_once(timed_store, ["all", "tick"])


@pytest.mark.postgres
@pytest.mark.trap("D-83")
def test_schedules_go_on_when_the_way_to_the_database_was_cut(
    postgres_proxy: tuple[Proxy, str], postgres_url: str, clock: ManualClock
) -> None:
    proxy, url = postgres_proxy
    set_clock(clock, START)
    direct, cut_off = Store(postgres_url, clock=clock), Store(url, clock=clock)
    one = running(cut_off, declared(cron="* * * * *"))
    eventually(lambda: is_known(direct))
    proxy.cut()
    clock.advance(600)
    one.wake()
    assert fired(direct) == []
    proxy.heal()
    eventually(lambda: fired(direct), 60)
    one.stop()
    assert fired(direct) == [START + 10 * MINUTE]
    assert_each_once(direct)
    direct.dispose()
    cut_off.dispose()


def test_old_fires_are_forgotten_and_the_last_of_each_is_not(
    timed_store: Store, clock: ManualClock
) -> None:
    set_clock(clock, START)
    definitions.register(timed_store, [TICK])
    both = scheduler(
        timed_store,
        declared(cron="0 2,10,18 * * *"),
        declared("busy", cron="@monthly", overlap="skip"),
    )
    look(both)
    for _ in range(3 * 40):
        clock.advance(8 * 3600)
        look(both)
        if not fired(timed_store, "busy"):
            finish_all(timed_store)
    assert prune(timed_store, Retention(completed=7.0)) > 0
    while prune(timed_store, Retention(completed=7.0)):
        pass
    kept = fired(timed_store)
    assert kept[0] >= START + timedelta(days=33)
    assert kept[-1] == START + timedelta(days=40)
    # That of February still counts, though it is older: what it led to has not ended.
    assert fired(timed_store, "busy") == [utc("2026-02-01T00:00")]
    set_clock(clock, utc("2026-03-01T00:00:01"))
    look(both)
    assert [at for at, _ in skipped(timed_store, "busy")] == [utc("2026-03-01T00:00")]


def test_verify_finds_a_fire_without_its_execution_and_one_with_two(
    timed_store: Store, clock: ManualClock
) -> None:
    set_clock(clock, START)
    one = scheduler(timed_store, declared(cron="* * * * *", catch_up="all"))
    look(one)
    clock.advance(180)
    look(one)
    finish_all(timed_store)
    assert_each_once(timed_store)
    first, second, _ = (name for _, name in executions(timed_store))
    run(
        timed_store,
        "DELETE FROM netscript_execution_history WHERE correlation_id = :name",
        name=first,
    )
    run(
        timed_store,
        "UPDATE netscript_execution_history SET correlation_id = :name",
        name=second,
    )
    report = Report()
    check_fires(timed_store, Terms(), report)
    assert {(one.code, one.subject) for one in report.findings} == {
        ("fire-lost", first),
        ("fired-twice", second),
    }
    # Later it may have been pruned.
    set_clock(clock, datetime.now(UTC) + timedelta(days=100))
    late = Report()
    check_fires(timed_store, Terms(), late)
    assert late.pruned == 1
    assert set(late.counts) == {"fired-twice"}


def test_a_job_at_hand_wins_over_the_one_that_is_registered(
    timed_store: Store, clock: ManualClock
) -> None:
    set_clock(clock, START)
    mine = define_job_handler(hourly, id="tick", priority=99)
    definitions.register(timed_store, [TICK])
    one = Scheduler(timed_store, [declared(cron="* * * * *")], {JOB: job_target({"tick": mine})})
    look(one)
    clock.advance(60)
    look(one)
    assert rows(timed_store, "SELECT priority, payload FROM netscript_executions") == [(99, "{}")]


def not_of_this_machine(store: Store, names: str) -> None:
    sql = "UPDATE netscript_schedules SET definition = replace(definition, 'UTC', 'Mars/Base')"
    run(store, f"{sql} WHERE id LIKE :names", names=names)


def as_it_was(store: Store) -> None:
    run(
        store, "UPDATE netscript_schedules SET definition = replace(definition, 'Mars/Base', 'UTC')"
    )


def test_a_schedule_that_cannot_be_dealt_with_makes_no_other_late(
    timed_store: Store, clock: ManualClock
) -> None:
    set_clock(clock, START)
    one = scheduler(timed_store, declared("odd", cron="* * * * *"), declared(every=3))
    look(one)
    not_of_this_machine(timed_store, "job:odd")
    clock.advance(60)
    look(one)
    for _ in range(20):
        # It sleeps until the next one is due, whatever else waits.
        wait = one.turn()
        assert 0 < wait < 3.1
        clock.advance(wait)
        look(one)
    came = fired(timed_store)
    assert [after - before for before, after in pairwise(came[1:])] == [timedelta(seconds=3)] * (
        len(came) - 2
    )
    assert len(came) > 10
    assert fired(timed_store, "odd") == []


def test_it_is_tried_again_ever_more_seldom_and_fires_when_it_can(
    timed_store: Store, clock: ManualClock
) -> None:
    set_clock(clock, START)
    one = scheduler(timed_store, declared("odd", cron="0 11 * * *"))
    look(one)
    not_of_this_machine(timed_store, "job:odd")
    clock.advance(3600)
    put_off: list[float] = []
    for _ in range(6):
        look(one)
        put_off.append(one._put_off["job:odd"].seconds)
        assert 0 < one.turn() <= put_off[-1]
        clock.advance(60)
    assert put_off == [5, 10, 20, 40, 60, 60]
    as_it_was(timed_store)
    look(one)
    assert fired(timed_store, "odd") == [START + timedelta(hours=1)]
    assert one._put_off == {}


def test_a_hundred_that_cannot_be_dealt_with_starve_nobody(
    timed_store: Store, clock: ManualClock
) -> None:
    set_clock(clock, START)
    odd = [declared(f"odd{number}", cron="* * * * *") for number in range(100)]
    one = scheduler(timed_store, *odd, declared(cron="2 10 * * *"))
    look(one)
    not_of_this_machine(timed_store, "job:odd%")
    clock.advance(120)
    look(one)
    assert fired(timed_store) == [START + 2 * MINUTE]


def test_what_was_put_off_is_not_forgotten_when_the_clock_is_set_back(
    timed_store: Store, clock: ManualClock
) -> None:
    set_clock(clock, START)
    one = scheduler(timed_store, declared("odd", cron="* * * * *"))
    look(one)
    not_of_this_machine(timed_store, "job:odd")
    clock.advance(7200)
    look(one)
    assert list(one._put_off) == ["job:odd"]
    clock.advance(-3600)
    as_it_was(timed_store)
    look(one)
    assert fired(timed_store, "odd") == [START + 60 * MINUTE]
