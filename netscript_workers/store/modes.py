"""Idempotency modes: what becomes of an enqueue whose key stands for an earlier execution.

`once` is for `outbox.store` alone; this room is entered only where another mode is named. The rows
of the keys are locked by then, so no two enqueues decide about one key at a time. What an earlier
execution does meanwhile is settled by its own row: as long as it has not been claimed it is locked
too, and claims pass it by until this transaction has ended.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, TextClause, text

from netscript_workers.domain import Enqueued, ExecutionStatus, NewExecution, Reason
from netscript_workers.errors import StoreUnavailableError
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.idempotency import Key, Name

_LOCKING = {"replace", "rerun_if_running"}


@dataclass(slots=True)
class Decisions:
    """What becomes of executions whose keys some mode but `once` is about.

    Attributes:
        names: The keys that were decided about.
        answers: For the ids of those that are not stored.
        contents: By the id of one that is, what it is stored as.
        changed: Earlier executions that were replaced, and what they are now.
        keys: Concurrency keys whose next one was locked here: somebody may have passed it by.
        jobs: Jobs at whose gate somebody was locked here.
    """

    names: set[Name] = field(default_factory=set[Name])
    answers: dict[str, Enqueued] = field(default_factory=dict[str, Enqueued])
    contents: dict[str, NewExecution] = field(default_factory=dict[str, NewExecution])
    changed: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    keys: set[str] = field(default_factory=set[str])
    jobs: set[str] = field(default_factory=set[str])


def due_at(new: NewExecution, now: int, since: int) -> int:
    """Return when an execution is due that has waited, in one form or another, since then."""
    due = now + new.delay if new.run_at is None else new.run_at
    if new.max_wait is not None:
        due = min(due, since + new.max_wait)
    return max(due, now)


def keep_until(new: NewExecution, now: int, window: int) -> int:
    """Return when the idempotency key of an execution is free, come what may.

    What a mode but `once` promises of one that waits must hold until it is due, at least.
    """
    return window + (now if new.idempotency == "once" else due_at(new, now, now))


def decide(
    conn: Connection,
    dialect: Dialect,
    arriving: Sequence[NewExecution],
    owners: dict[Name, Key],
    *,
    now: int,
    window: int,
    step: int,
) -> Decisions:
    """Decide, one after the other, what becomes of executions whose keys are taken.

    Args:
        conn: The transaction that took the keys.
        dialect: The database's own ways.
        arriving: Executions with idempotency keys, in their order.
        owners: What each key stands for; brought up to date.
        now: The database's present.
        window: How long an idempotency key is kept, in microseconds.
        step: What one point of priority is worth, in microseconds.
    """
    decided = Decisions(names={_name(new) for new in arriving if new.idempotency != "once"})
    about = [new for new in arriving if _name(new) in decided.names]
    before = {name: owners[name] for name in decided.names}
    scene = _look(conn, dialect, about, before)
    for row in scene.waiting.values():
        if row.status == ExecutionStatus.BLOCKED:
            decided.keys |= {row.concurrency_key} - {None}
            decided.jobs |= {row.job_id} if row.wants_job else set()
    for new in about:
        owner = owners[_name(new)]
        if owner.ref == new.id:
            scene.here[new.id] = new
        elif not scene.collapses(new, owner):
            owners[_name(new)] = Key(*_name(new), new.fingerprint, new.id)
            scene.here[new.id] = new
        elif new.idempotency != "replace":
            conflict = owner.fingerprint != new.fingerprint
            decided.answers[new.id] = Enqueued(owner.ref, duplicate=True, conflict=conflict)
        else:
            scene.replace(owner.ref, new, now)
            owners[_name(new)] = Key(*_name(new), new.fingerprint, owner.ref)
            decided.answers[new.id] = Enqueued(owner.ref, duplicate=True)
    decided.contents = {id_: new for id_, new in scene.here.items() if id_ in scene.replaced}
    rows = [
        _replaced(scene.waiting[id_], new, now, step)
        for id_, new in sorted(scene.replaced.items())
        if id_ in scene.waiting
    ]
    if rows:
        bound = {"rows": json.dumps(rows)}
        decided.changed = [(str(r.id), r.status) for r in conn.execute(_replace(dialect), bound)]
    _hand_over(conn, dialect, before, owners, scene, now=now, window=window)
    return decided


@dataclass(slots=True)
class _Scene:
    """Who stands behind the keys: earlier executions, and those of this very call.

    Attributes:
        waiting: Earlier ones that nobody has claimed; locked.
        live: Earlier ones that are not finished, where that was asked.
        here: Those that this call stores.
        replaced: What came last for one that is replaced.
    """

    waiting: dict[str, Row[Any]]
    live: set[str]
    here: dict[str, NewExecution] = field(default_factory=dict[str, NewExecution])
    replaced: dict[str, NewExecution] = field(default_factory=dict[str, NewExecution])

    def collapses(self, new: NewExecution, owner: Key) -> bool:
        """Tell whether it creates nothing, since the owner of its key does instead."""
        if new.idempotency == "once" or owner.ref in self.here:
            return True
        if new.idempotency == "while_pending":
            return owner.ref in self.live
        return owner.ref in self.waiting

    def replace(self, id_: str, new: NewExecution, now: int) -> None:
        """Have what is to be run next be this."""
        self.replaced[id_] = new
        if id_ in self.here:
            self.here[id_] = replace(
                self.here[id_],
                payload=new.payload,
                fingerprint=new.fingerprint,
                priority=new.priority,
                run_at=due_at(new, now, now),
                max_wait=new.max_wait,
            )

    def keep_until(self, id_: str, now: int, window: int) -> int:
        """Return when the key of one that was stored or replaced here is free."""
        return keep_until(self.here.get(id_) or self.replaced[id_], now, window)


def _name(new: NewExecution) -> Name:
    return (f"job:{new.job_id}", new.idempotency_key or "")


def _look(
    conn: Connection, dialect: Dialect, about: Sequence[NewExecution], before: dict[Name, Key]
) -> _Scene:
    ours = {new.id for new in about}
    modes: defaultdict[str, set[str]] = defaultdict(set)
    for new in about:
        if (ref := before[_name(new)].ref) not in ours:
            modes[ref].add(new.idempotency)
    # One that has been claimed is left alone: its worker must not wait for this transaction.
    to_lock = sorted(ref for ref, named in modes.items() if named & _LOCKING)
    to_see = sorted(ref for ref, named in modes.items() if "while_pending" in named)
    waiting, live = {}, set[str]()
    if to_lock:
        locked = conn.execute(_lock_waiting(dialect), {"ids": json.dumps(to_lock)})
        waiting = {str(row.id): row for row in locked}
    if to_see:
        seen = conn.execute(_live(dialect), {"ids": json.dumps(to_see)})
        live = {str(id_) for id_ in seen.scalars()}
    return _Scene(waiting, live)


def _replaced(row: Row[Any], new: NewExecution, now: int, step: int) -> dict[str, Any]:
    """Return what becomes of one that waits; it keeps the turn that it was given already."""
    due = due_at(new, now, row.created_at)
    has_turn = row.holds_key or row.holds_job
    if has_turn or (due <= now and row.status != ExecutionStatus.SCHEDULED):
        status, reason, due, again = row.status, row.reason, row.run_at, row.wants_job
    else:
        status, reason, again = ExecutionStatus.SCHEDULED.value, Reason.DELAY.value, False
    return {
        "id": str(row.id),
        "payload": new.payload,
        "fingerprint": new.fingerprint,
        "priority": new.priority,
        "status": status,
        "reason": reason,
        "run_at": due,
        "sort_at": due - new.priority * step,
        "wants_job": bool(again),
        "parked": bool(row.parked) and status == ExecutionStatus.QUEUED,
    }


def _hand_over(
    conn: Connection,
    dialect: Dialect,
    before: dict[Name, Key],
    owners: dict[Name, Key],
    scene: _Scene,
    *,
    now: int,
    window: int,
) -> None:
    """Have the keys stand for their new owners, if they still stand for the old ones."""
    rows = [
        {
            "scope": owner.scope,
            "key": owner.key,
            "held": before[name].ref,
            "ref": owner.ref,
            "fingerprint": owner.fingerprint,
            "expires_at": scene.keep_until(owner.ref, now, window),
        }
        for name in sorted(before)
        if (owner := owners[name]) != before[name]
    ]
    if rows and conn.execute(_take_over(dialect), {"rows": json.dumps(rows)}).rowcount != len(rows):
        raise StoreUnavailableError("Somebody else has taken an idempotency key.")


@cache
def _lock_waiting(dialect: Dialect) -> TextClause:
    return text(
        f"""
        SELECT id, job_id, status, reason, run_at, created_at, concurrency_key, holds_key,
            wants_job, holds_job, parked
        FROM netscript_executions
        WHERE id IN {dialect.members("ids", "id")} AND token IS NULL AND NOT cancel_requested
        ORDER BY id {dialect.for_update}
        """
    )


@cache
def _live(dialect: Dialect) -> TextClause:
    return text(f"SELECT id FROM netscript_executions WHERE id IN {dialect.members('ids', 'id')}")


@cache
def _replace(dialect: Dialect) -> TextClause:
    columns = {
        "payload": "text",
        "fingerprint": "text",
        "priority": "int",
        "status": "text",
        "reason": "text",
        "run_at": "bigint",
        "sort_at": "bigint",
        "wants_job": "bool",
        "parked": "bool",
    }
    assigned = ", ".join(f"{name} = r.{name}" for name in columns)
    return text(
        f"""
        UPDATE netscript_executions SET {assigned} FROM {dialect.records(id="id", **columns)}
        WHERE netscript_executions.id = r.id
        RETURNING netscript_executions.id, netscript_executions.status
        """
    )


@cache
def _take_over(dialect: Dialect) -> TextClause:
    source = dialect.records(
        scope="text", key="text", held="id", ref="id", fingerprint="text", expires_at="bigint"
    )
    return text(
        f"""
        UPDATE netscript_idempotency_keys
        SET ref = r.ref, fingerprint = r.fingerprint, expires_at = r.expires_at,
            handed_on = handed_on OR r.ref <> r.held
        FROM {source}
        WHERE netscript_idempotency_keys.scope = r.scope
          AND netscript_idempotency_keys.key = r.key AND netscript_idempotency_keys.ref = r.held
        """
    )
