"""Tasks as values: what is refused, the argv of each runtime, the flags of a sandbox."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from netscript_workers import FromEnv, Limits, Permissions, Retry, enqueue_job
from netscript_workers.actions import prepare
from netscript_workers.errors import ConfigurationError, DuplicateIdError
from netscript_workers.execution.runners.argv import program_of
from netscript_workers.execution.runners.capture import Capture
from netscript_workers.execution.runners.environment import inherited, is_secret
from netscript_workers.execution.runners.sandbox import Sandbox, deno_flags, wrap
from netscript_workers.registry import discover_jobs
from netscript_workers.tasks import TaskDefinition, define_task
from netscript_workers.testing import run_job
from tests.support import write_project


def made(**options: Any) -> TaskDefinition[Any]:
    facts: dict[str, Any] = {"id": "t", "runtime": "shell", "entrypoint": "a.sh", **options}
    return define_task(**facts)


def test_a_task_is_a_frozen_value_that_goes_where_a_job_goes() -> None:
    task = made(retry=Retry(max_attempts=7), topic="x")
    ready = prepare(task, {"a": 1})
    assert (ready.kind, ready.max_attempts, ready.topic) == ("task", 7, "x")
    assert enqueue_job(task, {"a": 1}).job is task
    assert (task.timeout, task.priority, task.runtime, task.id) == (300.0, 50, "shell", "t")
    with pytest.raises(AttributeError):
        task.id = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"runtime": "bash"}, "there is no runtime 'bash' for tasks"),
        ({"runtime": "pyton"}, 'Did you mean "python"'),
        ({"entrypoint": "../a.sh"}, "leads out of the project"),
        ({"entrypoint": "a/../../a.sh"}, "leads out of the project"),
        ({"entrypoint": ""}, "must be text that argv can hold"),
        ({"entrypoint": "a\0b"}, "must be text that argv can hold"),
        ({"args": "abc"}, r"Write \['abc'\]"),
        ({"args": [1]}, "must be a list of texts"),
        ({"env": {"A B": "x"}}, "is no name of a variable"),
        ({"env": {"A": 1}}, "must be text, or FromEnv"),
        ({"venv": "v"}, 'venv and module are for runtime="python"'),
        ({"runtime": "node", "inline": True}, "inline is for shell, powershell, cmd"),
        ({"timeout": -1}, "must be more than zero seconds"),
        ({"id": "no blanks"}, "The task id 'no blanks'"),
        ({"permissions": "nothing"}, "there is no preset"),
        ({"permissions": {"nett": True}}, 'Did you mean "net"'),
        ({"permissions": Permissions(net=["a.com"])}, "can't be enforced outside Deno"),
        ({"permissions": Permissions(run=["ls"])}, "run=.* can't be enforced outside Deno"),
        ({"permissions": Permissions(ffi=False)}, "ffi=False can't be enforced outside Deno"),
        ({"permissions": Permissions(import_=["x"])}, "import_=.* can't be enforced outside"),
        ({"limits": 3}, r"must be Limits\(…\)"),
        ({"timeuot": 3}, 'Did you mean "timeout"'),
    ],
)
def test_what_can_t_work_is_refused_when_it_is_defined(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        made(**options)


def test_permissions_and_limits_are_refused_with_a_sentence() -> None:
    with pytest.raises(ConfigurationError, match=r"Write \['/etc'\]"):
        Permissions(read="/etc")
    with pytest.raises(ConfigurationError, match="without commas"):
        Permissions(read=["a,b"])
    with pytest.raises(ConfigurationError, match="whole number above zero"):
        Limits(processes=0)
    with pytest.raises(ConfigurationError, match="no name of a variable"):
        FromEnv("A=B")
    assert Permissions(read=[]) == Permissions()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("node", "deno", "dotnet", "bash", "pwsh", "cmd.exe"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.touch(0o755)
    for name in ("a.sh", "a.py", "a.js", "a.ts", "a.dll", "a.cs", "a.csproj", "a.ps1", "a.cmd"):
        (tmp_path / name).touch()
    (tmp_path / "env/bin").mkdir(parents=True)
    (tmp_path / "env/bin/python").touch(0o755)
    (tmp_path / "exe").touch(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "argv"),
    [
        ({"runtime": "python", "entrypoint": "a.py"}, [sys.executable, "-u", "@a.py", "x"]),
        (
            {"runtime": "python", "entrypoint": "p.q", "module": True},
            [sys.executable, "-u", "-m", "p.q", "x"],
        ),
        (
            {"runtime": "python", "entrypoint": "a.py", "venv": "env"},
            ["@env/bin/python", "-u", "@a.py", "x"],
        ),
        ({"runtime": "node", "entrypoint": "a.js"}, ["@bin/node", "@a.js", "x"]),
        (
            {"runtime": "deno", "entrypoint": "a.ts"},
            ["@bin/deno", "run", "--no-prompt", "@a.ts", "x"],
        ),
        ({"runtime": "dotnet", "entrypoint": "a.dll"}, ["@bin/dotnet", "@a.dll", "x"]),
        ({"runtime": "dotnet", "entrypoint": "a.cs"}, ["@bin/dotnet", "run", "@a.cs", "--", "x"]),
        (
            {"runtime": "dotnet", "entrypoint": "a.csproj"},
            ["@bin/dotnet", "run", "--project", "@a.csproj", "--", "x"],
        ),
        ({"entrypoint": "a.sh"}, ["@bin/bash", "@a.sh", "x"]),
        ({"entrypoint": "echo $1"}, ["@bin/bash", "-c", "echo $1", "bash", "x"]),
        (
            {"runtime": "powershell", "entrypoint": "a.ps1"},
            ["@bin/pwsh", "-NoProfile", "-NonInteractive", "-File", "@a.ps1", "x"],
        ),
        (
            {"runtime": "powershell", "entrypoint": "Get-Date -Format o"},
            ["@bin/pwsh", "-NoProfile", "-NonInteractive", "-Command", "Get-Date -Format o", "x"],
        ),
        (
            {"runtime": "cmd", "entrypoint": "a.cmd"},
            ["@bin/cmd.exe", "/d", "/s", "/c", "@a.cmd", "x"],
        ),
        ({"runtime": "executable", "entrypoint": "exe"}, ["@exe", "x"]),
        ({"runtime": "executable", "entrypoint": "node"}, ["@bin/node", "x"]),
    ],
)
def test_the_exact_argv_of_each_runtime(
    place: Path, options: dict[str, Any], argv: list[str]
) -> None:
    program = program_of(made(args=["x"], **options), place, str(place / "bin"))
    wanted = [f"{place}/{one[1:]}" if one.startswith("@") else one for one in argv]
    assert list(program.argv()) == wanted


@pytest.mark.parametrize(
    ("permissions", "flags"),
    [
        (
            None,
            [
                "--allow-read=/p/a.ts",
                "--allow-env=A",
                *("--deny-import", "--no-remote", "--no-npm"),
            ],
        ),
        (
            Permissions(read=["data"], write=["/out"], net=["a.com:443"], env=["B"], run=["ls"]),
            [
                *("--allow-read=/p/a.ts,/p/data", "--allow-write=/out", "--allow-net=a.com:443"),
                *("--allow-env=A,B", "--allow-run=ls", "--deny-import", "--no-remote", "--no-npm"),
            ],
        ),
        (
            Permissions(read=True, import_=["jsr.io"]),
            ["--allow-read", "--allow-env=A", "--allow-import=jsr.io", "--no-npm"],
        ),
        (
            Permissions(
                net=True, read=True, write=True, env=True, run=True, ffi=True, import_=True
            ),
            [
                *("--allow-read", "--allow-write", "--allow-net", "--allow-env", "--allow-run"),
                *("--allow-ffi", "--allow-import"),
            ],
        ),
    ],
)
def test_the_exact_flags_of_deno(permissions: Permissions | None, flags: list[str]) -> None:
    found = deno_flags(permissions, project=Path("/p"), files=["/p/a.ts"], env=["A"])
    assert list(found) == flags


def test_the_exact_sandbox(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "data").touch()
    given = Permissions(read=["data"], write=["out"])
    entry = f"{tmp_path}/a.sh"
    argv = wrap(
        Sandbox("/bin/bwrap"),
        given,
        ["/bin/bash", entry],
        project=tmp_path,
        files=[entry],
        memory=99,
    )
    told = " ".join(argv)
    assert told.startswith(
        "/bin/bwrap --unshare-user --unshare-pid --unshare-ipc --unshare-uts --unshare-cgroup-try "
        "--die-with-parent --new-session --cap-drop ALL --unshare-net --ro-bind /usr /usr "
    )
    place = str(tmp_path)
    assert told.endswith(
        f"--proc /proc --size 99 --tmpfs /tmp --tmpfs {place} --ro-bind {entry} {entry} "
        f"--ro-bind {place}/data {place}/data --bind {place}/out {place}/out "
        f"--remount-ro {place} --remount-ro / --chdir {place} -- /bin/bash {entry}"
    )
    open_ = wrap(
        Sandbox("/bin/bwrap"), Permissions(net=True), ["x"], project=tmp_path, files=[], memory=None
    )
    assert "--unshare-net" not in open_
    assert "--size" not in open_


def test_secrets_of_the_worker_are_never_inherited() -> None:
    plain = ("PATH", "HOME", "LC_ALL", "PLAIN")
    secret = ("NETSCRIPT_DATABASE_URL", "DATABASE_URL", "WEBHOOK_SECRET", "API_TOKEN")
    more = ("AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "SIGNING_KEY")
    worker: dict[str, str] = dict.fromkeys((*plain, *secret, *more), "x")
    assert set(inherited(made(), worker)) == {"PATH", "HOME", "LC_ALL"}
    full = made(permissions="full")
    assert set(inherited(full, worker)) == {"PATH", "HOME", "LC_ALL", "PLAIN"}
    named = made(permissions=Permissions(env=["PLAIN", "API_TOKEN"]))
    assert set(inherited(named, worker)) == {"PATH", "HOME", "LC_ALL", "PLAIN"}
    told = made(env={"T": FromEnv("API_TOKEN")})
    assert inherited(told, worker)["T"] == "x"
    assert not is_secret("EDITOR")


def test_a_job_and_a_task_with_one_id_are_refused_with_both_files(tmp_path: Path) -> None:
    job = "from netscript_workers import job\n@job(id='same')\ndef it(ctx): ...\n"
    task = (
        "from netscript_workers import define_task\n"
        "t = define_task(id='same', runtime='shell', entrypoint='true')\n"
    )
    write_project(tmp_path, {"jobs/a.py": job, "tasks/b.py": task})
    with pytest.raises(DuplicateIdError, match=r"in jobs/a\.py and .* in tasks/b\.py"):
        discover_jobs(tmp_path)


def test_what_tasks_run_is_not_imported(tmp_path: Path) -> None:
    task = (
        "from netscript_workers import define_task\n"
        "t = define_task(id='t', runtime='python', entrypoint='tasks/script.py')\n"
    )
    write_project(tmp_path, {"tasks/b.py": task, "tasks/script.py": "raise SystemExit(3)\n"})
    assert list(discover_jobs(tmp_path)) == ["t"]


def test_run_job_really_runs_a_task() -> None:
    task = made(entrypoint="echo hello; echo '::progress 10 x'; echo \"$NETSCRIPT_PAYLOAD\"")
    run = run_job(task, {"a": 1})
    assert (run.success, run.data, run.logs, run.progress) == (
        True,
        {"a": 1},
        ["hello"],
        [(10, "x")],
    )
    failed = run_job(made(entrypoint="exit 5 "), {})
    assert (failed.success, failed.error) == (False, "It exited with code 5.")


def test_a_capture_keeps_the_end_in_a_fixed_size_wherever_chunks_break() -> None:
    text = (
        b"one\n\xff two\n" + b"z" * 20_000 + b'\n::progress 50 ha\n{"a": 1}\nplain\n{"b": 2}\n \n'
    )
    for size in (1, 3, 7, 1000, len(text)):
        lines: list[str] = []
        shown: list[tuple[float, str | None]] = []

        def keep(line: str, lines: list[str] = lines) -> bool:
            lines.append(line)
            return True

        def show(
            percent: float, message: str | None, shown: list[tuple[float, str | None]] = shown
        ) -> None:
            shown.append((percent, message))

        capture = Capture(keep, show, tail=64)
        for at in range(0, len(text), size):
            capture.feed(text[at : at + size])
        capture.close()
        assert capture.last_line() == (b'{"b": 2}', True)
        assert [line[:20] for line in lines] == ["one", "\\xff two", "z" * 20, '{"a": 1}', "plain"]
        assert shown == [(50, "ha")]
        assert capture.total == len(text)


def test_of_a_line_that_is_too_long_its_beginning_is_known() -> None:
    for size in (10, 1000):
        capture = Capture(lambda _: False, tail=64)
        text = b"first\n  {" + b"x" * 5000
        for at in range(0, len(text), size):
            capture.feed(text[at : at + size])
        assert capture.last_line() == (b"{", False)


def test_a_sandbox_shows_an_interpreter_and_not_the_folder_above_it(tmp_path: Path) -> None:
    wrapper = tmp_path / "home/bin/python"
    wrapper.parent.mkdir(parents=True)
    wrapper.write_text("#!/bin/sh\n")
    wrapper.chmod(0o755)
    (tmp_path / "a.py").touch()
    task = made(runtime="python", entrypoint="a.py", interpreter=str(wrapper))
    found = program_of(task, tmp_path, None)
    assert set(found.files) == {str(wrapper), str(tmp_path / "a.py")}
