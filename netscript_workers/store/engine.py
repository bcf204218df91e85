"""The database: its URL, its engines, its clock, its transactions."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any

from psycopg.types.string import TextLoader
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from netscript_workers.clock import SYSTEM_CLOCK, Clock
from netscript_workers.errors import ConfigurationError, StoreUnavailableError
from netscript_workers.store import links
from netscript_workers.store.dialects import DIALECTS, Dialect

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

# Longer than any transaction of ours; a user's own long one makes the others wait, not fail.
SQLITE_BUSY_SECONDS = 30.0
# Inserts of 1 to 32 rows into a handful of tables, and all else.
_SQLITE_STATEMENTS = 512
_SQLITE_WAL_PAGES = 8_000
_SQLITE_CACHE_KIB = 8_000
# All caches of a process together: large bodies would fill that of every connection.
_SQLITE_HEAP_BYTES = 8_000_000
# Connections of a store apart, for each of writing and reading; opened when needed.
_APART = 3
# SQLite's own busy handler sleeps for one millisecond and one more, then gives in.
_TURN_MILLIS = 2
# A user's own transaction may hold a row for as long as it likes, and connections are few.
BRIEF_SECONDS = 1.0
# What is known of a connection's setting.
_LOCK_TIMEOUT = "netscript_lock_timeout"
# A worker that has nothing to do hears the time with each of its looks, once in a second or so.
_CLOCK_CHECK_SECONDS = 1.5
# Microseconds that two machines' clocks may drift apart in a second, slewing included.
_CLOCK_DRIFT = 1000.0
# Every statement of ours is made for an index. A plan that was made and kept while a table was
# nearly empty would read all of it when it no longer is. What can only be read whole (the list of
# workers) then looks so costly that PostgreSQL would compile its plan: 70 to 260 ms for a few rows.
_NEVER = ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "jit")
_INDEXES_ONLY = " ".join(f"-c {setting}=off" for setting in _NEVER)


def parse_url(url: str) -> URL:
    """Read a database URL.

    `sqlite:///file.db`, `postgresql://…` and `postgres://…` are taken; the driver is psycopg.

    Raises:
        ConfigurationError: It is none of these.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:  # a port that is no number
        raise ConfigurationError(
            "NETSCRIPT_DATABASE_URL is not a database URL.",
            hint="Write it as sqlite:///netscript.db or postgresql://user:password@host/database.",
        ) from error
    backend = parsed.drivername.partition("+")[0]
    if backend in {"postgresql", "postgres"}:
        return parsed.set(drivername="postgresql+psycopg")
    if backend == "sqlite":
        nameless = ":memory:" in (parsed.database or ":memory:")
        if nameless or "memory" in parsed.query.values():
            raise ConfigurationError(
                "A SQLite database in memory can't be shared by the server and its workers.",
                hint="Name a file, as in sqlite:///netscript.db.",
            )
        return parsed.set(drivername="sqlite")
    raise ConfigurationError(
        f"Databases of the kind {parsed.drivername!r} are not supported.",
        hint="Use sqlite:///netscript.db or postgresql://user:password@host/database.",
    )


def masked(url: str) -> str:
    """Return the URL as it may be shown: without its password, wherever it stands."""
    parsed = make_url(url)
    secret = [name for name in parsed.query if "password" in name.lower()]
    return parsed.difference_update_query(secret).render_as_string(hide_password=True)


def configure_sqlite(engine: Engine | AsyncEngine) -> None:
    """Make a SQLite engine safe for several writers.

    Its transactions begin IMMEDIATE (a deferred one that turns to writing fails at once where
    another process writes, whatever the timeout), the journal is a WAL, and a commit is on disk
    when it returns. Call it once, right after `create_engine`.
    """
    target = engine if isinstance(engine, Engine) else engine.sync_engine
    if getattr(target, "_netscript_configured", False):
        return
    target._netscript_configured = True  # type: ignore[attr-defined]  # noqa: SLF001
    event.listen(target, "connect", partial(_prepare_sqlite, SQLITE_BUSY_SECONDS))
    event.listen(target, "begin", partial(_begin_immediate, SQLITE_BUSY_SECONDS))


def is_configured(engine: Engine) -> bool:
    """Tell whether `configure_sqlite` has prepared this engine."""
    return getattr(engine, "_netscript_configured", False)


def _prepare_sqlite(patience: float, connection: Any, record: Any) -> None:
    # The driver would begin deferred transactions by itself.
    connection.isolation_level = None
    cursor = connection.cursor()
    try:
        cursor.execute(f"PRAGMA busy_timeout = {round(patience * 1000)}")
        cursor.execute("PRAGMA journal_mode = WAL")
        # FULL: an accepted event survives a power cut. Batches pay for it.
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        # Keys come in no order, so a busy minute touches the same pages over and over: the more of
        # it waits in the WAL, the fewer pages are copied back.
        cursor.execute(f"PRAGMA wal_autocheckpoint = {_SQLITE_WAL_PAGES}")
        cursor.execute(f"PRAGMA cache_size = -{_SQLITE_CACHE_KIB}")
    finally:
        cursor.close()


