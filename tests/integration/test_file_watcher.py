"""The file watcher: threads, notices of the file system, and what can go wrong with them."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from watchfiles._rust_notify import WatchfilesRustInternalError

from netscript_triggers import Stability
from netscript_triggers.circuits import TriggerState
from netscript_triggers.states import TriggerStates
from netscript_triggers.watching import notices
from netscript_triggers.watching.watch import FileWatch
from netscript_triggers.watching.watcher import FileWatcher
from netscript_workers.store.engine import Store
from tests.chaos.file_deaths import INTERVAL, watch_under_kills
from tests.proxy import Proxy
from tests.support import eventually
from tests.watching import Forked, check, events, watch_of

QUICK: dict[str, Any] = {"stability": Stability(interval=0.02, checks=2), "poll_interval": 60.0}


@contextlib.contextmanager
def watching(
    store: Store, *paths: Path, states: TriggerStates | None = None, **options: Any
) -> Generator[list[None]]:
    """Watch; yield what grows with each commit that has stored events."""
    trigger = watch_of(*paths, **{**QUICK, **options})
    watcher = FileWatcher(store, [trigger], states=states or TriggerStates())
    told: list[None] = []
    watcher.start(lambda: told.append(None))
    try:
        yield told
    finally:
        began = time.monotonic()
        watcher.close()
        assert time.monotonic() - began < 1


def comes(store: Store, *names: str) -> None:
    """Wait until these are the last that have come, far sooner than everything is looked at."""
    wanted = [("create", name) for name in names]
    eventually(lambda: sorted(events(store))[-len(names) :] == wanted, 10, f"{names}")


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    place = tmp_path / "inbox"
    place.mkdir()
    return place


def test_notices_bring_files_at_once_wherever_they_are(store: Store, inbox: Path) -> None:
    with watching(store, inbox) as told:
        (inbox / "a.csv").write_text("1")
        comes(store, "a.csv")
        assert told
        (inbox / "new" / "deep").mkdir(parents=True)
        (inbox / "new" / "deep" / "b.csv").write_text("2")
        comes(store, "b.csv")
        (inbox / "new" / "deep" / "c.csv").write_text("3")
        comes(store, "c.csv")
    (inbox / "d.csv").write_text("4")
    with watching(store, inbox):
        comes(store, "d.csv")
    check(store)


def test_without_notices_the_looks_at_everything_are_enough(
    store: Store, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(notices, "watch")  # as on a share, whose file system tells nothing
    with watching(store, inbox, polling=True, poll_interval=0.1):
        for name in ("a.csv", "b.csv", "c.csv"):
            (inbox / name).write_text(name)
            comes(store, name)


def test_a_directory_that_comes_and_goes_is_listened_at_anew(store: Store, inbox: Path) -> None:
    with watching(store, inbox):
        (inbox / "a.csv").write_text("1")
        comes(store, "a.csv")
        shutil.rmtree(inbox)
        inbox.mkdir()
        (inbox / "b.csv").write_text("2")
        comes(store, "b.csv")
        (inbox / "c.csv").write_text("3")
        comes(store, "c.csv")


def test_a_name_that_is_no_text_ends_no_notices(store: Store, inbox: Path) -> None:
    with watching(store, inbox):
        (inbox / os.fsdecode(b"\xff.csv")).write_text("1")
        comes(store, os.fsdecode(b"\xff.csv"))
        (inbox / "a.csv").write_text("2")
        eventually(lambda: ("create", "a.csv") in events(store))


def test_where_there_are_no_notices_it_is_told_and_files_come_all_the_same(
    store: Store,
    inbox: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def no_more(*args: Any, **kwargs: Any) -> Any:
        raise OSError(28, "No space left on device")  # the limit on watches

    monkeypatch.setattr(notices, "watch", no_more)
    with watching(store, inbox, poll_interval=0.1):
        for name in ("a.csv", "b.csv"):
            (inbox / name).write_text(name)
            comes(store, name)
    assert caplog.text.count("there are no notices for") == 1
    assert notices.fault_of(str(inbox), recursive=True) == "No space left on device"


def test_instances_of_inotify_that_are_used_up_are_told_and_looked_without(
    store: Store, inbox: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_more(*args: Any, **kwargs: Any) -> Any:
        raise WatchfilesRustInternalError(
            "Error creating recommended watcher: Too many open files (os error 24)"
        )

    monkeypatch.setattr(notices, "watch", no_more)
    lost: list[None] = []
    heard = notices.Notices(
        str(inbox), recursive=True, tell=lambda _: None, lost=lambda: lost.append(None)
    )
    eventually(lambda: heard.is_over)
    assert lost == []
    assert caplog.text.count("now and then: Too many open files (os error 24)") == 1


def test_a_directory_whose_name_is_no_text_is_looked_at_without_notices(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / os.fsdecode(b"in\xff")
    place.mkdir()
    with watching(store, place, poll_interval=0.1):
        (place / "a.csv").write_text("1")
        comes(store, "a.csv")
        eventually(lambda: "its name is not UTF-8" in caplog.text)
    assert notices.fault_of(str(place), recursive=True) == "its name is not UTF-8"


def test_notices_do_not_wake_a_disabled_watch_for_ever(
    store: Store, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = TriggerStates()
    rests: list[FileWatch] = []

    def count(watch: FileWatch) -> None:
        rests.append(watch)

    with watching(store, inbox, states=states):
        (inbox / "a.csv").write_text("1")
        comes(store, "a.csv")
        states.learn({"inbox": TriggerState(enabled=False)})
        monkeypatch.setattr(FileWatch, "rest", count)
        eventually(lambda: bool(rests))
        (inbox / "b.csv").write_text("2")
        time.sleep(1.0)
    assert len(rests) < 6


def test_a_disabled_watch_takes_nothing_until_it_is_enabled(store: Store, inbox: Path) -> None:
    states = TriggerStates()
    states.learn({"inbox": TriggerState(enabled=False)})
    with watching(store, inbox, states=states):
        (inbox / "a.csv").write_text("1")
        time.sleep(0.3)
        assert events(store) == []
        states.learn({"inbox": TriggerState()})
        comes(store, "a.csv")


@pytest.mark.postgres
def test_a_database_that_is_away_is_waited_for(
    postgres_proxy: tuple[Proxy, str], inbox: Path, caplog: pytest.LogCaptureFixture
) -> None:
    proxy, url = postgres_proxy
    store = Store(url, patience=1.0)
    with watching(store, inbox):
        (inbox / "a.csv").write_text("1")
        comes(store, "a.csv")
        proxy.cut()
        (inbox / "b.csv").write_text("2")
        eventually(lambda: "the database did not answer" in caplog.text)
        time.sleep(0.3)
        proxy.heal()
        comes(store, "b.csv")
        eventually(lambda: "file watch inbox goes on" in caplog.text)
    assert caplog.text.count("waits: the database did not answer") == 1
    store.dispose()


def test_a_watcher_without_watches_starts_nothing(store: Store) -> None:
    watcher = FileWatcher(store, [], states=TriggerStates())
    watcher.start()
    watcher.close()


def test_whoever_watches_is_killed_and_each_file_is_taken_once(
    database_url: str, inbox: Path
) -> None:
    pace = 0.4
    watchers = Forked(database_url, inbox, 2, pace * INTERVAL)
    told = watch_under_kills(database_url, inbox, watchers, count=60, kills=4, pace=pace)
    assert "48 stay" in told
