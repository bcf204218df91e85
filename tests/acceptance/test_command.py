"""The `netscript` command, as processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer.main

from netscript_triggers import cli
from netscript_workers.store import migrations
from netscript_workers.store.engine import Store
from tests.kit import run, scalar
from tests.support import (
    ROOT,
    Process,
    clean_environment,
    eventually,
    free_port,
    netscript,
    wait_until_answers,
    write_project,
)

SLOW_JOB = """
import asyncio, time
from netscript_workers import JobContext, job

@job(id="slow")
async def slow(ctx: JobContext):
    ctx.log.info("started")
    await asyncio.sleep(ctx.payload.get("seconds", 1))
    return "done"

@job(id="stuck")
def stuck(ctx: JobContext):
    time.sleep(60)

@job(id="fails")
async def fails(ctx: JobContext):
    raise ValueError("no such order")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_project(tmp_path / "shop", {"jobs/slow.py": SLOW_JOB, "triggers/none.py": ""})


def worker(project: Path, url: str, *options: str, **env: str) -> Process:
    environment = {"NETSCRIPT_DATABASE_URL": url, **env}
    return Process("-m", "netscript_triggers", "worker", *options, cwd=project, env=environment)


def trigger(project: Path, url: str, job: str, *options: str) -> subprocess.CompletedProcess[str]:
    env = {"NETSCRIPT_DATABASE_URL": url}
    return netscript("jobs", "trigger", job, *options, cwd=project, env=env)


def running(url: str) -> bool:
    store = Store(url)
    try:
        sql = "SELECT count(*) FROM netscript_executions WHERE status = 'running'"
        return bool(scalar(store, sql))
    finally:
        store.dispose()


def test_help_is_quick_and_names_the_commands(tmp_path: Path) -> None:
    done = netscript("--help", cwd=tmp_path)
    assert done.returncode == 0
    for command in ("dev", "serve", "worker", "scheduler", "db", "jobs", "executions"):
        assert command in done.stdout
    assert netscript("--version", cwd=tmp_path).stdout.startswith("netscript 0.")
    code = (
        "import sys, netscript_triggers.cli;"
        "print({'sqlalchemy', 'fastapi', 'rich.table', 'alembic', 'httpx'} & set(sys.modules))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "set()"


HEAVY = {"sqlalchemy", "fastapi", "pydantic_settings", "alembic", "httpx", "croniter", "uvicorn"}


def commands() -> list[tuple[list[str], set[str]]]:
    """Return every command, in words, and the options that it takes."""
    found: list[tuple[list[str], set[str]]] = []

    def walk(command: Any, words: list[str]) -> None:
        for name, below in getattr(command, "commands", {}).items():
            walk(below, [*words, name])
        if not hasattr(command, "commands"):
            found.append((words, {name for one in command.params for name in one.opts}))

    walk(typer.main.get_command(cli.app), [])
    return found


def test_every_commands_help_loads_little(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom netscript_triggers.cli import app\n"
        f"for words in {[words for words, _ in commands()]!r}:\n"
        "    try:\n        app([*words, '--help'])\n"
        "    except SystemExit as ended:\n        assert ended.code == 0, words\n"
        f"    assert not {HEAVY!r} & set(sys.modules), words\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("Usage:") == len(commands())


def test_every_command_but_the_processes_tells_json() -> None:
    without = {" ".join(words) for words, options in commands() if "--json" not in options}
    assert without == {"dev", "serve", "worker", "scheduler"}


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("jobs trigger s", ["slow", "stuck"]),
        ("executions list --job sl", ["slow"]),
        ("triggers fire ", []),
        ("executions re", ["retry"]),
        ("add f", ["file-watch"]),
        ("executions show ", []),  # there is no database yet
    ],
)
def test_tab_offers_what_there_is(project: Path, line: str, offered: list[str]) -> None:
    words = ["netscript", *line.split(" ")]
    env = {
        **clean_environment(),
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1),
        "_NETSCRIPT_COMPLETE": "complete_bash",
    }
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from netscript_triggers import cli; cli.app(prog_name='netscript')",
        ],
        cwd=project,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.split(), done.stderr) == (offered, "")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["nonsense"], "nonsense"),
        (["worker", "--concurrency", "x"], "concurrency"),
        (["worker", "--concurrency", "0"], "--concurrency: 0 can't be used"),
        (["worker", "--log-level", "loud"], "debug, info"),
        (["jobs", "trigger", "slow", "--payload", "{"], "it is not JSON"),
        (["jobs", "trigger", "slow", "--idempotency", "twice"], "use one of once, while_pending"),
        (["jobs", "trigger", "slow", "--payload", "[" * 3000], "nested too deep"),
        (
            ["jobs", "trigger", "slow", "--payload", "{}", "--idempotency-key", "\udcff"],
            "not UTF-8",
        ),
        (["jobs", "trigger", "\udcff"], "\\udcff is not UTF-8"),
        (["jobs", "trigger", "slow", "--priority", "101"], "priority"),
        (["jobs", "trigger", "slow", "--delay", "nan"], "delay"),
        (["jobs", "trigger", "slow", "--idempotency-key", ""], "idempotency_key"),
        (["jobs", "trigger", "slow", "--idempotency", "replace"], "needs an idempotency_key"),
        (["topics", "pause", "\udcff"], "not UTF-8"),
        (["executions", "list", "--job", "\udcff"], "not UTF-8"),
        (["executions", "retry", "--topic", "\udcff"], "not UTF-8"),
        (["executions", "list", "--status", "done"], "use one of"),
        (["jobs", "list", "--project", "/nonexistent"], "there is no folder"),
    ],
)
def test_wrong_usage_is_exit_code_2_with_a_sentence(
    project: Path, command: list[str], told: str
) -> None:
    done = netscript(*command, cwd=project)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command", [["worker"], ["scheduler"], ["serve", "--port", "0"], ["executions", "list"]]
)
def test_an_unmigrated_database_is_refused_in_one_sentence(
    project: Path, command: list[str]
) -> None:
    done = netscript(*command, cwd=project)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("netscript:")]
    assert line.endswith("has no netscript tables. Run: netscript db upgrade")


