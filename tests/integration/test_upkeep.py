"""Heartbeat and maintenance: what a worker does beside its work."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import event, text

from netscript_workers.heartbeat import Heartbeat
from netscript_workers.maintenance import Maintenance
from netscript_workers.store.engine import Store
from netscript_workers.store.retention import Retention
from tests.kit import Hand, ended, new, put, run, scalar
from tests.support import eventually


class Fenced:
    """Hears that the worker must not go on."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.heard = threading.Event()

    def __call__(self, reason: str) -> None:
        self.reasons.append(reason)
        self.heard.set()


def beat(store: Store, worker_id: str, lease: float = 0.9) -> tuple[Heartbeat, Fenced]:
    fenced = Fenced()
    heartbeat = Heartbeat(store, worker_id, interval=0.1, lease=lease, on_fenced=fenced)
    heartbeat.start()
    return heartbeat, fenced


def test_a_heartbeat_renews_the_lease(store: Store) -> None:
    hand = Hand(store)
    hand.register(lease=0.9)
    lease = "SELECT lease_until FROM netscript_workers"
    first = scalar(store, lease)
    heartbeat, fenced = beat(store, hand.id)
    eventually(lambda: scalar(store, lease) > first + 200_000)
    heartbeat.stop()
    assert fenced.reasons == []


def test_a_worker_that_is_on_no_list_is_fenced(store: Store) -> None:
    heartbeat, fenced = beat(store, new().id)
    assert fenced.heard.wait(5)
    heartbeat.stop()
    assert fenced.reasons == ["the executions of this worker were given to others"]


@pytest.mark.trap("D-29")
def test_a_worker_without_its_database_is_fenced_before_its_lease_ends_but_not_on_sqlite(
    store: Store,
) -> None:
    hand = Hand(store)
    hand.register()
    run(store, "ALTER TABLE netscript_workers RENAME TO netscript_hidden")
    heartbeat, fenced = beat(store, hand.id)
    assert fenced.heard.wait(1.5) is not store.is_sqlite
    run(store, "ALTER TABLE netscript_hidden RENAME TO netscript_workers")
    heartbeat.stop()


@pytest.mark.postgres
@pytest.mark.trap("D-29")
def test_a_renewal_that_waits_for_a_silent_network_does_not_outlive_the_lease(
    postgres_url: str,
) -> None:
    store = Store(postgres_url)
    hand = Hand(store)
    hand.register()
    with store.begin() as conn:  # what holds the row keeps the renewal from its answer
        conn.execute(text("SELECT 1 FROM netscript_workers FOR UPDATE"))
        started = time.monotonic()
        heartbeat, fenced = beat(store, hand.id, lease=1.5)
        assert fenced.heard.wait(10)
        assert time.monotonic() - started > 1.0  # in time, and not before it must
        heartbeat.stop(patience=0.1)
    heartbeat.stop()
    assert fenced.reasons == ["the lease ran out while the database could not be reached"]
    store.dispose()


def test_a_database_that_comes_back_in_time_fences_nobody(store: Store) -> None:
    hand = Hand(store)
    hand.register()
    run(store, "ALTER TABLE netscript_workers RENAME TO netscript_hidden")
    heartbeat, fenced = beat(store, hand.id, lease=30)
    assert not fenced.heard.wait(0.3)
    run(store, "ALTER TABLE netscript_hidden RENAME TO netscript_workers")
    lease = "SELECT lease_until - heartbeat_at FROM netscript_workers"
    before = scalar(store, "SELECT heartbeat_at FROM netscript_workers")
    beats = "SELECT heartbeat_at FROM netscript_workers"
    eventually(lambda: scalar(store, beats) > before)
    heartbeat.stop()
    assert scalar(store, lease) == 30_000_000
    assert fenced.reasons == []


def upkeep(store: Store, place: Path) -> tuple[Maintenance, list[str]]:
    rung: list[str] = []
    maintenance = Maintenance(
        store,
        new().id,
        lifeline=place / "own.lock",
        retention=Retention(completed=0.0, failed=0.0),
        strangers=threading.Event(),
        on_rescued=lambda: rung.append("look"),
    )
    return maintenance, rung


def test_rescue_sweep_and_prune_say_whether_there_was_anything(
    store: Store, tmp_path: Path
) -> None:
    maintenance, rung = upkeep(store, tmp_path)
    assert [maintenance.rescue(), maintenance.sweep(), maintenance.prune()] == [False] * 3
    assert rung == []
    put(store, new())
    Hand(store).claim_one()  # of a worker on no list
    assert maintenance.rescue()
    put(store, new(concurrency_key="k"))
    run(store, "DELETE FROM netscript_admissions")
    assert maintenance.sweep()
    assert rung == ["look", "look"]


def test_batches_are_swept_when_the_slots_of_keys_are_free_again(
    store: Store, tmp_path: Path
) -> None:
    maintenance, _ = upkeep(store, tmp_path)
    put(store, new(concurrency_key="k"))
    Hand(store).tick()
    seen: list[str] = []
    event.listen(store.engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
    event.listen(store.engine, "commit", lambda *_: seen.append("commit"))
    assert not maintenance.sweep()

    def first(part: str) -> int:
        return next(n for n, told in enumerate(seen) if part in told)

    assert first("netscript_concurrency_slots") < first("commit") < first("netscript_batches")


def test_prune_says_that_there_is_more(store: Store, tmp_path: Path) -> None:
    maintenance, _ = upkeep(store, tmp_path)
    put(store, *(new() for _ in range(520)))
    hand = Hand(store)
    hand.tick(*(ended(claim) for claim in hand.claim(600)))
    run(store, "UPDATE netscript_execution_history SET finished_at = 0")
    # Ids begin with the time: these look as if they were made now, so the present must pass.
    eventually(lambda: maintenance.prune() or None, 5, "a full chunk to prune")
    assert scalar(store, "SELECT count(*) FROM netscript_execution_history") < 520


def test_maintenance_outlives_a_database_that_fails(store: Store, tmp_path: Path) -> None:
    maintenance, rung = upkeep(store, tmp_path)
    run(store, "ALTER TABLE netscript_workers RENAME TO netscript_hidden")
    (tmp_path / "dead.lock").touch()  # so that it looks a few times a second
    maintenance.start()
    put(store, new())
    Hand(store).claim_one()
    assert rung == []
    run(store, "ALTER TABLE netscript_hidden RENAME TO netscript_workers")
    eventually(lambda: rung == ["look"])
    maintenance.stop()
