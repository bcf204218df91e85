"""netscript's job side: definitions, the outbox, the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from netscript_workers.actions import EnqueueJob, enqueue_job
from netscript_workers.context import JobContext
from netscript_workers.domain import WORKER_RUNTIMES, Enqueued
from netscript_workers.errors import NetscriptError, Snooze
from netscript_workers.jobs import JobDefinition, define_job_handler, job
from netscript_workers.results import JobResult, create_failure_result, create_success_result
from netscript_workers.retries import Retry

if TYPE_CHECKING:
    from netscript_workers.store.engine import configure_sqlite
    from netscript_workers.store.schema import include_name
    from netscript_workers.store.transaction import enqueue, enqueue_async

__all__ = [
    "WORKER_RUNTIMES",
    "EnqueueJob",
    "Enqueued",
    "JobContext",
    "JobDefinition",
    "JobResult",
    "NetscriptError",
    "Retry",
    "Snooze",
    "configure_sqlite",
    "create_failure_result",
    "create_success_result",
    "define_job_handler",
    "enqueue",
    "enqueue_async",
    "enqueue_job",
    "include_name",
    "job",
]

__version__ = "0.1.0"

# These need SQLAlchemy, which a process that only runs handlers does not: loaded when asked for.
_LAZY = {
    "configure_sqlite": "netscript_workers.store.engine",
    "enqueue": "netscript_workers.store.transaction",
    "enqueue_async": "netscript_workers.store.transaction",
    "include_name": "netscript_workers.store.schema",
}


def __getattr__(name: str) -> Any:
    """Load what needs the database on first use."""
    if name not in _LAZY:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    import importlib  # noqa: PLC0415 - not needed where nothing is lazy

    return getattr(importlib.import_module(_LAZY[name]), name)
