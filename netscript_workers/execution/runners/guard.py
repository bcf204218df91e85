"""The guard: ends what a worker's children have started, should the worker die first.

The kernel ends children with their worker, but not what those have started. This process of a few
megabytes is told of every child before that child runs anything. When its standard input ends it
kills their process groups, and it holds the worker's lifeline until that is done, so that nobody
runs the executions again before. Run as a script it needs nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

_PATIENCE_SECONDS = 2.0
_LOOK_SECONDS = 0.005


class Guard:
    """The worker's end: tells the guard of its children."""

    def __init__(self, lifeline: int) -> None:
        """Prepare; it is started with the first child, and inherits the lifeline."""
        self._lifeline = lifeline
        self._groups: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its number, once there is a child."""
        return None if self._process is None else self._process.pid

    def watch(self, leader: int) -> None:
        """Have the group of this child ended if the worker dies; call it before it runs anything.

        Raises:
            OSError: No process is to be had.
        """
        self._groups.add(leader)
        self._tell(f"+{leader}\n")

    def forget(self, leader: int) -> None:
        """Leave the group alone from now on: it is gone, and its number may be another's."""
        self._groups.discard(leader)
        with contextlib.suppress(OSError):
            self._tell(f"-{leader}\n")

    def close(self) -> None:
        """End it, when no child is left."""
        if self._process is not None:
            _close(self._process)
            self._process.wait()
            self._process = None

    def _tell(self, line: str) -> None:
        if self._process is not None:
            try:
                _write(self._process, line)
            except OSError:  # somebody has killed it
                self.close()
            else:
                return
        if self._groups:
            self._process = self._start()
            _write(self._process, "".join(f"+{leader}\n" for leader in self._groups))

    def _start(self) -> subprocess.Popen[bytes]:
        # Isolated and without site-packages: it starts in a moment, whatever is installed.
        command = [sys.executable, "-I", "-S", __file__]
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            pass_fds=(self._lifeline,),
            start_new_session=True,
            bufsize=0,
        )


def _write(process: subprocess.Popen[bytes], lines: str) -> None:
    if process.stdin is not None:
        process.stdin.write(lines.encode())


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


def read(told: bytes, groups: set[int]) -> None:
    """Take over what a worker has told, line by line."""
    for line in told.split():
        leader = int(line[1:])
        if line.startswith(b"+"):
            groups.add(leader)
        else:
            groups.discard(leader)


def kill(groups: set[int]) -> None:
    """End these process groups, and wait until nobody of them lives."""
    for leader in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while any(map(lives, groups)) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)


def lives(group: int) -> bool:
    """Tell whether a process of this group lives; the dead that nobody has reaped don't count."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return any(state not in b"ZX" for state, its in _states() if its == group)


def _states() -> list[tuple[bytes, int]]:
    found: list[tuple[bytes, int]] = []
    try:
        names = os.listdir("/proc")  # noqa: PTH208 - names, not paths; pathlib is not loaded here
    except OSError:  # not on this system
        return found
    for name in names:
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 - as above
                stat = file.read()
        except OSError:  # it has just ended
            continue
        state, _, group, *_ = stat.rpartition(b")")[2].split()
        found.append((state, int(group)))
    return found


def main() -> None:
    """Listen until the worker ends."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    rest = b""
    while chunk := os.read(0, 65_536):
        told, _, rest = (rest + chunk).rpartition(b"\n")
        read(told, groups)
    kill(groups)


if __name__ == "__main__":
    main()
