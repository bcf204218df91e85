"""Suspects: executions that killed a process of their own or were there when several workers died.

Each runs alone from then on. A suspect stays `parked` for as long as it lives, out of the index
that claims walk, so the claim of ordinary work knows nothing of it. It is claimed by itself and
runs in a process of its own, where guilt is certain. So few run at a time that they neither wait
for the rate of their topic nor count in it.
"""

from __future__ import annotations

import json
from functools import cache

from sqlalchemy import TextClause, text

from netscript_workers.domain import (
    CRASH_BUDGET,
    SUSPECT_AFTER,
    ClaimedExecution,
    Death,
    Outcome,
    Reason,
    Verdict,
)
from netscript_workers.store import changes, entrance, outcomes
from netscript_workers.store.dialects import CLAIMED_COLUMNS, Dialect
from netscript_workers.store.engine import Store
from netscript_workers.store.outcomes import Settled
from netscript_workers.store.schema import CLAIM_TOKEN, attempts
from netscript_workers.topics import Served


def any_waiting(store: Store, jobs: str, topics: Served) -> bool:
    """Tell whether a suspect waits that a worker with these jobs and topics may run.

    Args:
        store: Where to look.
        jobs: The ids of the jobs it knows, as a JSON array.
        topics: The topics it serves.
    """
    with store.read() as conn:
        found = conn.execute(_waiting(store.dialect), _asked(jobs, topics))
        return found.first() is not None


def claim(store: Store, worker_id: str, jobs: str, topics: Served) -> ClaimedExecution | None:
    """Claim the most urgent suspect for a worker, if there is any."""
    dialect = store.dialect
    with store.begin() as conn:
        now = store.now(conn)
        bound = {**_asked(jobs, topics), "worker": worker_id, "now": now}
        token = dialect.draw_token(conn)
        if token is not None:
            bound["token"] = token
        row = conn.execute(_claim(dialect, drawn=token is not None), bound).one_or_none()
        if row is None:
            return None
        claimed = ClaimedExecution._make(row[:-1])  # the last is sort_at
        changes.record(conn, dialect, [(claimed.id, "running")], now)
    return claimed


def record_crash(
    store: Store, claim: ClaimedExecution, death: Death, worker_id: str
) -> Outcome | None:
    """Count that an execution killed its own process; past the budget it has failed for good.

    It leaves the attempt as it was. Within the budget the execution keeps its concurrency key and
    its place among those of its job, and runs again, alone, unless somebody wants it to end.

    Returns:
        What it ended with; None if it runs again, or others have it.
    """
    dialect = store.dialect
    with store.begin() as conn:
        now = store.now(conn)
        bound = {"id": claim.id, "token": claim.token}
        counted = {**bound, "yes": True, "many": SUSPECT_AFTER}
        row = conn.execute(_COUNT, counted).one_or_none()
        if row is None:  # others have it
            return None
        crashes = row.crashes
        record = {
            "execution_id": claim.id,
            "token": claim.token,
            "attempt": claim.attempt,
            "outcome": Reason.CRASHED.value,
            "error": f"It killed its process: {death}.",
            "exit_code": death.exit_code,
            "signal": death.signal,
            "peak_memory": death.peak_memory,
            "worker_id": worker_id,
            "started_at": claim.started_at,
            "finished_at": now,
        }
        dialect.insert(conn, attempts, [record])
        if crashes < CRASH_BUDGET and not row.cancel_requested:
            conn.execute(_AGAIN, {**bound, "reason": Reason.ALONE.value})
            changes.record(conn, dialect, [(claim.id, "queued")], now)
            return None
        last = _last_outcome(claim, crashes, death)
        stored = outcomes.settle(
            conn,
            dialect,
            [Settled(claim, last)],
            strict={},
            worker_id=worker_id,
            now=now,
            window=0,
        )
        changed = list(stored.changed)
        if stored.asked:
            changed += entrance.let_in(conn, dialect, stored.asked, now).changed
        changes.record(conn, dialect, changed, now)
        return last


def _last_outcome(claim: ClaimedExecution, crashes: int, death: Death) -> Outcome:
    if crashes < CRASH_BUDGET:  # somebody wants it to end
        return Outcome(
            execution_id=claim.id,
            token=claim.token,
            verdict=Verdict.CANCEL,
            reason=Reason.CANCELLED,
            error=f"It killed its process: {death}.",
        )
    return Outcome(
        execution_id=claim.id,
        token=claim.token,
        verdict=Verdict.FAIL,
        reason=Reason.CRASHED,
        error=f"It killed its process {crashes} times while it ran alone: {death}.",
    )


def _asked(jobs: str, topics: Served) -> dict[str, object]:
    only, but = json.dumps(topics.only or ()), json.dumps(sorted(topics.but))
    asked: dict[str, object] = {"jobs": jobs, "many": SUSPECT_AFTER}
    return {**asked, "topics": only, "every": topics.only is None, "but": but}


def _suspects(dialect: Dialect) -> str:
    """Select the suspects that may run, by the index of what is parked."""
    return f"""
        SELECT e.id FROM netscript_executions e
        WHERE e.parked AND e.status = 'queued' AND e.losses >= :many
          AND e.job_id IN {dialect.members("jobs")}
          AND (CAST(:every AS boolean) OR e.topic IN {dialect.members("topics")})
          AND e.topic NOT IN {dialect.members("but")}
          AND NOT EXISTS (SELECT 1 FROM netscript_topics t WHERE t.name = e.topic AND t.paused)
        """


@cache
def _waiting(dialect: Dialect) -> TextClause:
    return text(f"{_suspects(dialect)} LIMIT 1")


@cache
def _claim(dialect: Dialect, *, drawn: bool) -> TextClause:
    token = ":token" if drawn else f"nextval('{CLAIM_TOKEN}')"
    lock = f"{dialect.for_update} OF e SKIP LOCKED" if dialect.for_update else ""
    return text(
        f"""
        UPDATE netscript_executions
        SET status = 'running', token = {token}, worker_id = :worker, started_at = :now,
            reason = NULL
        WHERE status = 'queued' AND id = (
            {_suspects(dialect)} ORDER BY e.sort_at, e.id LIMIT 1 {lock})
        RETURNING {CLAIMED_COLUMNS}
        """
    )


# It counts as lost often enough to run alone from now on, also where it is retried by hand.
_COUNT = text(
    """
    UPDATE netscript_executions
    SET crashes = crashes + 1, parked = :yes,
        losses = CASE WHEN losses < :many THEN CAST(:many AS integer) ELSE losses END
    WHERE id = :id AND token = :token AND status = 'running'
    RETURNING crashes, cancel_requested
    """
)
_AGAIN = text(
    """
    UPDATE netscript_executions SET status = 'queued', worker_id = NULL, reason = :reason
    WHERE id = :id AND token = :token
    """
)
