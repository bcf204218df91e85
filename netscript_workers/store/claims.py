"""Claiming: a worker takes as many ready executions as it has free slots, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from operator import itemgetter

from sqlalchemy import Connection, TextClause, text

from netscript_workers.domain import ClaimedExecution
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.gates import READY_REASON, waits_for
from netscript_workers.store.marks import HAS_READY, Marks
from netscript_workers.store.outbox import PRIORITY_STEP
from netscript_workers.store.rations import Rations, has_rate
from netscript_workers.topics import Places, Served

PROMOTED_AT_A_TIME = 500

# The claim returns the fields of ClaimedExecution in their order, and sort_at as the last.
_URGENCY = itemgetter(-1, 0)


class TopicRotation:
    """Which topics to claim from, in turns, so that a hot one can't take every slot."""

    def __init__(self, served: Served) -> None:
        """Take turns among these topics."""
        self._served = served
        self._turn = 0
        # Those of the topics that were found last that have a rate.
        self.rated: set[str] = set()

    def next_order(self, conn: Connection, dialect: Dialect, marks: Marks) -> list[str]:
        """Return the topics that have ready executions, a different one first each time."""
        has_marks = marks.refresh(conn)
        ready = marks.ready_topics(conn, dialect) if has_marks else ready_topics(conn)
        serving = [name for name in ready if name in self._served]
        self.rated = {name for name in serving if ready[name]}
        if not serving:
            return []
        self._turn += 1
        start = self._turn % len(serving)
        return serving[start:] + serving[:start]


def ready_topics(conn: Connection) -> dict[str, bool]:
    """Return the topics that have ready executions, and whether each has a rate."""
    rows = conn.execute(_TOPICS)
    return {row.topic: bool(row.rated) for row in rows if row.topic is not None}