def _bound_caches(connection: Any, record: Any) -> None:
    connection.execute(f"PRAGMA soft_heap_limit = {_SQLITE_HEAP_BYTES}")


def _begin_immediate(patience: float, connection: Connection) -> None:
    """Begin as the one writer, asking every other millisecond whether it is our turn.

    SQLite by itself asks ever more seldom, at last ten times a second: whoever comes later then
    goes first, and two servers and two workers get through a fraction of what one of each does.
    """
    deadline = time.monotonic() + patience
    cursor = connection.connection.cursor()
    try:
        cursor.execute(f"PRAGMA busy_timeout = {_TURN_MILLIS}")
        while time.monotonic() < deadline:
            try:
                cursor.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    break
            else:
                return
        # What there is to say of it, SQLAlchemy says.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    finally:
        cursor.execute(f"PRAGMA busy_timeout = {round(patience * 1000)}")
        cursor.close()


def _read_ids_as_text(connection: Any, record: Any) -> None:
    # Ids are strings everywhere; making a UUID object of each would only cost.
    connection.adapters.register_loader("uuid", TextLoader)


class DatabaseClock:
    """The database's clock, asked once a second and carried on by the monotonic clock between.

    The server has read its clock some time between the question and the answer, which on a busy
    machine is a long time. So each answer only narrows down what is known: without it, the clocks
    of two processes would disagree by as much as the slowest of their latest questions took.
    """

    def __init__(self, dialect: Dialect, local: Clock) -> None:
        self._dialect = dialect
        self._local = local
        self._offset: int | None = None
        # Where the true offset lies, for certain.
        self._least = self._most = 0.0
        self._asked = float("-inf")

    def now(self, conn: Connection) -> int:
        """Return microseconds since the epoch, for a statement on `conn`."""
        monotonic = time.monotonic()
        if monotonic - self._asked >= _CLOCK_CHECK_SECONDS:
            told = self._dialect.measure_clock(conn)
            monotonic = self.heard(told, asked=monotonic)
        if self._offset is None:
            return self._local.now()
        return self._offset + round(monotonic * 1e6)

    def heard(self, told: int | None, *, asked: float) -> float:
        """Take in what the server's clock told just now; return when that was.

        Args:
            told: Microseconds since the epoch; None where this machine's clock is the database's.
            asked: When the question was sent, by the monotonic clock, in seconds.
        """
        answered = time.monotonic()
        if told is None:
            self._offset = None
        else:
            self._learn(told - answered * 1e6, told - asked * 1e6, answered)
        self._asked = answered
        return answered

    def _learn(self, least: float, most: float, at: float) -> None:
        """Take in that the offset lies between these two."""
        drift = max(at - self._asked, 0.0) * _CLOCK_DRIFT if self._offset is not None else 0.0
        narrow = max(least, self._least - drift), min(most, self._most + drift)
        # Nothing in common: the server's clock was set.
        known = self._offset is not None and narrow[0] <= narrow[1]
        self._least, self._most = narrow if known else (least, most)
        self._offset = round((self._least + self._most) / 2)


