"""Enqueueing in the user's own transaction: the job exists if and only if their data does."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from netscript_workers.actions import Cause
from netscript_workers.batches import Action, names_a_job, resolve_all
from netscript_workers.clock import SYSTEM_CLOCK
from netscript_workers.domain import Enqueued, TriggeredBy
from netscript_workers.errors import ConfigurationError, StoreBusyError
from netscript_workers.store import outbox
from netscript_workers.store.dialects import DIALECTS, Dialect
from netscript_workers.store.engine import DatabaseClock, is_configured
from netscript_workers.store.outbox import Submission
from netscript_workers.store.wake import Bell, make_bell
from netscript_workers.telemetry import spans

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

_CAUSE = Cause(triggered_by=TriggeredBy.API)
# SQLAlchemy tells of a connection's commit just before it happens.
_AFTER_COMMIT_SECONDS = 0.01

_bells: WeakKeyDictionary[Engine, Bell] = WeakKeyDictionary()
_clocks: WeakKeyDictionary[Engine, DatabaseClock] = WeakKeyDictionary()
_lock = threading.Lock()


def enqueue(session: Session | Connection, *actions: Action) -> list[Enqueued]:
    """Store jobs in the caller's transaction; nothing runs unless the caller commits.

    Workers are woken by the commit. No row that others need is locked, but an idempotency key
    that another open transaction has just taken is waited for, as any unique key is.

    Args:
        session: An open SQLAlchemy session or connection on netscript's database. On SQLite its
            engine is prepared by `configure_sqlite(engine)`.
        *actions: `enqueue_job(...)` and `enqueue_batch(...)` actions.

    Returns:
        For each job, in order, its execution and whether it is a duplicate; those of a batch
        stand in its place.

    Raises:
        PayloadInvalidError: A job refuses its payload; nothing was stored.
        JobNotFoundError: A job that is named by its id was never registered.
        StoreBusyError: SQLite is locked; the message says what to do.
    """
    conn = session.connection() if isinstance(session, Session) else session
    dialect = _dialect_of(conn)
    catalog = _catalog(conn, actions)
    work = resolve_all(actions, catalog, _CAUSE)
    if not (work.executions or work.batches):
        return []
    recorder = spans.look()
    trace = None if recorder is None else recorder.sending_here(work.executions)
    with _explained(conn):
        now = _now(conn, dialect)
        stored = Submission(executions=work.executions, batches=work.batches)
        receipts = outbox.store(conn, dialect, [stored], now=now)
    _ring_after_commit(session, conn)
    if trace is not None:
        trace.stored(receipts[0].enqueued)
    return list(receipts[0].enqueued)


async def enqueue_async(
    session: AsyncSession | AsyncConnection, *actions: Action
) -> list[Enqueued]:
    """Store jobs in the caller's async transaction; otherwise as `enqueue`.

    Args:
        session: An open `AsyncSession` or `AsyncConnection` on netscript's database.
        *actions: `enqueue_job(...)` and `enqueue_batch(...)` actions.

    Raises:
        PayloadInvalidError: A job refuses its payload; nothing was stored.
        JobNotFoundError: A job that is named by its id was never registered.
        StoreBusyError: SQLite is locked; the message says what to do.
    """
    return await session.run_sync(lambda target: enqueue(target, *actions))


def _dialect_of(conn: Connection) -> Dialect:
    dialect = DIALECTS.get(conn.dialect.name)
    if dialect is None:
        raise ConfigurationError(
            f"netscript's tables can't be in a {conn.dialect.name} database.",
            hint="Use a session on PostgreSQL or SQLite.",
        )
    return dialect


def _now(conn: Connection, dialect: Dialect) -> int:
    """Ask a database for its time once a second, not for every job."""
    with _lock:
        clock = _clocks.get(conn.engine)
        if clock is None:
            clock = _clocks[conn.engine] = DatabaseClock(dialect, SYSTEM_CLOCK)
    return clock.now(conn)


def _catalog(conn: Connection, actions: tuple[Action, ...]) -> Any:
    if not any(names_a_job(action) for action in actions):
        return None
    from netscript_workers.store.definitions import ConnectionCatalog  # noqa: PLC0415 - rarely needed

    return ConnectionCatalog(conn)


@contextlib.contextmanager
def _explained(conn: Connection) -> Generator[None]:
    try:
        yield
    except DBAPIError as error:
        locked = "locked" in str(error.orig)
        if conn.dialect.name == "sqlite" and locked and not is_configured(conn.engine):
            raise StoreBusyError(
                "SQLite is locked by another writer.",
                hint="Call configure_sqlite(engine) once, right after create_engine(): "
                "transactions then begin IMMEDIATE and wait for their turn.",
            ) from error
        raise


def _ring_after_commit(session: Session | Connection, conn: Connection) -> None:
    bell = _bell_for(conn.engine)
    if isinstance(session, Session):
        # Of all sessions, for to listen to one costs more than all the rest of an enqueue.
        if not event.contains(Session, "after_commit", _session_committed):
            event.listen(Session, "after_commit", _session_committed)
        session.info["netscript_bell"] = bell
    else:
        if not event.contains(conn.engine, "commit", _connection_commits):
            event.listen(conn.engine, "commit", _connection_commits)
        conn.info["netscript_bell"] = bell


def _session_committed(session: Session) -> None:
    if session.in_nested_transaction():  # a savepoint that was released
        return
    bell: Bell | None = session.info.pop("netscript_bell", None)
    if bell is not None:
        bell.ring()


def _connection_commits(conn: Connection) -> None:
    bell: Bell | None = conn.info.pop("netscript_bell", None)
    if bell is not None:
        _ringer.ring(bell)


class _Ringer:
    """Rings a moment later, on one thread for all; a timer each would cost as much as the rest."""

    def __init__(self) -> None:
        self._wanted: SimpleQueue[tuple[float, Bell]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def ring(self, bell: Bell) -> None:
        self._wanted.put((time.monotonic() + _AFTER_COMMIT_SECONDS, bell))
        # After a fork there is none, whatever the parent had.
        if self._thread is None or not self._thread.is_alive():
            with _lock, contextlib.suppress(RuntimeError):  # no thread is to be had: a hint less
                if self._thread is None or not self._thread.is_alive():
                    thread = threading.Thread(
                        target=self._run, name="netscript-ringer", daemon=True
                    )
                    thread.start()
                    self._thread = thread

    def _run(self) -> None:
        while True:
            at, bell = self._wanted.get()
            time.sleep(max(at - time.monotonic(), 0.0))
            with contextlib.suppress(RuntimeError):
                bell.ring()


_ringer = _Ringer()


def _bell_for(engine: Engine) -> Bell:
    with _lock:
        bell = _bells.get(engine)
        if bell is None:
            bell = _bells[engine] = make_bell(engine.url)
            if not event.contains(engine, "engine_disposed", _engine_disposed):
                event.listen(engine, "engine_disposed", _engine_disposed)
        return bell


def _engine_disposed(engine: Engine) -> None:
    with _lock:
        bell = _bells.pop(engine, None)
    if bell is not None:
        bell.close()
