"""Gates: how many executions of a job are let in, by its `max_concurrency` and its `rate`.

An execution of a job with a limit is `blocked` until it has a place. One that waits for nothing but
that `wants_job`; one that has a place `holds_job`, until its attempt has ended. The gate of the job
counts the places, and whoever changes what it counts has locked it. `entrance.py` lets in.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from sqlalchemy import Connection, Row, TextClause, text

from netscript_workers.clock import MICROSECONDS
from netscript_workers.domain import SUSPECT_AFTER, Reason
from netscript_workers.rates import Rate, parse_rate
from netscript_workers.store.dialects import Dialect

LET_IN_AT_A_TIME = 500
# Who was let in and has not begun takes the turn of those behind it. When it begins nobody tells.
_SOONEST_LOOK, _LATEST_LOOK = MICROSECONDS // 20, MICROSECONDS
# The reason of one that becomes `queued`: none, unless it is set apart from the rest.
READY_REASON = f"""CASE WHEN NOT parked THEN NULL WHEN losses >= {SUSPECT_AFTER}
                   THEN '{Reason.ALONE.value}' ELSE '{Reason.NO_WORKER.value}' END"""


def waits_for(job_id: str) -> str:
    """Write the reason of one that waits at the gate of the job in this column."""
    return f"""coalesce((
        SELECT CASE WHEN d.max_concurrency IS NULL AND d.rate IS NOT NULL
               THEN 'rate limit' ELSE 'job limit' END
        FROM netscript_job_definitions d WHERE d.id = {job_id}), 'job limit')"""


@dataclass(slots=True)
class Gate:
    """The gate of one job, locked by this transaction.

    Attributes:
        used: How many of its executions have a place.
        most: How many may have one; None for any number.
        rate: How many may be let in in a time; None for any number.
        rate_from: Until when the rate is used up.
        look_at: When to look again because of the rate.
        stored: What is stored of the gate.
        idle: How many have a place and have not begun; counted only where there is a rate.
        room: How many may be let in now.
        seen: Everybody who waits was looked at.
    """

    job_id: str
    used: int
    most: int | None
    rate: Rate | None
    rate_from: int | None
    look_at: int | None
    stored: tuple[int, int | None, int | None]
    idle: int = 0
    room: int = 0
    seen: bool = True

    @property
    def state(self) -> tuple[int, int | None, int | None]:
        """What is to be stored of it."""
        return max(self.used, 0), self.rate_from, self.look_at

    def measure(self, now: int) -> None:
        """Reckon how many may be let in now."""
        self.room = min(self._places(), self._turns(now), LET_IN_AT_A_TIME)

    def let_in(self, count: int, now: int) -> None:
        """Count those that were let in."""
        self.used += count
        self.idle += count
        self.room -= count
        if self.rate is not None and count:
            _, self.rate_from = self.rate.take(self.rate_from, now, count)

    def plan_look(self, now: int, *, waiting: bool, locked: bool) -> bool:
        """Say when to look again; tell whether that is at once.

        Args:
            now: The present.
            waiting: Somebody is left who waits.
            locked: Of whom some could not be let in, for somebody else's transaction holds them.
        """
        self.look_at = None
        if not waiting or self._places() <= 0:
            return False
        if self.rate is not None and self._turns(now) <= 0:
            self.look_at = self._next_turn(self.rate, now)
            return False
        if locked:
            self.look_at = now + _LATEST_LOOK // 2
        return not locked

    @property
    def has_places(self) -> bool:
        """Tell whether anybody could get a place, if only the rate lets them."""
        return self._places() > 0

    def _places(self) -> int:
        return LET_IN_AT_A_TIME if self.most is None else max(self.most - self.used, 0)

    def _turns(self, now: int) -> int:
        if self.rate is None:
            return LET_IN_AT_A_TIME
        taken, _ = self.rate.take(self.rate_from, now, LET_IN_AT_A_TIME)
        return max(min(taken, self.rate.burst - self.idle), 0)

    def _next_turn(self, rate: Rate, now: int) -> int:
        at = rate.next_at(self.rate_from, now)
        if self.idle >= rate.burst:
            wait = min(max(rate.interval, _SOONEST_LOOK), _LATEST_LOOK)
            return max(at, now + wait)
        return at


def lock_gates(conn: Connection, dialect: Dialect, jobs: Collection[str]) -> dict[str, Gate]:
    """Lock the gate of every job, in order, making those that don't exist."""
    if not jobs:
        return {}
    bound = {"jobs": json.dumps(sorted(jobs)), "count": len(jobs)}
    locked = conn.execute(_lock(dialect), bound).all()
    if not locked:  # one is missing, so none is held while others make theirs too
        conn.execute(_make(dialect), bound)
        locked = conn.execute(_lock(dialect), bound).all()
    gates = {row.job_id: _gate(row) for row in locked}
    rated = [job_id for job_id, gate in gates.items() if gate.rate is not None]
    if rated:
        for job_id, count in conn.execute(_idle(dialect), {"jobs": json.dumps(rated)}):
            gates[job_id].idle = count
    return gates


