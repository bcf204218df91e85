"""The public types, asked of both checkers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

HERE = Path(__file__).parent
EXAMPLES, MISTAKES = HERE / "examples.py", HERE / "mistakes.py"


def mypy(path: Path) -> set[int]:
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--no-error-summary",
        "--hide-error-context",
        str(path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    return {int(line) for line in re.findall(rf"{path.name}:(\d+): error", done.stdout)}


def pyright(path: Path) -> set[int]:
    # The project's own configuration leaves the mistakes out; strict is strict without it, too.
    settings = {"typeCheckingMode": "strict", "include": [str(path)], "pythonVersion": "3.11"}
    config = path.parent / f".pyright-{path.stem}.json"
    config.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "-p", str(config)]
    command += ["--pythonpath", sys.executable]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    finally:
        config.unlink()
    told = json.loads(done.stdout)["generalDiagnostics"]
    return {one["range"]["start"]["line"] + 1 for one in told if one["severity"] == "error"}


CHECKERS = pytest.mark.parametrize("check", [mypy, pyright])


@CHECKERS
def test_what_users_write_is_taken(check: object) -> None:
    assert callable(check)
    assert check(EXAMPLES) == set()


@CHECKERS
def test_every_mistake_is_refused_and_nothing_else(check: object) -> None:
    assert callable(check)
    lines = MISTAKES.read_text(encoding="utf-8").splitlines()
    marked = {number for number, line in enumerate(lines, 1) if line.endswith("# refused")}
    assert len(marked) > 25
    assert check(MISTAKES) == marked
