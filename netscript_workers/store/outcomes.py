"""Storing how attempts ended, each under the token of its claim."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, TextClause, text

from netscript_workers.clock import MAX_MICROS, MICROSECONDS
from netscript_workers.domain import (
    ClaimedExecution,
    Death,
    ExecutionStatus,
    Outcome,
    Reason,
    Verdict,
)
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.entrance import Asked
from netscript_workers.store.finishing import finish_running
from netscript_workers.store.gates import waits_for
from netscript_workers.store.outbox import PRIORITY_STEP, Submission, store
from netscript_workers.store.schema import attempts

_NO_DEATH = Death(exit_code=None, signal=None, peak_memory=None)
_FINAL = {
    Verdict.COMPLETE: ExecutionStatus.COMPLETED.value,
    Verdict.FAIL: ExecutionStatus.FAILED.value,
    Verdict.CANCEL: ExecutionStatus.CANCELLED.value,
}


class Settled(NamedTuple):
    """One attempt's end and the claim that it belongs to."""

    claim: ClaimedExecution
    outcome: Outcome


@dataclass(slots=True)
class Stored:
    """What became of a batch of ends.

    Attributes:
        accepted: The ids whose token still held.
        changed: Their new statuses.
        asked: The concurrency keys and the places that were given back, and what their actions, or
            those that run again, ask for.
        next_due: When the earliest of those that wait is due.
        ready: Whether any of them, or of their actions, can run at once.
        counted: Whether a batch has a note that one of its executions is final.
    """

    accepted: set[str] = field(default_factory=set[str])
    changed: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    asked: Asked = field(default_factory=Asked)
    next_due: int | None = None
    ready: bool = False
    counted: bool = False


def settle(
    conn: Connection,
    dialect: Dialect,
    ended: Sequence[Settled],
    *,
    strict: Mapping[str, bool],
    worker_id: str,
    now: int,
    window: int,
) -> Stored:
    """Store how these attempts ended.

    A finished execution moves to history. One that runs again stays, as `scheduled`, `queued` or
    `blocked`, unless somebody wants it to end: then it is `cancelled`. What carries another token
    than the row is refused: somebody else has the execution, or had it. The actions of a completed
    execution are stored with it.

    Args:
        conn: The tick's transaction.
        dialect: The database's own ways.
        ended: The ends, of different executions.
        strict: For the ids whose job keeps the concurrency key until the execution is finished.
        worker_id: Who ran them.
        now: The database's present.
        window: How long the idempotency keys of actions are kept, in microseconds.
    """
    result = Stored()
    final = [end for end in ended if end.outcome.verdict in _FINAL]
    again = [end for end in ended if end.outcome.verdict not in _FINAL]
    if final:
        _finish(conn, dialect, final, now, result)
    if again:
        _run_again(conn, dialect, again, strict, now, result)
    accepted = [end for end in ended if end.claim.id in result.accepted]
    _record_attempts(conn, dialect, accepted, worker_id, now)
    actions = tuple(new for end in accepted for new in end.outcome.actions)
    groups = tuple(batch for end in accepted for batch in end.outcome.batches)
    if actions or groups:
        work = Submission(executions=actions, batches=groups)
        store(conn, dialect, [work], now=now, window=window)
        result.asked.keys |= {key for new in actions if (key := new.concurrency_key) is not None}
        result.asked.jobs |= {new.job_id for new in actions if new.limited}
        result.ready = True
    return result


def refused(outcome: Outcome, reason: str) -> Outcome:
    """Return what is stored of an end that can't be stored as it is, and for which reason."""
    return Outcome(
        execution_id=outcome.execution_id,
        token=outcome.token,
        verdict=Verdict.FAIL,
        reason=Reason.RESULT_REFUSED,
        failure=Reason.RESULT_REFUSED,
        error=f"The database refused the result or one of its actions ({reason}).",
    )


def _finish(
    conn: Connection, dialect: Dialect, ended: Sequence[Settled], now: int, result: Stored
) -> None:
    rows = [_final_row(end, _FINAL[end.outcome.verdict]) for end in sorted(ended, key=_by_id)]
    _move(conn, dialect, rows, ended, now, result)


def _move(
    conn: Connection,
    dialect: Dialect,
    rows: Sequence[dict[str, Any]],
    ended: Sequence[Settled],
    now: int,
    result: Stored,
) -> None:
    claims = {end.claim.id: end.claim for end in ended}
    finished = finish_running(conn, dialect, rows, claims, now)
    result.changed += finished.changed
    result.asked.released_keys += finished.keys
    result.asked.released_jobs += finished.jobs
    result.counted |= finished.counted
    result.accepted.update(id_ for id_, _ in finished.changed)


def _final_row(end: Settled, status: str) -> dict[str, Any]:
    outcome, claim = end.outcome, end.claim
    row = {"id": claim.id, "token": claim.token, "status": status}
    # What is left out is NULL, and to write it takes longer than to look.
    if outcome.result is not None:
        row["result"] = outcome.result
    if outcome.reason is not None:
        row["reason"] = outcome.reason.value
    if outcome.error is not None:
        row["error"] = outcome.error
    return row


