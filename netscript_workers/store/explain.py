"""Explaining: for every execution a code and a sentence that say what it does or waits for.

However much waits or has finished, it costs the same: what stands before an execution is counted
up to a thousand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import Connection, Row, TextClause, text

from netscript_workers.clock import MICROSECONDS, from_micros
from netscript_workers.domain import CRASH_BUDGET, SUSPECT_AFTER, ExecutionStatus, Reason
from netscript_workers.errors import ExecutionNotFoundError
from netscript_workers.ids import is_id
from netscript_workers.rates import parse_rate
from netscript_workers.records import Explanation
from netscript_workers.store.capacity import Capacity, capacity_for
from netscript_workers.store.dialects import Dialect

COUNTED = 1000

Told: TypeAlias = tuple[str, str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where to look, and when it is."""

    conn: Connection
    dialect: Dialect
    now: int

    def row(self, statement: TextClause, **bound: Any) -> Row[Any] | None:
        return self.conn.execute(statement, bound).one_or_none()

    def count(self, statement: TextClause, **bound: Any) -> int:
        found = self.conn.execute(statement, {**bound, "most": COUNTED}).scalar_one()
        return int(found)


def explain(conn: Connection, dialect: Dialect, execution_id: str, *, now: int) -> Explanation:
    """Tell what an execution does, what it waits for, or how it ended.

    Args:
        conn: Where to read; a snapshot, so that all that is told was true at one instant.
        dialect: The database's own ways.
        execution_id: Which one.
        now: The database's present.

    Raises:
        ExecutionNotFoundError: There is none with this id (or no longer).
    """
    place = _Place(conn, dialect, now)
    row = None
    if is_id(execution_id):
        row = place.row(_LIVE, id=execution_id) or place.row(_HISTORY, id=execution_id)
    if row is None:
        raise ExecutionNotFoundError(f"There is no execution {execution_id[:100]!r}.")
    code, sentence, facts = _tell(place, row)
    return Explanation(
        execution_id=str(row.id),
        status=ExecutionStatus(row.status),
        code=code,
        sentence=sentence,
        facts=facts,
    )


def _tell(place: _Place, row: Row[Any]) -> Told:
    match ExecutionStatus(row.status):
        case ExecutionStatus.COMPLETED | ExecutionStatus.FAILED | ExecutionStatus.CANCELLED:
            return _ended(row)
        case ExecutionStatus.RUNNING:
            return _running(row, place.now)
        case ExecutionStatus.SCHEDULED:
            return _scheduled(place, row)
        case ExecutionStatus.BLOCKED:
            return _blocked(place, row)
        case ExecutionStatus.QUEUED:
            return _queued(place, row)


def _ended(row: Row[Any]) -> Told:
    facts = {
        "reason": row.reason,
        "error": row.error,
        "attempt": row.attempt,
        "max_attempts": row.max_attempts,
        "finished_at": from_micros(row.finished_at),
    }
    tries = f"attempt {row.attempt} of {row.max_attempts}"
    match row.status, row.reason:
        case "completed", _:
            sentence = f"It completed in {tries}."
        case "failed", Reason.CRASHED:
            facts["crashes"] = CRASH_BUDGET
            sentence = f"It failed: quarantined after {CRASH_BUDGET} crashes."
        case "failed", _:
            sentence = f"It failed in {tries}: {row.reason or 'error'}."
        case _, Reason.DISCARDED:
            sentence = "It failed, and somebody has discarded it."
        case _:
            sentence = "It was cancelled."
    return row.status, sentence, facts


def _running(row: Row[Any], now: int) -> Told:
    for_long = now - row.started_at
    asked = "; its worker has been asked to end it" if row.cancel_requested else ""
    sentence = (
        f"It has been running for {_span(for_long)} on worker {row.worker_id}, in attempt "
        f"{row.attempt} of {row.max_attempts}{asked}."
    )
    facts = {
        "worker_id": str(row.worker_id),
        "started_at": from_micros(row.started_at),
        "attempt": row.attempt,
        "cancel_requested": bool(row.cancel_requested),
    }
    return "running", sentence, facts


