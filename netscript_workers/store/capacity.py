"""Capacity: who could run an execution, and what room they have for one of its topic."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, TextClause, text

from netscript_workers.store.dialects import Dialect
from netscript_workers.topics import load_bounds, load_served


@dataclass(slots=True)
class Capacity:
    """Workers that live and claim: how many there are, know the job, and serve its topic too.

    Others live, but are leaving.
    Of the last: how many are stuck, how many slots the topic shares with others (or has to itself),
    how many of these are used; how many of the topic may run and do; whether there is a place for
    one more, and whether one is wanting only because of the topic's bound.
    """

    all: int
    leaving: int
    knowing: int
    serving: int
    stalled: int
    slots: int = 0
    used: int = 0
    bound: int = 0
    of_topic: int = 0
    has_place: bool = False
    is_bounded: bool = False


def capacity_for(
    conn: Connection, dialect: Dialect, job_id: str, topic: str, *, now: int
) -> Capacity:
    """Tell who there is for a job in a topic, and what room they have."""
    alive = conn.execute(_ALIVE, {"now": now}).all()
    claiming = [one for one in alive if one.claims]
    knowing = [one for one in claiming if job_id in json.loads(one.jobs)]
    serving = [one for one in knowing if topic in load_served(one.topics)]
    found = Capacity(
        all=len(claiming),
        leaving=len(alive) - len(claiming),
        knowing=len(knowing),
        serving=len(serving),
        stalled=sum(one.stalled_at is not None for one in serving),
    )
    runs = _runs(conn, dialect, serving)
    for one in serving:
        bounds, used = load_bounds(one.topics, one.concurrency), runs[str(one.id)]
        left = bounds.left(used.total(), used)
        is_apart = topic in bounds.own
        found.slots += bounds.own[topic] if is_apart else bounds.shared
        found.used += used[topic] if is_apart else bounds.shared - left.shared
        found.bound += bounds.of(topic)
        found.of_topic += used[topic]
        found.has_place |= left.of(topic) > 0
        found.is_bounded |= left.of(topic) <= 0 and (is_apart or left.shared > 0)
    return found


def _runs(
    conn: Connection, dialect: Dialect, workers: Sequence[Row[Any]]
) -> Mapping[str, Counter[str]]:
    """Return how many executions of each topic these workers run."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    if workers:
        ids = {"ids": json.dumps(sorted(str(one.id) for one in workers))}
        for row in conn.execute(_running_by_topic(dialect), ids):
            found[str(row.worker_id)][row.topic] = row.running
    return found


_ALIVE = text(
    """
    SELECT id, concurrency, jobs, topics, stalled_at,
        state = 'running' AND NOT drain_requested AS claims
    FROM netscript_workers WHERE lease_until > :now
    """
)


@cache
def _running_by_topic(dialect: Dialect) -> TextClause:
    return text(
        f"""
        SELECT worker_id, topic, count(*) AS running FROM netscript_executions
        WHERE status = 'running' AND worker_id IN {dialect.members("ids", "id")}
        GROUP BY worker_id, topic
        """
    )
