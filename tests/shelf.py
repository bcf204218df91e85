"""Databases that one test leaves to the next: to make one takes longer than most tests do."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any

import psycopg
from sqlalchemy import make_url

from tests.servers import new_database

# What a test has blown up is not worth the cleaning; nor may the next one find it slow.
_MOST_BYTES = 512 * 1024

_LEAVE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = %s AND pid <> pg_backend_pid()
"""
_PRESENT = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
_SHAPE = """
    SELECT 'relation', c.relname::text, coalesce(c.reloptions::text, '') FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'setting', s.setdatabase::text, s.setconfig::text FROM pg_db_role_setting s
    JOIN pg_database d ON d.oid = s.setdatabase WHERE d.datname = current_database()
    UNION ALL
    SELECT 'other', p.proname::text, '' FROM pg_proc p
    WHERE p.pronamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'trigger', t.tgname::text, '' FROM pg_trigger t WHERE NOT t.tgisinternal
    UNION ALL
    SELECT 'schema', n.nspname::text, '' FROM pg_namespace n
    WHERE n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
    UNION ALL
    SELECT 'column', a.attrelid::regclass::text, count(*)::text FROM pg_attribute a
    JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0 GROUP BY a.attrelid
"""
_SIZE = """
    SELECT coalesce(sum(pg_relation_size(c.oid)), 0) FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace
"""
_TABLES = """
    SELECT relname FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> %s
"""
_SEQUENCES = """
    SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'S'
"""


class Shelf:
    """Keeps migrated PostgreSQL databases for the next test. One process uses it."""

    def __init__(self, admin: str, template: str, *, version_table: str) -> None:
        """Copy databases from a template, whose version table is left as it is."""
        self._admin, self._template = admin, template
        self._version_table = version_table
        self._spare: list[str] = []
        self._all = ExitStack()
        self._shape: set[tuple[Any, ...]] = set()
        self._size = 0

    def __enter__(self) -> Shelf:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Drop every database."""
        self._all.close()

    def take(self) -> str:
        """Return the URL of a database that is as new."""
        if self._spare:
            return self._spare.pop()
        url = self._all.enter_context(new_database(self._admin, template=self._template))
        if not self._shape:
            with psycopg.connect(url, autocommit=True) as conn:
                self._shape, self._size = _shape(conn), _size(conn)
        return url

    def give_back(self, url: str) -> None:
        """Keep a database for the next test, unless it isn't what it was."""
        with suppress(psycopg.Error):  # a test may have left it in any state
            self._give_back(url)

    def _give_back(self, url: str) -> None:
        name = make_url(url).database
        with psycopg.connect(url, autocommit=True) as conn:
            for _ in range(100):
                conn.execute(_LEAVE, (name,))
                if conn.execute(_PRESENT, (name,)).fetchone() == (0,):
                    break
            else:
                return
            if _shape(conn) != self._shape or _size(conn) > self._size + _MOST_BYTES:
                return
            tables = [row[0] for row in conn.execute(_TABLES, (self._version_table,))]
            sequences = [row[0] for row in conn.execute(_SEQUENCES)]
            clean = [f'DELETE FROM "{table}"' for table in tables]
            clean += [f'ALTER SEQUENCE "{one}" RESTART' for one in sequences]
            conn.execute(";".join(clean).encode())
        self._spare.append(url)


def _shape(conn: psycopg.Connection[Any]) -> set[tuple[Any, ...]]:
    return set(conn.execute(_SHAPE.encode()).fetchall())


def _size(conn: psycopg.Connection[Any]) -> int:
    found = conn.execute(_SIZE).fetchone()
    return int(found[0]) if found is not None else 0
