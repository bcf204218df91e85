"""Tasks that reach for what they were not given, and tasks that want more than there is."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netscript_workers import JobContext, Limits, Permissions, Retry, define_job_handler
from netscript_workers.errors import TaskRefusedError
from netscript_workers.execution.runners import sandbox
from netscript_workers.records import ExecutionDetail
from netscript_workers.store.engine import Store
from netscript_workers.tasks import TaskDefinition, define_task
from tests.integration.test_tasks import needs, shell
from tests.support import write_project
from tests.working import Running, working

ONCE = Retry(max_attempts=1)
PATIENCE = 60.0

# Tries everything, and tells of each what came of it.
REACHES = """
import glob, json, os, socket, subprocess, sys

def tried(what):
    try:
        return what() or True
    except OSError as error:
        return type(error).__name__

def read(path):
    return lambda: open(path).read().strip()

def write(path):
    return lambda: open(path, "w").write("x") and "written"

def connect():
    with socket.create_connection(("127.0.0.1", int(os.environ["PORT"])), 2):
        return "connected"

project = os.getcwd()
print(json.dumps({
    "passwd": tried(read("/root/.profile")),
    "given": tried(read(f"{project}/given.txt")),
    "secret": tried(read(f"{project}/secret.txt")),
    "outside": tried(read(f"{project}/../outside.txt")),
    "write project": tried(write(f"{project}/new.txt")),
    "write folder": tried(write(f"{project}/out/new.txt")),
    "write outside": tried(write(f"{project}/../new.txt")),
    "write root": tried(write("/new.txt")),
    "write tmp": tried(write("/tmp/new.txt")),
    "connect": tried(connect),
    "processes": len(glob.glob("/proc/[0-9]*")),
    "worker": tried(read(f"/proc/{os.environ['WORKER']}/environ")),
    "key": os.environ.get("SIGNING_SECRET"),
    "plain": os.environ.get("PLAIN"),
    "run": tried(lambda: subprocess.run(["true"]).returncode or "ran"),
}))
"""


@pytest.fixture
def port() -> Iterator[int]:
    """A port of this machine that takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def confined() -> None:
    """Skip, aloud, where there is no sandbox."""
    try:
        sandbox.find_sandbox(os.environ.get("PATH"))
    except TaskRefusedError as error:
        pytest.skip(str(error))


def _project(place: Path) -> Path:
    project = write_project(
        place / "shop",
        {"tasks/reach.py": REACHES, "given.txt": "given", "secret.txt": "secret", "out/x": ""},
    )
    (place / "outside.txt").write_text("outside")
    return project


