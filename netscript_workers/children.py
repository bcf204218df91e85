"""Child processes that run one execution: starting them, telling them, seeing how they die."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from typing import Any

from netscript_workers.domain import ClaimedExecution, Death

# What a child says of itself, a byte each.
BEGUN = b"b"
STORED = b"s"
UNSAVED = b"u"

DRAIN = b"drain\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a child is to do. Its URL may hold a password, so it goes by a pipe.

    Attributes:
        claim: What to run; it stays its worker's.
        worker_id: Whose.
        url: The database's.
        project: The project's folder.
        jobs_dir: Where its jobs are.
        window: How long idempotency keys of actions are kept, in microseconds.
        log_level: What is shown.
    """

    claim: ClaimedExecution
    worker_id: str
    url: str
    project: str
    jobs_dir: str
    window: int
    log_level: int

    def dump(self) -> bytes:
        """Write it as a line."""
        return json.dumps({**asdict(self), "claim": self.claim._asdict()}).encode() + b"\n"

    @classmethod
    def load(cls, line: bytes) -> Order:
        """Read it."""
        told: dict[str, Any] = json.loads(line)
        claim = ClaimedExecution(**told.pop("claim"))
        return cls(claim=claim, **told)


class Child:
    """A fresh interpreter that runs one execution.

    It leads a process group, so that what it starts can be ended with it.
    """

    def __init__(self, lifeline: int) -> None:
        """Start it; it inherits a lifeline, and is ended by the kernel with the calling thread.

        Raises:
            OSError: No process is to be had.
        """
        self._heard, told = os.pipe()
        command = [sys.executable, "-m", "netscript_workers.child", str(os.getpid()), str(told)]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, pass_fds=(told, lifeline), process_group=0
            )
        except BaseException:
            os.close(self._heard)
            raise
        finally:
            os.close(told)
        os.set_blocking(self._heard, False)
        self.pid = self._process.pid
        self.was_killed = False
        self._lock = threading.Lock()
        self._is_given = False
        self._is_gone = False
        self._marks = b""

    @property
    def has_begun(self) -> bool:
        """Whether it came as far as the handler; known when it has ended."""
        return BEGUN in self._marks

    @property
    def has_stored(self) -> bool:
        """Whether it has stored how the attempt ended; known when it has ended."""
        return STORED in self._marks

    @property
    def is_unsaved(self) -> bool:
        """Whether the attempt ended, but the database did not take it."""
        return UNSAVED in self._marks

    def give(self, order: Order) -> None:
        """Tell it what to do; waits until it has listened."""
        self._say(order.dump())
        self._is_given = True

    def drain(self) -> None:
        """Ask it to end the attempt as not having had its turn."""
        if self._is_given:
            self._say(DRAIN)
        else:
            self.kill()

    def kill(self) -> None:
        """End it and whatever it has started."""
        with self._lock:
            if not self._is_gone:
                self.was_killed = True
                _kill_group(self.pid)

    def wait(self) -> Death:
        """Wait for its end, and return how it died. Call it once."""
        # Not reaped yet: until it is, its number can mean nobody else.
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(BlockingIOError):
            self._marks = os.read(self._heard, 64)
        with self._lock:
            if not self.has_stored:  # what it started belongs to an attempt that is over
                _kill_group(self.pid)
            _, status, usage = os.wait4(self.pid, 0)
            self._is_gone = True
        code = os.waitstatus_to_exitcode(status)
        self._process.returncode = code
        os.close(self._heard)
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        unit = 1 if sys.platform == "darwin" else 1024
        return Death(
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            peak_memory=usage.ru_maxrss * unit,
        )

    def _say(self, line: bytes) -> None:
        if self._process.stdin is not None:
            # It has ended, as its end will tell; or it is known to, and stdin is closed.
            with contextlib.suppress(OSError, ValueError):
                self._process.stdin.write(line)
                self._process.stdin.flush()


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