def claim(
    conn: Connection,
    dialect: Dialect,
    *,
    worker_id: str,
    jobs: str,
    topics: Sequence[str],
    slots: int,
    now: int,
    marks: Marks,
    rations: Rations | None = None,
    places: Places | None = None,
) -> list[ClaimedExecution]:
    """Claim up to `slots` ready executions for a worker, the most urgent of each topic first.

    Args:
        conn: A write transaction.
        dialect: The database's own ways.
        worker_id: Whose they become.
        jobs: The ids of the jobs this worker knows, as a JSON array; others are left alone.
        topics: Where to look, in this order; each gets an equal share before any gets more.
        slots: How many executions the worker can start at once.
        now: The database's present.
        marks: Where in a topic to begin.
        rations: How much may be taken of topics that have a rate.
        places: How many of each topic it can; by default as many as there are slots. What is
            claimed is taken from them.
    """
    if rations is not None:
        topics = [topic for topic in topics if rations.most(topic, slots) > 0]
    claimed: list[ClaimedExecution] = []
    if places is None:
        places = Places(slots)
    topics = [topic for topic in topics if places.of(topic) > 0]
    if not topics or slots <= 0:
        return claimed
    token = dialect.draw_token(conn)
    share = -(-slots // len(topics))
    for limit in (share, slots):
        for topic in topics:
            if len(claimed) >= slots:
                return claimed
            free = min(limit, slots - len(claimed), places.of(topic))
            if rations is not None:
                taken = sum(claim.topic == topic for claim in claimed)
                free = min(free, rations.most(topic, slots) - taken)
            if free <= 0:
                continue
            bound = {
                "topic": topic,
                "jobs": jobs,
                "slots": free,
                "worker": worker_id,
                "now": now,
            }
            if token is None:
                bound["low"] = marks.low(topic)
            else:
                bound["token"] = token
            # RETURNING does not keep the order of the selection.
            rows = sorted(conn.execute(dialect.claim(), bound).all(), key=_URGENCY)
            if rows:
                marks.claimed(topic, rows[0].sort_at)
            claimed += [ClaimedExecution._make(row[:-1]) for row in rows]
            places.take(topic, len(rows))
        if len(topics) == 1:
            return claimed
    return claimed


@dataclass(slots=True)
class Promoted:
    """What became due.

    Attributes:
        changed: Ids and what each now is: `queued`, or `blocked` if it must ask first.
        keys: The concurrency keys to ask for.
        jobs: The jobs at whose gate to ask.
    """

    changed: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    keys: set[str] = field(default_factory=set[str])
    jobs: set[str] = field(default_factory=set[str])


def promote(conn: Connection, dialect: Dialect, now: int) -> Promoted:
    """Make due executions ready."""
    bound = {"now": now, "step": PRIORITY_STEP, "limit": PROMOTED_AT_A_TIME}
    due = conn.execute(_promote(dialect), bound).all()
    return Promoted(
        changed=[(str(row.id), str(row.status)) for row in due],
        keys={row.concurrency_key for row in due if row.status == "blocked" and not row.wants_job},
        jobs={row.job_id for row in due if row.limited},
    )


@dataclass(frozen=True, slots=True)
class Probe:
    """What a look at the database found.

    Attributes:
        ready: Something is queued.
        notes: A concurrency key waits to be looked at.
        next_due: When the next scheduled execution is due, in microseconds since the epoch.
        next_look: When the rate of a job lets the next one in.
        cancels: Something that the worker has is to end.
        drain: Somebody wants the worker to leave.
        clock: The server's clock, if it is not this machine's.
    """

    ready: bool
    notes: bool
    next_due: int | None
    next_look: int | None = None
    cancels: bool = False
    drain: bool = False
    clock: int | None = field(default=None, compare=False)


def probe(conn: Connection, dialect: Dialect, worker_id: str, marks: Marks | None = None) -> Probe:
    """Look, in one statement that writes nothing, whether there is anything to do for a worker."""
    bound = {"worker": worker_id}
    if marks is not None and marks.refresh(conn):
        ready, bound = _ready_above(dialect), {**bound, "rows": marks.rows}
    else:
        ready = _ANY_READY
    row = conn.execute(_probe(dialect, ready), bound).one()
    return Probe(
        ready=bool(row.ready),
        notes=bool(row.notes),
        next_due=row.next_due,
        next_look=row.next_look,
        cancels=bool(row.cancels),
        drain=bool(row.drain),
        clock=row.clock,
    )


def next_due(conn: Connection) -> tuple[int | None, int | None]:
    """Return when the next scheduled execution is due, and the next gate to be looked at."""
    run_at, look_at = conn.execute(_NEXT_DUE).one()
    return run_at, look_at


# A loose index scan: one step per topic, however many rows it has.
_TOPICS = text(
    f"""
    WITH RECURSIVE t(topic) AS (
        SELECT (SELECT topic FROM netscript_executions WHERE status = 'queued' AND NOT parked
                ORDER BY topic LIMIT 1)
        UNION ALL
        SELECT (SELECT e.topic FROM netscript_executions e
                WHERE e.status = 'queued' AND NOT e.parked AND e.topic > t.topic
                ORDER BY e.topic LIMIT 1)
        FROM t WHERE t.topic IS NOT NULL)
    SELECT topic, {has_rate("t.topic")} AS rated
    FROM t
    """
)
_NEXT_LOOK = "(SELECT min(look_at) FROM netscript_job_gates)"
_NEXT_DUE = text(
    f"""
    SELECT (SELECT run_at FROM netscript_executions WHERE status = 'scheduled'
            ORDER BY run_at LIMIT 1), {_NEXT_LOOK}
    """
)


_ANY_READY = "SELECT 1 FROM netscript_executions WHERE status = 'queued' AND NOT parked"


def _ready_above(dialect: Dialect) -> str:
    return f"SELECT 1 FROM {dialect.records(topic='text', low='bigint')} WHERE {HAS_READY}"


@cache
def _probe(dialect: Dialect, ready: str) -> TextClause:
    return text(
        f"""
        SELECT EXISTS ({ready}) AS ready,
            EXISTS (SELECT 1 FROM netscript_admissions) AS notes,
            (SELECT run_at FROM netscript_executions WHERE status = 'scheduled'
             ORDER BY run_at LIMIT 1) AS next_due,
            {_NEXT_LOOK} AS next_look,
            EXISTS (SELECT 1 FROM netscript_executions
                    WHERE cancel_requested AND worker_id = :worker) AS cancels,
            (SELECT drain_requested FROM netscript_workers WHERE id = :worker) AS drain,
            {dialect.clock} AS clock
        """
    )


_HAS_ITS_KEY = "(concurrency_key IS NULL OR holds_key)"


@cache
def _promote(dialect: Dialect) -> TextClause:
    return text(
        f"""
        UPDATE netscript_executions
        SET status = CASE WHEN limited OR NOT {_HAS_ITS_KEY} THEN 'blocked' ELSE 'queued' END,
            wants_job = limited AND {_HAS_ITS_KEY},
            reason = CASE WHEN NOT {_HAS_ITS_KEY} THEN 'concurrency key'
                     WHEN limited THEN {waits_for("job_id")} ELSE {READY_REASON} END,
            sort_at = run_at - priority * CAST(:step AS bigint)
        WHERE id IN (
            SELECT id FROM netscript_executions WHERE status = 'scheduled' AND run_at <= :now
            ORDER BY run_at, id LIMIT :limit {dialect.skip_locked})
        RETURNING id, status, concurrency_key, wants_job, limited, job_id
        """
    )
