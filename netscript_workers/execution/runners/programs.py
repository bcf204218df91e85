"""Which programs for tasks there are on this machine, and of which version."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Mapping

from netscript_workers.execution.runners.environment import worker_environment

_ASKED: Mapping[str, tuple[str, ...]] = {
    "deno": ("deno", "--version"),
    "node": ("node", "--version"),
    "dotnet": ("dotnet", "--version"),
    "bash": ("bash", "--version"),
    "pwsh": ("pwsh", "-NoProfile", "-Version"),
    "bwrap": ("bwrap", "--version"),
}
_VERSION = re.compile(r"\d+(?:\.\d+)+")
_PATIENCE_SECONDS = 10.0


def versions() -> dict[str, str]:
    """Return the version of each program that tasks can use here, Python first."""
    found = {"python": platform.python_version()}
    path = worker_environment().get("PATH")
    for name, (program, *options) in _ASKED.items():
        place = shutil.which(program, path=path)
        if place is not None:
            found[name] = _version([place, *options])
    return found


def _version(command: list[str]) -> str:
    try:
        told = subprocess.run(
            command, check=False, capture_output=True, timeout=_PATIENCE_SECONDS, text=True
        ).stdout
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return "(which does not start)"
    found = _VERSION.search(told)
    return found[0] if found else "(of a version that it does not tell)"
