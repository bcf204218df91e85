"""What the tests of file watches share: a watch that looks when told to, and what it has stored."""

from __future__ import annotations

import json
import signal
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from netscript_triggers import FileEvent, FileWatchDefinition, Stability, define_file_watch
from netscript_triggers.states import TriggerStates
from netscript_triggers.store.verify import verify
from netscript_triggers.watching.watch import FileWatch
from netscript_triggers.watching.watcher import FileWatcher
from netscript_workers.store.engine import Store
from tests.kit import rows, scalar

# Longer than a file that is gone is waited for, and than the time between two full looks.
LONG = 100.0


def nothing(event: FileEvent) -> None: ...


def watch_of(*paths: Path, **options: Any) -> FileWatchDefinition[Any]:
    """Return a file watch over directories whose files are finished in the second look."""
    known: dict[str, Any] = {
        "id": "inbox",
        "paths": paths,
        "patterns": ["*.csv"],
        "stability": Stability(interval=1.0, checks=2),
    }
    return define_file_watch(nothing, **{**known, **options})


class Hand:
    """A file watch without threads, whose clock moves when told to."""

    def __init__(self, store: Store, *paths: Path, **options: Any) -> None:
        self.watch = FileWatch(store, watch_of(*paths, **options))
        self.now = 1000.0

    def turn(self, seconds: float = 0.0) -> float:
        self.now += seconds
        return self.watch.turn(self.now)

    def look(self) -> None:
        """Look at everything until all that is finished is taken."""
        self.watch.look_soon()
        self.turn()
        self.turn(1.0)

    def wait(self) -> None:
        """Wait until what is gone is taken for gone."""
        for _ in range(2):
            self.turn(LONG)
            self.turn()


def events(store: Store) -> list[tuple[str, str]]:
    """Return the changes of all events, and the names of their files, in their order."""
    sql = "SELECT event_type, body FROM netscript_trigger_events ORDER BY id"
    return [(change, json.loads(bytes(body))["name"]) for change, body in rows(store, sql)]


def records(store: Store) -> list[bytes]:
    """Return the names of all files that are recorded."""
    found = rows(store, "SELECT path FROM netscript_files")
    return sorted(bytes(path).rpartition(b"/")[2] for (path,) in found)


def check(store: Store) -> None:
    """Hold the store against its promises."""
    found = verify(store)
    assert not found.findings, str(found)
    assert found.checked["files"] == scalar(store, "SELECT count(*) FROM netscript_files")


class Forked:
    """Processes that only watch; made by a process that has imported everything, so within no time.

    The files of `inbox` are finished after two looks of `interval` seconds.
    """

    def __init__(self, url: str, inbox: Path, count: int, interval: float) -> None:
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload([__name__])
        self._given = (url, inbox, interval)
        self._all = [self._start() for _ in range(count)]

    def _start(self) -> tuple[ForkServerProcess, Event]:
        ready = self._context.Event()
        process = self._context.Process(target=_watch, args=(*self._given, ready))
        process.start()
        return process, ready

    def wait(self, number: int) -> None:
        assert self._all[number % len(self._all)][1].wait(30)

    def kill(self, number: int) -> None:
        place = number % len(self._all)
        self._end(self._all[place][0])
        self._all[place] = self._start()

    def end(self) -> None:
        for process, _ in self._all:
            self._end(process)

    @staticmethod
    def _end(process: ForkServerProcess) -> None:
        assert process.exitcode is None
        process.kill()
        process.join()


def _watch(url: str, inbox: Path, interval: float, ready: Event) -> None:
    trigger = watch_of(inbox, poll_interval=1.0, stability=Stability(interval=interval, checks=3))
    FileWatcher(Store(url), [trigger], states=TriggerStates()).start()
    ready.set()
    signal.pause()
