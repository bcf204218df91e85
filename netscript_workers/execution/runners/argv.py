"""The exact argv of a task, for each runtime."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netscript_workers.errors import TaskRefusedError
from netscript_workers.execution.runners.minder import NOT_EXECUTABLE, NOT_FOUND
from netscript_workers.tasks import TaskDefinition

_PROJECTS = (".csproj", ".fsproj", ".vbproj")
_PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "deno": ("deno",),
    "node": ("node",),
    "dotnet": ("dotnet",),
    "shell": ("bash", "sh"),
    "powershell": ("pwsh",),
    "cmd": ("cmd.exe",),
}
_INSTALL = {
    "python": "Make it: python -m venv FOLDER",
    "deno": "Install Deno (https://deno.com), or name it with interpreter=….",
    "node": "Install Node.js (https://nodejs.org), or name it with interpreter=….",
    "dotnet": "Install .NET (https://dot.net), or name it with interpreter=….",
    "shell": "Install bash or sh, or name one with interpreter=….",
    "powershell": "Install PowerShell (https://aka.ms/powershell), or name it with interpreter=….",
    "cmd": "cmd.exe is there on Windows only.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What a task runs, before its permissions.

    Attributes:
        runner: The program and its options.
        entry: What it runs, and the arguments of that.
        files: Files and folders that it can't do without.
        env: Variables that belong to the runtime.
    """

    runner: tuple[str, ...]
    entry: tuple[str, ...]
    files: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])

    def argv(self, flags: Sequence[str] = ()) -> tuple[str, ...]:
        """Return all of it, with the runtime's own flags for permissions."""
        return (*self.runner, *flags, *self.entry)


def program_of(task: TaskDefinition[Any], project: Path, path: str | None) -> Program:
    """Say what a task runs.

    Args:
        task: The definition.
        project: The folder that its paths are relative to.
        path: Where programs are looked for.

    Raises:
        TaskRefusedError: A program or a file is missing, or leads out of the project.
    """
    if task.runtime == "python":
        return _python(task, project, path)
    if task.runtime == "executable":
        entry = _executable(task, project, path)
        return Program(runner=(entry,), entry=task.args, files=(entry,))
    make = _MAKERS[str(task.runtime)]
    return make(task, project, find_program(task, path))


def find_program(task: TaskDefinition[Any], path: str | None) -> str:
    """Return the absolute path of the program that runs a task's file.

    Raises:
        TaskRefusedError: There is none.
    """
    names = (task.interpreter,) if task.interpreter else _PROGRAMS[str(task.runtime)]
    for name in names:
        found = shutil.which(name, path=path)
        if found is not None:
            return str(Path(found).absolute())
    raise TaskRefusedError(
        f"There is no {' or '.join(names)} on this machine.",
        exit_code=NOT_FOUND,
        hint=_INSTALL[str(task.runtime)],
    )


def file_of(entrypoint: str, project: Path, *, folder: bool = False) -> str:
    """Return the absolute path of a file of the project.

    Raises:
        TaskRefusedError: It is not there, or a link leads out of the project.
    """
    given = Path(entrypoint)
    place = project.absolute() / given
    if not place.exists() or (place.is_dir() and not folder):
        raise TaskRefusedError(
            f"There is no file {entrypoint} in {project}.",
            exit_code=NOT_FOUND,
            hint="Write its path relative to the project.",
        )
    if not given.is_absolute() and not place.resolve().is_relative_to(project.resolve()):
        raise TaskRefusedError(
            f"{entrypoint} is a link that leads out of the project.",
            exit_code=NOT_EXECUTABLE,
            hint="Name its target by its absolute path.",
        )
    return os.path.normpath(place)


def _python(task: TaskDefinition[Any], project: Path, path: str | None) -> Program:
    python, env, files = sys.executable, {}, [sys.prefix, sys.base_prefix]
    if task.venv is not None:
        folder = project.absolute() / task.venv
        python = str(folder.joinpath(*_python_in_venv()))
        if not Path(python).exists():
            raise TaskRefusedError(
                f"There is no virtual environment in {task.venv}.",
                exit_code=NOT_FOUND,
                hint=f"Make it: python -m venv {task.venv}",
            )
        env = {
            "VIRTUAL_ENV": str(folder),
            "PATH": os.pathsep.join([str(Path(python).parent), *([path] if path else [])]),
        }
        files = [str(folder), _home_of(Path(python).resolve())]
    elif task.interpreter is not None:
        found = shutil.which(task.interpreter, path=path)
        if found is None:
            raise TaskRefusedError(
                f"There is no {task.interpreter} on this machine.", exit_code=NOT_FOUND
            )
        python = str(Path(found).absolute())
        files = [_home_of(Path(python)), _home_of(Path(python).resolve())]
    if task.module:
        package = task.entrypoint.partition(".")[0]
        own = [project.absolute() / package, project.absolute() / f"{package}.py"]
        files += [str(one) for one in own if one.exists()]
        entry: tuple[str, ...] = ("-m", task.entrypoint)
    else:
        file = file_of(task.entrypoint, project)
        files.append(file)
        entry = (file,)
    # -u: what it prints is seen when it prints it.
    return Program(runner=(python, "-u"), entry=(*entry, *task.args), files=tuple(files), env=env)