async def _reach(
    url: str, place: Path, port: int, permissions: Any, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    monkeypatch.setenv("SIGNING_SECRET", "s-1")
    monkeypatch.setenv("PLAIN", "p-1")
    project = _project(place)
    task = define_task(
        id="reach",
        runtime="python",
        entrypoint="tasks/reach.py",
        permissions=permissions,
        env={"PORT": str(port), "WORKER": str(os.getpid())},
        retry=ONCE,
    )
    store = Store(url)
    async with working(store, task, folder=project) as at:
        told = await at.run(task)
    store.dispose()
    assert told.execution.status == "completed", told
    found: dict[str, Any] = told.execution.result
    return found


MISSING = "FileNotFoundError"
NOTHING = {
    "passwd": MISSING,
    "given": MISSING,
    "secret": MISSING,
    "outside": MISSING,
    "write project": "OSError",
    "write folder": MISSING,
    "write outside": "written",  # into a /tmp of its own, for the test's folder is there
    "write root": "OSError",
    "write tmp": "written",
    "connect": "ConnectionRefusedError",
    "worker": MISSING,
    "key": None,
    "plain": None,
    "run": "ran",
}


@pytest.mark.parametrize(
    ("permissions", "more"),
    [
        ("none", {}),
        (Permissions(net=True), {"connect": "connected"}),
        (Permissions(read=["given.txt"]), {"given": "given"}),
        (Permissions(write=["out"]), {"write folder": "written"}),
        (Permissions(env=["PLAIN", "SIGNING_SECRET"]), {"plain": "p-1"}),
        (
            "read-only",
            {"given": "given", "secret": "secret", "write folder": "OSError"},
        ),
    ],
)
async def test_a_task_gets_what_it_was_granted_and_nothing_else(
    sqlite_url: str,
    tmp_path: Path,
    port: int,
    confined: None,
    monkeypatch: pytest.MonkeyPatch,
    permissions: Any,
    more: dict[str, Any],
) -> None:
    found = await _reach(sqlite_url, tmp_path, port, permissions, monkeypatch)
    assert found.pop("processes") <= 3  # it sees its own only
    assert found == {**NOTHING, **more}
    assert not (tmp_path / "new.txt").exists()
    assert not (tmp_path / "shop/new.txt").exists()
    assert not Path("/tmp/new.txt").exists()  # its own /tmp has gone with it
    assert (tmp_path / "shop/out/new.txt").exists() is (more.get("write folder") == "written")


async def test_full_permissions_leave_out_no_more_than_secrets(
    sqlite_url: str,
    tmp_path: Path,
    port: int,
    confined: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = await _reach(sqlite_url, tmp_path, port, "full", monkeypatch)
    assert found["connect"] == "connected"
    assert (found["given"], found["outside"]) == ("given", MISSING)  # in /tmp, which is private
    assert (found["plain"], found["key"]) == ("p-1", None)
    assert found["write folder"] == "written"


async def test_without_a_sandbox_it_is_refused_and_never_run_unprotected(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "touch"):
        (tools / name).symlink_to(needs(name))
    monkeypatch.setenv("PATH", str(tools))
    task = shell("touch ran", permissions="none", retry=Retry(max_attempts=3))
    store = Store(sqlite_url)
    async with working(store, task, folder=tmp_path) as at:
        told = await at.run(task)
    assert told.execution.status == "failed"
    assert told.execution.error == (
        "Its permissions can't be enforced: there is no bubblewrap (bwrap) on this machine. "
        "Install it: apt-get install bubblewrap"
    )
    assert len(told.attempts) == 1
    assert not (tmp_path / "ran").exists()
    store.dispose()


async def test_a_sandbox_that_fails_here_is_told_of(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "bash").symlink_to(needs("bash"))
    broken = tools / "bwrap"
    told = "bwrap: No permissions to create new namespace"
    broken.write_text(f"#!/bin/sh\necho '{told}' >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    task = shell("true > ran", permissions="none")
    store = Store(sqlite_url)
    async with working(store, task, folder=tmp_path) as at:
        found = await at.run(task)
    assert found.execution.error is not None
    assert "No permissions to create new namespace" in found.execution.error
    assert not (tmp_path / "ran").exists()
    store.dispose()


def _neighbour(ctx: JobContext) -> str:
    return "done"


NEIGHBOUR = define_job_handler(_neighbour, id="neighbour")


async def _beside(at: Running, task: TaskDefinition[Any]) -> tuple[ExecutionDetail, float]:
    """Run a hostile task; return how it ended, and the longest that a neighbour took meanwhile."""
    id_ = at.enqueue(task)
    longest = 0.0
    ending = asyncio.ensure_future(at.ended(id_, seconds=PATIENCE))
    while not ending.done():
        began = time.monotonic()
        told = await at.run(NEIGHBOUR)
        longest = max(longest, time.monotonic() - began)
        assert told.execution.status == "completed"
    return await ending, longest


@pytest.mark.parametrize("permissions", [None, "none"])
async def test_a_task_that_forks_a_thousand_processes_is_ended(
    store: Store, tmp_path: Path, permissions: Any, request: pytest.FixtureRequest
) -> None:
    if permissions is not None:
        request.getfixturevalue("confined")
    (tmp_path / "forks.py").write_text(
        "import os, time\n"
        "for _ in range(1000):\n"
        "    if not os.fork():\n"
        "        os.setsid()\n"
        "        time.sleep(60)\n"
        "time.sleep(60)\n"
    )
    task = define_task(
        id="forks",
        runtime="python",
        entrypoint="forks.py",
        limits=Limits(processes=100),
        permissions=permissions,
        retry=ONCE,
    )
    async with working(store, task, NEIGHBOUR, folder=tmp_path) as at:
        told, longest = await _beside(at, task)
        left = [pid for pid in _pids() if str(tmp_path / "forks.py") in _command(pid)]
    assert told.execution.error == (
        "It had more than 100 processes, and was ended. "
        "Raise limits=Limits(processes=…) if it needs more."
    )
    assert left == []
    assert longest < 5.0


@pytest.mark.parametrize("where", ["one", "many"])
async def test_a_task_that_fills_memory_is_ended(
    sqlite_url: str, tmp_path: Path, where: str
) -> None:
    (tmp_path / "fills.py").write_text(
        "import os, sys, time\n"
        "many = sys.argv[1] == 'many'\n"
        "pids = [os.fork() for _ in range(2)] if many else []\n"
        "kept = []\n"
        "while len(kept) < (5 if many else 1000):\n"
        "    kept.append(bytearray(b'x') * 2**23)\n"
        "time.sleep(60)\n"
    )
    task = define_task(
        id="fills",
        runtime="python",
        entrypoint="fills.py",
        args=[where],
        limits=Limits(memory_mib=100),
        retry=ONCE,
    )
    store = Store(sqlite_url)
    async with working(store, task, NEIGHBOUR, folder=tmp_path) as at:
        told, longest = await _beside(at, task)
    assert told.execution.error is not None
    if where == "one":  # the system has refused it the memory, and it has told of that
        assert "MemoryError" in told.execution.error or "100 MiB" in told.execution.error
    else:
        assert told.execution.error.startswith("It used more than 100 MiB of memory")
    assert told.attempts[0].peak_memory is not None
    assert told.attempts[0].peak_memory < 200 * 2**20
    assert longest < 5.0
    store.dispose()


@pytest.mark.parametrize("what", ["x", "\\n", "::progress 1 x\\n"])
async def test_a_gibibyte_of_output_costs_neither_memory_nor_anybody_else_s_time(
    sqlite_url: str, tmp_path: Path, what: str
) -> None:
    bytes_ = 2**30
    script = (
        f"yes \"$(printf '{what}y')\" | head -c {bytes_} | tr -d '\\n'; "
        if what == "x"
        else f"yes \"$(printf '{what}y')\" | head -c {bytes_}; "
    )
    task = shell(f"{script} echo; echo '{{\"last\": 1}}'")
    store = Store(sqlite_url)
    async with working(store, task, NEIGHBOUR, folder=tmp_path) as at:
        await at.run(NEIGHBOUR)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        told, longest = await _beside(at, task)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    took = told.execution.duration_ms
    print(f"grown by {grown:.0f} MiB, a neighbour took {longest:.2f} s, all took {took} ms")
    assert (told.execution.status, told.execution.result) == ("completed", {"last": 1})
    assert len(told.logs) <= 200
    if what != "x":
        assert told.logs[-1].message.startswith("There was more than is kept: 1,07")
    assert grown < 64
    assert longest < 5.0
    store.dispose()


async def test_a_sandboxed_task_that_ignores_sigterm_is_killed_and_one_that_heeds_it_is_heard(
    sqlite_url: str, tmp_path: Path, confined: None
) -> None:
    loop = "echo '::progress 1 ready'; while :; do sleep 0.1; done"
    options: dict[str, Any] = {"permissions": "none", "timeout": 1, "args": [str(tmp_path)]}
    deaf = shell(f"trap '' TERM; {loop}", id="deaf", **options)
    good = shell(f"trap 'echo {{\\\"saved\\\": 1}}; exit 0' TERM; {loop}", id="good", **options)
    store = Store(sqlite_url)
    async with working(store, deaf, good, folder=tmp_path, kill_grace=0.5) as at:
        told = [await at.run(one) for one in (deaf, good)]
        assert [pid for pid in _pids() if str(tmp_path) in _command(pid).split("\0")] == []
    assert told[0].execution.reason == "timeout"
    assert (told[1].execution.status, told[1].execution.result) == ("completed", {"saved": 1})
    store.dispose()


async def test_a_signal_inside_the_sandbox_is_told_as_one(
    sqlite_url: str, tmp_path: Path, confined: None
) -> None:
    task = shell("kill -SEGV $$", permissions="none")
    store = Store(sqlite_url)
    async with working(store, task, folder=tmp_path) as at:
        told = await at.run(task)
    assert (told.attempts[0].exit_code, told.attempts[0].signal) == (None, 11)
    store.dispose()


DENO = """
const found: Record<string, string> = {};
const tries: Record<string, () => unknown> = {
  read: () => Deno.readTextFileSync("given.txt"),
  secret: () => Deno.readTextFileSync("/etc/passwd"),
  write: () => { Deno.writeTextFileSync("out/deno.txt", "x"); return "written"; },
  env: () => Deno.env.get("HOME"),
  run: () => new Deno.Command("true").outputSync().code,
  net: async () => {
    (await Deno.connect({port: Number(Deno.env.get("PORT"))})).close();
    return "connected";
  },
  remote: async () => await import("https://deno.land/x/nothing.ts"),
  npm: async () => await import("npm:left-pad"),
};
for (const [name, what] of Object.entries(tries)) {
  try { found[name] = String(await what()); } catch (error) { found[name] = error.name; }
}
console.log(JSON.stringify({...found, payload: JSON.parse(Deno.env.get("NETSCRIPT_PAYLOAD")!)}));
"""


@pytest.mark.parametrize(
    ("permissions", "more"),
    [
        (None, {}),
        ("none", {}),
        (Permissions(read=["given.txt"]), {"read": "given"}),
        (Permissions(write=["out"]), {"write": "written"}),
        (Permissions(net=True), {"net": "connected"}),
        (Permissions(net=["127.0.0.1", "0.0.0.0"]), {"net": "connected"}),
        (Permissions(net=["example.com"]), {}),
        (Permissions(run=["true"]), {"run": "0"}),
        (Permissions(env=["HOME"]), {"env": os.environ.get("HOME")}),
    ],
)
async def test_deno_holds_its_programs_to_exactly_what_they_are_granted(
    sqlite_url: str, tmp_path: Path, port: int, permissions: Any, more: dict[str, Any]
) -> None:
    deno = needs("deno")
    project = _project(tmp_path)
    (project / "tasks/reach.ts").write_text(DENO)
    task = define_task(
        id="reach",
        runtime="deno",
        entrypoint="tasks/reach.ts",
        interpreter=deno,
        permissions=permissions,
        env={"PORT": str(port)},
        retry=ONCE,
    )
    store = Store(sqlite_url)
    async with working(store, task, folder=project) as at:
        told = await at.run(task, {"n": 1})
    assert told.execution.status == "completed", told
    refused = dict.fromkeys(("read", "secret", "write", "env", "run", "net"), "NotCapable")
    found = told.execution.result
    assert found.pop("payload") == {"n": 1}
    assert (found.pop("remote"), found.pop("npm")) == ("TypeError", "TypeError")
    assert found == {**refused, **more}
    store.dispose()


def _pids() -> list[int]:
    return [int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit()]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""