def test_the_schema_is_upgraded_shown_and_checked(project: Path) -> None:
    assert netscript("db", "current", cwd=project).stdout == "none\n"
    assert netscript("db", "check", cwd=project).returncode == 1
    for _ in range(2):
        done = netscript("db", "upgrade", cwd=project)
        assert done.returncode == 0
        assert f"is at revision {migrations.head()}" in done.stdout
    assert netscript("db", "current", cwd=project).stdout == f"{migrations.head()}\n"
    assert netscript("db", "check", cwd=project).returncode == 0
    assert (project / "netscript.db").exists()


def test_a_broken_module_is_a_sentence_with_file_and_line(project: Path) -> None:
    (project / "jobs" / "broken.py").write_text("import os\n\nimport nothing_like_this\n")
    done = netscript("jobs", "list", cwd=project)
    assert done.returncode == 1
    assert "broken.py, line 3: ModuleNotFoundError" in done.stderr
    assert "Traceback" not in done.stderr


def test_jobs_are_listed_as_a_table_and_as_json(project: Path) -> None:
    table = netscript("jobs", "list", cwd=project).stdout
    assert "slow" in table and "ID" in table
    told = json.loads(netscript("jobs", "list", "--json", cwd=project).stdout)
    assert [one["id"] for one in told["jobs"]] == ["fails", "slow", "stuck"]
    empty = netscript("jobs", "list", cwd=project, env={"NETSCRIPT_JOBS_DIR": "none"})
    assert "There are no jobs in" in empty.stdout


