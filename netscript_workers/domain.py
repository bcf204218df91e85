"""The plain values that every room speaks of: statuses, reasons, records."""

from __future__ import annotations

import signal as signals
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

ExecutionKind: TypeAlias = Literal["job", "task"]

IdempotencyMode: TypeAlias = Literal["once", "while_pending", "replace", "rerun_if_running"]
IDEMPOTENCY_MODES: tuple[IdempotencyMode, ...] = (
    "once",
    "while_pending",
    "replace",
    "rerun_if_running",
)

# As `Reason` has them: what an execution at the gate of its job waits for.
Limit: TypeAlias = Literal["job limit", "rate limit"]

RuntimeName: TypeAlias = Literal["in-process", "worker-process", "subprocess", "web-worker"]
WORKER_RUNTIMES: tuple[RuntimeName, ...] = ("in-process", "worker-process", "subprocess")

TaskRuntime: TypeAlias = Literal[
    "python", "deno", "node", "dotnet", "shell", "powershell", "cmd", "executable"
]
TASK_RUNTIMES: tuple[TaskRuntime, ...] = get_args(TaskRuntime)

# Where executions run: what is in one has slots of its own.
LaneName: TypeAlias = Literal["in-process", "worker-process", "subprocess", "web-worker", "task"]

# Whoever was there when so many worker processes died is a suspect, and runs alone from then on.
SUSPECT_AFTER = 2
# An execution that kills the process it has to itself is guilty; so often it may.
CRASH_BUDGET = 3

DEFAULT_PRIORITY = 50
MAX_PRIORITY = 100


class ExecutionStatus(StrEnum):
    """Where an execution stands. The first four are live, the last three are final."""

    SCHEDULED = "scheduled"
    BLOCKED = "blocked"
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL_STATUSES = frozenset(
    {ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.CANCELLED}
)


class Reason(StrEnum):
    """How an execution ended, or why it waits."""

    ERROR = "error"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    PAYLOAD_REFUSED = "payload refused"
    RESULT_REFUSED = "result refused"
    CANCELLED = "cancelled"
    RETRY = "retry"
    DELAY = "delay"
    SNOOZE = "snooze"
    CONCURRENCY_KEY = "concurrency key"
    DRAINED = "drained"
    RESCUED = "rescued"
    ALONE = "runs alone"
    NO_PROCESS = "no process starts"
    NO_WORKER = "no live worker knows the job"
    JOB_LIMIT = "job limit"
    RATE_LIMIT = "rate limit"
    DISCARDED = "discarded"


class TriggeredBy(StrEnum):
    """What caused an execution."""

    WEBHOOK = "webhook"
    SCHEDULE = "schedule"
    QUEUE = "queue"
    FILE_WATCH = "file-watch"
    MANUAL = "manual"
    API = "api"
    JOB = "job"
    CRON = "cron"


# Not frozen: one is made for every action, and twenty guarded assignments cost three times as much.
@dataclass(slots=True, kw_only=True)
class NewExecution:
    """An execution that is about to be stored; nobody changes it.

    Attributes:
        delay: Microseconds from the database's now until it is due; ignored with `run_at`.
        run_at: The instant it is due, in microseconds since the epoch.
        fingerprint: SHA-256 over the payload as given, in hex.
        limited: What it waits for at the gate of its job before it is queued; None where the job
            has no limit.
        batch_id: The batch that it belongs to.
        idempotency: What becomes of it where its idempotency key stands for an earlier one.
        max_wait: In microseconds since the earliest of those that it replaces was stored: it is
            due by then, whatever `delay` and `run_at` say.
    """

    id: str
    job_id: str
    kind: ExecutionKind = "job"
    topic: str = "default"
    payload: str
    fingerprint: str
    priority: int = DEFAULT_PRIORITY
    delay: int = 0
    run_at: int | None = None
    max_attempts: int = 3
    idempotency_key: str | None = None
    concurrency_key: str | None = None
    strict_order: bool = False
    correlation_id: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    triggered_by: TriggeredBy = TriggeredBy.API
    trigger_event_id: str | None = None
    retried_from: str | None = None
    limited: Limit | None = None
    batch_id: str | None = None
    idempotency: IdempotencyMode = "once"
    max_wait: int | None = None


