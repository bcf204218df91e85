"""The minder: starts a task's command, keeps to its limits, and ends all that it has started.

It leads the task's session and process group. Orphans of the task become its children, so that a
daemon is found too. Should the worker die, it ends them all, and holds the worker's lifeline until
that is done. Run as a script it needs nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE_SECONDS = 2.0
_LOOK_SECONDS = 0.1
# Looking takes longer the more processes a machine has; no more than this part of the time.
_LOOK_SHARE = 0.02
_WORDS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)
_LIMITS = {
    "memory": resource.RLIMIT_DATA,
    "open_files": resource.RLIMIT_NOFILE,
    "file": resource.RLIMIT_FSIZE,
    "cpu": resource.RLIMIT_CPU,
}
# What a shell says of a command that it does not find, or may not run.
NOT_FOUND = 127
NOT_EXECUTABLE = 126


class Minder:
    """Minds one command."""

    def __init__(self, line: socket.socket, parent: int, lifeline: int) -> None:
        """Listen to the worker on this line; it holds the lifeline if it is not negative."""
        self._line = line
        self._parent = parent
        self._lifeline = lifeline
        self._command = 0
        self._status: int | None = None
        self._exceeded: str | None = None
        self._is_sandboxed = False
        self._rest = b""

    def run(self) -> None:
        """Run the command to its end, and tell the worker how it ended."""
        wake, woken = os.pipe()
        os.set_blocking(woken, False)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGUSR1):
            signal.signal(number, lambda _number, _frame: None)
        for number in _WORDS:
            signal.signal(number, signal.SIG_IGN)
        libc = ctypes.CDLL(None)
        with contextlib.suppress(AttributeError):
            libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1, 0, 0, 0)
        order = self._order()
        try:
            self._start(order, libc)
            self._mind(order, wake)
        finally:
            self._end_all()
            for path in order["remove"]:
                _remove(path)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._tell({"t": "end", "status": self._status, "exceeded": self._exceeded,
                    "peak": usage.ru_maxrss * 1024})  # fmt: skip

    def _order(self) -> dict[str, Any]:
        found = b""
        while b"\n" not in found:
            chunk = self._line.recv(262_144)
            if not chunk:
                os._exit(1)
            found += chunk
        head, _, self._rest = found.partition(b"\n")
        order: dict[str, Any] = json.loads(head)
        self._is_sandboxed = order["sandboxed"]
        return order

    def _start(self, order: dict[str, Any], libc: ctypes.CDLL) -> None:
        own = os.getpid()
        self._command = os.fork()
        if not self._command:
            _become(order, libc, own, self._lifeline)

    def _mind(self, order: dict[str, Any], wake: int) -> None:
        """Return when the command has ended, or has to."""
        poll = select.poll()
        poll.register(self._line, select.POLLIN)
        poll.register(wake, select.POLLIN)
        pause = _LOOK_SECONDS
        limits = order["limits"]
        watched = limits.get("memory"), limits.get("processes")
        while True:
            for descriptor, _ in poll.poll(pause * 1000 if any(watched) else None):
                if descriptor == wake:
                    os.read(wake, 4096)
                elif self._listen():
                    return
            self._reap()
            if self._status is not None or os.getppid() != self._parent:
                return
            if any(watched):
                began = time.monotonic()
                self._exceeded = _exceeded(own=os.getpid(), memory=watched[0], most=watched[1])
                if self._exceeded:
                    return
                pause = max(_LOOK_SECONDS, (time.monotonic() - began) / _LOOK_SHARE)

    def _listen(self) -> bool:
        """Hear the worker; tell whether it wants the end now."""
        try:
            chunk = self._line.recv(4096)
        except OSError:
            chunk = b""
        words = (self._rest + chunk).split()
        self._rest = b""
        if b"term" in words:
            # Each by itself, for one may have a session of its own. A sandbox's own process would
            # take the rest with it at once.
            for pid in _below(os.getpid()):
                if not (self._is_sandboxed and pid == self._command):
                    _signal(pid, signal.SIGTERM)
        return not chunk or b"kill" in words

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self._command:
                self._status = os.waitstatus_to_exitcode(status)

    def _end_all(self) -> None:
        """Kill whatever there is below, until there is nothing."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            below = _below(os.getpid())
            for pid in below:
                _signal(pid, signal.SIGKILL)
            self._reap()
            if not below:
                return
            time.sleep(0.002)

    def _tell(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self._line.sendall(json.dumps(message).encode() + b"\n")


def _become(order: dict[str, Any], libc: ctypes.CDLL, parent: int, lifeline: int) -> NoReturn:
    """Become the command, as the child of a fork."""
    try:
        signal.set_wakeup_fd(-1)
        for word in (*_WORDS, signal.SIGCHLD, signal.SIGUSR1, signal.SIGXFSZ):
            signal.signal(word, signal.SIG_DFL)
        with contextlib.suppress(AttributeError):
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        if lifeline >= 0 and not order["sandboxed"]:  # a sandbox dies as one, with its first
            os.set_inheritable(lifeline, True)  # noqa: FBT003 - it takes no names
        os.chdir(order["cwd"])
        for name, kind in _LIMITS.items():
            if (most := order["limits"].get(name)) is not None:
                # The end by processor time has a name of its own, SIGXCPU, before the hard limit.
                _limit(kind, most, spare=1 if name == "cpu" else 0)
        _limit(resource.RLIMIT_CORE, 0)
        os.execve(order["argv"][0], order["argv"], order["env"])  # noqa: S606 - no shell is meant
    except OSError as error:
        is_missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        told = f"netscript: {order['argv'][0]}: {error.strerror}\n"
        with contextlib.suppress(OSError):
            os.write(2, told.encode("utf-8", "surrogateescape"))
        os._exit(NOT_FOUND if is_missing else NOT_EXECUTABLE)
    except BaseException:  # noqa: BLE001 - a child of a fork has nobody to tell
        os._exit(1)
    os._exit(1)


def _limit(number: int, most: int, spare: int = 0) -> None:
    _, hard = resource.getrlimit(number)
    is_free = hard == resource.RLIM_INFINITY
    last = most + spare if is_free else min(most + spare, hard)
    resource.setrlimit(number, (min(most, last), last))


def _exceeded(*, own: int, memory: int | None, most: int | None) -> str | None:
    below = _below(own)
    if most is not None and len(below) > most:
        return "processes"
    if memory is not None and sum(map(_private_bytes, below)) > memory:
        return "memory"
    return None


def _below(root: int) -> list[int]:
    """Return the numbers of all that a process has started and that live, the dead left out."""
    children: dict[int, list[int]] = {}
    dead: set[int] = set()
    for name in os.listdir("/proc"):  # noqa: PTH208 - names, not paths; pathlib is not loaded here
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 - as above
                state, parent, *_ = file.read().rpartition(b")")[2].split()
        except (OSError, ValueError):  # it has just ended
            continue
        children.setdefault(int(parent), []).append(int(name))
        if state in b"ZX":
            dead.add(int(name))
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return [pid for pid in found if pid not in dead]


def _private_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:  # noqa: PTH123 - as above
            _, resident, shared, *_ = file.read().split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * resource.getpagesize()


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)  # noqa: PTH108 - as above
        os.rmdir(os.path.dirname(path))  # noqa: PTH106, PTH120 - as above


def main(descriptor: int, parent: int, lifeline: int) -> None:
    """Mind the command that the worker orders on this socket."""
    for ours in (descriptor, lifeline):
        if ours >= 0:
            os.set_inheritable(ours, False)  # noqa: FBT003 - it takes no names
    Minder(socket.socket(fileno=descriptor), parent, lifeline).run()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