def test_a_triggered_job_is_waited_for_and_shown(project: Path, database_url: str) -> None:
    env = {"NETSCRIPT_DATABASE_URL": database_url}
    with worker(project, database_url) as running_worker:
        payload = ("--payload", '{"seconds": 0.05}')
        done = trigger(project, database_url, "slow", *payload, "--wait")
        assert done.returncode == 0, done.stderr
        assert "completed" in done.stdout
        assert '"done"' in done.stdout
        told = trigger(project, database_url, "slow", *payload, "--wait", "--json")
        record = json.loads(told.stdout)
        assert (record["status"], record["result"]) == ("completed", "done")
        failed = trigger(project, database_url, "fails", "--wait")
        assert failed.returncode == 1
        listed = json.loads(
            netscript("executions", "list", "--json", "--limit", "1", cwd=project, env=env).stdout
        )
        assert listed["executions"][0]["job_id"] == "fails"
        table = netscript(
            "executions", "list", "--job", "slow", "--limit", "1", cwd=project, env=env
        )
        assert "completed" in table.stdout
        assert "--cursor" in table.stderr
        shown = netscript("executions", "show", record["id"], cwd=project, env=env).stdout
        assert "started" in shown and "completed" in shown
        as_json = netscript("executions", "show", record["id"], "--json", cwd=project, env=env)
        assert json.loads(as_json.stdout)["logs"][0]["message"] == "started"
        missing = netscript("executions", "show", "nonsense", cwd=project, env=env)
        assert missing.returncode == 1
        assert "There is no execution" in missing.stderr
        assert running_worker.terminate() == 0


def test_a_key_is_told_as_a_duplicate_or_a_conflict(project: Path, sqlite_url: str) -> None:
    key = ("--idempotency-key", "k")
    first = trigger(project, sqlite_url, "slow", *key)
    assert "is enqueued" in first.stdout
    again = trigger(project, sqlite_url, "slow", *key, "--json")
    assert json.loads(again.stdout)["triggered"] is False
    assert "before" in trigger(project, sqlite_url, "slow", *key).stdout
    other = trigger(project, sqlite_url, "slow", *key, "--payload", '{"a":1}')
    assert other.returncode == 1
    assert "another payload" in other.stderr
    unknown = trigger(project, sqlite_url, "slwo")
    assert unknown.returncode == 1
    assert 'Did you mean "slow"?' in unknown.stderr


def test_sigterm_drains_and_exits_0(project: Path, database_url: str) -> None:
    with worker(project, database_url) as process:
        trigger(project, database_url, "slow", "--payload", '{"seconds": 1}')
        eventually(lambda: running(database_url))
        assert process.terminate() == 0
    store = Store(database_url)
    assert scalar(store, "SELECT status FROM netscript_execution_history") == "completed"
    assert scalar(store, "SELECT count(*) FROM netscript_workers") == 0
    store.dispose()


@pytest.mark.trap("D-35")
def test_the_second_signal_ends_at_once(project: Path, database_url: str) -> None:
    number = signal.SIGTERM if database_url.startswith("sqlite") else signal.SIGINT
    with worker(project, database_url) as process:
        trigger(project, database_url, "slow", "--payload", '{"seconds": 60}')
        eventually(lambda: running(database_url))
        process.signal(number)
        process.wait_for("once more ends at once")
        started = time.monotonic()
        process.signal(number)
        assert process.popen.wait(5) == 128 + number
        assert time.monotonic() - started < 2
    # The next worker has it at once.
    with worker(project, database_url):
        store = Store(database_url)
        eventually(lambda: scalar(store, "SELECT max(losses) FROM netscript_executions") == 1)
        store.dispose()


def test_a_stuck_thread_does_not_keep_the_process(project: Path, sqlite_url: str) -> None:
    with worker(project, sqlite_url, NETSCRIPT_SHUTDOWN_TIMEOUT="0.2") as process:
        trigger(project, sqlite_url, "stuck")
        eventually(lambda: running(sqlite_url))
        assert process.terminate(10) == 0


def test_a_database_that_fails_is_a_sentence(project: Path, sqlite_url: str) -> None:
    store = Store(sqlite_url)
    run(store, "DROP TABLE netscript_execution_history")
    store.dispose()
    env = {"NETSCRIPT_DATABASE_URL": sqlite_url}
    done = netscript("executions", "list", cwd=project, env=env)
    assert done.returncode == 1
    assert done.stderr == "netscript: The database does not answer (OperationalError).\n"


