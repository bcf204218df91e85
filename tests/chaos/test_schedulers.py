"""Schedulers that are killed while they fire: run by `make chaos`."""

from __future__ import annotations

import random
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from netscript_triggers.store.verify import verify
from netscript_workers.clock import from_micros
from netscript_workers.store.engine import Store
from tests.integration.scheduling import assert_each_once, fired, is_known, skipped, stored
from tests.kit import rows, scalar
from tests.support import ROOT, Process, eventually

pytestmark = pytest.mark.chaos

KILLS = 50
CODE = """
import signal, sys
from netscript_workers.store.engine import Store
from tests.integration.scheduling import declared, scheduler

given = (declared("all", every=1.0, catch_up="all"), declared("latest", every=1.0))
scheduler(Store(sys.argv[1]), *given).start()
signal.pause()
"""

# The same with handlers, which take their time, and fail now and then.
TRIGGERS = """
import random, signal, sys, time
from netscript_triggers import define_schedule, enqueue_job
from netscript_triggers.scheduling import schedules_of
from netscript_workers.scheduler import Scheduler
from netscript_workers.store import definitions
from netscript_workers.store.definitions import StoredCatalog
from netscript_workers.store.engine import Store
from tests.edge import charge

def pay(event):
    time.sleep(random.uniform(0.0, 0.2))
    if random.random() < 0.1:
        raise ConnectionError("now and then")
    return [enqueue_job(charge, {"part": n}) for n in range(3)]

store = Store(sys.argv[1])
definitions.register(store, [charge])
tick = define_schedule(pay, id="tick", every=1.0, catch_up="all", circuit=None)
more = schedules_of({"tick": tick})(store, StoredCatalog(store, {charge.id: charge}))
scheduler = Scheduler(store, more.declared, more.targets)
if len(sys.argv) > 2:
    from tests.faults import Points
    def told(name):
        print(name, flush=True)
    Points(int(sys.argv[2]), told, ("netscript-bell", "MainThread", "netscript-scheduler"))
scheduler.start()
signal.pause()
"""


@pytest.mark.trap("D-73")
def test_four_schedulers_killed_fifty_times_fire_each_second_once(
    database_url: str, tmp_path: Path
) -> None:
    chance = random.Random(73)
    store = Store(database_url)

    def start() -> Process:
        return Process("-c", CODE, database_url, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})

    living = [start() for _ in range(4)]
    try:
        eventually(lambda: is_known(store, "all"), 30)
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.0, 1.0))
            living.pop(chance.randrange(4)).kill()
            living.append(start())
        before = len(fired(store, "all"))
        eventually(lambda: len(fired(store, "all")) > before, 30)
    finally:
        for one in living:
            one.kill()
    anchor = stored(store, "all").anchor
    came = fired(store, "all")
    assert came == [anchor + timedelta(seconds=n) for n in range(1, len(came) + 1)]
    latest = sorted([*fired(store, "latest"), *(at for at, _ in skipped(store, "latest"))])
    anchor = stored(store, "latest").anchor
    assert latest == [anchor + timedelta(seconds=n) for n in range(1, len(latest) + 1)]
    assert_each_once(store, ["all", "latest"])
    assert not any("Traceback" in one.output for one in living)
    store.dispose()


def _instants(store: Store, outcome: str = "fired") -> list[datetime]:
    sql = (
        "SELECT nominal_at FROM netscript_schedule_fires WHERE outcome = :outcome "
        "AND schedule_id = 'trigger:tick' ORDER BY nominal_at"
    )
    return [from_micros(at) for (at,) in rows(store, sql, outcome=outcome)]


def _assert_each_is_one_event(store: Store) -> None:
    # More than a hundred that nobody was there for, on a slow machine, are not all made up for.
    came = _instants(store)
    known = sorted([*came, *_instants(store, "skipped")])
    assert known == [known[0] + timedelta(seconds=n) for n in range(len(known))]
    told = rows(store, "SELECT status, executions FROM netscript_trigger_events")
    assert len(told) == len(came)
    for status, executions in told:
        assert (status, executions.count("-")) in {("completed", 12), ("failed", 0), ("pending", 0)}
    done = sum(status == "completed" for status, _ in told)
    assert scalar(store, "SELECT count(*) FROM netscript_executions") == 3 * done
    report = verify(store)
    assert {one.code for one in report.findings} <= {"event-overdue"}, str(report)
    assert report.checked["fires"] == len(came)


@pytest.mark.trap("D-73")
def test_four_schedulers_killed_while_handlers_run_make_one_event_of_each_second(
    database_url: str, tmp_path: Path
) -> None:
    chance = random.Random(74)
    store = Store(database_url)

    def start(*point: str) -> Process:
        given = ("-c", TRIGGERS, database_url, *point)
        return Process(*given, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})

    living = [start() for _ in range(4)]
    try:
        eventually(lambda: _instants(store), 30)
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.0, 1.0))
            living.pop(chance.randrange(4)).kill()
            living.append(start())
        before = len(_instants(store))
        eventually(lambda: len(_instants(store)) > before, 30)
    finally:
        for one in living:
            one.kill()
    _assert_each_is_one_event(store)
    assert not any("Traceback" in one.output for one in living)
    # And one by one at every statement and commit of a fire.
    point = 1
    deaths: list[str] = []
    while True:
        wanted = len(_instants(store)) + 3
        with start(str(point)) as one:
            ended = one.popen.poll
            while ended() is None and len(_instants(store)) < wanted:
                time.sleep(0.05)
            if one.popen.poll() is None:
                break
        deaths.append(one.output.strip().splitlines()[-1])
        point += 1
    _assert_each_is_one_event(store)
    print(
        f"{KILLS} kills, {len(_instants(store))} instants; died at {len(deaths)} points: {deaths}"
    )
    store.dispose()