class Store:
    """One database: how to write to it, how to read from it, and its clock.

    Attributes:
        url: The URL without its password, for people.
        engine: For write transactions.
        dialect: What this kind of database does its own way.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Clock | None = None,
        pool_size: int = 5,
        patience: float = SQLITE_BUSY_SECONDS,
        bounded: bool = True,
    ) -> None:
        """Prepare the engines; nothing connects yet.

        Args:
            url: `sqlite:///file.db` or `postgresql://…`.
            clock: Overrides the database's clock; tests only.
            pool_size: Connections kept open for each of writing and reading.
            patience: Seconds that a transaction waits for its turn on SQLite, and a statement for
                its end on PostgreSQL.
            bounded: Whether that holds on PostgreSQL; a migration takes as long as it takes.

        Raises:
            ConfigurationError: The URL can't be used.
        """
        self._patience = patience
        self._bounded = bounded
        self._parsed = parse_url(url)
        self.url = masked(url)
        self.dialect = DIALECTS[self._parsed.get_backend_name()]
        self._clock = clock
        self.engine = self._create_engine(pool_size)
        self._reader = self._create_engine(pool_size, read_only=True)
        self._database_clock = DatabaseClock(self.dialect, clock or SYSTEM_CLOCK)

    @property
    def parsed_url(self) -> URL:
        """The URL with its password, for whoever connects by itself."""
        return self._parsed

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a SQLite file."""
        return self.dialect.name == "sqlite"

    def now(self, conn: Connection) -> int:
        """Return the database's present, in microseconds since the epoch."""
        return self._clock.now() if self._clock else self._database_clock.now(conn)

    def heard_clock(self, told: int | None, *, asked: float) -> None:
        """Take in the server's time that a statement brought along; see `DatabaseClock.heard`."""
        self._database_clock.heard(told, asked=asked)

    @contextmanager
    def begin(self, *, lock_timeout: float | None = None) -> Generator[Connection]:
        """Open a write transaction; it commits at the end, or rolls back on an error."""
        wanted = lock_timeout or 0.0
        with self.engine.connect() as conn:
            with conn.begin():
                if conn.info.get(_LOCK_TIMEOUT) != wanted:
                    self.dialect.set_lock_timeout(conn, wanted)
                # A transaction that is rolled back takes the setting with it.
                conn.info[_LOCK_TIMEOUT] = None
                yield conn
            conn.info[_LOCK_TIMEOUT] = wanted

    @contextmanager
    def begin_briefly(self, seconds: float = BRIEF_SECONDS) -> Generator[Connection]:
        """Open a write transaction that waits only so long for what somebody else holds.

        Raises:
            StoreUnavailableError: It is still held; nothing was done.
        """
        try:
            with self.begin(lock_timeout=seconds) as conn:
                yield conn
        except DBAPIError as error:
            if not self.is_held(error):
                raise
            raise StoreUnavailableError(
                "Another transaction holds this execution.", hint="Try again."
            ) from error

    def is_held(self, error: DBAPIError) -> bool:
        """Tell whether rows were held; on SQLite it is the file, which concerns everybody alike."""
        return not self.is_sqlite and self.dialect.is_contention(error)

    @contextmanager
    def statement(self) -> Generator[Connection]:
        """Open a connection for one statement that writes, which is its own transaction."""
        if self.is_sqlite:
            with self.begin() as conn:
                yield conn
        else:
            with self._reader.connect() as conn:  # it commits by itself
                yield conn

    @contextmanager
    def read(self) -> Generator[Connection]:
        """Open a connection on which every statement sees its own snapshot."""
        with self._reader.connect() as conn:
            yield conn

    @contextmanager
    def snapshot(self) -> Generator[Connection]:
        """Open a connection on which all statements see one snapshot.

        It holds up no writer, but what others delete meanwhile can't be cleaned up: be brief.
        """
        with self._reader.connect() as conn:
            conn.exec_driver_sql(self.dialect.begin_snapshot)
            try:
                yield conn
            finally:
                conn.exec_driver_sql("ROLLBACK")

    def apart(self) -> Store:
        """Return the same database over connections of its own, with the same clock.

        For threads that must go on however many others wait for the pool.
        """
        other = copy(self)
        other.engine = self._create_engine(_APART)
        other._reader = self._create_engine(_APART, read_only=True)  # noqa: SLF001 - one of us
        return other

    def dedicated(self, *, autocommit: bool = False) -> Engine:
        """Return an engine of its own, for a thread that must never wait for the pool.

        With `autocommit` each statement on PostgreSQL is a transaction of its own, which saves two
        round trips; on SQLite every writer has to queue up with BEGIN all the same.
        """
        return self._create_engine(1, autocommit=autocommit)

    def dispose(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        self._reader.dispose()

    def _create_engine(
        self, pool_size: int, *, read_only: bool = False, autocommit: bool = False
    ) -> Engine:
        if not self.is_sqlite:
            patience = self._patience if self._bounded else None
            engine = create_engine(
                self._parsed,
                isolation_level="AUTOCOMMIT" if read_only or autocommit else "READ COMMITTED",
                pool_size=pool_size,
                max_overflow=0,
                # The one that was used last has the most statements prepared.
                pool_use_lifo=True,
                # A server that was restarted must not cost anybody a 503.
                pool_pre_ping=patience is None,
                hide_parameters=True,  # an error must not carry a payload into a log
                connect_args=links.parameters(
                    self._parsed, name="netscript", patience=patience, options=_INDEXES_ONLY
                ),
            )
            if patience is not None:
                links.bound(engine, patience)
            event.listen(engine, "connect", _read_ids_as_text)
            return engine
        engine = create_engine(
            self._parsed,
            connect_args={"check_same_thread": False, "cached_statements": _SQLITE_STATEMENTS},
            hide_parameters=True,
            pool_size=pool_size,
            max_overflow=0,
            pool_use_lifo=True,  # the one that was used last has its pages in memory
        )
        event.listen(engine, "connect", partial(_prepare_sqlite, self._patience))
        event.listen(engine, "connect", _bound_caches)
        if not read_only:
            event.listen(engine, "begin", partial(_begin_immediate, self._patience))
        return engine