def _gate(row: Row[tuple[str, int, int | None, int | None, int | None, str | None]]) -> Gate:
    rate = None if row.rate is None else parse_rate(row.rate)
    stored = (row.used, row.rate_from, row.look_at)
    return Gate(row.job_id, row.used, row.max_concurrency, rate, *stored[1:], stored)


def write_gates(conn: Connection, dialect: Dialect, gates: Mapping[str, Gate]) -> None:
    """Store what has become of locked gates."""
    names = ("job_id", "used", "rate_from", "look_at")
    rows = [
        dict(zip(names, (gate.job_id, *gate.state), strict=True))
        for gate in gates.values()
        if gate.state != gate.stored
    ]
    if rows:
        conn.execute(_write(dialect), {"rows": json.dumps(rows)})


def waiting_at(
    conn: Connection, gate: Gate, limit: int
) -> Sequence[Row[tuple[str, str, str | None, bool]]]:
    """Return the first that wait at a gate for nothing else, by age."""
    rows = conn.execute(_WAITING, {"job": gate.job_id, "limit": limit}).all()
    gate.seen = len(rows) < limit
    return rows


def held_up(
    conn: Connection, dialect: Dialect, jobs: Collection[str]
) -> Sequence[Row[tuple[str, str, str | None, bool]]]:
    """Return those that have a place and can't begin, because their topic is paused."""
    return conn.execute(_held_up(dialect), {"jobs": json.dumps(sorted(jobs))}).all()


def give_way(
    conn: Connection, dialect: Dialect, ids: Collection[str]
) -> Sequence[Row[tuple[str, str]]]:
    """Take their places from those that can't begin and keep or have no key; return who."""
    bound = {"ids": json.dumps(sorted(ids)), "yes": True, "no": False}
    return conn.execute(_give_way(dialect), bound).all()


def let_in(conn: Connection, dialect: Dialect, ids: Collection[str]) -> Sequence[str]:
    """Give places, and the keys of those that have one, to those that wait; return who got them."""
    bound = {"ids": json.dumps(sorted(ids)), "yes": True, "no": False}
    return conn.execute(_let_in(dialect), bound).scalars().all()


def send_back(conn: Connection, dialect: Dialect, ids: Collection[str]) -> Sequence[str]:
    """Have those wait for their key again whose turn it is not; return who."""
    bound = {"ids": json.dumps(sorted(ids)), "no": False}
    return conn.execute(_send_back(dialect), bound).scalars().all()


def due(conn: Connection, now: int) -> set[str]:
    """Return the jobs whose gate is to be looked at by now."""
    return set(conn.execute(_DUE, {"now": now}).scalars())


def jobs_in_topic(conn: Connection, topic: str) -> set[str]:
    """Return the jobs of which something that has not begun has a place in a topic."""
    return set(conn.execute(_IN_TOPIC, {"topic": topic}).scalars())


def drifted(conn: Connection, dialect: Dialect, gates: Mapping[str, Gate]) -> dict[str, int]:
    """Return by how much locked gates count too many (or, below zero, too few)."""
    bound = {"jobs": json.dumps(sorted(gates))}
    held = Counter({row.job_id: row.held for row in conn.execute(_held(dialect), bound)})
    return {
        job_id: gate.used - held[job_id]
        for job_id, gate in gates.items()
        if gate.used != held[job_id]
    }


def all_gates(conn: Connection) -> set[str]:
    """Return the jobs that have a gate, or somebody who waits at it or has passed it."""
    return {job for job in conn.execute(_ALL).scalars() if job is not None}


def overlooked(conn: Connection, before: int) -> set[str]:
    """Return the jobs at whose gate somebody waits of whom no note and no time to look tells."""
    return set(conn.execute(_OVERLOOKED, {"before": before}).scalars())


@cache
def _make(dialect: Dialect) -> TextClause:
    return text(
        f"""
        INSERT INTO netscript_job_gates (job_id, used)
        SELECT j.value, 0 FROM {dialect.members("jobs")} j WHERE true
        ORDER BY j.value ON CONFLICT (job_id) DO NOTHING
        """
    )


@cache
def _lock(dialect: Dialect) -> TextClause:
    """Lock all of some gates, or none where not all exist: gates are never removed."""
    lock = f"{dialect.for_update} OF g" if dialect.for_update else ""
    return text(
        f"""
        SELECT g.job_id, g.used, g.rate_from, g.look_at, d.max_concurrency, d.rate
        FROM netscript_job_gates g LEFT JOIN netscript_job_definitions d ON d.id = g.job_id
        WHERE g.job_id IN {dialect.members("jobs")} AND :count = (
            SELECT count(*) FROM netscript_job_gates k WHERE k.job_id IN {dialect.members("jobs")})
        ORDER BY g.job_id {lock}
        """
    )


