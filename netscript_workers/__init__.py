"""netscript's job side: definitions, the outbox, the worker."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from netscript_workers.actions import EnqueueJob, enqueue_job
    from netscript_workers.batches import EnqueueBatch, enqueue_batch
    from netscript_workers.context import JobContext
    from netscript_workers.domain import WORKER_RUNTIMES, Enqueued
    from netscript_workers.embedded import WorkerRuntime, start_workers
    from netscript_workers.errors import (
        DuplicateStepError,
        IdempotencyConflictError,
        JobNotFoundError,
        NetscriptError,
        PayloadInvalidError,
        Snooze,
        StoreBusyError,
        StoreUnavailableError,
        TaskFailedError,
    )
    from netscript_workers.jobs import JobDefinition, define_job_handler, job
    from netscript_workers.permissions import FromEnv, Limits, Permissions
    from netscript_workers.results import JobResult, create_failure_result, create_success_result
    from netscript_workers.retries import Retry
    from netscript_workers.shutdown import ShutdownManager, ShutdownReport, ShutdownResource
    from netscript_workers.store.engine import configure_sqlite
    from netscript_workers.store.schema import include_name
    from netscript_workers.store.transaction import enqueue, enqueue_async
    from netscript_workers.tasks import TaskDefinition, define_task

__all__ = [
    "WORKER_RUNTIMES",
    "DuplicateStepError",
    "EnqueueBatch",
    "EnqueueJob",
    "Enqueued",
    "FromEnv",
    "IdempotencyConflictError",
    "JobContext",
    "JobDefinition",
    "JobNotFoundError",
    "JobResult",
    "Limits",
    "NetscriptError",
    "PayloadInvalidError",
    "Permissions",
    "Retry",
    "ShutdownManager",
    "ShutdownReport",
    "ShutdownResource",
    "Snooze",
    "StoreBusyError",
    "StoreUnavailableError",
    "TaskDefinition",
    "TaskFailedError",
    "WorkerRuntime",
    "configure_sqlite",
    "create_failure_result",
    "create_success_result",
    "define_job_handler",
    "define_task",
    "enqueue",
    "enqueue_async",
    "enqueue_batch",
    "enqueue_job",
    "include_name",
    "job",
    "start_workers",
]

__version__ = "0.1.0"

# Loaded when asked for: a process that only runs handlers needs no SQLAlchemy, and a command
# that only shows its help needs neither that nor Pydantic.
_HOMES = {
    "WORKER_RUNTIMES": "domain",
    "DuplicateStepError": "errors",
    "EnqueueBatch": "batches",
    "EnqueueJob": "actions",
    "Enqueued": "domain",
    "FromEnv": "permissions",
    "IdempotencyConflictError": "errors",
    "JobContext": "context",
    "JobDefinition": "jobs",
    "JobNotFoundError": "errors",
    "JobResult": "results",
    "Limits": "permissions",
    "NetscriptError": "errors",
    "PayloadInvalidError": "errors",
    "Permissions": "permissions",
    "Retry": "retries",
    "ShutdownManager": "shutdown",
    "ShutdownReport": "shutdown",
    "ShutdownResource": "shutdown",
    "Snooze": "errors",
    "StoreBusyError": "errors",
    "StoreUnavailableError": "errors",
    "TaskDefinition": "tasks",
    "TaskFailedError": "errors",
    "WorkerRuntime": "embedded",
    "configure_sqlite": "store.engine",
    "create_failure_result": "results",
    "create_success_result": "results",
    "define_job_handler": "jobs",
    "define_task": "tasks",
    "enqueue": "store.transaction",
    "enqueue_async": "store.transaction",
    "enqueue_batch": "batches",
    "enqueue_job": "actions",
    "include_name": "store.schema",
    "job": "jobs",
    "start_workers": "embedded",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its room on first use."""
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
