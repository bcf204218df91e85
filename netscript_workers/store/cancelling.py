"""Cancelling: what waits is over at once, what runs is asked to end by the worker that has it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Connection, TextClause, text

from netscript_workers.domain import FINAL_STATUSES
from netscript_workers.errors import ExecutionNotFoundError, StateError, StoreUnavailableError
from netscript_workers.ids import is_id
from netscript_workers.store import changes, finishing
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.engine import BRIEF_SECONDS, Store
from netscript_workers.store.finishing import WAITING_COLUMNS

# How long a bulk waits for each one that is held, once the first was held for too long.
_NEXT_SECONDS = 0.05


def cancel(store: Store, execution_id: str) -> None:
    """Cancel an execution, wherever it stands; ring the bell afterwards.

    One that waits is `cancelled` when this returns, and its concurrency key is free. One that runs
    is marked: its worker ends it, and it is `cancelled` when it has stopped. A handler that comes
    to its end before its worker has heard of it has done so.

    Raises:
        ExecutionNotFoundError: There is none with this id.
        StateError: It is finished.
        StoreUnavailableError: A transaction, perhaps a user's own, holds it for over a second.
    """
    if not is_id(execution_id):
        raise ExecutionNotFoundError(f"There is no execution {execution_id[:100]!r}.")
    # It may go from one table to the other while we look.
    while True:
        with store.begin_briefly() as conn:
            row = conn.execute(_find(store.dialect), {"id": execution_id}).one_or_none()
            if row is not None:
                _cancel(conn, store, [row])
                return
            status = conn.execute(_STATUS, {"id": execution_id}).scalar()
        if status is None:
            raise ExecutionNotFoundError(f"There is no execution {execution_id}.")
        if status in FINAL_STATUSES:
            raise StateError(f"Execution {execution_id} is {status}, so it can't be cancelled.")


def cancel_chunk(store: Store, ids: Sequence[str]) -> int:
    """Cancel some executions in a few short transactions; return how many were changed.

    It never waits for a row while it has others: those that somebody is at go one by one. What is
    held for longer, as by a user's own transaction, is left alone.
    """
    dialect = store.dialect
    left, changed = set(ids), 0
    # What holds a key or a place apart from the rest: a tick that lets somebody in has locked the
    # key, and waits for the row of the one that it lets in.
    for holding in (False, True):
        with store.begin() as conn:
            bound = {"ids": json.dumps(sorted(left)), "holding": holding}
            rows = conn.execute(_find_some(dialect), bound).all()
            changed += _cancel(conn, store, rows)
        left -= {str(row.id) for row in rows}
    patience = BRIEF_SECONDS
    for execution_id in sorted(left):
        try:
            with store.begin_briefly(patience) as conn:
                rows = conn.execute(_find(dialect), {"id": execution_id}).all()
                number = _cancel(conn, store, rows)
        except StoreUnavailableError:
            patience = _NEXT_SECONDS  # it may hold all the others too
        else:
            changed += number
    return changed


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker is to end.

    Attributes:
        ends: Executions, with the token of each one's claim.
        leave: Whether it is to leave itself, once it has finished what runs.
    """

    ends: dict[str, int]
    leave: bool


def orders(conn: Connection, worker_id: str) -> Orders:
    """Return what a worker is to end."""
    rows = {str(row.id): row.token for row in conn.execute(_ORDERS, {"worker": worker_id})}
    leave = worker_id in rows
    rows.pop(worker_id, None)
    return Orders(rows, leave)


def cancel_given_back(
    conn: Connection, dialect: Dialect, ids: Sequence[str], now: int
) -> list[tuple[str, str]]:
    """Cancel what its worker has given back, or lost, before it could end it.

    Args:
        conn: The transaction that has given it back, so that it waits.
        dialect: The database's own ways.
        ids: Executions that somebody wants to end.
        now: The database's present.

    Returns:
        What they are now, and what could come in their place.
    """
    if not ids:
        return []
    rows = conn.execute(_given_back(dialect), {"ids": json.dumps(sorted(ids))}).all()
    finished = finishing.cancel_waiting(conn, dialect, rows, now)
    return finished.changed + finishing.let_in(conn, dialect, finished, now)


def _cancel(conn: Connection, store: Store, rows: Sequence[Any]) -> int:
    """Cancel locked rows; return how many were changed."""
    now, dialect = store.now(conn), store.dialect
    running = [str(r.id) for r in rows if r.status == "running" and not r.cancel_requested]
    if running:
        conn.execute(_request(dialect), {"ids": json.dumps(running), "yes": True})
    waiting = [row for row in rows if row.status != "running"]
    finished = finishing.cancel_waiting(conn, dialect, waiting, now)
    changed = [(id_, "running") for id_ in running] + finished.changed
    changes.record(conn, dialect, changed + finishing.let_in(conn, dialect, finished, now), now)
    return len(changed)


_STATUS = text(
    """
    SELECT status FROM netscript_executions WHERE id = :id
    UNION ALL SELECT status FROM netscript_execution_history WHERE id = :id
    """
)
_ORDERS = text(
    """
    SELECT id, token FROM netscript_executions
    WHERE cancel_requested AND worker_id = :worker AND status = 'running'
    UNION ALL
    SELECT id, NULL FROM netscript_workers WHERE id = :worker AND drain_requested
    """
)


@cache
def _find(dialect: Dialect) -> TextClause:
    return text(
        f"SELECT {WAITING_COLUMNS} FROM netscript_executions WHERE id = :id {dialect.for_update}"
    )


@cache
def _find_some(dialect: Dialect) -> TextClause:
    return text(
        f"""
        SELECT {WAITING_COLUMNS} FROM netscript_executions
        WHERE id IN {dialect.members("ids", "id")}
          AND (status <> 'running' AND (holds_key OR holds_job)) = CAST(:holding AS boolean)
        ORDER BY id {dialect.skip_locked}
        """
    )


@cache
def _given_back(dialect: Dialect) -> TextClause:
    return text(
        f"""
        SELECT {WAITING_COLUMNS} FROM netscript_executions
        WHERE id IN {dialect.members("ids", "id")} AND status <> 'running' ORDER BY id
        """
    )


@cache
def _request(dialect: Dialect) -> TextClause:
    return text(
        f"""
        UPDATE netscript_executions SET cancel_requested = :yes
        WHERE id IN {dialect.members("ids", "id")}
        """
    )
