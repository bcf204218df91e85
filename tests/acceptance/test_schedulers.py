"""Schedules from the outside: who fires them, who does not, and how they are listed."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from netscript_workers.store.engine import Store
from tests.kit import rows, run, scalar
from tests.support import Process, eventually, netscript, write_project

JOB = """
from netscript_workers import JobContext, define_job_handler, job

def report(ctx: JobContext):
    return ctx.correlation_id

nightly = define_job_handler(
    report, id="nightly", cron="30 2 * * *", timezone="America/New_York"
)
yearly = define_job_handler(report, id="yearly", cron="@yearly", enabled=False)
by_hand = define_job_handler(report, id="by-hand")
"""

TRIGGER = """
from jobs.reports import by_hand
from netscript_triggers import ScheduleEvent, enqueue_job, schedule

@schedule(id="monthly", cron="0 6 1 * *", timezone="Europe/Paris", catch_up="skip")
def monthly(event: ScheduleEvent):
    "The report of a month."
    return enqueue_job(by_hand, correlation_id=event.payload["local_time"])

@schedule(id="often", every=1.0)
async def often(event: ScheduleEvent):
    return [enqueue_job("by-hand", correlation_id="often")]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_project(tmp_path / "shop", {"jobs/reports.py": JOB})


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    opened = Store(database_url)
    yield opened
    opened.dispose()


def start(project: Path, url: str, *command: str) -> Process:
    return Process(
        "-m", "netscript_triggers", *command, cwd=project, env={"NETSCRIPT_DATABASE_URL": url}
    )


def make_due(store: Store) -> None:
    """Two days have gone by since anybody looked."""
    run(store, "UPDATE netscript_schedules SET next_at = next_at - 172800000000")


def test_a_worker_makes_up_for_what_was_missed_unless_told_to_leave_it_to_others(
    project: Path, database_url: str, store: Store
) -> None:
    declared = "SELECT id, enabled FROM netscript_schedules"
    with start(project, database_url, "scheduler") as alone:
        eventually(lambda: rows(store, declared), 30)
        assert alone.terminate() == 0, alone.output
    assert [(id_, bool(on)) for id_, on in rows(store, declared)] == [("job:nightly", True)]
    make_due(store)
    finished = "SELECT count(*) FROM netscript_execution_history"
    with start(project, database_url, "worker", "--no-scheduler") as idle:
        eventually(lambda: scalar(store, "SELECT count(*) FROM netscript_workers"), 30)
        trigger = ("jobs", "trigger", "by-hand", "--wait")
        done = netscript(*trigger, cwd=project, env={"NETSCRIPT_DATABASE_URL": database_url})
        assert done.returncode == 0, done.stderr
        assert scalar(store, "SELECT count(*) FROM netscript_schedule_fires") == 0
        with start(project, database_url, "scheduler") as alone:
            eventually(lambda: scalar(store, finished) == 2, 30)
            assert alone.terminate() == 0, alone.output
        assert idle.terminate() == 0, idle.output
    # As if that had never been: the next worker finds the missed night again.
    run(store, "DELETE FROM netscript_schedule_fires")
    run(store, "DELETE FROM netscript_execution_history WHERE job_id = 'nightly'")
    make_due(store)
    with start(project, database_url, "worker") as worker:
        eventually(lambda: scalar(store, finished) == 2, 30)
        assert worker.terminate() == 0, worker.output
    ((cause, status, result, name),) = rows(
        store,
        "SELECT triggered_by, status, result, correlation_id FROM netscript_execution_history "
        "WHERE job_id = 'nightly'",
    )
    assert (cause, status, json.loads(result)) == ("cron", "completed", name)
    assert name.startswith("job:nightly@") and name.endswith(":30:00.000000Z")
    checked = netscript("verify", cwd=project, env={"NETSCRIPT_DATABASE_URL": database_url})
    assert checked.returncode == 0, checked.stdout
    assert "1 fires" in checked.stderr


