"""Batches: `enqueue_batch` groups actions, and runs one more job when all of them are final."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from netscript_workers.actions import Cause, EnqueueJob, JobCatalog, resolve
from netscript_workers.domain import NewBatch, NewExecution, NewWork, TriggeredBy
from netscript_workers.errors import ConfigurationError
from netscript_workers.ids import new_id

MAX_ACTIONS = 10_000


class JobAction(Protocol):
    """An `enqueue_job(...)` action of any job.

    Not `EnqueueJob[Any]`: in its place a type checker would take any payload for any job.
    """

    @property
    def job_id(self) -> str:
        """The id of the job."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EnqueueBatch:
    """Run jobs, and one more when they are done. Pure data: nothing happens until it is stored."""

    actions: tuple[EnqueueJob[Any], ...]
    on_complete: EnqueueJob[Any] | None


# What a handler may return, a result may carry, and `enqueue` takes.
Action: TypeAlias = EnqueueJob[Any] | EnqueueBatch


def enqueue_batch(
    actions: Iterable[JobAction], on_complete: JobAction | None = None
) -> EnqueueBatch:
    """Ask for jobs to be run, and for one more when all of them are final, however they ended.

    The batch waits for the executions that it creates. A member whose idempotency key stands for
    an earlier execution creates none, and that one is not waited for. Where nothing is created,
    `on_complete` runs at once.

    Args:
        actions: `enqueue_job(...)` actions, 10,000 at most.
        on_complete: The `enqueue_job(...)` action that runs exactly once when the batch is
            complete. Its payload is checked now; its delay counts from then.

    Raises:
        ConfigurationError: A value can't be meant.
    """
    given = tuple(_job_of(action, "enqueue_batch") for action in actions)
    if len(given) > MAX_ACTIONS:
        raise ConfigurationError(
            f"enqueue_batch takes {MAX_ACTIONS:,} actions at most, not {len(given):,}.",
            hint="Make several batches.",
        )
    if on_complete is None:
        return EnqueueBatch(actions=given, on_complete=None)
    last = _job_of(on_complete, "enqueue_batch(on_complete=...)")
    if last.idempotency_key is not None:
        raise ConfigurationError(
            "enqueue_batch(on_complete=...) runs once by itself.",
            hint="Leave its idempotency_key out.",
        )
    return EnqueueBatch(actions=given, on_complete=last)


def _job_of(action: object, where: str) -> EnqueueJob[Any]:
    if isinstance(action, EnqueueBatch):
        raise ConfigurationError(f"{where}: a batch can't be part of a batch.")
    if not isinstance(action, EnqueueJob):
        raise ConfigurationError(
            f"{where}: a {type(action).__name__} is no action.", hint="Make it with enqueue_job()."
        )
    return action  # pyright: ignore[reportUnknownVariableType] - of whatever payload


def names_a_job(action: Action) -> bool:
    """Tell whether a job is named by its id, so that a catalog is needed."""
    if isinstance(action, EnqueueJob):
        return isinstance(action.job, str)
    more = () if action.on_complete is None else (action.on_complete,)
    return any(isinstance(one.job, str) for one in (*action.actions, *more))


def resolve_all(actions: Iterable[Action], catalog: JobCatalog | None, cause: Cause) -> NewWork:
    """Turn actions into what will be stored: executions in order, a batch's in its place.

    Args:
        actions: What a handler returned.
        catalog: Where ids are looked up; None where only definitions can be given.
        cause: What led to them.

    Raises:
        JobNotFoundError: No process has registered a job.
        PayloadInvalidError: A job refuses its payload.
        PayloadTooLargeError: A payload is longer than 1 MiB of JSON.
        ConfigurationError: A job is named by its id where no catalog is at hand.
    """
    executions: list[NewExecution] = []
    batches: list[NewBatch] = []
    for action in actions:
        if isinstance(action, EnqueueJob):
            executions.append(resolve(action, catalog, cause))
            continue
        batch = NewBatch(id=new_id(), callback=_callback(action, catalog, cause))
        executions += (resolve(one, catalog, cause, batch_id=batch.id) for one in action.actions)
        batches.append(batch)
    return NewWork(executions=tuple(executions), batches=tuple(batches))


def _callback(
    action: EnqueueBatch, catalog: JobCatalog | None, cause: Cause
) -> NewExecution | None:
    if action.on_complete is None:
        return None
    by_job = Cause(
        triggered_by=TriggeredBy.JOB,
        correlation_id=cause.correlation_id,
        traceparent=cause.traceparent,
        tracestate=cause.tracestate,
    )
    return resolve(action.on_complete, catalog, by_job)
