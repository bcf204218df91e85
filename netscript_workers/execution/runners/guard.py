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
# Who leads a group and ends by itself, with what has left the group, has this long for it.
_OWN_SECONDS = 1.5


class Guard:
    """The worker's end: tells the guard of its children."""

    def __init__(self, lifeline: int) -> None:
        """Prepare; it is started with the first child, and inherits the lifeline."""
        self._lifeline = lifeline
        self._groups: dict[int, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its number, once there is a child."""
        return None if self._process is None else self._process.pid

    def watch(self, leader: int, *, ends_itself: bool = False) -> None:
        """Have the group of this child ended if the worker dies; call it before it runs anything.

        Args:
            leader: The child.
            ends_itself: It ends all that it has started when the worker dies, even what has left
                its group. It is given the time for that.

        Raises:
            OSError: No process is to be had.
        """
        sign = self._groups[leader] = "*" if ends_itself else "+"
        self._tell(f"{sign}{leader}\n")

    def forget(self, leader: int) -> None:
        """Leave the group alone from now on: it is gone, and its number may be another's."""
        self._groups.pop(leader, None)
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
            lines = "".join(f"{sign}{leader}\n" for leader, sign in self._groups.items())
            _write(self._process, lines)

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


def read(told: bytes, groups: set[int], minders: set[int]) -> None:
    """Take over what a worker has told, line by line: groups, and those that end themselves."""
    for line in told.split():
        leader = int(line[1:])
        groups.discard(leader)
        minders.discard(leader)
        if line.startswith(b"+"):
            groups.add(leader)
        elif line.startswith(b"*"):
            minders.add(leader)


def kill(groups: set[int]) -> None:
    """End these process groups, and wait until nobody of them lives."""
    for leader in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)
    wait(groups, _PATIENCE_SECONDS)


def wait(groups: set[int], seconds: float) -> None:
    """Wait until nobody of these process groups lives, but no longer than so many seconds."""
    deadline = time.monotonic() + seconds
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
    minders: set[int] = set()
    rest = b""
    while chunk := os.read(0, 65_536):
        told, _, rest = (rest + chunk).rpartition(b"\n")
        read(told, groups, minders)
    kill(groups)
    if minders:
        wait(minders, _OWN_SECONDS)
        kill(minders)


if __name__ == "__main__":
    main()
