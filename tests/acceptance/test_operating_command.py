"""Operating on executions with the command, and waiting for one."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from netscript_workers.domain import Reason, Verdict
from netscript_workers.store import migrations
from netscript_workers.store.engine import Store
from tests.kit import Hand, ended, new, put, status
from tests.support import Process, netscript, write_project

JOBS = """
from pydantic import BaseModel
from netscript_workers import JobContext, Retry, job

class Order(BaseModel):
    id: str

@job(id="a", topic="orders", retry=Retry(max_attempts=1))
async def a(ctx: JobContext[Order]) -> str:
    if ctx.payload.id == "bad":
        raise ValueError("no such order")
    return ctx.payload.id
"""

# Of a bulk change that has looked at everything.
ALL_SEEN = {"more": False, "next_cursor": None, "dry_run": False}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    place = write_project(tmp_path / "shop", {"jobs/a.py": JOBS})
    migrations.upgrade(f"sqlite:///{place / 'netscript.db'}")
    return place


@pytest.fixture
def store(project: Path) -> Store:
    return Store(f"sqlite:///{project / 'netscript.db'}")


def call(project: Path, *command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = netscript(*command, cwd=project)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def fail(store: Store, count: int) -> list[str]:
    given = [new("a", '{"id":"bad"}', topic="orders") for _ in range(count)]
    put(store, *given)
    hand = Hand(store)
    facts = {"reason": Reason.ERROR, "failure": Reason.ERROR, "error": "no"}
    hand.tick(*(ended(claim, Verdict.FAIL, **facts) for claim in hand.claim(count)))
    return [one.id for one in given]


def test_what_waits_is_explained_cancelled_and_retried(project: Path, store: Store) -> None:
    put(store, waits := new("a", '{"id":"x"}'))
    told = call(project, "explain", waits.id)
    assert told.stdout == "no-worker: No worker is alive. Start one with: netscript worker\n"
    shown = call(project, "executions", "show", waits.id)
    assert shown.stdout.endswith(told.stdout)
    told = call(project, "executions", "explain", waits.id, "--json")
    assert json.loads(told.stdout)["code"] == "no-worker"
    told = call(project, "executions", "cancel", waits.id)
    assert told.stdout == f"{waits.id} is cancelled.\n"
    again = call(project, "executions", "cancel", waits.id, "--json", code=1)
    assert "is cancelled, so it can't be cancelled" in again.stderr
    refused = json.loads(again.stdout)
    assert (refused["executions"], refused["errors"][0]["code"]) == ([], "state")
    told = call(project, "executions", "retry", waits.id)
    assert told.stdout == f"{waits.id} runs again.\n"
    assert status(store, waits.id) == "queued"
    call(project, "explain", "nonsense", code=1)


def test_dead_letters_are_edited_discarded_and_retried_by_a_condition(
    project: Path, store: Store
) -> None:
    one, two, *_ = fail(store, 5)
    bad = call(project, "executions", "retry", one, "--payload", '{"id": 1}', code=1)
    assert "does not fit" in bad.stderr
    told = call(project, "executions", "retry", one, "--payload", '{"id": "good"}', "--json")
    (new_one,) = json.loads(told.stdout)["executions"]
    assert (new_one["retried_from"], new_one["payload"]) == (one, {"id": "good"})
    told = call(project, "executions", "discard", two)
    assert told.stdout == f"{two} is discarded.\n"
    listed = call(project, "executions", "list", "--reason", "discarded", "--json")
    assert [row["id"] for row in json.loads(listed.stdout)["executions"]] == [two]
    some = ("--status", "cancelled,completed", "--since", "2020-01-01", "--json")
    listed = call(project, "executions", "list", *some)
    assert [row["id"] for row in json.loads(listed.stdout)["executions"]] == [two]
    listed = call(project, "executions", "list", "--until", "2020-01-01", "--json")
    assert json.loads(listed.stdout) == {"executions": [], "next_cursor": None}
    listed = call(project, "executions", "list", "--correlation-id", "none", "--json")
    assert json.loads(listed.stdout)["executions"] == []
    told = call(project, "executions", "retry", "--job", "a", "--reason", "error")
    assert told.stdout == "4 executions run again.\n"
    told = call(project, "executions", "cancel", "--all", "--json")
    assert json.loads(told.stdout) == {"count": 5, "skipped": 0, **ALL_SEEN}


def test_what_is_done_stands_in_the_audit(project: Path, store: Store) -> None:
    one, *_ = fail(store, 3)
    call(project, "executions", "discard", one, "--why", "a test order")
    call(project, "executions", "retry", "--job", "a", "--why", "the shop is back")
    call(project, "executions", "cancel", "--all", "--yes")
    call(project, "executions", "cancel", one, code=1)  # which does nothing, and is not in it
    call(project, "topics", "pause", "orders", "--why", "maintenance")
    entries = json.loads(call(project, "audit", "list", "--json").stdout)["entries"]
    told = [(entry["action"], entry["subject"], entry["reason"]) for entry in reversed(entries)]
    assert told == [
        ("executions.discard", one, "a test order"),
        ("executions.retry-many", '{"job_id":"a"}', "the shop is back"),
        ("executions.cancel-many", '{"all":true}', None),
        ("topics.pause", "orders", "maintenance"),
    ]
    assert {entry["who"] for entry in entries} == {getpass.getuser()}
    assert all(entry["address"].startswith("command on ") for entry in entries)


def test_many_are_changed_part_by_part_and_asked_about_at_a_terminal(
    project: Path, store: Store
) -> None:
    fail(store, 1200)
    no = at_terminal(project, "n\n", "executions", "retry", "--all")
    assert "Retry 1,200 executions? [y/N]" in no
    yes = at_terminal(project, "y\n", "executions", "retry", "--all")
    assert "1,200 executions run again." in yes
    told = call(project, "executions", "cancel", "--topic", "orders")
    assert told.stderr == ""
    assert told.stdout == "1,200 executions are cancelled.\n"


def at_terminal(project: Path, answer: str, *command: str) -> str:
    """Run a command at a terminal, answer what it asks, and return all that it shows."""
    ours, its = pty.openpty()
    done = subprocess.Popen(
        [sys.executable, "-m", "netscript_triggers", *command],
        cwd=project,
        stdin=its,
        stdout=its,
        stderr=its,
    )
    os.close(its)
    os.write(ours, answer.encode())
    shown = b""
    with contextlib.suppress(OSError):  # the last one at the other end has left
        while part := os.read(ours, 65_536):
            shown += part
    os.close(ours)
    done.wait(30)
    return shown.decode()


@pytest.mark.parametrize(
    "command",
    [
        ("retry",),
        ("cancel",),
        ("cancel", "x", "--all"),
        ("retry", "--status", "lost"),
        ("retry", "--reason", "whim"),
        ("retry", "--all", "--payload", "{}"),
        ("retry", "x", "--payload", "{"),
        ("retry", "x", "--payload", "[" * 3000),
        ("retry", "x", "--payload", "null"),
        ("retry", "x", "--payload", "[]"),
        ("discard",),
        ("tail", "--status", "lost"),
    ],
)
def test_wrong_usage_is_told_with_exit_code_2(project: Path, command: tuple[str, ...]) -> None:
    call(project, "executions", *command, code=2)


def test_who_waits_in_vain_is_told_what_for(project: Path) -> None:
    payload = ("--payload", '{"id":"x"}')
    done = call(project, "jobs", "trigger", "a", *payload, "--wait", "--timeout", "0.3", code=1)
    assert "has not ended within 0.3 s. No worker is alive." in done.stderr
    call(project, "jobs", "trigger", "a", *payload, "--timeout", "1", code=2)


def test_a_tail_shows_what_changes_until_it_is_interrupted(project: Path, store: Store) -> None:
    with Process(
        "-m", "netscript_triggers", "executions", "tail", "--topic", "orders", cwd=project
    ) as tail:
        # What happens before it has begun to look is not shown.
        shown: list[str] = []
        while not shown:
            put(store, new("a", topic="other"))
            put(store, given := new("a", topic="orders"))
            try:
                tail.wait_for(f"{given.id} queued", seconds=3)
            except AssertionError:
                continue
            shown.append(given.id)
        hand = Hand(store)
        for claim in hand.claim(100):
            hand.end(claim)
        tail.wait_for(f"{shown[0]} completed")
        tail.signal(signal.SIGINT)
        assert tail.popen.wait(15) == 0
        assert " a" in tail.output
        lines = tail.output.splitlines()
        assert all(line.split()[2] == "a" for line in lines)
