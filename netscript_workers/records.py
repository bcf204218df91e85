"""Records: what is read back of stored things, and their JSON."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from netscript_workers.clock import to_micros, to_rfc3339
from netscript_workers.domain import ExecutionKind, ExecutionStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressRecord:
    """How far an execution is."""

    percent: float
    message: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionRecord:
    """An execution as it is now.

    Attributes:
        attempt: Failures so far plus one; of a finished execution, the last attempt.
        reason: How it ended, or why it waits.
        duration_ms: How long the last attempt took, or has taken so far.
        cancel_requested: It runs, and its worker is to end it.
    """

    id: str
    job_id: str
    kind: ExecutionKind
    topic: str
    status: ExecutionStatus
    triggered_by: str
    trigger_event_id: str | None
    payload: Any
    result: Any
    error: str | None
    attempt: int
    max_attempts: int
    priority: int
    idempotency_key: str | None
    concurrency_key: str | None
    correlation_id: str | None
    traceparent: str | None
    created_at: datetime
    run_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    duration_ms: float | None
    worker_id: str | None
    progress: ProgressRecord | None
    reason: str | None
    retried_from: str | None
    cancel_requested: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """Something that somebody did.

    Attributes:
        who: The name of a token; `local` where there are none.
        subject: What it was done to.
        address: From where.
    """

    id: str
    at: datetime
    who: str
    action: str
    subject: str | None
    reason: str | None
    address: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """An attempt that failed, or that a process's death ended.

    Attributes:
        exit_code: What the execution's own process exited with, if it died.
        signal: The signal that ended it.
        peak_memory: The most memory that process had at once, in bytes; never less than its worker
            had when it started it, which Linux counts in.
    """

    attempt: int
    fence_token: int
    outcome: str
    error: str | None
    detail: str | None
    exit_code: int | None
    signal: int | None
    peak_memory: int | None
    worker_id: str | None
    started_at: datetime | None
    finished_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """A finished step."""

    name: str
    result: Any
    attempt: int
    finished_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord:
    """A line that a handler logged."""

    at: datetime
    level: str
    message: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionDetail:
    """The whole record of an execution."""

    execution: ExecutionRecord
    attempts: tuple[AttemptRecord, ...]
    steps: tuple[StepRecord, ...]
    logs: tuple[LogRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What an execution does, what it waits for, or how it ended.

    Attributes:
        code: For programs: `running`, `completed`, `failed`, `cancelled`, `due`,
            `concurrency-key`, `topic-paused`, `job-limit`, `rate-limit`, `topic-rate`,
            `no-worker`, `no-worker-for-job`, `no-worker-for-topic`, `workers-stalled`,
            `runs-alone`, `workers-busy` or `ready`.
        sentence: The same for people.
        facts: What the sentence was made of.
    """

    execution_id: str
    status: ExecutionStatus
    code: str
    sentence: str
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A job as some process has registered it."""

    id: str
    kind: ExecutionKind
    name: str
    description: str | None
    topic: str
    priority: int
    max_attempts: int
    timeout: float | None
    strict_order: bool
    max_concurrency: int | None
    rate: str | None
    enabled: bool
    tags: tuple[str, ...]
    metadata: dict[str, Any]
    payload_schema: dict[str, Any]
    source: str
    registered_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """A worker on the list.

    Attributes:
        state: `running` or `draining`.
        concurrency: How many executions it runs at a time.
        running: How many it runs now.
        executions: Their ids, the first hundred.
        jobs: The ids of the jobs it knows.
        topics: The topics it serves; None for all,
        except_topics: but these.
        fresh: Whether its lease is valid.
        age_seconds: Since its last heartbeat.
        stalled: Whether its claim loop makes no progress, although its heart beats,
        stalled_at: and since when.
        drain_requested: Whether somebody wants it to leave.
    """

    id: str
    host: str
    pid: int
    version: str
    state: str
    concurrency: int
    running: int
    executions: tuple[str, ...]
    jobs: tuple[str, ...]
    topics: tuple[str, ...] | None
    except_topics: tuple[str, ...]
    started_at: datetime
    heartbeat_at: datetime
    lease_until: datetime
    fresh: bool
    age_seconds: float
    stalled: bool
    stalled_at: datetime | None
    drain_requested: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicRecord:
    """A topic: what waits in it, and what runs.

    Attributes:
        depth: How many executions are ready or waiting for a worker that knows their job.
        depth_is_exact: False where there are more than were counted.
        oldest_wait: Seconds since the oldest of those was due; None where none waits.
        running: How many run.
        scheduled: How many wait for their time.
        blocked: How many wait for a concurrency key or a limit.
        counts_are_exact: The same for the last three: over all topics, so many of each are counted.
        paused: Whether nothing of it is claimed.
        rate: How many may start in a time; None for any number.
    """

    name: str
    depth: int
    depth_is_exact: bool
    oldest_wait: float | None
    running: int
    scheduled: int
    blocked: int
    counts_are_exact: bool
    paused: bool
    rate: str | None


def plain(value: Any) -> Any:
    """Turn records into what JSON can hold: times as RFC 3339, an execution's detail in one."""
    if isinstance(value, ExecutionDetail):
        rest = {name: plain(getattr(value, name)) for name in ("attempts", "steps", "logs")}
        return {**plain(value.execution), **rest}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, (datetime, Enum)):
        return to_rfc3339(to_micros(value)) if isinstance(value, datetime) else value.value
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}  # pyright: ignore[reportUnknownVariableType] - users' own data
    if isinstance(value, (list, tuple)):
        members: tuple[Any, ...] = tuple(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - users' own data
        return [plain(member) for member in members]
    return value
