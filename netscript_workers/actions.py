"""Actions: what handlers return, as plain data; `enqueue_job` is the first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Generic, Protocol

from typing_extensions import TypeVar

from netscript_workers.clock import MAX_MICROS, MICROSECONDS, to_micros
from netscript_workers.defining import check_priority
from netscript_workers.domain import (
    IDEMPOTENCY_MODES,
    ExecutionKind,
    IdempotencyMode,
    Limit,
    NewExecution,
    TriggeredBy,
)
from netscript_workers.errors import ConfigurationError, PayloadInvalidError
from netscript_workers.ids import new_id
from netscript_workers.jobs import JobDefinition
from netscript_workers.options import MAX_KEY_LENGTH, check_key, check_type
from netscript_workers.rates import limit_of

P = TypeVar("P", default=Any)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnqueueJob(Generic[P]):
    """Run a job. Pure data: nothing happens until it is stored."""

    job: JobDefinition[P, Any] | str
    payload: P | Mapping[str, Any] | None
    idempotency_key: str | None
    concurrency_key: str | None
    priority: int | None
    delay: float | None
    run_at: datetime | None
    correlation_id: str | None
    topic: str | None
    idempotency: IdempotencyMode = "once"
    max_wait: float | None = None

    @property
    def job_id(self) -> str:
        """The id of the job, however it was named."""
        return self.job if isinstance(self.job, str) else self.job.id


def enqueue_job(
    job: JobDefinition[P, Any] | str,
    payload: P | Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
    concurrency_key: str | None = None,
    priority: int | None = None,
    delay: float | timedelta | None = None,
    run_at: datetime | None = None,
    correlation_id: str | None = None,
    topic: str | None = None,
    idempotency: IdempotencyMode = "once",
    max_wait: float | timedelta | None = None,
) -> EnqueueJob[P]:
    """Ask for a job to be run.

    Args:
        job: The definition, or the id of a job that some process has registered.
        payload: An instance of the job's payload model, or a mapping that validates as one.
        idempotency_key: A second enqueue of the job with this key, within the window of 72 hours
            (`NETSCRIPT_IDEMPOTENCY_HOURS`), creates nothing and yields the first one's id.
        concurrency_key: Executions that share it, of whatever job, never overlap.
        priority: 0 to 100, higher first; by default the job's.
        delay: Seconds from now.
        run_at: The instant to run it; a naive datetime is taken as UTC, one that is past is now.
        correlation_id: Ties together what one cause has led to.
        topic: By default the job's.
        idempotency: What becomes of a second enqueue with the key. `once`: nothing is created
            within the window. `while_pending`: nothing, as long as the first one is not finished.
            `replace`: until the first one has started, it gets this payload, priority and due
            time (a debounce, with `delay`); then a new one. `rerun_if_running`: nothing until the
            first one has started, then one more, which starts when the first one's attempt has
            ended: use it for every enqueue of the key, because the one more does not wait for a
            first one of another mode, unless both name one concurrency key. Each but `once` needs
            a key.
        max_wait: Seconds after which one that is replaced over and over is due all the same; for
            `replace`.

    Raises:
        ConfigurationError: A value can't be meant.
    """
    if not isinstance(job, (str, JobDefinition)):  # pyright: ignore[reportUnnecessaryIsInstance] - a plain function is the usual slip
        raise ConfigurationError(
            f"enqueue_job takes a job or a job's id, not {job!r}.", hint="Decorate it with @job."
        )
    longest: float | None = None
    if idempotency != "once" or max_wait is not None:
        longest = _check_mode(_owner(job), idempotency, idempotency_key, max_wait)
    seconds: float | None = None
    if delay is not None or run_at is not None:
        seconds = _check_when(_owner(job), delay, run_at)
    if priority is not None:
        check_priority(priority, _owner(job))
    if idempotency_key is not None:
        check_key(idempotency_key, "idempotency_key", _owner(job))
    if concurrency_key is not None:
        check_key(concurrency_key, "concurrency_key", _owner(job))
    if correlation_id is not None:
        check_key(correlation_id, "correlation_id", _owner(job))
    if topic is not None:
        check_key(topic, "topic", _owner(job))
    return EnqueueJob(
        job=job,
        payload=payload,
        idempotency_key=idempotency_key,
        concurrency_key=concurrency_key,
        priority=priority,
        delay=seconds,
        run_at=run_at,
        correlation_id=correlation_id,
        topic=topic,
        idempotency=idempotency,
        max_wait=longest,
    )


def _owner(job: JobDefinition[Any, Any] | str) -> str:
    return f'enqueue_job("{job if isinstance(job, str) else job.id}")'


def _check_when(
    owner: str, delay: float | timedelta | None, run_at: datetime | None
) -> float | None:
    """Return the delay in seconds."""
    if delay is not None and run_at is not None:
        raise ConfigurationError(f"{owner}: give delay or run_at, not both.")
    if run_at is not None:
        check_type(owner, "run_at", run_at, datetime, "a datetime")
        return None
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
    check_type(owner, "delay", seconds, (int, float), "a number of seconds or a timedelta")
    if seconds is None or not (math.isfinite(seconds) and 0 <= seconds < MAX_MICROS / 2e6):
        raise ConfigurationError(f"{owner}: delay={delay!r} must be zero or more seconds.")
    return float(seconds)


def _check_mode(
    owner: str, mode: IdempotencyMode, key: str | None, max_wait: float | timedelta | None
) -> float | None:
    """Return `max_wait` in seconds."""
    if mode not in IDEMPOTENCY_MODES:
        known = ", ".join(IDEMPOTENCY_MODES)
        raise ConfigurationError(f"{owner}: idempotency={mode!r} must be one of {known}.")
    if mode != "once" and key is None:
        raise ConfigurationError(
            f'{owner}: idempotency="{mode}" needs an idempotency_key.',
            hint="Say by idempotency_key=... which enqueues are the same.",
        )
    if max_wait is None:
        return None
    if mode != "replace":
        raise ConfigurationError(f'{owner}: max_wait belongs to idempotency="replace".')
    seconds = max_wait.total_seconds() if isinstance(max_wait, timedelta) else max_wait
    check_type(owner, "max_wait", seconds, (int, float), "a number of seconds or a timedelta")
    if not (math.isfinite(seconds) and 0 < seconds < MAX_MICROS / 2e6):
        raise ConfigurationError(f"{owner}: max_wait={max_wait!r} must be more than 0 seconds.")
    return float(seconds)


@dataclass(slots=True, kw_only=True)  # not frozen, for one is made for every event
class Cause:
    """What leads to executions: an event, a request, another job; nobody changes it."""

    triggered_by: TriggeredBy
    trigger_event_id: str | None = None
    correlation_id: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None


class JobCatalog(Protocol):
    """Knows jobs by id: those of this process, and those that others have registered."""

    def prepare(self, job_id: str, payload: Any) -> PreparedJob:
        """Check a payload against a job that is named by its id.

        Raises:
            JobNotFoundError: Nobody has registered it.
            PayloadInvalidError: Its schema refuses the payload.
        """
        ...


@dataclass(slots=True, kw_only=True)  # not frozen, for one is made for every action
class PreparedJob:
    """A job's defaults and one checked payload for it."""

    topic: str
    priority: int
    max_attempts: int
    strict_order: bool
    payload: str
    fingerprint: str
    limited: Limit | None = None
    kind: ExecutionKind = "job"


