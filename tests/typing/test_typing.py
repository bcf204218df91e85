"""The public types, asked of both checkers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import ROOT

HERE = Path(__file__).parent
EXAMPLES, MISTAKES = HERE / "examples.py", HERE / "mistakes.py"


def mypy(*paths: Path) -> set[tuple[str, int]]:
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--no-error-summary",
        "--hide-error-context",
        *map(str, paths),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    return {(name, int(line)) for name, line in re.findall(r"(\w+\.py):(\d+): error", done.stdout)}


def pyright(*paths: Path) -> set[tuple[str, int]]:
    # The project's own configuration leaves the mistakes out; strict is strict without it, too.
    include = [str(path) for path in paths]
    settings = {"typeCheckingMode": "strict", "include": include, "pythonVersion": "3.11"}
    config = HERE / ".pyright.json"
    config.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "-p", str(config)]
    command += ["--pythonpath", sys.executable]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    finally:
        config.unlink()
    told = json.loads(done.stdout)["generalDiagnostics"]
    errors = [one for one in told if one["severity"] == "error"]
    return {(Path(one["file"]).name, one["range"]["start"]["line"] + 1) for one in errors}


@pytest.mark.parametrize("check", [mypy, pyright])
def test_what_users_write_is_taken_and_every_mistake_refused(
    check: Callable[..., set[tuple[str, int]]],
) -> None:
    lines = MISTAKES.read_text(encoding="utf-8").splitlines()
    marked = {
        (MISTAKES.name, number)
        for number, line in enumerate(lines, 1)
        if line.endswith("# refused")
    }
    assert len(marked) > 25
    assert check(EXAMPLES, MISTAKES) == marked
