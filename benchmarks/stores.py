"""A fresh store for every visit of a contestant, and none left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Literal, TypeAlias

import psycopg

Kind: TypeAlias = Literal["postgres", "sqlite", "redis"]

FAMILIES: dict[Kind, str] = {"postgres": "pg", "sqlite": "sqlite", "redis": "redis"}

ROOT = Path(__file__).parents[1]
HOME = ROOT / ".bench"
POSTGRES = os.environ.get("BENCH_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres")
# A database of its own, so that nothing else is flushed.
REDIS = os.environ.get("BENCH_REDIS", "redis://127.0.0.1:6379/13")


def missing() -> dict[Kind, str]:
    """Return the servers that are not there, and why."""
    found: dict[Kind, str] = {}
    try:
        psycopg.connect(POSTGRES, connect_timeout=3).close()
    except psycopg.Error as error:
        found["postgres"] = f"{POSTGRES} does not answer: {error}"
    try:
        _redis("PING")
    except OSError as error:
        found["redis"] = f"{REDIS} does not answer: {error}"
    return found


@contextlib.contextmanager
def fresh(kind: Kind, name: str) -> Generator[str]:
    """Make an empty store and yield its URL."""
    if kind == "postgres":
        with _postgres(name) as url:
            yield url
    elif kind == "sqlite":
        place = HOME / "data" / f"{name}-{os.getpid()}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        try:
            yield f"sqlite:///{place / 'bench.db'}"
        finally:
            shutil.rmtree(place, ignore_errors=True)
    else:
        _redis("FLUSHDB")
        try:
            yield REDIS
        finally:
            _redis("FLUSHDB")


@contextlib.contextmanager
def _postgres(name: str) -> Generator[str]:
    database = f"netscript_bench_{name.replace('-', '_')}_{os.getpid()}"
    with psycopg.connect(POSTGRES, autocommit=True) as conn:
        conn.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)'.encode())
        conn.execute(f'CREATE DATABASE "{database}"'.encode())
        # What the last contestant left to write is written now, not on the next one's time.
        conn.execute("CHECKPOINT")
    try:
        yield f"{POSTGRES.rpartition('/')[0]}/{database}"
    finally:
        with psycopg.connect(POSTGRES, autocommit=True) as conn:
            conn.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)'.encode())


def transactions(url: str) -> int:
    """Return how many transactions a database has seen; asked from another one."""
    database = url.rpartition("/")[2]
    with psycopg.connect(POSTGRES, autocommit=True) as conn:
        row = conn.execute(
            "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s",
            (database,),
        ).fetchone()
    return int(row[0]) if row else 0


def _redis(command: str) -> str:
    address, _, database = REDIS.removeprefix("redis://").partition("/")
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port or 6379)), timeout=3) as conn:
        conn.sendall(f"SELECT {database or 0}\r\n{command}\r\nQUIT\r\n".encode())
        answer = b""
        while chunk := conn.recv(1024):
            answer += chunk
    if b"-" in answer[:1] or answer.count(b"+") < 3:
        raise OSError(answer.decode(errors="replace"))
    return answer.decode()
