"""Waking: how a worker learns at once that there is work, whoever committed it.

Every wake is a hint. The truth is the database, which is looked at in any case: on SQLite its
`data_version` tells within 50 ms of any commit, on PostgreSQL a probe runs once a second.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

import psycopg
from sqlalchemy import Engine, create_engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from netscript_workers.store import links
from netscript_workers.store.engine import Store
from netscript_workers.store.lifelines import folder

logger = logging.getLogger(__name__)

CHANNEL = "netscript_wake"
# Commits come faster than workers can use the news; one notification speaks for all in between.
_NOTIFY_GAP = 0.005
_SQLITE_POLL = 0.05
_RECONNECT_AFTER = 1.0
# A notification takes no time; a bell that is stuck rings for nobody.
_NOTIFY_PATIENCE = 5.0


class Bell(Protocol):
    """Tells workers that there is work."""

    def ring(self) -> None:
        """Ring; never blocks, never fails."""
        ...

    def close(self) -> None:
        """Stop."""
        ...


def make_bell(url: URL) -> Bell:
    """Return the bell of a database."""
    return DoorBell(url) if url.get_backend_name() == "sqlite" else NotifyBell(url)


def _door(worker_id: str) -> str:
    """Return the address of a worker's datagram socket: abstract, so short and never left over."""
    return f"\0netscript-{worker_id}"


class DoorBell:
    """SQLite: a datagram to every worker whose lifeline lies beside the file."""

    def __init__(self, url: URL) -> None:
        """Ring the workers of this database file."""
        self._folder = folder(url)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(0)

    def ring(self) -> None:
        """Send a byte to each worker; one that is gone or has bells enough is passed over."""
        with contextlib.suppress(OSError):
            for name in os.listdir(self._folder):  # noqa: PTH208 - on the path of every commit
                with contextlib.suppress(OSError):
                    self._socket.sendto(b"!", _door(name.removesuffix(".lock")))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class NotifyBell:
    """PostgreSQL: NOTIFY, on a connection and a thread of its own.

    Inside anybody's transaction it would make commits wait for each other.
    """

    def __init__(self, url: URL) -> None:
        """Ring the workers of this database."""
        self._engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            isolation_level="AUTOCOMMIT",
            pool_size=1,
            max_overflow=0,
            connect_args=links.parameters(
                url,
                name="netscript-bell",
                patience=_NOTIFY_PATIENCE,
                # A notification is a transaction, and need not wait for the disk as others do.
                options="-c synchronous_commit=off",
            ),
        )
        links.bound(self._engine, _NOTIFY_PATIENCE)
        self._wanted = threading.Event()
        self._closed = False
        self._started = False
        self._thread = threading.Thread(target=self._run, name="netscript-bell", daemon=True)
        self._lock = threading.Lock()

    def ring(self) -> None:
        """Have a notification sent soon."""
        if not self._started:
            self._start()
        self._wanted.set()

    def close(self) -> None:
        """Send what is wanted, then stop."""
        with self._lock:
            self._closed = True
        self._wanted.set()
        if self._started:
            self._thread.join(timeout=5)
        self._engine.dispose()

    def _start(self) -> None:
        with self._lock:
            if not self._started and not self._closed:
                self._thread.start()
                self._started = True

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            # A hint that is lost is made up for by the next probe.
            with contextlib.suppress(SQLAlchemyError), self._engine.connect() as conn:
                conn.exec_driver_sql(f"NOTIFY {CHANNEL}")
            if self._closed:
                return
            time.sleep(_NOTIFY_GAP)


