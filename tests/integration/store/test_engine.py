"""The database's URL, its clock, its transactions."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import psycopg
import pytest
from sqlalchemy import event, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from netscript_workers.clock import SYSTEM_CLOCK
from netscript_workers.errors import ConfigurationError
from netscript_workers.store.engine import DatabaseClock, Store, masked, parse_url
from netscript_workers.testing import ManualClock
from tests.kit import new, put, run, scalar
from tests.support import eventually

pytestmark = pytest.mark.fresh_database

EXECUTIONS = "SELECT count(*) FROM netscript_executions"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "postgresql",
        "postgresql://u:geheim@h:port/d",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///file::memory:?cache=shared&uri=true",
        "sqlite:///file:shop?mode=memory&cache=shared&uri=true",
        "mysql+pymysql://u:geheim@h/d",
        "redis://u:geheim@h",
    ],
)
def test_a_url_that_cannot_serve_is_refused_without_telling_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as told:
        parse_url(url)
    assert told.value.hint is not None
    assert "geheim" not in f"{told.value} {told.value.hint}"


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("postgres://h/d", "postgresql+psycopg"),
        ("postgresql://h/d", "postgresql+psycopg"),
        ("postgresql+asyncpg://h/d", "postgresql+psycopg"),
        ("sqlite:///a.db", "sqlite"),
        ("sqlite+aiosqlite:///a.db", "sqlite"),
        ("sqlite:////data/a.db", "sqlite"),
    ],
)
def test_a_url_is_taken_whatever_driver_it_names(url: str, driver: str) -> None:
    assert parse_url(url).drivername == driver


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:geheim@h/d",
        "postgresql://u@h/d?password=geheim",
        "postgresql://u@h/d?sslmode=require&sslpassword=geheim",
    ],
)
def test_a_password_is_never_shown_wherever_it_stands(url: str) -> None:
    shown = masked(url)
    assert "geheim" not in shown
    assert "h/d" in shown
    store = Store(url)
    assert "geheim" not in store.url
    assert "geheim" in store.parsed_url.render_as_string(hide_password=False)
    store.dispose()


def test_a_password_of_odd_characters_is_kept() -> None:
    odd = "p@ss:/?#%20 ü"
    assert parse_url(f"postgresql://u:{quote(odd, safe='')}@h/d").password == odd


def test_an_error_of_the_connection_does_not_tell_the_password() -> None:
    store = Store("postgresql://u:geheim@127.0.0.1:1/d")
    with pytest.raises(DBAPIError) as told:
        scalar(store, "SELECT 1")
    assert "geheim" not in str(told.value)
    store.dispose()


def test_a_sqlite_path_with_odd_characters_is_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a b ü#.db"
    store = Store(f"sqlite:///{path}")
    run(store, "CREATE TABLE t (a INTEGER)")
    assert path.exists()
    store.dispose()


def test_a_transaction_commits_whole_or_not_at_all(store: Store) -> None:
    def break_off() -> None:
        with store.begin() as conn:
            conn.execute(text("INSERT INTO netscript_topics (name, paused) VALUES ('t', true)"))
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        break_off()
    assert scalar(store, "SELECT count(*) FROM netscript_topics") == 0
    put(store, new())
    assert scalar(store, EXECUTIONS) == 1


def test_a_reader_sees_each_commit_with_its_next_statement(store: Store) -> None:
    with store.read() as conn:
        assert conn.execute(text(EXECUTIONS)).scalar() == 0
        put(store, new())
        assert conn.execute(text(EXECUTIONS)).scalar() == 1


def test_a_reader_is_not_held_up_by_a_writer(store: Store) -> None:
    put(store, new())
    with store.begin() as conn:
        conn.execute(text("DELETE FROM netscript_executions"))
        assert scalar(store, EXECUTIONS) == 1


def test_writers_of_one_process_wait_for_a_connection_and_no_longer(database_url: str) -> None:
    store = Store(database_url, pool_size=1)
    store.engine.pool._timeout = 0.1  # type: ignore[attr-defined]
    with store.begin():
        with pytest.raises(PoolTimeoutError), store.begin():
            pass
        assert scalar(store, "SELECT 1") == 1  # readers have connections of their own
    store.dispose()


def test_ids_are_text_in_python_on_both(store: Store) -> None:
    given = new()
    put(store, given)
    found = scalar(store, "SELECT id FROM netscript_executions")
    assert found == given.id
    assert isinstance(found, str)


def test_a_store_with_a_clock_lives_by_it(database_url: str) -> None:
    clock = ManualClock()
    store = Store(database_url, clock=clock)
    clock.advance(-3600)
    with store.read() as conn:
        assert store.now(conn) == clock.now()
    store.dispose()


@pytest.mark.postgres
def test_the_servers_clock_counts_and_is_asked_once_a_second(postgres_url: str) -> None:
    store = Store(postgres_url)
    asked: list[str] = []

    def note(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    wrong = ManualClock()
    wrong.advance(-86_400)
    clock = DatabaseClock(store.dialect, wrong)
    with store.engine.connect() as conn:
        event.listen(conn, "before_cursor_execute", note)
        told = [clock.now(conn) for _ in range(100)]
    assert len(asked) == 1
    assert told == sorted(told)
    assert abs(told[0] - SYSTEM_CLOCK.now()) < 2_000_000
    store.dispose()


def test_on_sqlite_the_machines_clock_counts_even_when_it_steps(sqlite_url: str) -> None:
    store, local = Store(sqlite_url), ManualClock()
    clock = DatabaseClock(store.dialect, local)
    with store.read() as conn:
        first = clock.now(conn)
        local.advance(-5)
        assert clock.now(conn) == first - 5_000_000
    store.dispose()


@pytest.mark.postgres
def test_a_server_that_was_restarted_costs_nobody_an_error(postgres_url: str) -> None:
    store = Store(postgres_url)
    put(store, new())
    scalar(store, EXECUTIONS)
    with psycopg.connect(postgres_url, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        left = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        # They are told to end, and end when they hear of it.
        eventually(lambda: other.execute(left).fetchone() == (0,))
    put(store, new())
    assert scalar(store, EXECUTIONS) == 2
    store.dispose()


@pytest.mark.postgres
def test_our_connections_can_be_told_apart_in_the_servers_list(postgres_url: str) -> None:
    store = Store(postgres_url)
    assert scalar(store, "SELECT current_setting('application_name')") == "netscript"
    store.dispose()


def test_a_sqlite_writer_waits_for_its_turn_as_long_as_its_patience(sqlite_url: str) -> None:
    store, hasty = Store(sqlite_url), Store(sqlite_url, patience=0.1)
    with store.begin():
        started = time.monotonic()
        with pytest.raises(DBAPIError, match="locked"), hasty.begin():
            pass
        assert 0.08 < time.monotonic() - started < 2.0
    hasty.dispose()
    store.dispose()


def test_a_dedicated_engine_does_not_share_the_pool(database_url: str) -> None:
    store = Store(database_url, pool_size=1)
    own = store.dedicated()
    if store.is_sqlite:
        assert own.pool is not store.engine.pool
    else:
        with store.begin(), own.begin() as conn:
            assert conn.execute(text("SELECT 1")).scalar() == 1
    own.dispose()
    store.dispose()


def test_the_stores_name_for_people_is_its_url(database_url: str) -> None:
    store = Store(database_url)
    assert make_url(store.url).database == make_url(database_url).database
    store.dispose()


class SlowServer:
    """A server's clock that is read in the middle of a round trip of so many seconds."""

    def __init__(self, ahead: float) -> None:
        self.ahead, self.before, self.after = ahead, 0.0, 0.0

    def measure_clock(self, conn: object) -> int:
        time.sleep(self.before)
        told = round((time.monotonic() + self.ahead) * 1e6)
        time.sleep(self.after)
        return told


def test_a_slow_answer_does_not_spoil_what_is_known_of_the_servers_clock() -> None:
    server, unused = SlowServer(ahead=1000.0), cast("Any", None)
    clock = DatabaseClock(cast("Any", server), ManualClock())

    def error() -> float:
        clock._asked -= 2  # ask again
        return clock.now(unused) / 1e6 - (time.monotonic() + server.ahead)

    assert abs(error()) < 0.05
    server.after = 0.3  # on a busy machine the answer waits to be looked at
    assert abs(error()) < 0.05
    server.before, server.after = 0.3, 0.0  # or the question does
    assert abs(error()) < 0.05
    server.ahead, server.before = 900.0, 0.0  # the server's clock was set
    assert abs(error()) < 0.05