def _home_of(python: Path) -> str:
    """Return the installation that a Python belongs to; the program alone, if that is none.

    Whatever else lies beside a `bin` folder, such as somebody's home, is not the task's to see.
    """
    home = python.parent.parent
    is_home = (home / "pyvenv.cfg").is_file() or any(home.glob("lib/python3*/os.py"))
    return str(home if is_home else python)


def _python_in_venv() -> tuple[str, str]:
    return ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")


def _deno(task: TaskDefinition[Any], project: Path, deno: str) -> Program:
    entry = file_of(task.entrypoint, project)
    return Program(
        runner=(deno, "run", "--no-prompt"),
        entry=(entry, *task.args),
        files=(entry,),
        env={"DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"},
    )


def _node(task: TaskDefinition[Any], project: Path, node: str) -> Program:
    entry = file_of(task.entrypoint, project)
    return Program(runner=(node,), entry=(entry, *task.args), files=(entry,))


def _dotnet(task: TaskDefinition[Any], project: Path, dotnet: str) -> Program:
    entry = file_of(task.entrypoint, project, folder=True)
    env = {"DOTNET_NOLOGO": "1", "DOTNET_CLI_TELEMETRY_OPTOUT": "1"}
    runner: tuple[str, ...] = (dotnet, entry)
    rest = task.args
    if Path(entry).is_dir() or entry.endswith((".cs", *_PROJECTS)):
        named = (entry,) if entry.endswith(".cs") else ("--project", entry)
        runner = (dotnet, "run", *named)
        rest = ("--", *rest) if rest else ()
    return Program(runner=runner, entry=rest, files=(entry,), env=env)


def _shell(task: TaskDefinition[Any], project: Path, shell: str) -> Program:
    if task.inline:
        # What follows the command is $0, and then the arguments.
        name = Path(shell).name
        return Program(runner=(shell, "-c"), entry=(task.entrypoint, name, *task.args))
    entry = file_of(task.entrypoint, project)
    return Program(runner=(shell,), entry=(entry, *task.args), files=(entry,))


def _powershell(task: TaskDefinition[Any], project: Path, powershell: str) -> Program:
    runner = (powershell, "-NoProfile", "-NonInteractive")
    if task.inline:
        return Program(runner=(*runner, "-Command"), entry=(task.entrypoint, *task.args))
    entry = file_of(task.entrypoint, project)
    return Program(runner=(*runner, "-File"), entry=(entry, *task.args), files=(entry,))


def _cmd(task: TaskDefinition[Any], project: Path, cmd: str) -> Program:
    runner = (cmd, "/d", "/s", "/c")
    if task.inline:
        return Program(runner=runner, entry=(task.entrypoint, *task.args))
    entry = file_of(task.entrypoint, project)
    return Program(runner=runner, entry=(entry, *task.args), files=(entry,))


def _executable(task: TaskDefinition[Any], project: Path, path: str | None) -> str:
    entrypoint = task.entrypoint
    is_name = os.sep not in entrypoint and not (project.absolute() / entrypoint).exists()
    if is_name and (found := shutil.which(entrypoint, path=path)) is not None:
        return str(Path(found).absolute())
    entry = file_of(entrypoint, project)
    if not os.access(entry, os.X_OK):
        raise TaskRefusedError(
            f"{entrypoint} is not executable.",
            exit_code=NOT_EXECUTABLE,
            hint=f"Make it so: chmod +x {entrypoint}",
        )
    return entry


_MAKERS: Mapping[str, Callable[[TaskDefinition[Any], Path, str], Program]] = {
    "deno": _deno,
    "node": _node,
    "dotnet": _dotnet,
    "shell": _shell,
    "powershell": _powershell,
    "cmd": _cmd,
}