def test_a_project_without_jobs_is_refused(tmp_path: Path, sqlite_url: str) -> None:
    done = netscript("worker", cwd=tmp_path, env={"NETSCRIPT_DATABASE_URL": sqlite_url})
    assert done.returncode == 1
    assert "There are no jobs in" in done.stderr


def test_the_memory_verifier_needs_dev(project: Path, sqlite_url: str) -> None:
    open_door = (
        "from netscript_triggers import define_webhook\n"
        "w = define_webhook(lambda event: None, id='w', path='/w', verifier='memory')\n"
    )
    (project / "triggers" / "open.py").write_text(open_door)
    env = {"NETSCRIPT_DATABASE_URL": sqlite_url}
    refused = netscript("serve", "--port", "0", cwd=project, env=env)
    assert refused.returncode == 1
    assert "--dev" in refused.stderr
    port = free_port()
    command = ("-m", "netscript_triggers", "serve", "--dev", "--port", str(port))
    with Process(*command, cwd=project, env=env) as process:
        process.wait_for(f"netscript listens at http://127.0.0.1:{port}")
        answer = httpx.post(f"http://127.0.0.1:{port}/w", json={})
        assert answer.status_code == 202
        taken = netscript("serve", "--dev", "--port", str(port), cwd=project, env=env)
        assert taken.returncode == 1
        assert "Choose another with --port" in taken.stderr
        assert process.terminate() == 0


def dev(project: Path, port: int, *options: str) -> Process:
    command = ("-m", "netscript_triggers", "dev", "--port", str(port), *options)
    return Process(*command, cwd=project)


def test_dev_migrates_serves_works_and_follows_changes(project: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with dev(project, port) as process:
        wait_until_answers(url, "/health/ready")
        jobs = f"{url}/api/v1/workers/jobs"
        assert httpx.get(jobs).json()["total"] == 3
        (project / "jobs" / "more.py").write_text(SLOW_JOB.replace('id="', 'id="new-'))
        eventually(lambda: _total(jobs) == 6, 15, "the new jobs being listed")
        assert process.terminate() == 0


def _total(jobs: str) -> int:
    try:
        return int(httpx.get(jobs).json()["total"])
    except httpx.TransportError:
        return 0


def test_dev_starts_again_what_dies_and_takes_all_with_it(project: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with dev(project, port, "--no-reload") as process:
        wait_until_answers(url, "/health/ready")
        first = _pids(project)
        assert len(first) == 1
        os.kill(first[0], signal.SIGKILL)
        eventually(lambda: _pids(project) not in (first, []), 15, "another worker")
        process.wait_for("worker ended with -9; again in 0.5 s")
        process.kill()

        def is_down() -> bool:
            try:
                httpx.get(f"{url}/health")
            except httpx.TransportError:
                return True
            return False

        eventually(is_down, 15, "the server's end")
        eventually(lambda: _pids(project) == [], 15, "the worker's end")


def _pids(project: Path) -> list[int]:
    with sqlite3.connect(project / "netscript.db") as conn:
        found = [pid for (pid,) in conn.execute("SELECT pid FROM netscript_workers")]
    conn.close()
    return found


@pytest.mark.parametrize("taken", [False, True])
def test_the_demo_shows_a_payment_complete(tmp_path: Path, taken: bool) -> None:
    for folder in ("jobs", "triggers"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    env = {**clean_environment(), "DEMO_ONCE": "1"}
    blocker = take_8091() if taken else None
    done = subprocess.run(
        [sys.executable, "-m", "netscript_triggers.demo"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if blocker is not None:
        blocker.close()
        assert "127.0.0.1:8091" not in done.stdout
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"status": "completed"' in done.stdout
    assert '"charge_id": "ch_' in done.stdout
    assert "Traceback" not in done.stderr


def take_8091() -> socket.socket | None:
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind(("127.0.0.1", 8091))
        taken.listen()
    except OSError:
        taken.close()
        return None  # somebody else has it, which serves as well
    return taken
