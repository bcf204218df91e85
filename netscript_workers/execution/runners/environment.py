"""The environment of a task: an allow-list, so that it inherits no secret of the worker."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from netscript_workers.context import JobContext
from netscript_workers.errors import TaskRefusedError
from netscript_workers.execution.runners.minder import NOT_FOUND
from netscript_workers.permissions import FromEnv
from netscript_workers.tasks import TaskDefinition

# Linux takes no string longer than 128 KiB in an environment.
PAYLOAD_BYTES = 96 * 1024

# What it is told in any case, or may be.
OWN_NAMES = (
    *("TRACEPARENT", "TRACESTATE", "CORRELATION_ID", "NETSCRIPT_EXECUTION_ID"),
    *("NETSCRIPT_JOB_ID", "NETSCRIPT_TASK_ID", "NETSCRIPT_ATTEMPT", "NETSCRIPT_MAX_ATTEMPTS"),
    *("NETSCRIPT_FENCE_TOKEN", "NETSCRIPT_PAYLOAD", "NETSCRIPT_PAYLOAD_FILE"),
)

_ALLOWED = frozenset({"PATH", "HOME", "LANG", "TZ", "TMPDIR"})
_ALLOWED_ON_WINDOWS = frozenset(
    {
        *("SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "TEMP", "TMP"),
        *("USERPROFILE", "APPDATA", "LOCALAPPDATA", "PROGRAMDATA", "PROGRAMFILES"),
    }
)
_SECRET = re.compile(
    r"NETSCRIPT_.*|WORKERS_.*|PG.*|.*(SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|DSN).*"
    r"|.*(_|^)(KEY|KEYS|AUTH|PASS|URL|URI)(_.*)?",
    re.IGNORECASE,
)
_PAYLOAD_FILE = "payload.json"


def worker_environment() -> Mapping[str, str]:
    """Return the worker's own environment."""
    return os.environ


def own_environment() -> dict[str, str]:
    """Return what a process of ours needs to start, which is next to nothing."""
    names = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
    return {name: os.environ[name] for name in names if name in os.environ}


def is_secret(name: str) -> bool:
    """Tell whether a variable looks like one that only the worker should know."""
    return _SECRET.fullmatch(name) is not None


def trace_environment(ctx: JobContext[Any]) -> dict[str, str]:
    """Return the trace context for a task; the one place that says which span is its parent."""
    found = {"TRACEPARENT": ctx.traceparent, "TRACESTATE": ctx.tracestate}
    return {name: value for name, value in found.items() if value is not None}


def execution_environment(ctx: JobContext[Any]) -> dict[str, str]:
    """Return what tells a task which execution it is, its payload aside."""
    told = trace_environment(ctx)
    if ctx.correlation_id is not None:
        told["CORRELATION_ID"] = ctx.correlation_id
    return {
        **told,
        "NETSCRIPT_EXECUTION_ID": ctx.id,
        "NETSCRIPT_JOB_ID": ctx.job.id,
        "NETSCRIPT_TASK_ID": ctx.job.id,
        "NETSCRIPT_ATTEMPT": str(ctx.attempt),
        "NETSCRIPT_MAX_ATTEMPTS": str(ctx.max_attempts),
        "NETSCRIPT_FENCE_TOKEN": str(ctx.fence_token),
    }


def payload_environment(payload: str) -> dict[str, str]:
    """Return where a task finds its payload: in a variable, or in a private file if it is long.

    Raises:
        OSError: The file can't be written.
    """
    if len(payload) <= PAYLOAD_BYTES:  # it is ASCII
        return {"NETSCRIPT_PAYLOAD": payload}
    path = Path(mkdtemp(prefix="netscript-payload-")) / _PAYLOAD_FILE
    with path.open("x", encoding="ascii") as file:
        path.chmod(0o600)
        file.write(payload)
    return {"NETSCRIPT_PAYLOAD_FILE": str(path)}


def remove_payload(files: Iterable[str]) -> None:
    """Remove the file of a payload that nobody is going to read."""
    for file in files:
        with contextlib.suppress(OSError):
            Path(file).unlink()
            Path(file).parent.rmdir()


def inherited(task: TaskDefinition[Any], worker: Mapping[str, str]) -> dict[str, str]:
    """Return what a task sees of the worker's environment, and what its definition adds.

    Raises:
        TaskRefusedError: It names a variable that is not set.
    """
    granted = False if task.permissions is None else task.permissions.of("env")
    found = {
        name: value
        for name, value in worker.items()
        if _is_allowed(name)
        or ((granted is True or (granted and name in granted)) and not is_secret(name))
    }
    for name, value in task.env.items():
        found[name] = _read(name, value, worker) if isinstance(value, FromEnv) else value
    return found


def _is_allowed(name: str) -> bool:
    if os.name == "nt" and name.upper() in _ALLOWED_ON_WINDOWS:
        return True
    return name in _ALLOWED or name.startswith("LC_")


def _read(name: str, wanted: FromEnv, worker: Mapping[str, str]) -> str:
    value = worker.get(wanted.name)
    if value is None:
        raise TaskRefusedError(
            f"The variable {wanted.name}, which it is to have as {name}, is not set.",
            exit_code=NOT_FOUND,
            hint="Set it where the worker starts.",
        )
    return value
