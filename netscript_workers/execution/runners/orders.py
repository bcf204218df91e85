"""What exactly is run for an attempt of a task: argv, environment, limits, sandbox."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from netscript_workers.context import JobContext
from netscript_workers.execution.runners import environment
from netscript_workers.execution.runners.argv import program_of
from netscript_workers.execution.runners.minded import Order
from netscript_workers.execution.runners.sandbox import deno_flags, find_sandbox, wrap
from netscript_workers.payloads import to_stored_json
from netscript_workers.permissions import Limits
from netscript_workers.tasks import TaskDefinition

_MIB = 2**20
_TMP = "/tmp"  # noqa: S108 - a sandbox's own


def check_task(task: TaskDefinition[Any], project: Path) -> tuple[str, ...]:
    """Return the argv of a task, if it can run on this machine as it is defined.

    Raises:
        TaskRefusedError: It can't; the sentence says what is missing.
    """
    environment.inherited(task, environment.worker_environment())
    return tuple(_command(task, project, files=())[0])


def make_order(task: TaskDefinition[Any], ctx: JobContext[Any], project: Path) -> Order:
    """Say what is run for an attempt. Its payload is what a handler would see, defaults and all.

    Raises:
        TaskRefusedError: It can't run here.
        OSError: Its payload can't be written to a file.
    """
    inherited = environment.inherited(task, environment.worker_environment())
    told = environment.execution_environment(ctx)
    told |= environment.payload_environment(to_stored_json(ctx.payload))
    file = told.get("NETSCRIPT_PAYLOAD_FILE")
    files = () if file is None else (file,)
    try:
        argv, own = _command(task, project, files)
    except BaseException:
        environment.remove_payload(files)
        raise
    fixed = {name: value for name, value in task.env.items() if isinstance(value, str)}
    return Order(
        argv=argv,
        cwd=str(project.absolute()),
        env={**inherited, **own, **fixed, **told},
        limits=_limits(task.limits),
        sandboxed=is_sandboxed(task),
        remove=files,
    )


def is_sandboxed(task: TaskDefinition[Any]) -> bool:
    """Tell whether a task runs in a sandbox: Deno is one itself; without permissions, none is."""
    return task.permissions is not None and task.runtime != "deno"


def _command(
    task: TaskDefinition[Any], project: Path, files: Collection[str]
) -> tuple[Sequence[str], dict[str, str]]:
    """Return the argv, and the variables that belong to it."""
    path = environment.worker_environment().get("PATH")
    program = program_of(task, project, path)
    own = dict(program.env)
    if task.runtime == "deno":
        flags = deno_flags(
            task.permissions,
            project=project,
            files=(program.entry[0], *files),
            env=(*environment.OWN_NAMES, *task.env),
        )
        return program.argv(flags), own
    if task.permissions is None:
        return program.argv(), own
    own["TMPDIR"] = _TMP
    if task.permissions.read is not True and task.permissions.write is not True:
        own["HOME"] = _TMP
    inside = wrap(
        find_sandbox(path),
        task.permissions,
        program.argv(),
        project=project,
        files=(*program.files, *files),
        memory=_limits(task.limits).get("memory"),
    )
    return inside, own


def _limits(limits: Limits) -> dict[str, int]:
    found = {
        "memory": None if limits.memory_mib is None else limits.memory_mib * _MIB,
        "processes": limits.processes,
        "open_files": limits.open_files,
        "file": None if limits.file_mib is None else limits.file_mib * _MIB,
        "cpu": limits.cpu_seconds,
    }
    return {name: most for name, most in found.items() if most is not None}