@cache
def _write(dialect: Dialect) -> TextClause:
    source = dialect.records(job_id="text", used="int", rate_from="bigint", look_at="bigint")
    return text(
        f"""
        UPDATE netscript_job_gates SET used = r.used, rate_from = r.rate_from, look_at = r.look_at
        FROM {source} WHERE netscript_job_gates.job_id = r.job_id
        """
    )


@cache
def _idle(dialect: Dialect) -> TextClause:
    return text(
        f"""
        SELECT job_id, count(*) FROM netscript_executions
        WHERE holds_job AND status = 'queued' AND NOT parked
          AND job_id IN {dialect.members("jobs")} GROUP BY job_id
        """
    )


@cache
def _held(dialect: Dialect) -> TextClause:
    return text(
        f"""
        SELECT job_id, count(*) AS held FROM netscript_executions
        WHERE holds_job AND job_id IN {dialect.members("jobs")} GROUP BY job_id
        """
    )


_NOT_PAUSED = """
    NOT EXISTS (SELECT 1 FROM netscript_topics t WHERE t.name = e.topic AND t.paused)"""
_WAITING = text(
    f"""
    SELECT e.id, e.job_id, e.concurrency_key, e.holds_key FROM netscript_executions e
    WHERE e.status = 'blocked' AND e.wants_job AND e.job_id = :job AND {_NOT_PAUSED}
    ORDER BY e.id LIMIT :limit
    """
)


@cache
def _held_up(dialect: Dialect) -> TextClause:
    return text(
        f"""
        SELECT e.id, e.job_id, e.concurrency_key,
            e.strict_order AND e.token IS NOT NULL AS keeps_key
        FROM netscript_executions e
        WHERE e.holds_job AND e.status = 'queued' AND e.job_id IN {dialect.members("jobs")}
          AND e.topic IN (SELECT name FROM netscript_topics WHERE paused)
        """
    )


def unlocked(dialect: Dialect) -> str:
    """Select those of `:ids` that no other transaction holds, for it may be a user's."""
    return f"""(SELECT id FROM netscript_executions
                WHERE id IN {dialect.members("ids", "id")} {dialect.skip_locked})"""


@cache
def _give_way(dialect: Dialect) -> TextClause:
    return text(
        f"""
        UPDATE netscript_executions
        SET status = 'blocked', holds_job = :no, wants_job = :yes, reason = {waits_for("job_id")}
        WHERE id IN {unlocked(dialect)} AND status = 'queued' AND holds_job
        RETURNING id, job_id
        """
    )


@cache
def _let_in(dialect: Dialect) -> TextClause:
    return text(
        f"""
        UPDATE netscript_executions
        SET status = 'queued', holds_job = :yes, wants_job = :no, reason = {READY_REASON},
            holds_key = concurrency_key IS NOT NULL
        WHERE id IN {unlocked(dialect)} AND status = 'blocked' AND wants_job
        RETURNING id
        """
    )


@cache
def _send_back(dialect: Dialect) -> TextClause:
    return text(
        f"""
        UPDATE netscript_executions SET wants_job = :no, reason = 'concurrency key'
        WHERE id IN {unlocked(dialect)} AND status = 'blocked' AND wants_job RETURNING id
        """
    )


_DUE = text("SELECT job_id FROM netscript_job_gates WHERE look_at <= :now")
_IN_TOPIC = text(
    """
    SELECT DISTINCT job_id FROM netscript_executions
    WHERE holds_job AND status = 'queued' AND topic = :topic
    """
)
# Loose index scans: one step per job, however many wait.
_WAITED_FOR = """
    w(job) AS (
        SELECT (SELECT job_id FROM netscript_executions
                WHERE status = 'blocked' AND wants_job ORDER BY job_id LIMIT 1)
        UNION ALL
        SELECT (SELECT e.job_id FROM netscript_executions e
                WHERE e.status = 'blocked' AND e.wants_job AND e.job_id > w.job
                ORDER BY e.job_id LIMIT 1)
        FROM w WHERE w.job IS NOT NULL)"""
_ALL = text(
    f"""
    WITH RECURSIVE {_WAITED_FOR},
    h(job) AS (
        SELECT (SELECT job_id FROM netscript_executions WHERE holds_job ORDER BY job_id LIMIT 1)
        UNION ALL
        SELECT (SELECT e.job_id FROM netscript_executions e
                WHERE e.holds_job AND e.job_id > h.job ORDER BY e.job_id LIMIT 1)
        FROM h WHERE h.job IS NOT NULL)
    SELECT job FROM w UNION SELECT job FROM h UNION SELECT job_id FROM netscript_job_gates
    """
)
_OVERLOOKED = text(
    f"""
    WITH RECURSIVE {_WAITED_FOR}
    SELECT w.job FROM w LEFT JOIN netscript_job_gates g ON g.job_id = w.job
    WHERE w.job IS NOT NULL AND (g.look_at IS NULL OR g.look_at < :before)
      AND NOT EXISTS (SELECT 1 FROM netscript_admissions a WHERE a.kind = 'job' AND a.key = w.job)
    """
)
