"""The way of somebody new: what docs/first-steps.md tells them to type prints what it shows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT, clean_environment, free_port, wait_until_answers

PAGE = (ROOT / "docs" / "first-steps.md").read_text(encoding="utf-8")
_BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
# What differs from run to run, and what stands for it.
_VARYING = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f-]{21}"), "ID"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d"), "TIME"),
    (re.compile(r"ch_[0-9a-f]{12}"), "CHARGE"),
    (re.compile(r"in [\d.]+ ?m?s"), "in SOME TIME"),
    (re.compile(r"(of process-payment) is \w+"), r"\1 is WHATEVER"),
    (re.compile(r"Python 3\.\d+\.\d+"), "PYTHON"),
    (re.compile(r"revision \d{4}"), "REVISION"),
    (re.compile(r"[\d,]+ are allowed"), "SOME are allowed"),
    (re.compile(r"(For tasks there are: ).*"), r"\1PROGRAMS"),
    (re.compile(r"(sqlite:///|Read for )\S+/shop"), "PLACE"),
)


def steps() -> Iterator[tuple[str, str]]:
    """Yield each command of the page, and what it shows for it."""
    for block in _BLOCK.findall(PAGE):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = step.partition("\n")
            yield command, shown


def alike(text: str, port: str) -> str:
    text = text.replace(port, "8091")
    for pattern, stand_in in _VARYING:
        text = pattern.sub(stand_in, text)
    return text.strip()


class Shell:
    """A terminal in which one command follows another, and one may go on behind."""

    def __init__(self, place: Path, environment: dict[str, str]) -> None:
        self.place = place
        self.environment = environment
        self._behind: list[subprocess.Popen[bytes]] = []

    def type(self, command: str, expects: str) -> str:
        if command.startswith("cd "):
            self.place = self.place / command[3:]
            return ""
        if command.endswith("&"):
            return self._begin(command.removesuffix("&").strip(), expects.count("\n"))
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.place,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    def _begin(self, command: str, lines: int) -> str:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self.place,
            env=self.environment,
            stdout=subprocess.PIPE,
        )
        self._behind.append(process)
        assert process.stdout is not None
        output = b"".join(process.stdout.readline() for _ in range(lines))
        port = self.environment["NETSCRIPT_PORT"]
        wait_until_answers(f"http://127.0.0.1:{port}", "/health/ready")
        return output.decode()

    def close(self) -> None:
        for process in self._behind:
            process.send_signal(signal.SIGTERM)
        for process in self._behind:
            assert process.wait(30) == 0
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def shell(tmp_path: Path, installed: dict[str, str]) -> Iterator[Shell]:
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, module in (("netscript", "netscript_triggers"), ("python", "")):
        run = f"-m {module}" if module else ""
        (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable} {run} "$@"\n')
        (commands / name).chmod(0o755)
    environment = {
        **clean_environment(),
        **installed,
        "PATH": f"{commands}:{os.environ['PATH']}",
        "NETSCRIPT_PORT": str(free_port()),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_ADDOPTS": "-p no:cacheprovider",
        "COLUMNS": "80",
    }
    made = Shell(tmp_path, environment)
    yield made
    made.close()


def test_the_steps_shown_print_what_is_shown(shell: Shell) -> None:
    port = shell.environment["NETSCRIPT_PORT"]
    told = list(steps())
    assert len(told) > 8
    for command, shown in told:
        printed = shell.type(command, shown)
        assert alike(printed, port) == alike(shown, "8091"), command
