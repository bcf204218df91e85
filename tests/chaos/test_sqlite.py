"""SQLite as many processes share it, for minutes: run by `make chaos`."""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from netscript_workers import configure_sqlite, enqueue, enqueue_job
from netscript_workers.store import wal
from netscript_workers.store.engine import Store
from netscript_workers.store.wal import Wal
from tests.acceptance.test_two_processes import work
from tests.chaos.kills import Senders, Servers, project
from tests.chaos.lives import read_lives
from tests.kit import Hand, ended, new, put, scalar
from tests.support import Process, eventually

pytestmark = pytest.mark.chaos

JOBS = 3000
HELD_SECONDS = 90.0


@pytest.mark.trap("D-51")
def test_four_workers_a_server_and_a_users_engine_share_a_file(
    sqlite_url: str, tmp_path: Path
) -> None:
    store, place, record = Store(sqlite_url), project(tmp_path / "shop"), tmp_path / "record"
    record.touch()
    environment = {"NETSCRIPT_DATABASE_URL": sqlite_url, "CHAOS_RECORD": str(record)}
    command = ("-m", "netscript_triggers", "worker", "--log-level", "warning")
    put(store, *(new("work", '{"seconds": 0}') for _ in range(JOBS // 2)))
    servers = Servers(place, sqlite_url)
    for number in range(2):
        servers.wait(number)
    began = time.monotonic()
    workers = [Process(*command, cwd=place, env=environment) for _ in range(4)]
    load = Senders(servers.urls)
    sending = threading.Thread(target=lambda: asyncio.run(load.run(8)))
    sending.start()
    engine = create_engine(sqlite_url)
    configure_sqlite(engine)
    try:
        for _ in range(JOBS // 2):
            with engine.begin() as conn:
                enqueue(conn, enqueue_job(work, {"seconds": 0.0}))
        load.stopping = True
        sending.join(60)
        left = "SELECT count(*) FROM netscript_executions"
        eventually(lambda: scalar(store, left) == 0, 300, "the end of the work")
    finally:
        load.stopping = True
        for process in workers:
            process.terminate(30)
        servers.stop()
        engine.dispose()
    took = time.monotonic() - began
    lives = read_lives(record)
    done = scalar(store, "SELECT count(*) FROM netscript_execution_history")
    print(f"{done} executions, {done / took:.0f}/s with everything on one machine")
    assert done >= JOBS
    assert len(lives) == len({life.execution for life in lives}) == done
    assert set(load.statuses) == {"202"}
    for process in workers:
        assert "locked" not in process.output
        assert "OperationalError" not in process.output
    store.dispose()


@pytest.mark.trap("D-52")
def test_a_reader_that_holds_its_snapshot_for_long_is_told_of_and_slows_nobody(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(sqlite_url)
    tended, hand = Wal(store), Hand(store)
    path = Path(f"{store.parsed_url.database}-wal")
    monkeypatch.setattr(wal, "_WARN_SECONDS", 20.0)

    def work_for(seconds: float) -> float:
        """Return the median of a tick that ends eight and claims eight, in milliseconds."""
        took: list[float] = []
        until, look = time.monotonic() + seconds, 0.0
        while time.monotonic() < until:
            put(store, *(new(payload='{"a":"' + "x" * 20_000 + '"}') for _ in range(8)))
            claims = hand.claim(8)
            started = time.perf_counter()
            hand.tick(*map(ended, claims))
            took.append((time.perf_counter() - started) * 1000)
            if time.monotonic() - look > 1.0:
                tended.tend()
                look = time.monotonic()
        return statistics.median(took)

    before = work_for(10.0)
    assert path.stat().st_size < 2 * wal.CUT_BYTES
    assert caplog.records == []
    reader = sqlite3.connect(str(store.parsed_url.database), isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM netscript_executions").fetchone()
    held = work_for(HELD_SECONDS)
    longest = path.stat().st_size
    told = [line for line in caplog.messages if "end that transaction" in line]
    reader.close()
    after = work_for(10.0)
    print(
        f"a tick took {before:.1f} ms before, {held:.1f} ms beside the reader, {after:.1f} ms "
        f"after it; the WAL grew to {longest / 1e6:.0f} MB, told {len(told)} times"
    )
    if longest > 2 * wal.CUT_BYTES:
        assert told
    assert path.stat().st_size < 2 * wal.CUT_BYTES
    assert held < 5 * max(before, after)
    tended.close()
    store.dispose()
