"""Schedulers on a clock that tests move: what they declare, when they look, what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import wait
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim

from netscript_workers import JobContext, define_job_handler
from netscript_workers.clock import from_micros, to_micros
from netscript_workers.scheduler import JOB, Scheduler, job_target
from netscript_workers.schedules import Declared, make_schedule
from netscript_workers.store import definitions
from netscript_workers.store.engine import Store
from netscript_workers.store.findings import Report, Terms
from netscript_workers.store.schedules import StoredSchedule, list_schedules
from netscript_workers.store.verify_fires import check_fires
from netscript_workers.testing import ManualClock
from tests.kit import Hand, ended, rows


def tick(ctx: JobContext) -> None: ...


TICK = define_job_handler(tick)


def declared(name: str = "tick", target: str = "tick", **options: Any) -> Declared:
    """Return a schedule of the job `tick`."""
    schedule = make_schedule(name, **options)
    return Declared(id=f"job:{name}", kind=JOB, target=target, schedule=schedule)


def scheduler(store: Store, *schedules: Declared) -> Scheduler:
    """Return a scheduler that looks when told to, and whose code has these."""
    definitions.register(store, [TICK])
    return Scheduler(store, schedules, {JOB: job_target({})})


def look(*schedulers: Scheduler) -> None:
    """Have each look until nothing is due, and what its handlers do has come to an end."""
    for one in schedulers:
        for _ in range(1000):
            if one.turn() > 0 and not wait(list(one._preparing.values())).done:
                break
        else:
            raise AssertionError("it does not come to rest")


def set_clock(clock: ManualClock, at: datetime) -> None:
    """Set a clock to an instant."""
    clock.advance((to_micros(at) - clock.now()) / 1e6)


def utc(text: str) -> datetime:
    """Read an instant in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def by_cronsim(
    expression: str, start: datetime, end: datetime, zone: str = "UTC"
) -> list[datetime]:
    """Return what another library finds after `start`, up to and with `end`."""
    theirs = CronSim(expression, start.astimezone(ZoneInfo(zone)))
    return list(takewhile(lambda one: one <= end, (one.astimezone(UTC) for one in theirs)))


def fired(store: Store, name: str = "tick") -> list[datetime]:
    """Return the instants that fired."""
    sql = (
        "SELECT nominal_at FROM netscript_schedule_fires "
        "WHERE outcome = 'fired' AND schedule_id = :id ORDER BY nominal_at"
    )
    return [from_micros(at) for (at,) in rows(store, sql, id=f"job:{name}")]


def skipped(store: Store, name: str = "tick") -> list[tuple[datetime, str]]:
    """Return the instants that were passed over, and why."""
    sql = (
        "SELECT nominal_at, note FROM netscript_schedule_fires "
        "WHERE outcome = 'skipped' AND schedule_id = :id ORDER BY nominal_at"
    )
    return [(from_micros(at), note) for at, note in rows(store, sql, id=f"job:{name}")]


def executions(store: Store) -> list[tuple[str, str]]:
    """Return why each execution is there, and its instant, live and finished ones."""
    sql = (
        "SELECT triggered_by, correlation_id FROM netscript_executions UNION ALL "
        "SELECT triggered_by, correlation_id FROM netscript_execution_history ORDER BY 2"
    )
    return rows(store, sql)


def assert_each_once(store: Store, names: Sequence[str] = ("tick",)) -> None:
    """Each instant that fired has its one execution, and there are no others."""
    expected = [
        ("cron", f"job:{name}@{at.strftime('%Y-%m-%dT%H:%M:%S.%fZ')}")
        for name in sorted(names)
        for at in fired(store, name)
    ]
    assert executions(store) == expected
    report = Report()
    check_fires(store, Terms(), report)
    assert not report.findings, str(report)
    assert report.checked["fires"] == len(expected)


def stored(store: Store, name: str = "tick") -> StoredSchedule:
    """Return a schedule as the database has it."""
    with store.read() as conn:
        (found,) = [one for one in list_schedules(conn) if one.id == f"job:{name}"]
    return found


def is_known(store: Store, name: str = "tick") -> bool:
    """Tell whether somebody has declared a schedule."""
    with store.read() as conn:
        return any(one.id == f"job:{name}" for one in list_schedules(conn))


def finish_all(store: Store) -> int:
    """Run whatever is ready to its end; return how much it was."""
    hand = Hand(store, ["tick"])
    claims = hand.claim(1000)
    if claims:
        hand.tick(*(ended(claim) for claim in claims))
    return len(claims)
