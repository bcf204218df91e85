"""Tasks in a real worker: what each runtime gets, what comes of it, and how it is ended."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from netscript_workers import FromEnv, JobContext, Limits, Retry, TaskDefinition, define_job_handler
from netscript_workers.domain import WORKER_RUNTIMES, RuntimeName
from netscript_workers.store.engine import Store
from netscript_workers.tasks import define_task
from tests.kit import detail
from tests.support import eventually_async, is_alive, write_project
from tests.working import working

ONCE = Retry(max_attempts=1)
PATIENCE = 30.0


def needs(program: str) -> str:
    """Return where a program is; skip the test, aloud, where it is not."""
    found = os.environ.get(f"NETSCRIPT_TEST_{program.upper()}") or shutil.which(program)
    if found is None:
        pytest.skip(f"there is no {program} here; name one in NETSCRIPT_TEST_{program.upper()}")
    return found


def shell(script: str, **options: Any) -> TaskDefinition[dict[str, Any]]:
    facts: dict[str, Any] = {"id": "shell", "retry": ONCE, **options}
    return define_task(runtime="shell", entrypoint=script, inline=True, **facts)


@pytest.mark.parametrize("runtime", WORKER_RUNTIMES)
async def test_a_task_runs_in_any_worker_and_its_last_line_is_its_result(
    store: Store, tmp_path: Path, runtime: RuntimeName
) -> None:
    place = write_project(
        tmp_path / "shop",
        {"tasks/say.sh": "echo hello\necho '::progress 40 half'\necho oh >&2\necho '{\"n\": 1}'\n"},
    )
    say = define_task(id="say", runtime="shell", entrypoint="tasks/say.sh", topic="talk")
    async with working(store, say, runtime=runtime, project=(place, "jobs"), folder=place) as at:
        told = await at.run(say, {"to": "you"})
    execution = told.execution
    assert (execution.status, execution.kind, execution.topic) == ("completed", "task", "talk")
    assert execution.result == {"n": 1}
    assert sorted((line.level, line.message) for line in told.logs) == [
        ("INFO", "hello"),
        ("WARNING", "oh"),
    ]
    assert execution.progress is not None
    assert (execution.progress.percent, execution.progress.message) == (40, "half")


class Order(BaseModel):
    id: int
    express: bool = False


async def test_what_a_task_is_told_and_what_it_is_not(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NETSCRIPT_DATABASE_URL", "WEBHOOK_SECRET", "DATABASE_URL", "ANYTHING"):
        monkeypatch.setenv(name, "worker's own")
    monkeypatch.setenv("MAIL_KEY", "k-1")
    monkeypatch.setenv("LC_TIME", "C")
    (tmp_path / "env.py").write_text(
        "import json, os, sys\n"
        "assert sys.stdin.read() == ''\n"
        "print(json.dumps({'env': dict(os.environ), 'argv': sys.argv[1:], 'cwd': os.getcwd()}))\n"
    )
    task = define_task(
        id="env",
        runtime="python",
        entrypoint="env.py",
        args=["a b", "$HOME"],
        env={"KEY": FromEnv("MAIL_KEY"), "FIXED": "1"},
        payload=Order,
        retry=ONCE,
    )
    store = Store(sqlite_url)
    async with working(store, task, folder=tmp_path) as at:
        told = await at.run(task, {"id": 7}, correlation_id="c-1")
    found = told.execution.result
    assert told.execution.error is None
    assert found["argv"] == ["a b", "$HOME"]
    assert found["cwd"] == str(tmp_path)
    env = found["env"]
    assert json.loads(env.pop("NETSCRIPT_PAYLOAD")) == {"id": 7, "express": False}
    assert env.pop("NETSCRIPT_FENCE_TOKEN").isdigit()
    for name in ("PATH", "HOME", "LANG", "TZ", "TMPDIR"):
        assert env.pop(name, None) == os.environ.get(name)
    assert {name: env[name] for name in env if not name.startswith("LC_")} == {
        "KEY": "k-1",
        "FIXED": "1",
        "CORRELATION_ID": "c-1",
        "NETSCRIPT_EXECUTION_ID": told.execution.id,
        "NETSCRIPT_JOB_ID": "env",
        "NETSCRIPT_TASK_ID": "env",
        "NETSCRIPT_ATTEMPT": "1",
        "NETSCRIPT_MAX_ATTEMPTS": "1",
    }
    assert env["LC_TIME"] == "C"
    store.dispose()


async def test_a_long_payload_comes_in_a_private_file_that_is_gone_afterwards(
    sqlite_url: str, tmp_path: Path
) -> None:
    task = shell(
        'test -z "${NETSCRIPT_PAYLOAD+x}" || exit 9\n'
        'stat -c %a "$NETSCRIPT_PAYLOAD_FILE" "$(dirname $NETSCRIPT_PAYLOAD_FILE)"\n'
        'printf \'{"bytes": %d, "file": "%s"}\' $(wc -c < "$NETSCRIPT_PAYLOAD_FILE") '
        '"$NETSCRIPT_PAYLOAD_FILE"\n'
    )
    store = Store(sqlite_url)
    async with working(store, task, folder=tmp_path) as at:
        told = await at.run(task, {"text": "x" * 200_000})
    assert told.execution.result["bytes"] == 200_011
    assert [line.message for line in told.logs] == ["600", "700"]
    assert not Path(told.execution.result["file"]).parent.exists()
    store.dispose()


async def test_each_runtime_that_is_here_runs_its_own_files(
    sqlite_url: str, tmp_path: Path
) -> None:
    compiler = needs("gcc")
    (tmp_path / "answer.c").write_text(
        '#include <stdio.h>\nint main(int n, char **v) { printf("{\\"arg\\": \\"%s\\"}", v[1]); }\n'
    )
    subprocess.run([compiler, "answer.c", "-o", "answer"], cwd=tmp_path, check=True)
    (tmp_path / "answer.js").write_text(
        "console.log(JSON.stringify({arg: process.argv[2], got: "
        "JSON.parse(process.env.NETSCRIPT_PAYLOAD)}))\n"
    )
    (tmp_path / "who.py").write_text(
        "import json, sys; print(json.dumps({'arg': sys.argv[1], 'prefix': sys.prefix}))"
    )
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/__main__.py").write_text('print(\'{"arg": "module"}\')')
    venv.create(tmp_path / "env")
    tasks = [
        define_task(id="exe", runtime="executable", entrypoint="answer", args=["1"]),
        define_task(id="python", runtime="python", entrypoint="who.py", args=["2"]),
        define_task(id="venv", runtime="python", entrypoint="who.py", args=["3"], venv="env"),
        define_task(id="module", runtime="python", entrypoint="pack", module=True),
        define_task(id="path", runtime="executable", entrypoint="echo", args=['{"arg": "5"}']),
        shell('echo "{\\"arg\\": \\"$1\\"}"', id="inline", args=["6"]),
    ]
    if shutil.which("node"):
        tasks.append(define_task(id="node", runtime="node", entrypoint="answer.js", args=["7"]))
    store = Store(sqlite_url)
    async with working(store, *tasks, folder=tmp_path) as at:
        ended = {one.id: (await at.run(one, {"a": 1})).execution for one in tasks}
    assert {id_: one.error for id_, one in ended.items()} == dict.fromkeys(ended)
    args = {id_: one.result["arg"] for id_, one in ended.items()}
    assert args | {"node": "7"} == {
        "exe": "1",
        "python": "2",
        "venv": "3",
        "module": "module",
        "path": "5",
        "inline": "6",
        "node": "7",
    }
    assert ended["python"].result["prefix"] == sys.prefix
    assert ended["venv"].result["prefix"] == str(tmp_path / "env")
    store.dispose()


@pytest.mark.parametrize(
    ("script", "code", "number", "told"),
    [
        (
            "echo first >&2; echo last >&2; exit 3",
            3,
            None,
            "It exited with code 3. Its last words: last",
        ),
        ("kill -SEGV $$", None, 11, "It was ended by SIGSEGV."),
        (
            "kill -KILL $$",
            None,
            9,
            "It was ended by SIGKILL, which its worker has not sent: out of memory?",
        ),
        (
            'echo \'{"success": false, "error": "declined", "data": {"n": 1}}\'; exit 4',
            4,
            None,
            "declined",
        ),
        ('echo \'{"success": false, "error": "declined", "data": {"n": 1}}\'', 0, None, "declined"),
    ],
)
async def test_how_a_task_failed_stands_in_its_record(
    sqlite_url: str, tmp_path: Path, script: str, code: int | None, number: int | None, told: str
) -> None:
    task = shell(script, retry=Retry(max_attempts=2, initial_delay=0.01))
    store = Store(sqlite_url)
    async with working(store, task, folder=tmp_path) as at:
        found = await at.run(task)
    assert (found.execution.status, found.execution.reason) == ("failed", "error")
    assert found.execution.error == told
    assert [(one.exit_code, one.signal) for one in found.attempts] == [(code, number)] * 2
    assert all(one.peak_memory for one in found.attempts)
    assert found.execution.result == ({"n": 1} if told == "declined" else None)
    store.dispose()


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        ({"runtime": "shell", "entrypoint": "nope.sh"}, 127, "There is no file nope.sh in"),
        (
            {"runtime": "executable", "entrypoint": "plain"},
            126,
            "plain is not executable. Make it so: chmod +x plain",
        ),
        (
            {"runtime": "node", "entrypoint": "plain", "interpreter": "no-such-node"},
            127,
            "There is no no-such-node on this machine. Install Node.js",
        ),
        (
            {"runtime": "shell", "entrypoint": "no-such-command-at-all here"},
            127,
            "Exit code 127: a command was not found. Its last words:",
        ),
        (
            {"runtime": "python", "entrypoint": "plain", "venv": "nowhere"},
            127,
            "There is no virtual environment in nowhere. Make it: python -m venv nowhere",
        ),
        (
            {"runtime": "shell", "entrypoint": "link.sh"},
            126,
            "link.sh is a link that leads out of the project.",
        ),
        (
            {"runtime": "shell", "entrypoint": "plain", "env": {"A": FromEnv("NO_SUCH")}},
            127,
            "The variable NO_SUCH, which it is to have as A, is not set.",
        ),
    ],
)
async def test_what_no_retry_can_mend_is_given_up_at_once(
    sqlite_url: str, tmp_path: Path, options: dict[str, Any], code: int, told: str
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "plain").write_text("echo hi\n")
    (tmp_path / "outside.sh").write_text("echo hi\n")
    (project / "link.sh").symlink_to(tmp_path / "outside.sh")
    task = define_task(id="wrong", **options)
    store = Store(sqlite_url)
    async with working(store, task, folder=project) as at:
        found = await at.run(task)
    assert found.execution.status == "failed"
    assert found.execution.error is not None and found.execution.error.startswith(told)
    assert [one.exit_code for one in found.attempts] == [code]
    store.dispose()


@pytest.mark.parametrize(
    ("script", "result", "error"),
    [
        ("echo '{\"a\": 1}'; echo '{\"b\": 2}'", {"b": 2}, None),
        ("echo plain", None, None),
        ("true", None, None),
        ("echo '[1]'", None, None),
        ("printf '{\"a\": 1}\\n\\n  \\n'", {"a": 1}, None),
        ('echo \'{"success": true, "data": [1]}\'', [1], None),
        ('echo \'{"success": true, "n": 1}\'', {"success": True, "n": 1}, None),
        ("echo '{\"a\": 1'", None, "begins as a JSON object and is none."),
        ('echo \'{"a": 1} {"b": 2}\'', None, "begins as a JSON object and is none."),
        ('printf \'{"a": "\\377"}\'', None, "begins as a JSON object and is none."),
        ("echo '{\"a\": NaN}'", None, "begins as a JSON object and is none."),
        (
            "printf '{\"a\": \"'; head -c 3000000 /dev/zero | tr '\\0' x; echo '\"}'",
            None,
            "is longer than 1,048,576 bytes.",
        ),
        ("head -c 3000000 /dev/urandom", None, None),
        ("printf 'a\\000b\\377\\n'", None, None),
    ],
)
async def test_only_one_json_object_is_a_result(
    sqlite_url: str, tmp_path: Path, script: str, result: Any, error: str | None
) -> None:
    task = shell(script, retry=Retry(max_attempts=3))
    store = Store(sqlite_url)
    async with working(store, task, folder=tmp_path) as at:
        found = await at.run(task)
    if error is None:
        assert (found.execution.status, found.execution.result) == ("completed", result)
    else:
        assert (found.execution.status, found.execution.reason) == ("failed", "result refused")
        assert found.execution.error is not None and error in found.execution.error
        assert len(found.attempts) == 1
    store.dispose()


@pytest.mark.trap("D-84")
@pytest.mark.parametrize("how", ["timeout", "cancel"])
async def test_one_that_ignores_sigterm_is_killed_with_all_it_started(
    store: Store, tmp_path: Path, how: str
) -> None:
    # One of them leads a session of its own, and one is nobody's child any more.
    task = shell(
        "trap '' TERM\n"
        "(setsid sh -c 'trap \"\" TERM; echo $$ >> pids; while :; do sleep 1; done' &)\n"
        "sh -c 'trap \"\" TERM; echo $$ >> pids; while :; do sleep 1; done' &\n"
        "echo $$ >> pids; echo '::progress 1 ready'; while :; do sleep 1; done\n",
        timeout=1.5 if how == "timeout" else 60,
    )
    pids = tmp_path / "pids"

    def started() -> list[int]:
        found = pids.read_text().split() if pids.exists() else []
        return [int(one) for one in found] if len(found) == 3 else []

    async with working(store, task, folder=tmp_path, kill_grace=0.5) as at:
        id_ = at.enqueue(task)
        ours = await eventually_async(started)
        minder = at.worker.pids
        loop = asyncio.get_running_loop()
        asked = loop.time()
        if how == "cancel":
            at.cancel(id_)
        told = await at.ended(id_)
        assert loop.time() - asked < (2.0 if how == "cancel" else 4.0)
        assert not any(map(is_alive, ours))
        assert not Path(f"/proc/{minder[0]}").exists()
    status = {"timeout": ("failed", "timeout"), "cancel": ("cancelled", "cancelled")}[how]
    assert (told.execution.status, told.execution.reason) == status


async def test_one_that_ends_well_when_it_is_told_to_end_has_ended_well(
    sqlite_url: str, tmp_path: Path
) -> None:
    loop = "while :; do sleep 0.05; done"
    good = shell(
        f"trap 'echo {{\\\"saved\\\": true}}; exit 0' TERM; {loop}", id="good", timeout=0.5
    )
    silent = shell(f"trap 'exit 0' TERM; {loop}", id="silent", timeout=0.5)
    store = Store(sqlite_url)
    async with working(store, good, silent, folder=tmp_path) as at:
        told = [await at.run(one) for one in (good, silent)]
    assert [(one.execution.status, one.execution.result) for one in told] == [
        ("completed", {"saved": True}),
        ("failed", None),
    ]
    assert told[1].execution.reason == "timeout"
    store.dispose()


def _quick(ctx: JobContext) -> None: ...


async def test_tasks_have_slots_of_their_own(sqlite_url: str, tmp_path: Path) -> None:
    task = shell("echo x >> ran; sleep 0.4")
    job = define_job_handler(_quick, id="quick")
    store = Store(sqlite_url)
    async with working(store, task, job, folder=tmp_path, task_slots=2) as at:
        ids = [at.enqueue(task) for _ in range(4)]
        await eventually_async((tmp_path / "ran").exists)
        assert (await at.run(job)).execution.status == "completed"
        assert (tmp_path / "ran").read_text() == "x\nx\n"
        for id_ in ids:
            assert (await at.ended(id_)).execution.status == "completed"
    store.dispose()


async def test_a_drain_hands_a_task_back_that_has_not_come_to_its_end(
    store: Store, tmp_path: Path
) -> None:
    task = shell("echo $$ > pid; exec sleep 60", id="long")
    async with working(store, task, folder=tmp_path, grace=0.1) as at:
        id_ = at.enqueue(task)
        await eventually_async(lambda: (tmp_path / "pid").exists())
    assert not is_alive(int((tmp_path / "pid").read_text()))
    execution = detail(store, id_).execution
    assert (execution.status, execution.reason, execution.attempt) == ("queued", "drained", 1)


async def test_a_task_that_its_worker_has_not_killed_is_tried_again(
    sqlite_url: str, tmp_path: Path
) -> None:
    task = shell(
        "if test -e second; then echo '{\"ok\": 1}'; else touch second; kill -9 $PPID; sleep 9; fi",
        retry=Retry(max_attempts=2, initial_delay=0.01),
    )
    store = Store(sqlite_url)
    async with working(store, task, folder=tmp_path) as at:
        told = await at.run(task)
    assert (told.execution.status, told.execution.result) == ("completed", {"ok": 1})
    assert [one.signal for one in told.attempts] == [signal.SIGKILL]
    store.dispose()


async def test_limits_hold(sqlite_url: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"limits": Limits(file_mib=1, open_files=16, cpu_seconds=1)}
    large = shell("head -c 2000000 /dev/zero > large", id="large", **options)
    busy = shell("while :; do :; done", id="busy", **options)
    files = shell("ulimit -n; ulimit -c", id="files", **options)
    store = Store(sqlite_url)
    async with working(store, large, busy, files, folder=tmp_path) as at:
        told = {one.id: await at.run(one) for one in (large, busy, files)}
    assert (tmp_path / "large").stat().st_size == 2**20
    assert told["large"].execution.error is not None
    assert "SIGXFSZ" in told["large"].execution.error
    assert told["busy"].attempts[0].signal == signal.SIGXCPU
    assert [line.message for line in told["files"].logs] == ["16", "0"]
    store.dispose()
