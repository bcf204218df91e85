"""Enqueueing in the user's own transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from netscript_workers import (
    JobContext,
    configure_sqlite,
    enqueue,
    enqueue_async,
    enqueue_job,
    job,
)
from netscript_workers.errors import (
    ConfigurationError,
    JobNotFoundError,
    PayloadInvalidError,
    StoreBusyError,
)
from netscript_workers.ids import new_id
from netscript_workers.store import definitions
from netscript_workers.store.engine import Store
from netscript_workers.store.wake import Waiter
from tests.kit import rows, run, scalar
from tests.support import eventually


@job(id="mail", topic="mails")
async def mail(ctx: JobContext[dict[str, str]]) -> None: ...


@pytest.fixture
def engine(store: Store, database_url: str) -> Iterator[Engine]:
    run(store, "CREATE TABLE orders (id INTEGER)")
    url = make_url(database_url)
    if not store.is_sqlite:
        url = url.set(drivername="postgresql+psycopg")
    made = create_engine(url)
    if store.is_sqlite:
        configure_sqlite(made)
    yield made
    made.dispose()


def count(store: Store) -> tuple[int, int]:
    executions = scalar(store, "SELECT count(*) FROM netscript_executions")
    return scalar(store, "SELECT count(*) FROM orders"), executions


def test_the_job_exists_if_and_only_if_the_users_data_does(store: Store, engine: Engine) -> None:
    with Session(engine) as session:
        session.execute(text("INSERT INTO orders VALUES (1)"))
        (told,) = enqueue(session, enqueue_job(mail, {"to": "a"}, idempotency_key="1"))
        assert not told.duplicate
        assert count(store) == (0, 0)
        session.commit()
    assert count(store) == (1, 1)
    with Session(engine) as session:
        session.execute(text("INSERT INTO orders VALUES (2)"))
        enqueue(session, enqueue_job(mail, {"to": "b"}))
        session.rollback()
    assert count(store) == (1, 1)


def test_a_connection_serves_as_well_and_tells_duplicates(store: Store, engine: Engine) -> None:
    action = enqueue_job(mail, {"to": "a"}, idempotency_key="1")
    with engine.begin() as conn:
        first, second = enqueue(conn, action, action)
    assert (first.duplicate, second.duplicate) == (False, True)
    assert first.execution_id == second.execution_id
    assert count(store)[1] == 1
    with engine.begin() as conn:
        assert enqueue(conn) == []


def test_workers_are_woken_by_the_commit(store: Store, engine: Engine) -> None:
    waiter = Waiter(store, new_id())
    with Session(engine) as session:
        enqueue(session, enqueue_job(mail, {}))
        session.commit()
        assert eventually(lambda: waiter.wait(0.2))
    with engine.begin() as conn:
        enqueue(conn, enqueue_job(mail, {}))
    assert eventually(lambda: waiter.wait(0.2))
    waiter.close()


def test_a_refused_payload_stores_nothing(store: Store, engine: Engine) -> None:
    good, bad = enqueue_job(mail, {"to": "a"}), enqueue_job(mail, {"to": [1]})
    with Session(engine) as session, pytest.raises(PayloadInvalidError, match="to: "):
        enqueue(session, good, bad)
    assert count(store)[1] == 0


def test_a_job_may_be_named_by_its_registered_id(store: Store, engine: Engine) -> None:
    with Session(engine) as session:
        with pytest.raises(JobNotFoundError):
            enqueue(session, enqueue_job("mail", {"to": "a"}))
        session.rollback()
        definitions.register(store, [mail])
        with pytest.raises(JobNotFoundError, match='Did you mean "mail"'):
            enqueue(session, enqueue_job("mial", {"to": "a"}))
        with pytest.raises(PayloadInvalidError, match="to: must meet type"):
            enqueue(session, enqueue_job("mail", {"to": 5}))
        enqueue(session, enqueue_job("mail", {"to": "a"}))
        session.commit()
    assert rows(store, "SELECT job_id, topic FROM netscript_executions") == [("mail", "mails")]


def test_another_kind_of_database_is_refused() -> None:
    engine = create_engine("sqlite://")
    with engine.connect() as conn:
        conn.dialect.name = "oracle"
        with pytest.raises(ConfigurationError, match="oracle"):
            enqueue(conn, enqueue_job(mail, {}))
    engine.dispose()


def test_an_engine_without_configure_sqlite_is_told_of_it(sqlite_url: str) -> None:
    plain = create_engine(sqlite_url, connect_args={"timeout": 0.05})
    path = make_url(sqlite_url).database
    other = sqlite3.connect(str(path), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with (
        Session(plain) as session,
        pytest.raises(StoreBusyError, match=r"configure_sqlite\(engine\)"),
    ):
        enqueue(session, enqueue_job(mail, {}))
    other.execute("ROLLBACK")
    other.close()
    plain.dispose()


def test_configure_sqlite_makes_writers_wait_for_their_turn(sqlite_url: str) -> None:
    engine = create_engine(sqlite_url)
    configure_sqlite(engine)
    configure_sqlite(engine)  # twice is once
    with engine.connect() as conn:
        assert conn.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert conn.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert conn.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000
    engine.dispose()


ASYNC = [
    pytest.param(("sqlite", "sqlite+aiosqlite"), id="aiosqlite"),
    pytest.param(("postgres", "postgresql+asyncpg"), id="asyncpg", marks=pytest.mark.postgres),
    pytest.param(("postgres", "postgresql+psycopg"), id="psycopg", marks=pytest.mark.postgres),
]


@pytest.fixture(params=ASYNC)
async def async_engine(request: pytest.FixtureRequest) -> AsyncIterator[tuple[AsyncEngine, Store]]:
    kind, driver = request.param
    url = request.getfixturevalue(f"{kind}_url")
    store = Store(url)
    engine = create_async_engine(make_url(url).set(drivername=driver))
    if kind == "sqlite":
        configure_sqlite(engine)
    yield engine, store
    await engine.dispose()
    store.dispose()


async def test_async_sessions_commit_and_roll_back(
    async_engine: tuple[AsyncEngine, Store],
) -> None:
    engine, store = async_engine
    executions = "SELECT count(*) FROM netscript_executions"
    async with AsyncSession(engine) as session:
        (told,) = await enqueue_async(session, enqueue_job(mail, {"to": "a"}))
        await session.commit()
    assert not told.duplicate
    assert scalar(store, executions) == 1
    async with AsyncSession(engine) as session:
        await enqueue_async(session, enqueue_job(mail, {"to": "a"}))
        await session.rollback()
    assert scalar(store, executions) == 1
    async with engine.begin() as conn:
        await enqueue_async(conn, enqueue_job(mail, {"to": "a"}, concurrency_key="k"))
    assert scalar(store, executions) == 2
