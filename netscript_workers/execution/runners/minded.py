"""A task's process as its worker sees it: starting it, reading what it prints, ending it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from netscript_workers.domain import Death
from netscript_workers.execution.runners import minder
from netscript_workers.execution.runners.capture import Capture
from netscript_workers.execution.runners.environment import own_environment
from netscript_workers.execution.runners.guard import Guard
from netscript_workers.execution.runners.trees import kill_tree, signal_group

_READ_BYTES = 262_144
# A minder that was told to end everything does so at once, unless it is stopped itself.
_FORCE_SECONDS = 1.0
_MOST_LAST_READS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is run and how.

    Attributes:
        argv: The program by its absolute path, and its arguments.
        cwd: The folder to run it in.
        env: All of its environment.
        limits: What it may use: `memory` and `file` in bytes, `cpu` in seconds, `processes`,
            `open_files`.
        sandboxed: The program is a sandbox, which ends with what runs in it.
        remove: Files to remove afterwards, with their folders.
    """

    argv: Sequence[str]
    cwd: str
    env: Mapping[str, str]
    limits: Mapping[str, int]
    sandboxed: bool = False
    remove: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a task's process ended.

    Attributes:
        death: Its exit code or signal, and its peak memory.
        exceeded: The limit for which it was ended: `memory` or `processes`.
        killed: Whether this worker has killed it.
    """

    death: Death
    exceeded: str | None
    killed: bool


class Minded:
    """A command behind a minder. Lives on the worker's loop.

    Attributes:
        pid: The minder's number; it leads the session and the group of all that is started.
        ended: Is done when nothing of it lives and all that it printed was read.
    """

    def __init__(
        self,
        order: Order,
        *,
        stdout: Capture,
        stderr: Capture,
        lifeline: int | None,
        guard: Guard | None,
    ) -> None:
        """Start it.

        Raises:
            OSError: No process is to be had, or no thread to wait for its end.
        """
        self._loop = asyncio.get_running_loop()
        self._guard = guard
        self._told: dict[str, Any] = {}
        self._heard = b""
        self._unsent = bytearray()
        self._killed = False
        self._lock = threading.Lock()
        self._is_gone = False  # under the lock: reaped, so that its number may be another's
        self.ended: asyncio.Future[Exit] = self._loop.create_future()
        self._line, theirs = socket.socketpair()
        self._line.settimeout(0)
        held = () if lifeline is None else (lifeline,)
        facts = [theirs.fileno(), os.getpid(), -1 if lifeline is None else lifeline]
        command = [sys.executable, "-I", "-S", minder.__file__, *map(str, facts)]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(), *held),
                start_new_session=True,
                bufsize=0,
                env=own_environment(),
            )
        except BaseException:
            self._line.close()
            raise
        finally:
            theirs.close()
        self.pid = self._process.pid
        self._streams = {self._process.stdout: stdout, self._process.stderr: stderr}
        self._watch_end()
        for stream, capture in self._streams.items():
            assert stream is not None
            os.set_blocking(stream.fileno(), False)
            self._loop.add_reader(stream, partial(self._read, stream.fileno(), capture))
        self._loop.add_reader(self._line, self._hear)
        try:
            if guard is not None:
                guard.watch(self.pid, ends_itself=True)
        except OSError:
            self._force()
            raise
        facts_told = {
            "argv": list(order.argv),
            "cwd": order.cwd,
            "env": dict(order.env),
            "limits": dict(order.limits),
            "sandboxed": order.sandboxed,
            "remove": list(order.remove),
        }
        self._say(json.dumps(facts_told).encode() + b"\n")

    def terminate(self) -> None:
        """Send SIGTERM to all that it has started."""
        self._say(b"term\n")

    def kill(self) -> None:
        """End all that it has started, now."""
        if not self._killed:
            self._killed = True
            self._say(b"kill\n")
            self._loop.call_later(_FORCE_SECONDS, self._force)

    # On the loop.

    def _say(self, word: bytes) -> None:
        if not self.ended.done():
            self._unsent += word
            self._write()

    def _write(self) -> None:
        try:
            sent = self._line.send(self._unsent) if self._unsent else 0
        except BlockingIOError:
            sent = 0
        except OSError:  # it is dead, as its end will tell
            self._unsent.clear()
            sent = 0
        del self._unsent[:sent]
        if self._unsent:
            self._loop.add_writer(self._line, self._write)
        else:
            self._loop.remove_writer(self._line)

    def _force(self) -> None:
        with self._lock:
            if not self._is_gone:
                kill_tree(self.pid)

    def _hear(self) -> None:
        try:
            data = self._line.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._line)
            return
        self._heard += data

    def _read(self, descriptor: int, capture: Capture) -> bool:
        """Read once; tell whether there may be more."""
        try:
            chunk = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            chunk = b""
        if not chunk:
            self._loop.remove_reader(descriptor)
            return False
        capture.feed(chunk)
        return True

    def _bury(self, status: int | None) -> None:
        """Hear its last words, which may still be on their way, and tell of its end."""
        self._hear()
        for stream, capture in self._streams.items():
            assert stream is not None
            # Who has fled may hold the other end open, and go on.
            for _ in range(_MOST_LAST_READS):
                if not self._read(stream.fileno(), capture):
                    break
            self._loop.remove_reader(stream.fileno())
            stream.close()
            capture.close()
        self._loop.remove_reader(self._line)
        self._loop.remove_writer(self._line)
        self._line.close()
        if self._guard is not None:
            self._guard.forget(self.pid)
        if not self.ended.done():
            self.ended.set_result(self._exit(status))

    def _exit(self, status: int | None) -> Exit:
        with contextlib.suppress(ValueError):
            self._told = json.loads(self._heard)
        code = self._told.get("status")
        if code is None and not self._told:  # the minder was killed, and the command with it
            code = status
        return Exit(
            death=Death(
                exit_code=code if code is not None and code >= 0 else None,
                signal=-code if code is not None and code < 0 else None,
                peak_memory=self._told.get("peak"),
            ),
            exceeded=self._told.get("exceeded"),
            killed=self._killed,
        )

    def _watch_end(self) -> None:
        name = f"netscript-task-{self.pid}"
        try:
            threading.Thread(target=self._wait, name=name, daemon=True).start()
        except RuntimeError as error:  # nobody would see it end
            self._line.close()
            kill_tree(self.pid)
            self._process.wait()
            raise OSError("no thread is to be had") from error

    # On a thread of its own.

    def _wait(self) -> None:
        status: int | None
        try:
            # Not reaped yet: until it is, its number can mean nobody else.
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            with self._lock:
                signal_group(self.pid, signal.SIGKILL)
                _, ended = os.waitpid(self.pid, 0)
                self._is_gone = True
            status = os.waitstatus_to_exitcode(ended)
        except ChildProcessError:  # reaped by somebody else, or because SIGCHLD is ignored
            with self._lock:
                self._is_gone = True
            status = None
        self._process.returncode = 0 if status is None else status
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._bury, status)