def test_jobs_are_listed_with_when_they_run(project: Path) -> None:
    told = json.loads(netscript("jobs", "list", "--json", cwd=project).stdout)["jobs"]
    by_hand, nightly, yearly = told
    assert (by_hand["cron"], by_hand["timezone"], by_hand["next_at"]) == (None, None, None)
    assert (nightly["cron"], nightly["timezone"]) == ("30 2 * * *", "America/New_York")
    assert nightly["next_at"].endswith(":30:00.000000Z")
    assert (yearly["cron"], yearly["next_at"]) == ("0 0 1 1 *", None)
    table = netscript("jobs", "list", cwd=project).stdout
    assert "30 2 * * * America/New_York" in table
    assert nightly["next_at"] in table


def test_a_cron_that_cannot_be_is_one_sentence(project: Path) -> None:
    (project / "jobs" / "reports.py").write_text(JOB.replace("30 2 * * *", "0 0 31 2 *"))
    done = netscript("jobs", "list", cwd=project)
    assert done.returncode == 1
    assert "job \"nightly\": cron='0 0 31 2 *' can never be due" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_scheduler_that_is_told_twice_to_stop_ends_at_once(
    project: Path, database_url: str, store: Store
) -> None:
    with start(project, database_url, "scheduler") as alone:
        eventually(lambda: scalar(store, "SELECT count(*) FROM netscript_schedulers"), 30)
        with store.begin() as conn:  # who holds its row, so that it can't say goodbye
            conn.execute(text("UPDATE netscript_schedulers SET seen_at = seen_at"))
            alone.signal(signal.SIGTERM)
            alone.wait_for("once more ends at once")
            assert alone.terminate() == 128 + signal.SIGTERM, alone.output


def test_a_worker_fires_triggers_and_a_person_runs_what_was_missed(
    project: Path, database_url: str, store: Store
) -> None:
    (project / "triggers").mkdir()
    (project / "triggers" / "clocks.py").write_text(TRIGGER)
    env = {"NETSCRIPT_DATABASE_URL": database_url, "NETSCRIPT_PORT": "0"}

    def command(*given: str, code: int = 0) -> Any:
        done = netscript("triggers", *given, cwd=project, env=env)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    with start(project, database_url, "worker") as worker:
        ran = (
            "SELECT count(*) FROM netscript_execution_history "
            "WHERE correlation_id = 'often' AND status = 'completed'"
        )
        eventually(lambda: scalar(store, ran) >= 2, 30)
        listed = command("list").stdout
        assert "0 6 1 * *" in listed and "every 1 s" in listed
        told = command("preview", "monthly", "--count", "2").stdout
        assert told.startswith("At 06:00 on the first day of every month, Europe/Paris")
        shown = json.loads(command("preview", "often", "--json").stdout)
        assert len(shown["next"]) == 5
        assert {one["outcome"] for one in shown["recent"]} == {"fired"}
        asked = ("fire", "monthly", "--at", "2026-01-01T05:00:00Z")
        assert "is pending" in command(*asked).stdout
        assert "was fired before, for the same instant" in command(*asked).stdout
        refused = command("fire", "monthly", "--at", "2026-01-01T06:00:00Z", code=1).stderr
        assert "is no instant of schedule" in refused
        serving = start(project, database_url, "serve", "--port", "0")
        with serving:
            name = "2026-01-01T06:00:00+01:00"
            done = "SELECT status FROM netscript_execution_history WHERE correlation_id = :name"
            eventually(lambda: scalar(store, done, name=name) == "completed", 30)
        assert worker.terminate() == 0, worker.output
    checked = netscript("verify", cwd=project, env=env)
    assert checked.returncode == 0, checked.stdout


HANGS = """
import time
from netscript_triggers import schedule

@schedule(id="hangs", every=1.0)
def hangs(event):
    time.sleep(100_000)
"""


@pytest.mark.parametrize("command", ["worker", "scheduler"])
def test_a_handler_that_hangs_keeps_no_process_from_ending(
    project: Path, database_url: str, store: Store, command: str
) -> None:
    (project / "triggers").mkdir()
    (project / "triggers" / "clocks.py").write_text(HANGS)
    failed = "SELECT count(*) FROM netscript_trigger_events WHERE status = 'failed'"
    with start(project, database_url, command) as process:
        eventually(lambda: scalar(store, failed), 30)
        assert process.terminate(60) == 0, process.output
    assert "Traceback" not in process.output
