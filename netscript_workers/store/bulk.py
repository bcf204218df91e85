"""Changing many executions at once: a few hundred per transaction, and counted exactly."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import text

from netscript_workers.domain import FINAL_STATUSES, ExecutionStatus
from netscript_workers.errors import PayloadInvalidError
from netscript_workers.store import cancelling, retries
from netscript_workers.store.engine import Store
from netscript_workers.store.queries import ExecutionFilter

CHUNK = 500
_FIRST_ID = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """What became of a bulk change.

    Attributes:
        count: How many executions were changed.
        skipped: How many were named or met the filter, and were not changed: there is none with
            the id, or its state did not allow it when its turn came.
    """

    count: int
    skipped: int


def retry_many(store: Store, wanted: ExecutionFilter, ids: Sequence[str] | None = None) -> Changed:
    """Retry finished executions; ring the bell afterwards.

    What has finished since the call began is not retried, so nothing is retried twice.

    Args:
        store: Where they are.
        wanted: Which ones. Without a status: the failed ones, or of `ids` the cancelled ones too.
        ids: Only of these.

    Raises:
        PayloadInvalidError: Executions of this status can't be retried.
    """
    if wanted.status is None and ids is None:
        wanted = replace(wanted, status=ExecutionStatus.FAILED)
    if wanted.status not in {None, ExecutionStatus.FAILED, ExecutionStatus.CANCELLED}:
        raise PayloadInvalidError(
            f"Executions that are {wanted.status} can't be retried.",
            hint="Use the status failed or cancelled.",
        )
    return _change(store, "netscript_execution_history", wanted, ids, retries.retry_chunk)


def cancel_many(store: Store, wanted: ExecutionFilter, ids: Sequence[str] | None = None) -> Changed:
    """Cancel unfinished executions; ring the bell afterwards.

    What waits is over at once, what runs is marked: both count.

    Args:
        store: Where they are.
        wanted: Which ones.
        ids: Only of these.

    Raises:
        PayloadInvalidError: Executions of this status can't be cancelled.
    """
    if wanted.status in FINAL_STATUSES:
        raise PayloadInvalidError(
            f"Executions that are {wanted.status} can't be cancelled.",
            hint="Use the status scheduled, blocked, queued or running.",
        )
    return _change(store, "netscript_executions", wanted, ids, cancelling.cancel_chunk)


def _change(
    store: Store,
    table: str,
    wanted: ExecutionFilter,
    ids: Sequence[str] | None,
    change: Callable[[Store, Sequence[str]], int],
) -> Changed:
    named = None if ids is None else sorted(set(ids))
    met = count = 0
    for found in _chunks(store, table, wanted, named):
        met += len(found)
        count += change(store, found)
    return Changed(count=count, skipped=(met if named is None else len(named)) - count)


def _chunks(
    store: Store, table: str, wanted: ExecutionFilter, ids: Sequence[str] | None
) -> Iterator[list[str]]:
    """Yield the ids that meet the filter now, in their order."""
    if wanted.names_nothing():
        return iter(())
    conditions, bound = wanted.conditions()
    since = "finished_at" if table == "netscript_execution_history" else "created_at"
    return ids_in_chunks(store, table, [*conditions, f"{since} <= :began"], bound, ids)


def ids_in_chunks(
    store: Store,
    table: str,
    conditions: Sequence[str],
    bound: Mapping[str, Any],
    ids: Sequence[str] | None,
) -> Iterator[list[str]]:
    """Yield the ids of the rows that meet the conditions now, in their order, 500 at a time.

    Args:
        store: Where they are.
        table: Of which; its ids are in `id`.
        conditions: All of which a row must meet; `:began` is the present.
        bound: What stands in them.
        ids: Only these; None for all.
    """
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
        after, full = _FIRST_ID, True
        while full:
            with store.read() as conn:
                found = [
                    str(id_) for id_ in conn.execute(statement, {**asked, "after": after}).scalars()
                ]
            full = len(found) == CHUNK
            if found:
                after = found[-1]
                yield found
