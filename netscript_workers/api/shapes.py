"""What the routes answer, as the OpenAPI document tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from netscript_workers.records import (
    AttemptRecord,
    ExecutionRecord,
    JobRecord,
    LogRecord,
    StepRecord,
    TopicRecord,
    WorkerInfo,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A problem document (RFC 9457); some have more members.

    Attributes:
        type: `urn:netscript:problem:` and a stable name.
        detail: What went wrong and what to do.
        errors: What a model refused: `loc`, `msg` and `type` of each fault.
    """

    type: str
    title: str
    status: int
    detail: str | None = None
    errors: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """That the process answers."""

    status: Literal["ok"]
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """That events become work."""

    status: Literal["ready"]
    checks: dict[str, str]
    stalled_workers: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobList:
    """A page of jobs, by id."""

    jobs: list[JobRecord]
    total: int
    limit: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskList:
    """A page of tasks, by id."""

    tasks: list[JobRecord]
    total: int
    limit: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Triggered:
    """The execution that a job was triggered as, or was before under the same key."""

    job_id: str
    execution_id: str
    triggered: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeded:
    """How many definitions were new."""

    jobs_created: int
    tasks_created: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionPage:
    """Executions, newest first.

    Attributes:
        next_cursor: Of the next page; None where there is none. A page that was filtered row by row
            may be shorter than its limit, or empty, and still have one.
    """

    executions: list[ExecutionRecord]
    next_cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeExecution(ExecutionRecord):
    """An execution with its attempts, steps and log lines."""

    attempts: list[AttemptRecord]
    steps: list[StepRecord]
    logs: list[LogRecord]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicList:
    """Topics, by name."""

    topics: list[TopicRecord]
    more: bool
    next_cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerList:
    """Workers, the newest first."""

    workers: list[WorkerInfo]
    total: int
    next_cursor: str | None