class _Poke:
    """A pipe to oneself, written to from any thread."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._set = False

    def fileno(self) -> int:
        return self._read

    def set(self) -> None:
        if not self._set:
            self._set = True
            with contextlib.suppress(OSError):
                os.write(self._write, b"!")

    def clear(self) -> None:
        with contextlib.suppress(OSError):
            os.read(self._read, 64)
        self._set = False

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


def _heard(watched: Sequence[Any], timeout: float) -> list[Any]:
    """Wait for one of these to have something to read; select() takes no descriptor over 1023."""
    watch = select.poll()
    by_number = {one.fileno(): one for one in watched}
    for number in by_number:
        watch.register(number, select.POLLIN)
    return [by_number[number] for number, _ in watch.poll(math.ceil(timeout * 1000))]


class Ear(Protocol):
    """Where bells of other processes are heard."""

    def listen(self, poke: Any, timeout: float) -> bool:
        """Wait for a bell, a poke or the time; True if the database should be looked at."""
        ...

    def close(self) -> None:
        """Stop listening."""
        ...


class Waiter:
    """Lets one thread wait for work."""

    def __init__(self, store: Store, worker_id: str) -> None:
        """Listen for a worker."""
        self._poke = _Poke()
        self._ear: Ear = _DoorEar(store, worker_id) if store.is_sqlite else _NotifyEar(store)

    def poke(self) -> None:
        """End the wait from another thread of this process."""
        self._poke.set()

    def wait(self, timeout: float) -> bool:
        """Wait so many seconds at most; True if the database should be looked at."""
        rung = self._ear.listen(self._poke, max(timeout, 0.0))
        self._poke.clear()
        return rung

    def close(self) -> None:
        """Stop listening."""
        self._ear.close()
        self._poke.close()


class _DoorEar:
    """SQLite: the worker's door, and `data_version` for whoever commits without ringing."""

    def __init__(self, store: Store, worker_id: str) -> None:
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._door.settimeout(0)
        # Without abstract addresses (not Linux) the version is what is left.
        with contextlib.suppress(OSError):
            self._door.bind(_door(worker_id))
        self._engine = store.dedicated()
        self._conn = self._engine.raw_connection()
        self._cursor = self._conn.cursor()
        self._version = self._data_version()

    def listen(self, poke: Any, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while True:
            left = max(deadline - time.monotonic(), 0.0)
            heard = _heard([poke, self._door], min(left, _SQLITE_POLL))
            version = self._data_version()
            changed, self._version = version != self._version, version
            if self._door in heard:
                self._drain()
                return True
            if changed or (left <= _SQLITE_POLL and not heard):
                return True
            if heard:
                return False

    def close(self) -> None:
        self._door.close()
        self._conn.close()
        self._engine.dispose()

    def _drain(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._door.recv(16)

    def _data_version(self) -> int:
        self._cursor.execute("PRAGMA data_version")
        (version,) = self._cursor.fetchall()[0]
        return int(version)


class _NotifyEar:
    """PostgreSQL: LISTEN, on a connection that is made anew when it breaks."""

    def __init__(self, store: Store) -> None:
        self._engine: Engine = store.dedicated()
        self._raw: Any = None
        self._retry_at = 0.0
        self._connect()

    def listen(self, poke: Any, timeout: float) -> bool:
        if self._raw is None and time.monotonic() >= self._retry_at and self._connect():
            return True  # whatever rang while nobody listened is found by looking
        watched = [poke] if self._raw is None else [poke, self._raw]
        heard = _heard(watched, timeout)
        if self._raw is None or self._raw not in heard:
            return not heard
        try:
            # Reading is what tells a notification from the end of the connection.
            for _ in self._raw.notifies(timeout=0):
                pass
        except psycopg.Error:
            self._drop()
        return True

    def close(self) -> None:
        self._drop()
        self._engine.dispose()

    def _connect(self) -> bool:
        try:
            connection = self._engine.raw_connection()
            raw: Any = connection.driver_connection
            connection.detach()  # the pool would want it back
            raw.autocommit = True
            raw.execute(f"LISTEN {CHANNEL}")
        except (SQLAlchemyError, psycopg.Error) as error:  # the probe goes on without it
            logger.warning("not listening, only probing: %s", type(error).__name__)
            self._retry_at = time.monotonic() + _RECONNECT_AFTER
            return False
        self._raw = raw
        return True

    def _drop(self) -> None:
        if self._raw is not None:
            with contextlib.suppress(psycopg.Error):
                self._raw.close()
        self._raw = None
        self._retry_at = time.monotonic() + _RECONNECT_AFTER