def _scheduled(place: _Place, row: Row[Any]) -> Told:
    left = row.run_at - place.now
    if left <= 0 and (told := _nobody(row, _capacity(place, row))) is not None:
        return told
    because = {
        Reason.DELAY: "as it was enqueued for then",
        Reason.RETRY: f"for attempt {row.attempt} of {row.max_attempts}, as the last one failed",
        Reason.SNOOZE: "as its handler snoozed",
        Reason.NO_PROCESS: "as no process could be started for it",
    }.get(row.reason, str(row.reason))
    due = f"due in {_span(left)}" if left > 0 else "due now"
    facts = {
        "reason": row.reason,
        "due_at": from_micros(row.run_at),
        "due_in": max(left, 0) / MICROSECONDS,
        "attempt": row.attempt,
        "error": row.error,
    }
    return "due", f"It is {due}, {because}.", facts


def _blocked(place: _Place, row: Row[Any]) -> Told:
    if (told := _paused(place, row)) is not None:
        return told
    return _at_the_gate(place, row) if row.wants_job else _at_the_key(place, row)


def _at_the_key(place: _Place, row: Row[Any]) -> Told:
    key = row.concurrency_key
    ahead = place.count(_AHEAD_OF_KEY, key=key, id=row.id)
    facts: dict[str, Any] = {"key": key, "holder": None, "ahead": ahead}
    behind = f"; {_many(ahead)} of its key came before it" if ahead else ""
    holder = place.row(_HOLDER, key=key)
    if holder is not None and str(holder.id) != str(row.id):
        facts |= {"holder": str(holder.id), "holder_status": holder.status}
        keeps = ", and keeps its key between attempts" if holder.status == "scheduled" else ""
        sentence = (
            f"It is blocked by key {key} held by execution {holder.id}, which is "
            f"{holder.status}{keeps}{behind}."
        )
        return "concurrency-key", sentence, facts
    first = place.row(_FIRST_OF_KEY, key=key)
    if first is not None and str(first.id) != str(row.id):
        facts["first"] = str(first.id)
        sentence = f"It is blocked by key {key}: execution {first.id} goes first{behind}."
        return "concurrency-key", sentence, facts
    if (told := _nobody(row, _capacity(place, row))) is not None:
        return told
    return "concurrency-key", f"Its key {key} is free, and it is about to be let in.", facts


def _at_the_gate(place: _Place, row: Row[Any]) -> Told:
    if (told := _nobody(row, _capacity(place, row))) is not None:
        return told
    gate = place.row(_GATE, job=row.job_id)
    ahead = place.count(_AHEAD_AT_GATE, job=row.job_id, sort_at=row.sort_at, id=row.id)
    most, rate = (None, None) if gate is None else (gate.max_concurrency, gate.rate)
    used = (gate.used if gate is not None else None) or 0
    facts = {"job_id": row.job_id, "ahead": ahead, "max_concurrency": most, "rate": rate}
    behind = f"; {_many(ahead)} of the job come before it" if ahead else ""
    if most is not None and used >= most:
        sentence = f"Job {row.job_id} runs {most} at a time, and {used} have a place{behind}."
        return "job-limit", sentence, {**facts, "used": used}
    if rate is not None:
        at = None if gate is None else gate.look_at or gate.rate_from
        facts["next_at"] = None if at is None else from_micros(at)
        return "rate-limit", f"Job {row.job_id} is limited to {rate}{behind}.", facts
    return "job-limit", f"Job {row.job_id} has a place for it, and it is about to be let in.", facts


def _queued(place: _Place, row: Row[Any]) -> Told:
    if (told := _paused(place, row)) is not None:
        return told
    workers = _capacity(place, row)
    if (told := _nobody(row, workers)) is not None:
        return told
    if row.parked and row.losses >= SUSPECT_AFTER:
        facts: dict[str, Any] = {"losses": row.losses, "crashes": row.crashes}
        what = "killed a process" if row.crashes else f"was there when {row.losses} workers died"
        sentence = f"It runs alone, in a process of its own, for it {what}; it is next in turn."
        return "runs-alone", sentence, facts
    topic = place.row(_TOPIC, topic=row.topic)
    if topic is not None and topic.rate is not None:
        at = parse_rate(topic.rate).next_at(topic.rate_from, place.now)
        if at > place.now:
            rated = {"topic": row.topic, "rate": topic.rate, "next_at": from_micros(at)}
            return "topic-rate", f"Topic {row.topic} is limited to {topic.rate}.", rated
    ahead = place.count(_AHEAD, topic=row.topic, sort_at=row.sort_at, id=row.id)
    return _at_the_slots(row, workers, ahead)


