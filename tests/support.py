"""What tests share: waiting for something, processes of ours, signed requests."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

from tests.commands import CommandServer

T = TypeVar("T")

ROOT = Path(__file__).parents[1]


def eventually(check: Callable[[], T], seconds: float = 10.0, what: str = "it") -> T:
    """Return the first truthy answer of `check`, or fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {seconds:g} s")
        time.sleep(0.01)
    return found


async def eventually_async(
    check: Callable[[], Awaitable[T]] | Callable[[], T], seconds: float = 10.0, what: str = "it"
) -> T:
    """As `eventually`, without blocking the loop."""
    deadline = time.monotonic() + seconds
    while True:
        found: Any = check()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found  # type: ignore[no-any-return]
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {seconds:g} s")
        await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie that nobody has reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def free_port() -> int:
    """Return a port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """A process of ours; killed at the end, whatever happens."""

    def __init__(
        self,
        *command: str,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        python: str = sys.executable,
        log: Path | None = None,
    ) -> None:
        self.log = log or cwd / f"process-{time.monotonic_ns()}.log"
        with self.log.open("wb") as output:
            self.popen = subprocess.Popen(
                [python, *command],
                cwd=cwd,
                env={**clean_environment(), "PYTHONFAULTHANDLER": "1", **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()

    def terminate(self, seconds: float = 15.0) -> int:
        self.popen.send_signal(signal.SIGTERM)
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.popen.send_signal(signal.SIGABRT)  # tells what each thread does
            self.popen.wait()
            raise AssertionError(f"it goes on after {seconds:g} s:\n{self.output}") from None

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def wait_for(self, text: str, seconds: float = 20.0) -> None:
        def look() -> bool:
            if text in self.output:
                return True
            assert self.popen.poll() is None, f"it ended:\n{self.output}"
            return False

        eventually(look, seconds, f"{text!r} in its output")


def clean_environment() -> dict[str, str]:
    """Return this process's environment without settings of netscript."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("NETSCRIPT_", "WORKERS_", "WEBHOOK_"))
    }


@cache
def _commands() -> CommandServer:
    return CommandServer(clean_environment())


def netscript(
    *command: str, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command of `netscript` to its end."""
    return _commands().run(command, cwd, env or {})


def wait_until_answers(url: str, path: str = "/health", seconds: float = 20.0) -> None:
    """Wait until a server answers with 200."""

    def look() -> bool:
        try:
            return httpx.get(f"{url}{path}", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    eventually(look, seconds, f"{path} answering 200")


def write_project(place: Path, files: Mapping[str, str]) -> Path:
    """Write a project's files; return its folder."""
    for name, content in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return place
