"""Every mistake on somebody's first way is answered with one sentence, which says what to do."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from netscript_triggers.scaffold import write_project as begin
from netscript_workers.store import migrations
from tests.support import Process, free_port, netscript

HINTS = {
    "cron": ("jobs/cron.py, line 3", "61 * * * *", "minute (0-59), hour (0-23)"),
    "syntax": ("jobs/broken.py, line 1: SyntaxError: invalid syntax",),
    "twice": ('Two definitions are called "health-check"', "Give one of them another id."),
    "kind": ("'mysql' are not supported. Use sqlite:///",),
    "url": ("NETSCRIPT_DATABASE_URL is not a database URL. Write it as sqlite:///",),
    "away": ("can't be reached: ", "Connection refused", "NETSCRIPT_DATABASE_URL is right."),
    "folder": ("unable to open database file", "NETSCRIPT_DATABASE_URL is right."),
    "setting": ('"prot"', 'Did you mean "port"?'),
}
JOB = "from netscript_workers import job\n"
CODE = {
    "jobs/cron.py": (f'{JOB}\n@job(cron="61 * * * *")\ndef f(ctx): ...\n', "cron"),
    "jobs/broken.py": ("def f(:\n", "syntax"),
    "jobs/twice.py": (f'{JOB}@job(id="health-check")\ndef f(ctx): ...\n', "twice"),
    "netscript.toml": ("prot = 1\n", "setting"),
}
URLS = {
    "mysql://x/y": "kind",
    "nonsense": "url",
    "postgresql://u:hush@127.0.0.1:1/x": "away",
    "sqlite:////nonexistent/x.db": "folder",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    begin(tmp_path / "shop")
    return tmp_path / "shop"


def refused(project: Path, *command: str, told: tuple[str, ...], **env: str) -> None:
    done = netscript(*command, cwd=project, env=env)
    said = done.stdout + done.stderr
    assert done.returncode in (1, 2), said
    for part in told:
        assert part in said, said
    assert "Traceback" not in said
    assert "hush" not in said
    if command[0] != "doctor":
        assert len(done.stderr.splitlines()) == 1, said


@pytest.mark.parametrize("path", CODE)
@pytest.mark.parametrize("command", ["doctor", "serve", "worker", "dev"])
def test_a_fault_in_the_project(project: Path, path: str, command: str) -> None:
    text, fault = CODE[path]
    (project / path).write_text(text)
    if command == "dev" and fault != "setting":
        return dev_waits(project, path, HINTS[fault])
    return refused(project, command, told=HINTS[fault], NETSCRIPT_PORT=str(free_port()))


def dev_waits(project: Path, path: str, told: tuple[str, ...]) -> None:
    """See `dev` say it once, although neither process starts, and go on when it is mended."""
    port = str(free_port())
    with Process("-m", "netscript_triggers", "dev", "--port", port, cwd=project) as dev:
        dev.wait_for("waiting for a file to change")
        (sentence,) = [line for line in dev.output.splitlines() if told[0] in line]
        assert all(part in sentence for part in told)
        assert "Traceback" not in dev.output
        (project / path).unlink()
        dev.wait_for(f"netscript listens at http://127.0.0.1:{port}", seconds=30)
        assert dev.terminate() == 0


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("command", ["serve", "worker", "dev", "db upgrade", "executions list"])
def test_a_database_that_is_none(project: Path, url: str, command: str) -> None:
    told = HINTS[URLS[url]]
    if url.startswith("sqlite:////") or command in ("dev", "db upgrade"):
        told = tuple(part for part in told if part != "can't be reached: ")
    env = {"NETSCRIPT_DATABASE_URL": url, "NETSCRIPT_PORT": str(free_port())}
    refused(project, *command.split(), told=told, **env)


@pytest.mark.parametrize(
    ("revision", "told"),
    [
        ("0002", "is at revision 0002; this version needs"),
        ("9999", "was made by a newer netscript (revision 9999). Upgrade netscript"),
    ],
)
def test_a_schema_of_another_version(project: Path, revision: str, told: str) -> None:
    migrations.upgrade(f"sqlite:///{project / 'netscript.db'}")
    with sqlite3.connect(project / "netscript.db") as db:
        db.execute("UPDATE netscript_alembic_version SET version_num = ?", (revision,))
    db.close()
    hint = () if revision == "9999" else ("Run: netscript db upgrade",)
    for command in ("serve", "worker", "executions list", "db check"):
        refused(project, *command.split(), told=(told, *hint))
    if revision == "9999":  # and nothing of it is touched
        refused(project, "db", "upgrade", told=(told,))
        refused(project, "dev", told=(told,), NETSCRIPT_PORT=str(free_port()))


def test_tables_that_are_not_there(project: Path) -> None:
    for command in ("serve", "worker", "executions list"):
        refused(project, *command.split(), told=("no netscript tables. Run: netscript db upgrade",))


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield str(other.getsockname()[1])


def test_a_port_that_is_taken(project: Path, taken: str) -> None:
    migrations.upgrade(f"sqlite:///{project / 'netscript.db'}")
    told = (f"Port {taken} of 127.0.0.1 can't be opened", "Choose another with --port.")
    for command in ("serve", "dev"):
        refused(project, command, "--port", taken, told=told)


def test_a_folder_that_is_no_project(tmp_path: Path) -> None:
    told = ("There is no project in", "begin one with: netscript init")
    refused(tmp_path, "dev", told=told, NETSCRIPT_PORT=str(free_port()))
    assert list(tmp_path.iterdir()) == []


def test_a_secret_that_is_missing(project: Path) -> None:
    migrations.upgrade(f"sqlite:///{project / 'netscript.db'}")
    (project / ".env").unlink()
    told = ("no secret to sign", "Set WEBHOOK_SECRET in the environment or in .env")
    refused(project, "triggers", "test", "payment-webhook", told=told)
    port = str(free_port())
    with Process("-m", "netscript_triggers", "serve", "--port", port, cwd=project) as server:
        server.wait_for("netscript listens at")
        assert "refuses every delivery until WEBHOOK_SECRET is set" in server.output
        assert server.terminate() == 0


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("triggers test payment-webhook", "does not answer (ConnectError). Start a server:"),
        ("triggers test payment-webhok", 'Did you mean "payment-webhook"?'),
        ("triggers fire payment-webhok", 'Did you mean "payment-webhook"?'),
        ("jobs trigger proces-payment", 'Did you mean "process-payment"?'),
        ("add jbo x", 'Did you mean "job"?'),
        ("add job Send", "lower-case words with dashes"),
        ("explain 123", "There is no execution '123'."),
    ],
)
def test_a_name_that_there_is_not(project: Path, command: str, told: str) -> None:
    migrations.upgrade(f"sqlite:///{project / 'netscript.db'}")
    refused(project, *command.split(), told=(told,), NETSCRIPT_PORT=str(free_port()))


def test_a_variable_that_means_nothing_is_doubted(project: Path) -> None:
    done = netscript("jobs", "list", cwd=project, env={"NETSCRIPT_PRT": "1"})
    assert done.returncode == 0
    told = "netscript: NETSCRIPT_PRT means nothing. Did you mean NETSCRIPT_PORT?\n"
    assert done.stderr == told
