"""A worker's children: starting them, speaking with them, ending them, seeing how they die.

A child is given executions before it has ended the last one. It takes a permit for each, a byte in
a pipe whose other end its worker holds as well: so what it has not begun can be taken back at any
time, even from one that hears nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from netscript_workers.domain import Death
from netscript_workers.execution.runners import wire
from netscript_workers.execution.runners.guard import Guard
from netscript_workers.execution.runners.trees import kill_tree, signal_group
from netscript_workers.execution.runners.wire import Message
from netscript_workers.telemetry import spans

_MODULE = "netscript_workers.execution.runners.child"
_READ_BYTES = 262_144
_MOST_PERMITS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Nursery:
    """What a child needs to be started.

    Attributes:
        project: The project's folder.
        jobs_dir: Where its jobs are.
        tasks_dir: Where its tasks are, which jobs may name.
        lifeline: The descriptor of the worker's lifeline, which it inherits.
        guard: Ends what it has started, should the worker die first.
        keep_logs: The lowest level of log lines that are kept with executions.
    """

    project: Path
    jobs_dir: str
    tasks_dir: str
    lifeline: int
    guard: Guard
    keep_logs: int = logging.INFO


class Child:
    """An interpreter of its own that runs one execution at a time. Lives on the worker's loop.

    It leads a session and a process group, so that what it starts can be ended with it.
    """

    def __init__(
        self,
        nursery: Nursery,
        *,
        on_message: Callable[[Child, Message], None],
        on_death: Callable[[Child, Death], None],
    ) -> None:
        """Start it. The kernel ends it with the calling thread.

        Args:
            nursery: What it needs.
            on_message: Called on the loop with whatever it says.
            on_death: Called on the loop when it and its group are dead, once, and last.

        Raises:
            OSError: No process is to be had, or no thread to wait for its end.
        """
        self._loop = asyncio.get_running_loop()
        self._guard = nursery.guard
        self._on_message, self._on_death = on_message, on_death
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(0)
        self._decoder = wire.Decoder()
        self._unsent = bytearray()
        self._unpermitted = 0
        self._permits, self._permit = os.pipe()
        os.set_blocking(self._permits, False)
        os.set_blocking(self._permit, False)
        self._lock = threading.Lock()
        self._is_gone = False  # under the lock: reaped, so that its number may be another's
        self.is_dead = False  # on the loop: these are its last words, nothing more is for it
        fd = theirs.fileno()
        # -P: what lies in the current folder is not taken for a module of somebody else's.
        facts = [os.getpid(), fd, nursery.lifeline, self._permits]
        command = [sys.executable, "-P", "-m", _MODULE, *map(str, facts)]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                pass_fds=(fd, nursery.lifeline, self._permits),
                start_new_session=True,
            )
        except BaseException:
            self._close()
            raise
        finally:
            theirs.close()
        self.pid = self._process.pid
        try:
            name = f"netscript-child-{self.pid}"
            threading.Thread(target=self._wait, name=name, daemon=True).start()
        except RuntimeError as error:  # nobody would see it die
            self._close()
            kill_tree(self.pid)
            self._process.wait()
            raise OSError("no thread is to be had") from error
        # Of its runner, which alone uses them.
        self.jobs: frozenset[str] = frozenset()
        self.meant_for = ""
        self.runs = 0
        self.is_worn = False
        self.is_deaf = False
        self.weighed_at = float("-inf")
        self._loop.add_reader(self._socket, self._read)
        try:
            self._guard.watch(self.pid)
        except OSError:
            self.kill()
            return
        self.tell(_setup(nursery))

    def tell(self, message: Message) -> None:
        """Say something; what it can't take yet waits here. To the dead nothing is said.

        Raises:
            FrameTooLongError: It is longer than a frame may be.
        """
        if self.is_dead:
            return
        was_idle = not self._unsent
        self._unsent += wire.encode(message)
        if was_idle:  # what is said at once goes at once
            self._loop.call_soon(self._write)

    def permit(self) -> None:
        """Let it begin one more of the executions that it is given; say so before giving it."""
        self._unpermitted += 1  # stands in the pipe before the order is on its way

    def take_back(self) -> int:
        """Take back every permit that it has not used; return how many of the last given these are.

        It will begin none of them. Until it has heard of it, it is to be given no others.
        """
        count, self._unpermitted = self._unpermitted, 0
        with contextlib.suppress(BlockingIOError):
            count += len(os.read(self._permits, _MOST_PERMITS))
        return count

    def terminate(self) -> None:
        """Send SIGTERM to what it has started; itself it heeds words only."""
        with self._lock:
            if not self._is_gone:
                signal_group(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and whatever it has started."""
        with self._lock:
            if not self._is_gone:
                kill_tree(self.pid)

    # On the loop.

    def _close(self) -> None:
        self._socket.close()
        os.close(self._permits)
        os.close(self._permit)

    def _write(self) -> None:
        if self.is_dead:
            return
        if self._unpermitted:
            os.write(self._permit, b"." * self._unpermitted)
            self._unpermitted = 0
        try:
            sent = self._socket.send(self._unsent) if self._unsent else 0
        except BlockingIOError:
            sent = 0
        except OSError:  # it is dead, as its death will tell
            self._unsent.clear()
            sent = 0
        del self._unsent[:sent]
        if self._unsent:
            self._loop.add_writer(self._socket, self._write)
        else:
            self._loop.remove_writer(self._socket)

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._socket)
            return
        self._take(data)

    def _take(self, data: bytes) -> None:
        try:
            for message in self._decoder.feed(data):
                self._on_message(self, message)
        except wire.FrameError:
            self._loop.remove_reader(self._socket)
            self.kill()

    def _bury(self, death: Death) -> None:
        """Hear its last words, which may still be on their way, and tell of its death."""
        self.is_dead = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._unsent.clear()
        for data in self._last_words():
            self._take(data)
        self._guard.forget(self.pid)
        self._on_death(self, death)
        self._close()

    def _last_words(self) -> Iterator[bytes]:
        while True:
            try:
                data = self._socket.recv(_READ_BYTES)
            except OSError:  # nothing more: who has fled with the other end may keep it open
                return
            if not data:
                return
            yield data

    # On a thread of its own.

    def _wait(self) -> None:
        try:
            death = self._reap()
        except ChildProcessError:  # reaped by somebody else, or because SIGCHLD is ignored
            with self._lock:
                self._is_gone = True
            self._process.returncode = 0
            death = Death(exit_code=None, signal=None, peak_memory=None)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._bury, death)

    def _reap(self) -> Death:
        # Not reaped yet: until it is, its number can mean nobody else.
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            signal_group(self.pid, signal.SIGKILL)
            _, status, usage = os.wait4(self.pid, 0)
            self._is_gone = True
        code = os.waitstatus_to_exitcode(status)
        self._process.returncode = code
        unit = 1 if sys.platform == "darwin" else 1024
        return Death(
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            peak_memory=usage.ru_maxrss * unit,
        )


def _setup(nursery: Nursery) -> Message:
    """Return what a child is told first."""
    return {
        "t": "setup",
        "project": str(nursery.project),
        "folders": [nursery.jobs_dir, nursery.tasks_dir],
        "log_level": logging.getLogger().getEffectiveLevel(),
        "keep_logs": nursery.keep_logs,
        "traces": spans.recorder is not None,
    }
