"""SQLite's WAL: bounded, or said aloud who keeps it from being so."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from netscript_workers.store import wal
from netscript_workers.store.engine import Store
from netscript_workers.store.wal import Wal
from tests.kit import Hand, ended, new, put, scalar

MEGABYTE = 1_000_000


@pytest.fixture
def store(sqlite_url: str) -> Iterator[Store]:
    opened = Store(sqlite_url)
    yield opened
    opened.dispose()


@pytest.fixture
def tended(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wal]:
    monkeypatch.setattr(wal, "CUT_BYTES", MEGABYTE)
    made = Wal(store)
    yield made
    made.close()


def path_of(store: Store) -> Path:
    return Path(f"{store.parsed_url.database}-wal")


def size_of(store: Store) -> int:
    return path_of(store).stat().st_size


def write(store: Store, megabytes: int) -> None:
    for _ in range(megabytes * 2):
        put(store, new(payload='{"a":"' + "x" * (MEGABYTE // 2) + '"}'))


@pytest.mark.trap("D-52")
def test_a_reader_that_does_not_end_is_told_of_and_holds_up_nobody(
    store: Store, tended: Wal, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    write(store, 1)
    reader = sqlite3.connect(str(store.parsed_url.database), isolation_level=None)
    reader.execute("BEGIN")
    seen = reader.execute("SELECT count(*) FROM netscript_executions").fetchone()
    write(store, 3)

    assert not tended.tend()  # it may have come just now
    assert caplog.records == []
    assert tended.tend()
    assert size_of(store) > 3 * MEGABYTE
    (told,) = [record.getMessage() for record in caplog.records]
    assert f"{path_of(store).name} has grown to " in told
    assert "end that transaction" in told
    assert tended.tend()
    assert len(caplog.records) == 1  # not every few seconds
    hasty = Store(f"sqlite:///{store.parsed_url.database}", patience=0.0)
    hand = Hand(hasty)  # it would fail if it had to wait
    claims = hand.claim(8)
    assert len(claims) == 8
    hand.tick(*map(ended, claims))
    hasty.dispose()
    assert reader.execute("SELECT count(*) FROM netscript_executions").fetchone() == seen

    reader.close()
    assert not tended.tend()
    assert size_of(store) == 0
    assert scalar(store, "SELECT count(*) FROM netscript_execution_history") == 8


@pytest.mark.trap("D-52")
def test_a_wal_that_nobody_holds_is_cut_under_load(store: Store, tended: Wal) -> None:
    for _ in range(4):
        write(store, 2)
        assert not tended.tend()
        assert size_of(store) < 2 * MEGABYTE


def test_a_cut_waits_for_no_writer(store: Store, tended: Wal) -> None:
    write(store, 2)
    with store.begin() as conn:
        conn.exec_driver_sql("DELETE FROM netscript_changes")
        assert not tended.tend()  # it could not be cut, and that is nobody's fault
        assert size_of(store) > MEGABYTE
    assert not tended.tend()
    assert size_of(store) == 0


def test_what_was_written_is_in_the_file_once_nobody_writes(store: Store, tended: Wal) -> None:
    put(store, new())
    before = path_of(store).read_bytes()
    assert not tended.tend()
    assert not tended.tend()  # the second look finds it unchanged
    # Whoever copies the file alone now has it all.
    alone = Path(f"{store.parsed_url.database}.copy")
    alone.write_bytes(Path(str(store.parsed_url.database)).read_bytes())
    copied = sqlite3.connect(alone)
    assert copied.execute("SELECT count(*) FROM netscript_executions").fetchone() == (1,)
    copied.close()
    assert before


def test_without_a_wal_there_is_nothing_to_do(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'none.db'}")
    tended = Wal(store)
    assert not tended.tend()
    assert list(tmp_path.iterdir()) == []
    tended.close()
    store.dispose()