def _run_again(
    conn: Connection,
    dialect: Dialect,
    ended: Sequence[Settled],
    strict: Mapping[str, bool],
    now: int,
    result: Stored,
) -> None:
    rows = [_again_row(end, strict, now) for end in sorted(ended, key=_by_id)]
    bound = {"rows": json.dumps(rows), "step": PRIORITY_STEP}
    accepted = {str(id_) for id_ in conn.execute(_to_live(dialect), bound).scalars()}
    unwanted = [end for end in ended if end.claim.id not in accepted]
    if unwanted:
        _cancel(conn, dialect, unwanted, now, result)
    claims = {end.claim.id: end.claim for end in ended}
    for row in rows:
        if row["id"] not in accepted:
            continue
        result.changed.append((row["id"], row["status"]))
        claim = claims[row["id"]]
        if claim.concurrency_key is not None and not row["holds_key"]:
            result.asked.released_keys[claim.concurrency_key] += 1
        if claim.holds_job and not row["holds_job"]:
            result.asked.released_jobs[claim.job_id] += 1
        if row["status"] == ExecutionStatus.SCHEDULED:
            result.next_due = min(row["run_at"], result.next_due or row["run_at"])
        elif row["status"] == ExecutionStatus.QUEUED:
            result.ready = True
    result.accepted |= accepted


def _cancel(
    conn: Connection, dialect: Dialect, ended: Sequence[Settled], now: int, result: Stored
) -> None:
    """Finish what would run again, although somebody wants it to end; what is stale stays so."""
    rows = [
        {**_final_row(end, ExecutionStatus.CANCELLED.value), "reason": Reason.CANCELLED.value}
        for end in sorted(ended, key=_by_id)
    ]
    _move(conn, dialect, rows, ended, now, result)


def _again_row(end: Settled, strict: Mapping[str, bool], now: int) -> dict[str, Any]:
    outcome, claim = end.outcome, end.claim
    run_at = min(now + round(outcome.delay * MICROSECONDS), MAX_MICROS)
    keyed = claim.concurrency_key is not None
    # A drained execution keeps its key and its place, for it has not had its turn.
    drained = outcome.verdict is Verdict.RELEASE
    keeps = keyed and (drained or strict.get(claim.job_id, False))
    status, reason = ExecutionStatus.SCHEDULED, outcome.reason
    wants_job = False
    if run_at <= now and keyed and not keeps:
        status, reason = ExecutionStatus.BLOCKED, Reason.CONCURRENCY_KEY
    elif run_at <= now and claim.holds_job and not drained:
        status, wants_job = ExecutionStatus.BLOCKED, True
    elif run_at <= now:
        status = ExecutionStatus.QUEUED
    return {
        "id": claim.id,
        "token": claim.token,
        "status": status.value,
        # One that has not had its turn goes back to where it waited.
        "run_at": None if outcome.verdict is Verdict.RELEASE else run_at,
        "attempt": claim.attempt + (1 if outcome.verdict is Verdict.RETRY else 0),
        "reason": None if reason is None else reason.value,
        "error": outcome.error,
        "holds_key": keeps,
        "holds_job": claim.holds_job and drained,
        "wants_job": wants_job,
    }


def _record_attempts(
    conn: Connection, dialect: Dialect, ended: Sequence[Settled], worker_id: str, now: int
) -> None:
    rows = [
        {
            "execution_id": end.claim.id,
            "token": end.claim.token,
            "attempt": end.claim.attempt,
            "outcome": (end.outcome.failure or Reason.ERROR).value,
            "error": end.outcome.error,
            "detail": end.outcome.detail,
            **_death(end.outcome),
            "worker_id": worker_id,
            "started_at": end.claim.started_at,
            "finished_at": now,
        }
        for end in ended
        if end.outcome.failure is not None
    ]
    if rows:
        dialect.insert(conn, attempts, rows)


def _death(outcome: Outcome) -> dict[str, int | None]:
    death = outcome.death or _NO_DEATH
    return {
        "exit_code": death.exit_code,
        "signal": death.signal,
        "peak_memory": death.peak_memory,
    }


def _by_id(end: Settled) -> str:
    return end.claim.id


@cache
def _to_live(dialect: Dialect) -> TextClause:
    source = dialect.records(
        id="id",
        token="bigint",
        status="text",
        run_at="bigint",
        attempt="int",
        reason="text",
        error="text",
        holds_key="bool",
        holds_job="bool",
        wants_job="bool",
    )
    return text(
        f"""
        UPDATE netscript_executions
        SET status = r.status, run_at = coalesce(r.run_at, netscript_executions.run_at),
            attempt = r.attempt,
            reason = CASE WHEN r.wants_job
                     THEN {waits_for("netscript_executions.job_id")} ELSE r.reason END,
            error = r.error, holds_key = r.holds_key, holds_job = r.holds_job,
            wants_job = r.wants_job, worker_id = NULL,
            sort_at = CASE WHEN r.run_at IS NULL THEN netscript_executions.sort_at
                      ELSE r.run_at - priority * CAST(:step AS bigint) END
        FROM {source}
        WHERE {dialect.is_held("netscript_executions")}
          AND NOT netscript_executions.cancel_requested
        RETURNING netscript_executions.id
        """
    )
