"""`netscript topics` and `netscript workers`, against real processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from netscript_workers.store.engine import Store
from tests.kit import new, put, rows, scalar
from tests.support import Process, eventually, netscript, write_project

JOBS = """
from netscript_workers import JobContext, job

@job(topic="reports")
async def report(ctx: JobContext):
    return "reported"

@job(topic="mails")
async def mail(ctx: JobContext):
    return "sent"
"""
CONFIG = """
[tool.netscript.topics.reports]
mode = "distributed"
concurrency = 2
rate = "500/s"
"""


def test_topics_and_workers_are_seen_and_steered_from_the_command_line(
    tmp_path: Path, database_url: str
) -> None:
    place = write_project(tmp_path / "shop", {"jobs/some.py": JOBS, "pyproject.toml": CONFIG})
    env = {"NETSCRIPT_DATABASE_URL": database_url}
    store = Store(database_url)

    def told(*command: str) -> Any:
        done = netscript(*command, "--json", cwd=place, env=env)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def workers() -> int:
        return int(scalar(store, "SELECT count(*) FROM netscript_workers"))

    assert "There are no workers" in netscript("workers", "list", cwd=place, env=env).stdout
    command = ("-m", "netscript_triggers", "worker")
    with Process(*command, cwd=place, env=env) as process:
        eventually(workers, 30)
        assert told("topics", "pause", "mails")["paused"] is True
        put(store, new("report", topic="reports"), new("mail", topic="mails"))
        shown = {one["name"]: one for one in told("topics", "list")["topics"]}
        assert (shown["reports"]["depth"], shown["mails"]["depth"]) == (1, 1)
        assert shown["mails"]["paused"] is True
        assert "paused" in netscript("topics", "list", cwd=place, env=env).stdout
        assert told("topics", "resume", "mails")["paused"] is False
        assert told("topics", "limit", "mails", "100/m")["rate"] == "100/m"
        assert told("topics", "limit", "mails", "none")["rate"] is None
        refused = netscript("topics", "limit", "mails", "often", cwd=place, env=env)
        assert (refused.returncode, "is no rate" in refused.stderr) == (1, True)
        history = "SELECT job_id FROM netscript_execution_history"
        # Nobody names the distributed topic, so what it holds stays where it is.
        eventually(lambda: rows(store, history) == [("mail",)], 30)
        assert scalar(store, "SELECT status FROM netscript_executions") == "queued"
        assert shown["reports"]["rate"] == "500/s"
        (worker,) = told("workers", "list")["workers"]
        assert (worker["pid"], worker["state"]) == (process.popen.pid, "running")
        assert (worker["topics"], worker["except_topics"]) == (None, ["reports"])
        listed = netscript("workers", "list", cwd=place, env=env).stdout
        assert worker["id"] in listed
        assert told("workers", "drain", worker["id"])["drain_requested"] is True
        assert process.popen.wait(30) == 0, process.output
        assert "has left (told to leave); stopped: " in process.output
    assert workers() == 0
    gone = netscript("workers", "drain", worker["id"], cwd=place, env=env)
    assert (gone.returncode, gone.stderr.count("There is no worker")) == (1, 1)
    with Process(*command, "--topics", "reports:1", cwd=place, env=env) as process:
        eventually(lambda: ("report",) in rows(store, history), 30)
        assert scalar(store, "SELECT concurrency FROM netscript_workers") == 1
        assert process.terminate(30) == 0
    bad = netscript("worker", "--topics", "reports:x", cwd=place, env=env)
    assert (bad.returncode, "NAME:CONCURRENCY" in bad.stderr) == (2, True)
    store.dispose()