def prepare(definition: JobDefinition[Any, Any], payload: Any) -> PreparedJob:
    """Check a payload against a definition at hand.

    Raises:
        PayloadInvalidError: The model refuses it.
        PayloadTooLargeError: It is longer than 1 MiB of JSON.
    """
    if not definition.enabled:
        raise PayloadInvalidError(
            f'The job "{definition.id}" is disabled.', hint="Define it with enabled=True."
        )
    text, digest = definition.payload_model.store(payload)
    return PreparedJob(
        topic=definition.topic,
        priority=definition.priority,
        max_attempts=definition.retry.max_attempts,
        strict_order=definition.strict_order,
        payload=text,
        fingerprint=digest,
        limited=limit_of(definition.max_concurrency, definition.rate),
        kind=definition.kind,
    )


def resolve(
    action: EnqueueJob[Any],
    catalog: JobCatalog | None,
    cause: Cause,
    *,
    batch_id: str | None = None,
) -> NewExecution:
    """Turn an action into the execution that will be stored.

    Args:
        action: What a handler returned.
        catalog: Where ids are looked up; None where only definitions can be given.
        cause: What led to it.
        batch_id: The batch that it belongs to.

    Raises:
        JobNotFoundError: No process has registered the job.
        PayloadInvalidError: The job refuses the payload.
        PayloadTooLargeError: The payload is longer than 1 MiB of JSON.
        ConfigurationError: The job is named by its id where no catalog is at hand.
    """
    if not isinstance(action.job, str):
        ready = prepare(action.job, action.payload)
    elif catalog is None:
        raise ConfigurationError(
            f'enqueue_job("{action.job}") needs the definition here.', hint="Import the job."
        )
    else:
        ready = catalog.prepare(action.job, action.payload)
    return NewExecution(
        id=new_id(),
        job_id=action.job_id,
        kind=ready.kind,
        topic=action.topic or ready.topic,
        payload=ready.payload,
        fingerprint=ready.fingerprint,
        priority=ready.priority if action.priority is None else action.priority,
        delay=round((action.delay or 0.0) * MICROSECONDS),
        run_at=None if action.run_at is None else to_micros(action.run_at),
        max_attempts=ready.max_attempts,
        idempotency_key=action.idempotency_key,
        concurrency_key=_concurrency_key(action),
        strict_order=ready.strict_order,
        correlation_id=action.correlation_id or cause.correlation_id,
        traceparent=cause.traceparent,
        tracestate=cause.tracestate,
        triggered_by=cause.triggered_by,
        trigger_event_id=cause.trigger_event_id,
        batch_id=batch_id,
        idempotency=action.idempotency,
        max_wait=None if action.max_wait is None else round(action.max_wait * MICROSECONDS),
        limited=ready.limited,
    )


def _concurrency_key(action: EnqueueJob[Any]) -> str | None:
    if action.idempotency != "rerun_if_running" or action.concurrency_key is not None:
        return action.concurrency_key
    # Shared by all executions of this key, so that the one more waits for the one that runs.
    implied = f"rerun:{action.job_id}:{action.idempotency_key}"
    if len(implied) <= MAX_KEY_LENGTH:
        return implied
    return f"rerun:{sha256(implied.encode()).hexdigest()}"