def _at_the_slots(row: Row[Any], workers: Capacity, ahead: int) -> Told:
    facts = {"ahead": ahead, "slots": workers.slots, "used": workers.used}
    before = f"{_many(ahead)} of topic {row.topic} come before it"
    if workers.has_place:
        return "ready", f"It is ready, and about to be claimed; {before}.", facts
    if workers.is_bounded:
        bound, running = workers.bound, workers.of_topic
        sentence = (
            f"Topic {row.topic} may use {bound} slots of the workers that know its job, and "
            f"{running} of it run; {before}."
        )
        busy = {"topic": row.topic, "ahead": ahead, "slots": bound, "used": running}
        return "topic-busy", sentence, busy
    sentence = f"All {workers.slots} slots of the workers that know its job are in use; {before}."
    return "workers-busy", sentence, facts


def _paused(place: _Place, row: Row[Any]) -> Told | None:
    topic = place.row(_TOPIC, topic=row.topic)
    if topic is None or not topic.paused:
        return None
    return "topic-paused", f"Its topic is paused: {row.topic}.", {"topic": row.topic}


def _nobody(row: Row[Any], workers: Capacity) -> Told | None:
    """Tell that nobody is there who could run it, if that is so."""
    facts: dict[str, Any] = {"job_id": row.job_id, "workers": workers.all}
    if not workers.all and workers.leaving:
        verb = "is" if workers.leaving == 1 else "are"
        told = f"No worker claims: {workers.leaving} {verb} leaving."
        return "no-worker", told, {**facts, "leaving": workers.leaving}
    if not workers.all:
        return "no-worker", "No worker is alive. Start one with: netscript worker", facts
    if not workers.knowing:
        return "no-worker-for-job", f"No live worker knows job {row.job_id}.", facts
    facts["topic"] = row.topic
    if not workers.serving:
        sentence = f"No live worker that knows job {row.job_id} serves topic {row.topic}."
        return "no-worker-for-topic", sentence, facts
    if workers.stalled == workers.serving:
        sentence = "The claim loop of every worker that could run it is stuck."
        return "workers-stalled", sentence, facts
    return None


def _capacity(place: _Place, row: Row[Any]) -> Capacity:
    return capacity_for(place.conn, place.dialect, row.job_id, row.topic, now=place.now)


def _many(count: int) -> str:
    return f"{COUNTED} or more" if count >= COUNTED else str(count)


def _span(micros: int) -> str:
    """Write a duration for people."""
    seconds = max(micros, 0) / MICROSECONDS
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 600:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


_SHARED = (
    "id, status, reason, error, job_id, topic, attempt, max_attempts, losses, concurrency_key, "
    "run_at, started_at, worker_id"
)
_LIVE = text(
    f"""
    SELECT {_SHARED}, sort_at, crashes, parked, wants_job, cancel_requested
    FROM netscript_executions WHERE id = :id
    """
)
_HISTORY = text(f"SELECT {_SHARED}, finished_at FROM netscript_execution_history WHERE id = :id")
_TOPIC = text("SELECT paused, rate, rate_from FROM netscript_topics WHERE name = :topic")
_HOLDER = text(
    """
    SELECT e.id, e.status FROM netscript_concurrency_slots s
    JOIN netscript_executions e ON e.id = s.holder WHERE s.key = :key AND s.used > 0
    """
)
_FIRST_OF_KEY = text(
    """
    SELECT id FROM netscript_executions WHERE status = 'blocked' AND concurrency_key = :key
    ORDER BY id LIMIT 1
    """
)
_AHEAD_OF_KEY = text(
    """
    SELECT count(*) FROM (
        SELECT 1 FROM netscript_executions
        WHERE status = 'blocked' AND concurrency_key = :key AND id < :id LIMIT :most) AS a
    """
)
_AHEAD_AT_GATE = text(
    """
    SELECT count(*) FROM (
        SELECT 1 FROM netscript_executions
        WHERE status = 'blocked' AND wants_job AND job_id = :job
          AND (sort_at, id) < (:sort_at, :id) LIMIT :most) AS a
    """
)
_AHEAD = text(
    """
    SELECT count(*) FROM (
        SELECT 1 FROM netscript_executions
        WHERE status = 'queued' AND NOT parked AND topic = :topic
          AND (sort_at, id) < (:sort_at, :id) LIMIT :most) AS a
    """
)
_GATE = text(
    """
    SELECT d.max_concurrency, d.rate, g.used, g.rate_from, g.look_at
    FROM netscript_job_definitions d
    LEFT JOIN netscript_job_gates g ON g.job_id = d.id WHERE d.id = :job
    """
)
