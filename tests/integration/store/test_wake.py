"""Waking, and what it stands on: URLs, engines, the database's clock."""

from __future__ import annotations

import threading
import time

import psycopg
import pytest

from netscript_workers.clock import SYSTEM_CLOCK
from netscript_workers.errors import ConfigurationError
from netscript_workers.ids import new_id
from netscript_workers.store.engine import Store, masked, parse_url
from netscript_workers.store.lifelines import Lifeline, folder
from netscript_workers.store.wake import CHANNEL, DoorBell, NotifyBell, Waiter, make_bell
from tests.kit import new, put, run
from tests.support import eventually


def seconds_until_woken(waiter: Waiter) -> float:
    """A wait that only runs out says that it is time to look, too: it is not counted."""
    started = time.monotonic()
    assert waiter.wait(5.0)
    return time.monotonic() - started


def test_a_bell_wakes_a_waiter_at_once(store: Store) -> None:
    id_ = new_id()
    line = Lifeline(folder(store.parsed_url), id_)
    waiter = Waiter(store, id_)
    bell = make_bell(store.parsed_url)
    assert isinstance(bell, DoorBell if store.is_sqlite else NotifyBell)
    waiter.wait(0.1)
    threading.Timer(0.1, bell.ring).start()
    assert seconds_until_woken(waiter) < 1.0
    bell.close()
    waiter.close()
    line.cut()


def test_a_poke_ends_the_wait_without_a_look(store: Store) -> None:
    waiter = Waiter(store, new_id())
    waiter.wait(0.1)
    threading.Timer(0.05, waiter.poke).start()
    started = time.monotonic()
    assert not waiter.wait(5.0)
    assert time.monotonic() - started < 2.0
    waiter.close()


def test_sqlite_sees_every_foreign_commit_without_a_bell(sqlite_url: str) -> None:
    store = Store(sqlite_url)
    waiter = Waiter(store, new_id())
    waiter.wait(0.1)
    put(store, new())
    assert seconds_until_woken(waiter) < 0.5
    store.dispose()
    waiter.close()


@pytest.mark.postgres
def test_a_cut_listener_looks_and_listens_again(postgres_url: str) -> None:
    store = Store(postgres_url)
    waiter = Waiter(store, new_id())
    kill = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND query LIKE 'LISTEN%'"
    )
    run(store, kill)
    assert seconds_until_woken(waiter) < 2.0

    def listens() -> bool:
        waiter.wait(0.1)
        with psycopg.connect(postgres_url) as conn:
            found = conn.execute(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE datname = current_database() AND query = %s",
                (f"LISTEN {CHANNEL}",),
            ).fetchone()
        return found is not None and found[0] > 0

    eventually(listens)
    bell = make_bell(store.parsed_url)
    bell.ring()
    assert seconds_until_woken(waiter) < 2.0
    bell.close()
    waiter.close()
    store.dispose()


@pytest.mark.postgres
def test_many_rings_are_few_notifications(postgres_url: str) -> None:
    bell = make_bell(parse_url(postgres_url))
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        conn.execute(f"LISTEN {CHANNEL}".encode())
        for _ in range(500):
            bell.ring()
        heard = list(conn.notifies(timeout=0.5, stop_after=500))
    bell.close()
    bell.close()
    bell.ring()
    assert 1 <= len(heard) < 50


def test_a_bell_whose_database_is_gone_fails_nobody() -> None:
    bell = make_bell(parse_url("postgresql://x@127.0.0.1:1/none"))
    bell.ring()
    bell.close()
    door = DoorBell(parse_url("sqlite:////nonexistent/none.db"))
    door.ring()
    door.close()


def test_the_databases_clock_counts(store: Store) -> None:
    with store.read() as conn:
        first = store.now(conn)
        assert abs(first - SYSTEM_CLOCK.now()) < 2_000_000
        time.sleep(0.01)
        assert store.now(conn) > first


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nonsense", "is not a database URL"),
        ("mysql://u:geheim@h/d", "not supported"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:///file:x?mode=memory&uri=true", "in memory"),
    ],
)
def test_a_url_that_cannot_serve_is_a_sentence(url: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as refused:
        Store(url)
    assert "geheim" not in str(refused.value)


def test_postgres_is_short_for_postgresql_and_passwords_are_masked() -> None:
    assert parse_url("postgres://u:geheim@h/d").drivername == "postgresql+psycopg"
    assert "geheim" not in masked("postgresql://u:geheim@h/d")
