"""Every block of the README is what it says: files as they stand, code that runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from netscript_workers.store.engine import Store
from tests.kit import new, put, rows
from tests.support import ROOT, clean_environment, eventually, free_port

README = (ROOT / "README.md").read_text(encoding="utf-8")
_BLOCK = re.compile(r"<!-- (file|run): (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)
BLOCKS = {(kind, name): code for kind, name, code in _BLOCK.findall(README)}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for folder in ("jobs", "triggers"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    return tmp_path


def run(project: Path, *command: str, **env: str) -> str:
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(
        command,
        cwd=project,
        env={**clean_environment(), "PATH": path, "PYTHONPATH": str(project), **env},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_batch_shown_can_be_made(project: Path) -> None:
    (project / "shown.py").write_text(BLOCKS["run", "batch"] + "\nprint(len(album.actions))\n")
    assert run(project, sys.executable, "shown.py").strip() == "2"


@pytest.mark.parametrize("name", ["jobs/process_payment.py", "triggers/payment_webhook.py"])
def test_the_files_shown_are_the_files_shipped(name: str) -> None:
    assert BLOCKS["file", name] == (ROOT / name).read_text(encoding="utf-8")


def test_the_tests_shown_pass(project: Path) -> None:
    (project / "test_shown.py").write_text(BLOCKS["run", "testing"])
    command = (
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--asyncio-mode=auto",
    )
    assert "3 passed" in run(project, *command, "test_shown.py")


def test_the_transaction_shown_enqueues(project: Path, sqlite_url: str) -> None:
    code = BLOCKS["run", "enqueue"].replace("sqlite:///netscript.db", sqlite_url)
    run(project, sys.executable, "-c", code)
    store = Store(sqlite_url)
    assert rows(store, "SELECT job_id FROM netscript_executions") == [("process-payment",)]
    assert rows(store, "SELECT id FROM orders") == [("o-3",)]
    store.dispose()


def test_the_delivery_shown_is_accepted_and_runs(project: Path) -> None:
    port = str(free_port())
    shown = BLOCKS["run", "deliver"].replace("8091", port)
    first, rest = shown.split("netscript dev &\n", 1)
    script = f"""
set -eu
{first}
netscript dev --no-reload &
trap 'kill $!' EXIT
until curl -sf http://127.0.0.1:{port}/health/ready > ready.json; do sleep 0.2; done
{rest}
"""
    told = run(project, "bash", "-c", script, NETSCRIPT_PORT=port)
    assert '"status":"completed","duplicate":false' in told
    assert '"order_id": "order-2"' in told
    store = Store(f"sqlite:///{project / 'netscript.db'}")
    sql = "SELECT status FROM netscript_execution_history"
    eventually(lambda: rows(store, sql) == [("completed",), ("completed",)])
    store.dispose()


def test_the_embedded_worker_shown_runs_jobs(project: Path, sqlite_url: str) -> None:
    store = Store(sqlite_url)
    put(store, new("process-payment", '{"order_id": "o-1", "amount_cents": 5}', topic="payments"))
    shown = (
        BLOCKS["run", "embedded"]
        + """
import asyncio
from sqlalchemy import create_engine, text

async def main():
    import os
    engine = create_engine(os.environ["NETSCRIPT_DATABASE_URL"])
    async with lifespan(app):
        for _ in range(600):
            with engine.connect() as conn:
                if conn.execute(text("SELECT count(*) FROM netscript_execution_history")).scalar():
                    return
            await asyncio.sleep(0.05)

asyncio.run(main())
"""
    )
    run(project, sys.executable, "-c", shown, NETSCRIPT_DATABASE_URL=sqlite_url)
    sql = "SELECT job_id, status FROM netscript_execution_history"
    assert rows(store, sql) == [("process-payment", "completed")]
    assert rows(store, "SELECT id FROM netscript_workers") == []
    store.dispose()


def test_the_shutdown_shown_stops_in_order(project: Path) -> None:
    code = BLOCKS["run", "shutdown"] + "\nimport asyncio\nasyncio.run(main())\n"
    told = run(project, sys.executable, "-c", code)
    assert told.splitlines() == [
        "no more requests",
        "no more queries",
        "stopped: server, database",
    ]


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_job_shown_runs_by_itself(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "reports.py").write_text(BLOCKS["run", "cron"])
    told = run(tmp_path, sys.executable, "-m", "netscript_triggers", "jobs", "list")
    assert "nightly-report" in told
    assert "30 2 * * * Europe/Paris" in told
