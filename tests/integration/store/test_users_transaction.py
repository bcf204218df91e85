"""Enqueueing in users' transactions as users write them: savepoints, levels, odd engines."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import Engine, Integer, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from netscript_workers import (
    EnqueueJob,
    JobContext,
    configure_sqlite,
    enqueue,
    enqueue_async,
    enqueue_job,
    job,
)
from netscript_workers.errors import StoreBusyError
from netscript_workers.ids import new_id
from netscript_workers.store import engine as store_engine
from netscript_workers.store import transaction
from netscript_workers.store.engine import Store
from netscript_workers.store.lifelines import Lifeline, folder
from netscript_workers.store.wake import Waiter
from tests.kit import Hand, new, put, scalar, waiting_for_locks
from tests.support import eventually, eventually_async

EXECUTIONS = "SELECT count(*) FROM netscript_executions"


@job(id="mail")
async def mail(ctx: JobContext[dict[str, str]]) -> None: ...


class Base(DeclarativeBase): ...


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    url = make_url(database_url)
    if url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    made = create_engine(url)
    if made.dialect.name == "sqlite":
        configure_sqlite(made)
    Base.metadata.create_all(made)
    yield made
    made.dispose()


def count(store: Store) -> tuple[int, int]:
    return scalar(store, "SELECT count(*) FROM orders"), scalar(store, EXECUTIONS)


def test_an_orm_session_flushes_and_commits_both(store: Store, engine: Engine) -> None:
    sessions = sessionmaker(engine)
    with sessions.begin() as session:
        session.add(Order(id=1))
        (told,) = enqueue(session, enqueue_job(mail, {"to": "a"}))
    assert count(store) == (1, 1)
    assert Hand(store, ["mail"]).claim_one().id == told.execution_id


def test_a_savepoint_that_is_rolled_back_takes_its_job_with_it(
    store: Store, engine: Engine
) -> None:
    with Session(engine) as session:
        session.add(Order(id=1))
        enqueue(session, enqueue_job(mail, {"to": "outer"}, idempotency_key="1"))
        nested = session.begin_nested()
        enqueue(session, enqueue_job(mail, {"to": "inner"}, idempotency_key="2"))
        nested.rollback()
        session.commit()
    assert count(store) == (1, 1)
    assert not put(store, new("mail", idempotency_key="2"))[0].duplicate


def test_a_broken_order_takes_the_job_with_it(store: Store, engine: Engine) -> None:
    with Session(engine) as session:
        session.add(Order(id=1))
        session.commit()
    session = Session(engine)
    enqueue(session, enqueue_job(mail, {"to": "a"}))
    session.add(Order(id=1))
    with pytest.raises(DBAPIError):
        session.commit()
    session.close()
    assert count(store) == (1, 0)


@pytest.mark.postgres
def test_nobody_claims_before_the_commit(postgres_url: str) -> None:
    store = Store(postgres_url)
    engine = create_engine(make_url(postgres_url).set(drivername="postgresql+psycopg"))
    with Session(engine) as session:
        enqueue(session, enqueue_job(mail, {}), enqueue_job(mail, {}, concurrency_key="k"))
        assert Hand(store, ["mail"]).claim() == []
        session.commit()
    assert len(Hand(store, ["mail"]).claim()) == 2
    engine.dispose()
    store.dispose()


def test_a_session_serves_one_transaction_after_the_other(store: Store, engine: Engine) -> None:
    with Session(engine) as session:
        for n in range(3):
            session.add(Order(id=n))
            enqueue(session, enqueue_job(mail, {"to": str(n)}))
            if n == 1:
                session.rollback()
            else:
                session.commit()
    assert count(store) == (2, 2)


@pytest.mark.trap("D-50")
@pytest.mark.postgres
@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_a_duplicate_is_told_at_every_isolation_level(postgres_url: str, level: str) -> None:
    store = Store(postgres_url)
    (first,) = put(store, new("mail", idempotency_key="1"))
    url = make_url(postgres_url).set(drivername="postgresql+psycopg")
    engine = create_engine(url, isolation_level=level)
    with engine.begin() as conn:
        again, fresh = enqueue(
            conn,
            enqueue_job(mail, {}, idempotency_key="1"),
            enqueue_job(mail, {}, idempotency_key="2"),
        )
    assert (again.duplicate, again.execution_id) == (True, first.execution_id)
    assert not fresh.duplicate
    engine.dispose()
    store.dispose()


@pytest.mark.trap("D-45")
def test_duplicates_in_one_call_and_in_one_transaction_are_told_in_their_places(
    store: Store, engine: Engine
) -> None:
    def one(key: str | None, to: str = "a") -> EnqueueJob[dict[str, str]]:
        return enqueue_job(mail, {"to": to}, idempotency_key=key)

    with Session(engine) as session:
        told = enqueue(session, one("1"), one(None), one("1"), one("2"), one("1", to="b"))
        again = enqueue(session, one("2"), one("3"), one("1", to="b"))
        session.commit()
    first, _, _, second, _ = told
    assert [it.duplicate for it in told] == [False, False, True, False, True]
    assert [it.conflict for it in told] == [False, False, False, False, True]
    assert {told[2].execution_id, told[4].execution_id} == {first.execution_id}
    assert [it.duplicate for it in again] == [True, False, True]
    assert again[0].execution_id == second.execution_id
    assert (again[2].execution_id, again[2].conflict) == (first.execution_id, True)
    assert count(store) == (0, 4)


@pytest.mark.postgres
@pytest.mark.trap("D-50")
@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_a_key_that_was_taken_after_the_snapshot_is_a_duplicate_or_an_error_to_retry(
    postgres_url: str, level: str
) -> None:
    store = Store(postgres_url)
    url = make_url(postgres_url).set(drivername="postgresql+psycopg")
    engine = create_engine(url, isolation_level=level)
    action = enqueue_job(mail, {}, idempotency_key="1")
    with engine.connect() as conn:
        conn.execute(text(EXECUTIONS)).scalar()  # from here on it sees the past, or does not
        (first,) = put(store, new("mail", idempotency_key="1"))
        if level == "READ COMMITTED":
            (told,) = enqueue(conn, action)
            assert (told.duplicate, told.execution_id) == (True, first.execution_id)
        else:
            with pytest.raises(OperationalError) as refused:
                enqueue(conn, action)
            # What SQLAlchemy's users look for to run their transaction again.
            assert getattr(refused.value.orig, "sqlstate", None) == "40001"
        conn.rollback()
        (told,) = enqueue(conn, action)
        assert (told.duplicate, told.execution_id) == (True, first.execution_id)
        conn.commit()
    assert scalar(store, EXECUTIONS) == 1
    engine.dispose()
    store.dispose()


@pytest.mark.postgres
def test_who_waits_for_a_key_that_is_rolled_back_gets_it(postgres_url: str) -> None:
    store = Store(postgres_url)
    engine = create_engine(make_url(postgres_url).set(drivername="postgresql+psycopg"))
    told: list[bool] = []

    def second() -> None:
        told.append(put(store, new("mail", idempotency_key="1"))[0].duplicate)

    waiting = threading.Thread(target=second)
    with Session(engine) as session:
        enqueue(session, enqueue_job(mail, {}, idempotency_key="1"))
        waiting.start()
        eventually(lambda: waiting_for_locks(store), what="the second to wait for the key")
        session.rollback()
    waiting.join(5)
    assert told == [False]
    engine.dispose()
    store.dispose()


def test_an_unprepared_sqlite_engine_serves_while_nobody_else_writes(sqlite_url: str) -> None:
    store, plain = Store(sqlite_url), create_engine(sqlite_url)
    Base.metadata.create_all(plain)
    with Session(plain) as session:
        session.add(Order(id=1))
        enqueue(session, enqueue_job(mail, {}))
        session.rollback()
        session.add(Order(id=2))
        enqueue(session, enqueue_job(mail, {}))
        session.commit()
    assert count(store) == (1, 1)
    plain.dispose()
    store.dispose()


def test_a_read_that_turns_to_writing_is_told_of_configure_sqlite(sqlite_url: str) -> None:
    plain = create_engine(sqlite_url, connect_args={"timeout": 0.05})
    with Session(plain) as session:
        connection = session.connection()
        connection.exec_driver_sql("BEGIN")  # deferred, as most frameworks begin
        connection.execute(text(EXECUTIONS)).all()
        other = Store(sqlite_url)
        put(other, new())
        with pytest.raises(StoreBusyError) as told:
            enqueue(session, enqueue_job(mail, {}))
        other.dispose()
    assert told.value.hint is not None
    assert told.value.retryable
    plain.dispose()


def test_a_prepared_engine_that_is_locked_for_too_long_gives_the_drivers_own_error(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_engine, "SQLITE_BUSY_SECONDS", 0.05)
    engine = create_engine(sqlite_url)
    configure_sqlite(engine)
    path = make_url(sqlite_url).database
    other = sqlite3.connect(str(path), isolation_level=None)
    with engine.connect() as conn:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OperationalError, match="locked"):
            enqueue(conn, enqueue_job(mail, {}))
    other.close()
    engine.dispose()


def test_a_prepared_engine_begins_as_a_writer(sqlite_url: str) -> None:
    engine = create_engine(sqlite_url)
    configure_sqlite(engine)
    path = make_url(sqlite_url).database
    other = sqlite3.connect(str(path), isolation_level=None, timeout=0)
    with engine.connect() as conn:
        conn.execute(text(EXECUTIONS)).all()  # a read, and yet nobody else may write
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
    other.execute("BEGIN IMMEDIATE")
    other.close()
    engine.dispose()


@pytest.fixture
async def aiosqlite_sessions(sqlite_url: str) -> AsyncIterator[async_sessionmaker[AsyncSession]]:
    url = make_url(sqlite_url).set(drivername="sqlite+aiosqlite")
    engine = create_async_engine(url, connect_args={"timeout": 0.05})
    yield async_sessionmaker(engine)
    await engine.dispose()


async def test_an_unprepared_async_engine_is_told_of_configure_sqlite(
    sqlite_url: str, aiosqlite_sessions: async_sessionmaker[AsyncSession]
) -> None:
    other = sqlite3.connect(str(make_url(sqlite_url).database), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    async with aiosqlite_sessions() as session:
        with pytest.raises(StoreBusyError, match="locked"):
            await enqueue_async(session, enqueue_job(mail, {}))
    other.close()


ASYNC = [
    pytest.param(("sqlite", "sqlite+aiosqlite"), id="aiosqlite"),
    pytest.param(("postgres", "postgresql+asyncpg"), id="asyncpg", marks=pytest.mark.postgres),
    pytest.param(("postgres", "postgresql+psycopg"), id="psycopg", marks=pytest.mark.postgres),
]


@pytest.mark.parametrize("kind", ASYNC)
async def test_an_async_commit_wakes_a_waiter_and_a_rollback_of_a_savepoint_holds(
    kind: tuple[str, str], request: pytest.FixtureRequest
) -> None:
    database, driver = kind
    url: str = request.getfixturevalue(f"{database}_url")
    store, id_ = Store(url), new_id()
    line = Lifeline(folder(store.parsed_url), id_)
    waiter = Waiter(store, id_)
    engine = create_async_engine(make_url(url).set(drivername=driver))
    if database == "sqlite":
        configure_sqlite(engine)
    woken = threading.Event()

    def listen() -> None:
        if waiter.wait(20.0):
            woken.set()

    listening = threading.Thread(target=listen)
    listening.start()
    async with AsyncSession(engine) as session, session.begin():
        await enqueue_async(session, enqueue_job(mail, {"to": "a"}, idempotency_key="1"))
        nested = await session.begin_nested()
        await enqueue_async(session, enqueue_job(mail, {"to": "b"}))
        await nested.rollback()
        (again,) = await enqueue_async(session, enqueue_job(mail, {"to": "a"}, idempotency_key="1"))
        assert again.duplicate
    await eventually_async(woken.is_set, 5.0, "the commit's bell")
    assert scalar(store, EXECUTIONS) == 1
    listening.join()
    await engine.dispose()
    waiter.close()
    line.cut()
    store.dispose()


def test_an_engine_that_is_disposed_takes_its_bell_with_it(engine: Engine) -> None:
    with engine.begin() as conn:
        enqueue(conn, enqueue_job(mail, {}))
    assert engine in transaction._bells
    engine.dispose()
    assert engine not in transaction._bells
    with engine.begin() as conn:  # an engine may be used again after dispose()
        enqueue(conn, enqueue_job(mail, {}))
    assert engine in transaction._bells


def test_a_delay_and_a_priority_of_an_action_are_kept(store: Store, engine: Engine) -> None:
    with engine.begin() as conn:
        later, urgent = enqueue(
            conn, enqueue_job(mail, {}, delay=3600), enqueue_job(mail, {}, priority=100)
        )
    assert [claim.id for claim in Hand(store, ["mail"]).claim()] == [urgent.execution_id]
    assert later.execution_id != urgent.execution_id
