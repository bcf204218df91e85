"""Bells and ears: who is woken, by whom, and that a lost ring is made up for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, make_url
from sqlalchemy.orm import Session

from netscript_workers import JobContext, configure_sqlite, enqueue, enqueue_job, job
from netscript_workers.ids import new_id
from netscript_workers.store.engine import Store
from netscript_workers.store.lifelines import Lifeline, folder
from netscript_workers.store.wake import CHANNEL, Waiter, make_bell
from tests.kit import new, put
from tests.support import eventually

LONG = 20.0


@job(id="mail")
async def mail(ctx: JobContext[dict[str, str]]) -> None: ...


@contextmanager
def listening(store: Store) -> Generator[Waiter]:
    id_ = new_id()
    line = Lifeline(folder(store.parsed_url), id_)
    waiter = Waiter(store, id_)
    try:
        yield waiter
    finally:
        waiter.close()
        line.cut()


def seconds_to_wake(waiter: Waiter, act: Callable[[], object]) -> float:
    """Act from another thread while `waiter` waits; return how long it took to hear of it."""
    told: list[float] = []

    def act_soon() -> None:
        time.sleep(0.05)
        told.append(time.monotonic())
        act()

    acting = threading.Thread(target=act_soon)
    acting.start()
    assert waiter.wait(LONG)
    woken = time.monotonic()
    acting.join()
    return woken - told[0]


def test_everybody_who_listens_is_woken(store: Store) -> None:
    bell = make_bell(store.parsed_url)
    with listening(store) as one, listening(store) as other:
        rung = threading.Timer(0.05, bell.ring)
        rung.start()
        for waiter in (one, other):
            started = time.monotonic()
            assert waiter.wait(LONG)
            assert time.monotonic() - started < 3.0
        rung.join()
    bell.close()


def test_a_ring_while_nobody_waits_is_heard_by_the_next_wait(store: Store) -> None:
    bell = make_bell(store.parsed_url)
    with listening(store) as waiter:
        bell.ring()
        started = time.monotonic()
        assert waiter.wait(LONG)
        assert time.monotonic() - started < 3.0
    bell.close()


def test_an_own_poke_before_the_wait_ends_it_at_once(store: Store) -> None:
    with listening(store) as waiter:
        for _ in range(3):
            waiter.poke()
        started = time.monotonic()
        waiter.wait(LONG)
        assert time.monotonic() - started < 1.0


def test_a_wait_without_a_bell_ends_by_its_time(store: Store) -> None:
    with listening(store) as waiter:
        started = time.monotonic()
        waiter.wait(0.2)
        assert 0.1 < time.monotonic() - started < 2.0


def test_a_users_commit_wakes_a_waiter(store: Store, database_url: str) -> None:
    url = make_url(database_url)
    engine = create_engine(url if store.is_sqlite else url.set(drivername="postgresql+psycopg"))
    if store.is_sqlite:
        configure_sqlite(engine)

    def by_session() -> None:
        with Session(engine) as session:
            enqueue(session, enqueue_job(mail, {}))
            session.commit()

    def by_connection() -> None:
        with engine.begin() as conn:
            enqueue(conn, enqueue_job(mail, {}))

    with listening(store) as waiter:
        assert seconds_to_wake(waiter, by_session) < 2.0
    with listening(store) as waiter:
        assert seconds_to_wake(waiter, by_connection) < 2.0
    engine.dispose()


def test_on_sqlite_any_commit_of_anybody_wakes(sqlite_url: str) -> None:
    store, foreign = Store(sqlite_url), Store(sqlite_url)
    with listening(store) as waiter:
        assert seconds_to_wake(waiter, lambda: put(foreign, new())) < 1.0
    foreign.dispose()
    store.dispose()


def test_on_sqlite_a_bell_rings_only_at_its_own_databases_doors(
    sqlite_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = Store(sqlite_url)
    bell = make_bell(Store(f"sqlite:///{tmp_path_factory.mktemp('other')}/other.db").parsed_url)
    with listening(store) as waiter:
        started = time.monotonic()
        bell.ring()
        waiter.wait(0.3)
        assert time.monotonic() - started > 0.2
    bell.close()
    store.dispose()


def test_a_door_that_is_full_blocks_nobody(sqlite_url: str) -> None:
    store = Store(sqlite_url)
    bell = make_bell(store.parsed_url)
    with listening(store) as waiter:
        started = time.monotonic()
        for _ in range(5000):
            bell.ring()
        assert time.monotonic() - started < 3.0
        assert waiter.wait(LONG)
        started = time.monotonic()
        waiter.wait(0.2)  # the door was emptied: old rings do not wake again
        assert time.monotonic() - started > 0.1
    bell.close()
    store.dispose()


def cut(postgres_url: str, what: str) -> int:
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        found = conn.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE "
            "datname = current_database() AND pid <> pg_backend_pid() AND query LIKE %s",
            (what,),
        ).fetchone()
    assert found is not None
    return int(found[0])


@pytest.mark.postgres
def test_a_ring_after_the_listener_was_cut_is_made_up_for_by_a_look(postgres_url: str) -> None:
    store = Store(postgres_url)
    bell = make_bell(store.parsed_url)
    with listening(store) as waiter:
        assert cut(postgres_url, "LISTEN%") == 1
        ear: Any = waiter._ear
        started = time.monotonic()
        assert waiter.wait(LONG)  # the cut itself says: look
        assert time.monotonic() - started < 2.0
        eventually(lambda: waiter.wait(0.05) and ear._raw is None, what="the cut to be seen")
        bell.ring()  # nobody listens now
        eventually(lambda: time.monotonic() > ear._retry_at, what="the time to try again")
        started = time.monotonic()
        assert waiter.wait(LONG)  # listening again, and looking at once
        assert time.monotonic() - started < 2.0
        assert ear._raw is not None
        assert seconds_to_wake(waiter, bell.ring) < 2.0
    bell.close()
    store.dispose()


@pytest.mark.postgres
def test_a_bell_whose_connection_was_cut_rings_the_next_time(postgres_url: str) -> None:
    store = Store(postgres_url)
    bell = make_bell(store.parsed_url)
    with psycopg.connect(postgres_url, autocommit=True) as ear:
        ear.execute(f"LISTEN {CHANNEL}".encode())
        bell.ring()
        assert list(ear.notifies(timeout=5, stop_after=1))
        cut(postgres_url, "NOTIFY%")

        def heard() -> bool:
            bell.ring()
            return bool(list(ear.notifies(timeout=0.2, stop_after=1)))

        eventually(heard, what="the bell to ring again")
    bell.close()
    store.dispose()


@pytest.mark.postgres
def test_nothing_is_notified_inside_a_users_transaction(postgres_url: str) -> None:
    engine = create_engine(make_url(postgres_url).set(drivername="postgresql+psycopg"))
    with psycopg.connect(postgres_url, autocommit=True) as ear:
        ear.execute(f"LISTEN {CHANNEL}".encode())
        with Session(engine) as session:
            enqueue(session, enqueue_job(mail, {}))
            session.rollback()
            enqueue(session, enqueue_job(mail, {}))
            mine = session.connection().connection.dbapi_connection
            assert mine is not None
            own = mine.info.backend_pid
            session.commit()
        (note,) = list(ear.notifies(timeout=5, stop_after=1))
        # Commits of transactions that notify wait for each other, so another connection does it.
        assert note.pid != own
    engine.dispose()


@pytest.mark.postgres
def test_a_closed_bell_has_sent_what_was_wanted(postgres_url: str) -> None:
    bell = make_bell(Store(postgres_url).parsed_url)
    with psycopg.connect(postgres_url, autocommit=True) as ear:
        ear.execute(f"LISTEN {CHANNEL}".encode())
        bell.ring()
        bell.close()
        assert list(ear.notifies(timeout=1, stop_after=1))


@pytest.mark.postgres
def test_a_store_that_listens_leaves_no_connection_behind(postgres_url: str) -> None:
    store = Store(postgres_url)
    for _ in range(3):
        with listening(store) as waiter:
            waiter.wait(0.01)
    store.dispose()
    with psycopg.connect(postgres_url, autocommit=True) as conn:

        def alone() -> bool:
            found = conn.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            ).fetchone()
            return found == (1,)

        eventually(alone, what="the other connections to be gone")
