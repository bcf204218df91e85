"""A virtual environment for each peer, made by pip and kept in `.bench/`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterable

from benchmarks.stores import HOME, ROOT

_REQUIREMENTS = ROOT / "benchmarks" / "contestants" / "peers" / "requirements.toml"
PEERS = tomllib.loads(_REQUIREMENTS.read_text(encoding="utf-8"))


def python_of(name: str) -> str:
    """Return the interpreter that runs a contestant; one that is no peer is run by ours."""
    return str(HOME / "venvs" / name / "bin" / "python") if name in PEERS else sys.executable


def module_of(name: str) -> str:
    """Return what `python -m` runs of a contestant."""
    return f"benchmarks.contestants.{'peers.' if name in PEERS else ''}{name}"


def install(names: Iterable[str]) -> dict[str, str]:
    """Make what environments are missing; return why, for each that can't be made."""
    failed: dict[str, str] = {}
    for name in names:
        wanted = "\n".join(PEERS[name]["requirements"])
        place = HOME / "venvs" / name
        stamp = place / "installed"
        if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
            continue
        print(f"installing {name}: {', '.join(PEERS[name]['requirements'])}", file=sys.stderr)
        shutil.rmtree(place, ignore_errors=True)
        venv.create(place, with_pip=False)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python"]
        command = [*pip, python_of(name), "install", "--quiet", *PEERS[name]["requirements"]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["pip failed"]
            failed[name] = f"it can't be installed: {last[0]}"
        else:
            stamp.write_text(wanted, encoding="utf-8")
    return failed


def version(name: str) -> str:
    """Return the pinned package of an environment."""
    return str(PEERS[name]["requirements"][0])
