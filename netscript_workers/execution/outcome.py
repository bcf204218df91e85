"""What the end of an attempt means: pure rules, from what happened to what is stored."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any, TypeAlias

from netscript_workers.actions import Cause, EnqueueJob, JobCatalog
from netscript_workers.batches import EnqueueBatch, resolve_all
from netscript_workers.domain import (
    ClaimedExecution,
    Death,
    NewWork,
    Outcome,
    Reason,
    TriggeredBy,
    Verdict,
)
from netscript_workers.errors import (
    ConfigurationError,
    NetscriptError,
    PayloadInvalidError,
    TaskFailedError,
    describe,
)
from netscript_workers.jobs import JobDefinition
from netscript_workers.payloads import to_stored_json
from netscript_workers.results import JobResult

MAX_ERROR_CHARS = 2_000
MAX_DETAIL_CHARS = 20_000
# What keeps a process from starting (no memory, a module that can't be imported) may pass.
START_AGAIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Returned:
    """The handler returned."""

    value: Any


@dataclass(frozen=True, slots=True)
class Raised:
    """The handler raised."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The attempt took longer than the job allows."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Snoozed:
    """The handler wants to run again later."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Drained:
    """The worker stops, and the attempt did not use itself up."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody wanted the execution to end, and it did, however that came about."""


