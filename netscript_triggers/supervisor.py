"""The supervisor of `netscript dev`: server and worker as two processes that end with it."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

import typer
from watchfiles import PythonFilter
from watchfiles import watch as watch_files

from netscript_triggers.complaints import Complaint
from netscript_workers.errors import ConfigurationError

_LOOK_MILLISECONDS = 300
_PATIENCE_SECONDS = 5.0
_FIRST_BACKOFF = 0.5
_LAST_BACKOFF = 10.0
# A process that ran this long was well; what ended it later is a new story.
_WELL_AFTER_SECONDS = 10.0


class _Child:
    """One process, started again when it ends by itself."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], places: Path
    ) -> None:
        self.name = name
        self._complaint = Complaint(places / name)
        self._environment = {**environment, **self._complaint.environment}
        self._command = [sys.executable, "-m", "netscript_triggers", *command]
        self._backoff = _FIRST_BACKOFF
        self._again_at: float | None = None
        self.complaint: str | None = None
        self.start()

    def start(self) -> None:
        # It ends when its standard input does, which the kernel closes even if we are killed.
        # A group of its own: Ctrl-C is ours to pass on, and comes once.
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, process_group=0, env=self._environment
        )
        self._started = time.monotonic()
        self._again_at = self.complaint = None

    def look_after(self) -> None:
        """Start it again if it has ended, later and later; a project at fault is waited for."""
        now = time.monotonic()
        if self.complaint is not None:
            return
        if self._again_at is not None:
            if now >= self._again_at:
                self.start()
            return
        code = self._process.poll()
        if code is None:
            return
        self.complaint = self._complaint.take()
        if self.complaint is not None:
            return
        if now - self._started > _WELL_AFTER_SECONDS:
            self._backoff = _FIRST_BACKOFF
        typer.echo(f"{self.name} ended with {code}; again in {self._backoff:g} s", err=True)
        self._again_at = now + self._backoff
        self._backoff = min(self._backoff * 2, _LAST_BACKOFF)

    def tell(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait_ended(self, deadline: float) -> None:
        """Wait; past the deadline it is told again, which ends it at once."""
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.tell()
            try:
                self._process.wait(_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()


def supervise(
    commands: Mapping[str, Sequence[str]], *, environment: Mapping[str, str], watch: Path | None
) -> int:
    """Run commands of `netscript` as children until told to stop; return the exit code.

    Args:
        commands: By name.
        environment: What they inherit.
        watch: A folder whose changes restart them; None for no watching.
    """
    stopped = _Stopped()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.told = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    with tempfile.TemporaryDirectory(prefix="netscript-dev-") as places:
        children = [_Child(name, commands[name], environment, Path(places)) for name in commands]
        said: set[str] = set()
        try:
            for changed in _rounds(watch, stopped):
                if changed:
                    names = ", ".join(sorted(Path(path).name for path in changed)[:3])
                    typer.echo(f"{names} changed: restarting", err=True)
                    said.clear()
                    _end(children)
                    for child in children:
                        child.start()
                for child in children:
                    child.look_after()
                if _say_what_keeps(children, said):
                    if watch is None:
                        return 1
                    typer.echo("waiting for a file to change", err=True)
        finally:
            _end(children)
    return 0


def _say_what_keeps(children: Sequence[_Child], said: set[str]) -> bool:
    """Say once what several can't start for; tell whether there was something new to say."""
    before = len(said)
    for child in children:
        if child.complaint is not None and child.complaint not in said:
            said.add(child.complaint)
            typer.echo(f"netscript: {child.complaint}", err=True)
    return len(said) > before


class _Stopped:
    """Whether it was told to stop; one of `threading` has a lock, which a signal may find taken."""

    told = False

    def is_set(self) -> bool:
        """Tell, as what watches files asks."""
        return self.told


def _rounds(place: Path | None, stopped: _Stopped) -> Iterator[set[str]]:
    """Yield what has changed a few times a second, until stopped."""
    if place is None:
        while not stopped.is_set():
            yield set()
            time.sleep(_LOOK_MILLISECONDS / 1000)
        return
    try:
        for changes in watch_files(
            place,
            watch_filter=PythonFilter(extra_extensions=(".toml", ".env")),
            stop_event=stopped,
            rust_timeout=_LOOK_MILLISECONDS,
            yield_on_timeout=True,
            raise_interrupt=False,
        ):
            yield {path for _, path in changes}
    except OSError as error:  # a folder below may be nobody's to read, or there are too many
        raise ConfigurationError(
            f"{place} can't be watched: {error.strerror or error}.",
            hint="Start it with --no-reload, or raise fs.inotify.max_user_watches.",
        ) from error


def _end(children: Sequence[_Child]) -> None:
    for child in children:
        child.tell()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for child in children:
        child.wait_ended(deadline)
