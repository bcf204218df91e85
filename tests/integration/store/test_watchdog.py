"""Old snapshots on PostgreSQL: whoever keeps one is told of, once, and so is its end."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from sqlalchemy import make_url

from netscript_workers.store.engine import Store
from netscript_workers.store.watchdog import Watchdog
from tests.kit import new, put, scalar
from tests.support import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.fresh_database]

SETTING = "SHOW idle_in_transaction_session_timeout"


class Hands:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def pg(postgres_url: str) -> Iterator[Store]:
    store = Store(postgres_url)
    yield store
    store.dispose()


@contextmanager
def reader(url: str) -> Generator[psycopg.Connection]:
    """Keep a snapshot, as a report or a forgotten console does."""
    with psycopg.connect(url, application_name="report") as conn:
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        conn.execute("SELECT 1")
        yield conn
        conn.rollback()


def is_kept(dog: Watchdog) -> bool:
    assert not dog.look()
    return dog.is_kept


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if "watchdog" in one.name]


@pytest.mark.trap("D-56")
def test_who_keeps_a_snapshot_is_told_of_once_and_so_is_the_end_of_it(
    pg: Store, postgres_url: str, hands: Hands, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    dog = Watchdog(pg, clock=hands)
    assert not dog.look()
    with reader(postgres_url) as conn:
        pid = conn.info.backend_pid
        dog.look()
        for _ in range(4):
            hands.at += 10
            dog.look()
        (warned,) = told(caplog)
        assert f"session {pid} " in warned
        assert '"report"' in warned
        assert "idle in transaction" in warned
        assert "for 30 s" in warned
        assert "SELECT" not in warned
    eventually(lambda: not dog.look(), what="the server seeing the session's end")
    assert told(caplog)[1:] == [f"session {pid} no longer keeps an old snapshot"]


def test_claims_heed_it_before_anybody_is_told(pg: Store, postgres_url: str, hands: Hands) -> None:
    dog = Watchdog(pg, clock=hands)
    with reader(postgres_url):
        assert not is_kept(dog)
        hands.at += 10
        assert is_kept(dog)
    eventually(lambda: not is_kept(dog), what="the all-clear")


def test_who_goes_on_from_transaction_to_transaction_is_not_told_of(
    pg: Store, postgres_url: str, hands: Hands, caplog: pytest.LogCaptureFixture
) -> None:
    dog = Watchdog(pg, clock=hands)
    with reader(postgres_url) as conn:
        for _ in range(6):
            dog.look()
            conn.rollback()
            put(pg, new())  # the world goes on, and so does its snapshot
            conn.execute("SELECT 1")
            hands.at += 10
    assert told(caplog) == []
    assert not dog.is_kept


def test_a_writer_that_does_not_commit_keeps_as_much(
    pg: Store, postgres_url: str, hands: Hands, caplog: pytest.LogCaptureFixture
) -> None:
    dog = Watchdog(pg, clock=hands)
    with psycopg.connect(postgres_url) as conn:
        conn.execute("SELECT pg_current_xact_id()")  # as whoever has written has one
        dog.look()
        for _ in range(4):
            put(pg, new())
            conn.execute("SELECT 1")  # each statement has a snapshot of its own
            hands.at += 10
            dog.look()
    assert len(told(caplog)) == 1


def test_a_session_of_another_database_is_none_of_ours(
    pg: Store, postgres_admin: str, hands: Hands, caplog: pytest.LogCaptureFixture
) -> None:
    dog = Watchdog(pg, clock=hands)
    with reader(postgres_admin):
        for _ in range(6):
            dog.look()
            hands.at += 10
    assert told(caplog) == []


def test_without_privileges_it_tells_what_may_be_seen(
    pg: Store, postgres_url: str, hands: Hands, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"nobody_{scalar(pg, 'SELECT pg_backend_pid()')}"
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'no-one'".encode())
        url = make_url(postgres_url).set(username=name, password="no-one")
        store = Store(url.render_as_string(hide_password=False))
        dog = Watchdog(store, clock=hands)
        try:
            with reader(postgres_url):
                for _ in range(5):
                    dog.look()
                    hands.at += 10
        finally:
            store.dispose()
            admin.execute(f"DROP ROLE {name}".encode())
    (warned,) = told(caplog)
    assert '"report"' in warned
    assert "not ours to see" in warned
    assert "for 30 s" in warned


def test_sessions_of_ours_end_when_they_are_forgotten_in_a_transaction(pg: Store) -> None:
    assert scalar(pg, SETTING) == "1min"
    with pg.begin() as conn:
        assert conn.exec_driver_sql(SETTING).scalar() == "1min"