@dataclass(frozen=True, slots=True)
class Exited:
    """A task's process has failed, or could not do its work here.

    Attributes:
        error: The sentence, and what a retry policy sees.
        death: How the process ended.
        reason: `error`, or `result refused`.
        retry: Whether another attempt may mend it.
        result: JSON text: data that it gave all the same.
        detail: The last that it printed.
    """

    error: TaskFailedError
    death: Death | None = None
    reason: Reason = Reason.ERROR
    retry: bool = True
    result: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Unstarted:
    """No process was to be had; the cause may pass."""

    told: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The stored payload does not fit the job any more."""

    error: PayloadInvalidError


Ending: TypeAlias = (
    Returned | Raised | TimedOut | Snoozed | Drained | Cancelled | Exited | Unstarted | Refused
)


def not_begun(claim: ClaimedExecution) -> Outcome:
    """Return the end of an attempt that has not had its turn."""
    return _outcome(claim, Verdict.RELEASE, reason=Reason.DRAINED)


def handed_back(claim: ClaimedExecution) -> Outcome:
    """Return the end of an attempt that was claimed too early: it is as ready as before."""
    return _outcome(claim, Verdict.RELEASE)


def cancelled(claim: ClaimedExecution) -> Outcome:
    """Return the end of an attempt that somebody wanted to end."""
    return _outcome(claim, Verdict.CANCEL, reason=Reason.CANCELLED)


def not_started(claim: ClaimedExecution, told: str) -> Outcome:
    """Return the end of an attempt that found no process to run in; the cause may pass."""
    return _outcome(
        claim, Verdict.SNOOZE, reason=Reason.NO_PROCESS, delay=START_AGAIN_SECONDS, error=told
    )


def too_long(claim: ClaimedExecution, told: str) -> Outcome:
    """Return the end of an attempt whose result or actions are too much."""
    return _final_failure(claim, Reason.RESULT_REFUSED, f"The result was refused: {told}")


def overruled(
    job: JobDefinition[Any, Any], claim: ClaimedExecution, ending: Ending, told: Outcome
) -> Outcome:
    """Return what is stored for an attempt that was made to end, and told of an end of its own.

    What a handler fails with while it is made to end is how it ends, not an error of its own: what
    it has started was told to end as well. One that has come to its end all the same has done so,
    unless somebody wanted the execution to end, however that came about.
    """
    has_failed = told.verdict is Verdict.RETRY or told.failure is Reason.ERROR
    if has_failed or isinstance(ending, Cancelled):
        return conclude(job, claim, ending)
    return told


class AttemptTimeoutError(Exception):
    """An attempt took longer than its job allows; what a retry policy sees of it."""


def conclude(
    job: JobDefinition[Any, Any],
    claim: ClaimedExecution,
    ending: Ending,
    catalog: JobCatalog | None = None,
) -> Outcome:
    """Decide what is stored for an attempt that ended so."""
    try:
        return _conclude(job, claim, ending, catalog)
    except Exception as error:  # noqa: BLE001 - the handler's values are the user's, and may do anything
        told = f"The result was refused: {describe(error)}"
        return _final_failure(claim, Reason.RESULT_REFUSED, told)


def _conclude(  # noqa: PLR0911 - one for each ending
    job: JobDefinition[Any, Any],
    claim: ClaimedExecution,
    ending: Ending,
    catalog: JobCatalog | None,
) -> Outcome:
    match ending:
        case Returned(value):
            return _returned(job, claim, value, catalog)
        case Raised(error):
            detail = _trace(error)
            return _failure(job, claim, Reason.ERROR, describe(error), error, detail=detail)
        case TimedOut(seconds):
            told = f"It took longer than {seconds:g} s."
            return _failure(job, claim, Reason.TIMEOUT, told, AttemptTimeoutError(told))
        case Snoozed(seconds):
            return _outcome(claim, Verdict.SNOOZE, reason=Reason.SNOOZE, delay=seconds)
        case Drained() | Cancelled():
            return not_begun(claim) if isinstance(ending, Drained) else cancelled(claim)
        case Exited():
            return _exited(job, claim, ending)
        case Unstarted(told):
            return not_started(claim, told)
        case Refused(error):
            return _final_failure(claim, Reason.PAYLOAD_REFUSED, str(error))


def _returned(
    job: JobDefinition[Any, Any], claim: ClaimedExecution, value: Any, catalog: JobCatalog | None
) -> Outcome:
    if value is None:  # as of most handlers
        return Outcome(execution_id=claim.id, token=claim.token, verdict=Verdict.COMPLETE)
    result = value if isinstance(value, JobResult) else JobResult(success=True, data=value)
    try:
        data = None if result.data is None else to_stored_json(result.data)
        work = _resolve(result, claim, catalog) if result.actions else NewWork()
    except (ValueError, NetscriptError) as error:
        return _final_failure(claim, Reason.RESULT_REFUSED, f"The result was refused: {error}")
    if result.success:
        return _outcome(
            claim,
            Verdict.COMPLETE,
            result=data,
            actions=work.executions,
            batches=work.batches,
        )
    told = str(result.error or "The handler returned a failure.")
    if not result.retry:
        return _final_failure(claim, Reason.ERROR, told, result=data)
    return _failure(job, claim, Reason.ERROR, told, None, result=data)


def _exited(job: JobDefinition[Any, Any], claim: ClaimedExecution, ending: Exited) -> Outcome:
    detail = None if ending.detail is None else storable(ending.detail, MAX_DETAIL_CHARS)
    told, result = str(ending.error), ending.result
    if ending.retry:
        outcome = _failure(
            job, claim, ending.reason, told, ending.error, detail=detail, result=result
        )
    else:
        outcome = _final_failure(claim, ending.reason, told, detail=detail, result=result)
    outcome.death = ending.death
    return outcome


def _resolve(result: JobResult, claim: ClaimedExecution, catalog: JobCatalog | None) -> NewWork:
    cause = Cause(
        triggered_by=TriggeredBy.JOB,
        correlation_id=claim.correlation_id or claim.id,
        traceparent=claim.traceparent,
        tracestate=claim.tracestate,
    )
    for action in result.actions:
        if not isinstance(action, (EnqueueJob, EnqueueBatch)):  # pyright: ignore[reportUnnecessaryIsInstance] - users' values
            raise ConfigurationError(
                f"a {type(action).__name__} is no action.", hint="Make it with enqueue_job(...)."
            )
    return resolve_all(result.actions, catalog, cause)


def _failure(
    job: JobDefinition[Any, Any],
    claim: ClaimedExecution,
    reason: Reason,
    told: str,
    error: BaseException | None,
    *,
    detail: str | None = None,
    result: str | None = None,
) -> Outcome:
    raised = None if error is None or reason is not Reason.ERROR else _type_of(error)
    if not job.retry.allows(error, claim.attempt, claim.max_attempts):
        return _final_failure(claim, reason, told, detail=detail, result=result, exception=raised)
    try:
        wait = job.retry.delay(claim.attempt, error or RuntimeError(told))
    except Exception as broken:  # noqa: BLE001 - the policy is the user's code too
        told = f"{told} (and the backoff of its retry policy raised {type(broken).__name__})"
        return _final_failure(claim, reason, told, detail=detail, result=result, exception=raised)
    return _outcome(
        claim,
        Verdict.RETRY,
        reason=Reason.RETRY,
        failure=reason,
        error=storable(told, MAX_ERROR_CHARS),
        detail=detail,
        delay=wait,
        exception=raised,
    )


def _final_failure(
    claim: ClaimedExecution,
    reason: Reason,
    told: str,
    *,
    detail: str | None = None,
    result: str | None = None,
    exception: str | None = None,
) -> Outcome:
    return _outcome(
        claim,
        Verdict.FAIL,
        reason=reason,
        failure=reason,
        error=storable(told, MAX_ERROR_CHARS),
        detail=detail,
        result=result,
        exception=exception,
    )


def _type_of(error: BaseException) -> str:
    kind = type(error)
    home = kind.__module__
    return kind.__qualname__ if home == "builtins" else f"{home}.{kind.__qualname__}"


def _outcome(claim: ClaimedExecution, verdict: Verdict, **facts: Any) -> Outcome:
    return Outcome(execution_id=claim.id, token=claim.token, verdict=verdict, **facts)


def _trace(error: BaseException) -> str:
    lines = traceback.format_exception(error)
    return storable("".join(lines), MAX_DETAIL_CHARS)


def storable(told: str, limit: int) -> str:
    """Cut and clean a text of unknown origin so that every database can hold it."""
    clean = told.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")
    return clean if len(clean) <= limit else f"{clean[: limit // 2]} … {clean[-limit // 2 :]}"
