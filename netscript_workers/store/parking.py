"""Parking: executions of jobs that no worker knows are put aside, so that no claim meets them.

They stay `queued`, out of the index that claims walk, until a worker comes that knows the job.
"""

from __future__ import annotations

import json
from functools import cache

from sqlalchemy import Connection, TextClause, text

from netscript_workers.domain import SUSPECT_AFTER, Reason
from netscript_workers.store.claims import ready_topics
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.engine import Store

# From the head of each topic: what stands behind is nobody's obstacle yet.
LOOKED_AT_A_TIME = 2000
_ROUNDS = 200


def park(store: Store) -> int:
    """Put aside what stands in the way of claims; return how many executions."""
    total = 0
    for _ in range(_ROUNDS):
        with store.begin() as conn:
            known = json.dumps(sorted(_known(conn)))
            parked = sum(
                _park_head(conn, store.dialect, topic, known) for topic in ready_topics(conn)
            )
        total += parked
        if not parked:
            break
    return total


def unpark(store: Store) -> int:
    """Bring back what some worker on the list knows; return how many executions."""
    total = 0
    for _ in range(_ROUNDS):
        with store.begin() as conn:
            waiting = {job for job in conn.execute(_PARKED_JOBS).scalars() if job is not None}
            jobs = json.dumps(sorted(waiting & _known(conn)))
            bound = {"jobs": jobs, "limit": LOOKED_AT_A_TIME, "no": False, "many": SUSPECT_AFTER}
            back = conn.execute(_unpark(store.dialect), bound).rowcount if jobs != "[]" else 0
        total += back
        if back < LOOKED_AT_A_TIME:
            break
    return total


def _known(conn: Connection) -> set[str]:
    return {job for told in conn.execute(_WORKERS).scalars() for job in json.loads(told)}


def _park_head(conn: Connection, dialect: Dialect, topic: str, known: str) -> int:
    bound = {
        "topic": topic,
        "jobs": known,
        "limit": LOOKED_AT_A_TIME,
        "yes": True,
        "reason": Reason.NO_WORKER.value,
    }
    return conn.execute(_park(dialect), bound).rowcount


_WORKERS = text("SELECT jobs FROM netscript_workers")
# A loose index scan: one step per job, however many rows it has.
_PARKED_JOBS = text(
    """
    WITH RECURSIVE j(job) AS (
        SELECT (SELECT job_id FROM netscript_executions WHERE parked ORDER BY job_id LIMIT 1)
        UNION ALL
        SELECT (SELECT e.job_id FROM netscript_executions e
                WHERE e.parked AND e.job_id > j.job ORDER BY e.job_id LIMIT 1)
        FROM j WHERE j.job IS NOT NULL)
    SELECT job FROM j
    """
)


@cache
def _park(dialect: Dialect) -> TextClause:
    return text(
        f"""
        UPDATE netscript_executions SET parked = :yes, reason = :reason
        WHERE status = 'queued' AND NOT parked AND id IN (
            SELECT id FROM netscript_executions WHERE id IN (
                SELECT h.id FROM (
                    SELECT id, job_id FROM netscript_executions
                    WHERE status = 'queued' AND NOT parked AND topic = :topic
                    ORDER BY sort_at, id LIMIT :limit) AS h
                WHERE h.job_id NOT IN {dialect.members("jobs")})
            {dialect.skip_locked})
        """
    )


@cache
def _unpark(dialect: Dialect) -> TextClause:
    return text(
        f"""
        UPDATE netscript_executions SET parked = :no, reason = NULL
        WHERE parked AND id IN (
            SELECT id FROM netscript_executions
            WHERE parked AND losses < :many AND job_id IN {dialect.members("jobs")}
            ORDER BY job_id, id LIMIT :limit {dialect.skip_locked})
        """
    )
