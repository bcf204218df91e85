"""What the tests of file watches share: a watch that looks when told to, and what it has stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from netscript_triggers import FileEvent, FileWatchDefinition, Stability, define_file_watch
from netscript_triggers.file_watching import FileWatch
from netscript_triggers.store.verify import verify
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
