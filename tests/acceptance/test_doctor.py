"""`netscript doctor`, and what every slip on the first way is answered with: one clear sentence."""

from __future__ import annotations

import json
import socket
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from netscript_triggers.scaffold import write_project as begin
from netscript_workers.store import migrations
from tests.support import free_port, netscript


@pytest.fixture
def project(tmp_path: Path) -> Path:
    begin(tmp_path / "shop")
    return tmp_path / "shop"


def findings(project: Path, **env: str) -> dict[str, dict[str, Any]]:
    done = netscript("doctor", "--json", cwd=project, env=env)
    told = json.loads(done.stdout)
    assert done.returncode == (0 if told["ok"] else 1)
    return {one["what"]: one for one in told["findings"]}


def test_all_is_well_in_a_new_project_with_its_tables(project: Path, database_url: str) -> None:
    migrations.upgrade(database_url)
    port = str(free_port())
    found = findings(project, NETSCRIPT_DATABASE_URL=database_url, NETSCRIPT_PORT=port)
    left = {what: one["status"] for what, one in found.items() if one["status"] != "ok"}
    left.pop("open files", None)  # what the machine allows is its own
    assert left == {"workers": "warn"}
    assert found["port"]["detail"] == f"127.0.0.1:{port} is free."


def test_a_secret_that_is_not_set_is_told_and_never_its_value(project: Path) -> None:
    secret = (project / ".env").read_text().rpartition("=")[2].strip()
    shown = netscript("doctor", cwd=project)
    assert secret not in shown.stdout + shown.stderr
    (project / ".env").unlink()
    found = findings(project)['webhook "payment-webhook"']
    assert found["status"] == "fail"
    assert "WEBHOOK_SECRET is not set" in found["detail"]


def test_the_environment_wins_over_the_file(project: Path) -> None:
    (project / ".env").write_text("NETSCRIPT_PORT=99999\n")
    assert "99999" in findings(project)["settings"]["detail"]
    assert findings(project, NETSCRIPT_PORT="8091")["settings"]["status"] == "ok"


def test_a_port_that_somebody_else_has_is_told(project: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        found = findings(project, NETSCRIPT_PORT=str(port))["port"]
    assert found["status"] == "warn"
    assert "Something else listens" in found["detail"]


def test_what_waits_for_a_person_is_counted(project: Path) -> None:
    url = f"sqlite:///{project / 'netscript.db'}"
    migrations.upgrade(url)
    with sqlite3.connect(project / "netscript.db") as db:
        columns = {row[1]: row for row in db.execute("PRAGMA table_info(netscript_trigger_events)")}
        needed = [name for name, row in columns.items() if row[3] and row[4] is None]
        values = {"id": "01a20ca3-d42f-72c6-b60b-7fbbccc8d150", "status": "dead"}
        given = [values.get(name, 0) for name in needed]
        marks = ", ".join("?" for _ in needed)
        db.execute(
            f"INSERT INTO netscript_trigger_events ({', '.join(needed)}) VALUES ({marks})", given
        )
    db.close()
    found = findings(project)["dead events"]
    assert found["detail"] == "1 events wait for somebody to replay them."
    assert "netscript events list --status dead" in found["hint"]