def load_execution(told: Mapping[str, Any]) -> NewExecution:
    """Read an execution that `dataclasses.asdict` has written."""
    facts: dict[str, Any] = {**told, "triggered_by": TriggeredBy(told["triggered_by"])}
    return NewExecution(**facts)


@dataclass(slots=True, kw_only=True)
class NewBatch:
    """A batch that is about to be stored with its executions; nobody changes it.

    Attributes:
        id: What its executions name as their `batch_id`.
        callback: Is stored once they are all final.
    """

    id: str
    callback: NewExecution | None = None


@dataclass(slots=True, kw_only=True)
class NewWork:
    """What actions come to: executions, and the batches that some of them belong to."""

    executions: tuple[NewExecution, ...] = ()
    batches: tuple[NewBatch, ...] = ()
    # What is told once they are stored, where somebody traces them.
    trace: Any = None


@dataclass(frozen=True, slots=True)
class Enqueued:
    """What became of one enqueue.

    Attributes:
        execution_id: The execution; the first one's, if this is a duplicate.
        duplicate: The idempotency key was known, so nothing was stored.
        conflict: It is a duplicate, and its payload differs from the first one's.
    """

    execution_id: str
    duplicate: bool = False
    conflict: bool = False


# A tuple: one is made of every row that a claim returns, in the order of its columns.
class ClaimedExecution(NamedTuple):
    """An execution that this worker may run, until its lease ends.

    Attributes:
        token: Grows with every claim; what is stored for the execution must carry it.
        losses: How many worker processes died while running it; at least as many as make it run
            alone, once it has killed a process of its own.
    """

    id: str
    token: int
    kind: ExecutionKind
    job_id: str
    topic: str
    payload: str
    attempt: int
    max_attempts: int
    losses: int
    priority: int
    concurrency_key: str | None
    correlation_id: str | None
    traceparent: str | None
    tracestate: str | None
    trigger_event_id: str | None
    started_at: int
    batch_id: str | None = None
    holds_job: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """How a process that ran one execution ended, before the execution did.

    Attributes:
        exit_code: What it exited with, unless a signal ended it or nobody can tell.
        signal: The number of the signal that ended it.
        peak_memory: The most memory it had at once, in bytes, or its worker had, if that is more.
    """

    exit_code: int | None
    signal: int | None
    peak_memory: int | None

    def __str__(self) -> str:
        """Say it for people."""
        if self.signal is not None:
            how = f"signal {self.signal}"
            if self.signal in {one.value for one in signals.Signals}:
                how += f" ({signals.Signals(self.signal).name})"
        elif self.exit_code is not None:
            how = f"exit code {self.exit_code} without a result"
        else:
            how = "an end that nobody saw"
        if self.peak_memory is not None:
            how += f", peak memory {self.peak_memory / 2**20:.0f} MiB"
        return how


class Verdict(StrEnum):
    """What the end of an attempt means for its execution."""

    COMPLETE = "complete"
    FAIL = "fail"
    RETRY = "retry"
    SNOOZE = "snooze"
    RELEASE = "release"
    CANCEL = "cancel"


@dataclass(slots=True, kw_only=True)
class Outcome:
    """The end of one attempt, ready to be stored under its token; nobody changes it.

    Attributes:
        reason: How the execution ended, or why it waits.
        failure: How the attempt failed, for its own record.
        delay: Seconds until the next attempt, for `retry` and `snooze`.
        result: JSON text, for `complete` (and `fail`, where the handler gave data).
        error: One line for people.
        detail: The traceback, for the record of the attempt.
        actions: Executions to store in the same transaction, for `complete`.
        batches: The batches that some of these belong to.
        death: How the process ended that failed as a task, for the record of the attempt.
        exception: The type of what the handler raised.
    """

    execution_id: str
    token: int
    verdict: Verdict
    reason: Reason | None = None
    failure: Reason | None = None
    result: str | None = None
    error: str | None = None
    detail: str | None = None
    delay: float = 0.0
    actions: tuple[NewExecution, ...] = field(default=())
    batches: tuple[NewBatch, ...] = field(default=())
    death: Death | None = None
    exception: str | None = None
