"""Idempotency keys: who used a key first, for a window that outlives the work itself."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache
from typing import TypeAlias

from sqlalchemy import Connection, TextClause, text

from netscript_workers.clock import MICROSECONDS
from netscript_workers.errors import StoreUnavailableError
from netscript_workers.store.dialects import Dialect

DEFAULT_WINDOW = 72 * 3600 * MICROSECONDS

Name: TypeAlias = tuple[str, str]


@dataclass(slots=True)
class Key:
    """A key and what would take it.

    Attributes:
        scope: What the key is unique in, such as `job:send-receipt`.
        key: The key itself.
        fingerprint: Of the content; a later use with another one is a conflict.
        ref: The id of the execution or event that takes it.
        until: When it is free again, in microseconds since the epoch; None for after a window.
    """

    scope: str
    key: str
    fingerprint: str
    ref: str
    until: int | None = field(default=None, compare=False)

    @property
    def name(self) -> Name:
        """What identifies it."""
        return (self.scope, self.key)


def take(
    conn: Connection, dialect: Dialect, keys: Collection[Key], *, now: int, window: int
) -> dict[Name, Key]:
    """Take the keys that are free and return the owner of each, old or new.

    Of keys that stand twice in `keys` the first one counts. The rows are inserted in the order of
    their names, so that two transactions that take the same keys meet in one order and can't
    deadlock. A key past its window is free.
    """
    wanted: dict[Name, Key] = {}
    for key in keys:
        wanted.setdefault(key.name, key)
    if not wanted:
        return {}
    for _ in range(3):
        rows = [_row(key, now + window) for _, key in sorted(wanted.items())]
        if dialect.take_keys(conn, rows, now) == len(rows):
            return wanted
        # Whoever was first is asked for only now: the insert has waited for its commit.
        owners = find(conn, dialect, wanted, now=now)
        if len(owners) == len(wanted):
            return owners
    raise StoreUnavailableError("Idempotency keys were pruned while they were being taken.")


def release(conn: Connection, dialect: Dialect, keys: Collection[Key]) -> None:
    """Give back keys that this transaction has taken."""
    rows = json.dumps([{"scope": k.scope, "key": k.key, "ref": k.ref} for k in keys])
    conn.execute(_release(dialect), {"rows": rows})


def _row(key: Key, expires_at: int) -> dict[str, str | int]:
    return {
        "scope": key.scope,
        "key": key.key,
        "fingerprint": key.fingerprint,
        "ref": key.ref,
        "expires_at": expires_at if key.until is None else key.until,
    }


def find(
    conn: Connection, dialect: Dialect, names: Collection[Name], *, now: int
) -> dict[Name, Key]:
    """Return the owners of those keys that are taken and within their window."""
    rows = json.dumps([{"scope": scope, "key": key} for scope, key in names])
    found = conn.execute(_find(dialect), {"rows": rows, "now": now})
    return {(row.scope, row.key): Key(*row) for row in found}


def prune(conn: Connection, dialect: Dialect, *, now: int, limit: int) -> int:
    """Forget up to `limit` keys that are past their window."""
    return conn.execute(_prune(dialect), {"now": now, "limit": limit}).rowcount


@cache
def _find(dialect: Dialect) -> TextClause:
    source = dialect.records(scope="text", key="text")
    return text(
        f"""
        SELECT k.scope, k.key, k.fingerprint, CAST(k.ref AS text) AS ref
        FROM {source} JOIN netscript_idempotency_keys k ON k.scope = r.scope AND k.key = r.key
        WHERE k.expires_at > :now
        """
    )


@cache
def _release(dialect: Dialect) -> TextClause:
    source = dialect.records(scope="text", key="text", ref="id")
    return text(
        f"""
        DELETE FROM netscript_idempotency_keys WHERE (scope, key, ref) IN (
            SELECT r.scope, r.key, r.ref FROM {source})
        """
    )


@cache
def _prune(dialect: Dialect) -> TextClause:
    return text(
        f"""
        DELETE FROM netscript_idempotency_keys WHERE (scope, key) IN (
            SELECT scope, key FROM netscript_idempotency_keys WHERE expires_at <= :now
            ORDER BY expires_at LIMIT :limit {dialect.skip_locked})
        """
    )
