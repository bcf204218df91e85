"""Contestants as processes: run one to its end, keep one running, read its line of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Generator
from typing import Any

from benchmarks.environments import module_of, python_of
from benchmarks.roster import Contestant
from benchmarks.stores import ROOT

PATIENCE = 90.0


class ContestantError(Exception):
    """A contestant failed, or did not do the work."""


def environment(url: str, **more: str) -> dict[str, str]:
    """Return the environment of a contestant, without what was set for other purposes."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("NETSCRIPT_", "WORKERS_", "OTEL_", "PYTHON"))
    }
    return {**kept, "PYTHONPATH": str(ROOT), "BENCH_URL": url, **more}


def run(contestant: Contestant, url: str, command: str, count: int = 0) -> dict[str, Any]:
    """Run one command of a contestant to its end, and return what it told.

    Raises:
        ContestantError: It failed or took too long.
    """
    with started(contestant, url, command, count) as process:
        return finish(process)


@contextlib.contextmanager
def started(
    contestant: Contestant, url: str, command: str, count: int = 0
) -> Generator[subprocess.Popen[str]]:
    """Start one command of a contestant; whatever is left of it is killed at the end."""
    name = contestant.module
    line = [python_of(name), "-m", module_of(name), command, str(count)]
    with program(line, environment(url, **contestant.settings)) as process:
        yield process


@contextlib.contextmanager
def program(line: list[str], environ: dict[str, str]) -> Generator[subprocess.Popen[str]]:
    """Start a process with a group of its own; the group is killed at the end."""
    process = subprocess.Popen(
        line,
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def finish(process: subprocess.Popen[str], patience: float = PATIENCE) -> dict[str, Any]:
    """Wait for a contestant's end, and return the last line of JSON that it printed.

    Raises:
        ContestantError: It failed or took too long.
    """
    try:
        output, errors = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        raise ContestantError(f"not done after {patience:g} s") from None
    if process.returncode:
        last = errors.strip().splitlines()[-1:] or ["no word"]
        raise ContestantError(f"exit code {process.returncode}: {last[0]}")
    lines = [line for line in output.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else {}
