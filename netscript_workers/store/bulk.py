"""Changing many executions at once: a few hundred per transaction, and counted exactly."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import text

from netscript_workers.domain import FINAL_STATUSES, ExecutionStatus
from netscript_workers.errors import PayloadInvalidError
from netscript_workers.store import cancelling, pages, retries
from netscript_workers.store.engine import Store
from netscript_workers.store.queries import ExecutionFilter

CHUNK = 500
_KIND = "b"
_FIRST_ID = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """What became of a bulk change.

    Attributes:
        count: How many were changed; of a dry run, how many would be.
        skipped: How many were named or met the filter, and were not changed: there is none with
            the id, or its state did not allow it when its turn came.
        more: Whether others may meet the filter that were not looked at.
        next_cursor: What goes on after the last one that was.
        dry_run: Nothing was changed.
    """

    count: int
    skipped: int
    more: bool = False
    next_cursor: str | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How far a bulk change goes.

    Attributes:
        limit: So many are looked at, at most; None for all.
        cursor: The `next_cursor` of the call before.
        dry_run: Only count.
    """

    limit: int | None = None
    cursor: str | None = None
    dry_run: bool = False


EVERYTHING = Bounds()


def retry_many(
    store: Store,
    wanted: ExecutionFilter,
    ids: Sequence[str] | None = None,
    bounds: Bounds = EVERYTHING,
) -> Changed:
    """Retry finished executions; ring the bell afterwards.

    What has finished since the call began is not retried, so nothing is retried twice.

    Args:
        store: Where they are.
        wanted: Which ones. Without a status: the failed ones, or of `ids` the cancelled ones too.
        ids: Only of these.
        bounds: How far to go.

    Raises:
        CursorError: The cursor is none of a bulk change.
        PayloadInvalidError: Executions of this status can't be retried.
    """
    if not wanted.statuses and ids is None:
        wanted = replace(wanted, statuses=(ExecutionStatus.FAILED,))
    for status in wanted.statuses:
        if status not in {ExecutionStatus.FAILED, ExecutionStatus.CANCELLED}:
            raise PayloadInvalidError(
                f"Executions that are {status} can't be retried.",
                hint="Use the status failed or cancelled.",
            )
    return _change(store, "netscript_execution_history", wanted, ids, bounds, retries.retry_chunk)


def cancel_many(
    store: Store,
    wanted: ExecutionFilter,
    ids: Sequence[str] | None = None,
    bounds: Bounds = EVERYTHING,
) -> Changed:
    """Cancel unfinished executions; ring the bell afterwards.

    What waits is over at once, what runs is marked: both count.

    Args:
        store: Where they are.
        wanted: Which ones.
        ids: Only of these.
        bounds: How far to go.

    Raises:
        CursorError: The cursor is none of a bulk change.
        PayloadInvalidError: Executions of this status can't be cancelled.
    """
    for status in wanted.statuses:
        if status in FINAL_STATUSES:
            raise PayloadInvalidError(
                f"Executions that are {status} can't be cancelled.",
                hint="Use the status scheduled, blocked, queued or running.",
            )
    return _change(store, "netscript_executions", wanted, ids, bounds, cancelling.cancel_chunk)


def _change(
    store: Store,
    table: str,
    wanted: ExecutionFilter,
    ids: Sequence[str] | None,
    bounds: Bounds,
    change: Callable[[Store, Sequence[str]], int],
) -> Changed:
    asked, bound = wanted.conditions()
    since = "finished_at" if table == "netscript_execution_history" else "created_at"
    made, instants = pages.made_between(wanted.created_after, wanted.created_before)
    return change_in_chunks(
        store,
        table,
        None if wanted.names_nothing() else [*asked.values(), *made, f"{since} <= :began"],
        {**bound, **instants},
        ids,
        bounds,
        lambda found: change(store, found),
    )


def change_in_chunks(
    store: Store,
    table: str,
    conditions: Sequence[str] | None,
    bound: Mapping[str, Any],
    ids: Sequence[str] | None,
    bounds: Bounds,
    change: Callable[[Sequence[str]], int],
) -> Changed:
    """Change the rows that meet the conditions now, in the order of their ids, and count them.

    Args:
        store: Where they are.
        table: Of which; its ids are in `id`.
        conditions: All of which a row must meet; `:began` is the present. None where none can.
        bound: What stands in them.
        ids: Only these; None for all.
        bounds: How far to go.
        change: Changes some in a transaction, and returns how many those were.

    Raises:
        CursorError: The cursor is none of a bulk change.
    """
    after = _FIRST_ID if bounds.cursor is None else pages.read_cursor(bounds.cursor, _KIND)
    named = None if ids is None else sorted(id_ for id_ in set(ids) if id_ > after)
    left = None
    if named is not None and bounds.limit is not None:
        named, left = named[: bounds.limit], named[bounds.limit :]
    met = count = 0
    last, more = after, bool(left)
    chunks = _chunks(store, table, conditions, bound, named, after)
    for chunk in chunks:
        found = chunk
        if bounds.limit is not None and met + len(found) > bounds.limit:
            found, more = found[: bounds.limit - met], True
        met += len(found)
        if found:
            count += len(found) if bounds.dry_run else change(found)
            last = found[-1]
        if more and not left:
            break
    if left and named:
        last = named[-1]
    return Changed(
        count=count,
        skipped=(met if named is None else len(named)) - count,
        more=more,
        next_cursor=pages.write_cursor(last, _KIND) if more else None,
        dry_run=bounds.dry_run,
    )


def _chunks(
    store: Store,
    table: str,
    conditions: Sequence[str] | None,
    bound: Mapping[str, Any],
    ids: Sequence[str] | None,
    after: str,
) -> Iterator[list[str]]:
    """Yield the ids of rows, 500 at a time."""
    if conditions is None:
        return
    conditions = [*conditions, "id > :after"]
    if ids is not None:
        conditions.append(f"id IN {store.dialect.members('ids', 'id')}")
    statement = text(
        f"SELECT id FROM {table} WHERE {' AND '.join(conditions)} ORDER BY id LIMIT :chunk"
    )
    with store.read() as conn:
        bound = {**bound, "began": store.now(conn), "chunk": CHUNK}
    groups = [None] if ids is None else [ids[n : n + CHUNK] for n in range(0, len(ids), CHUNK)]
    for group in groups:
        asked = bound if group is None else {**bound, "ids": json.dumps(group)}
        full = True
        while full:
            with store.read() as conn:
                found = [
                    str(id_) for id_ in conn.execute(statement, {**asked, "after": after}).scalars()
                ]
            full = len(found) == CHUNK
            if found:
                after = found[-1]
                yield found
