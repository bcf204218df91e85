"""Every error that netscript raises on purpose."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from netscript_workers.records import Explanation


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` was most likely meant to be, if one is close."""
    matches = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def describe(error: BaseException) -> str:
    """Describe an exception in one line, even one that can't describe itself."""
    try:
        text = str(error)
    except (Exception, SystemExit):  # noqa: BLE001 - users' exceptions may do anything
        text = ""
    return f"{type(error).__name__}: {text}".rstrip(": ")


class NetscriptError(Exception):
    """Something netscript was asked to do can't be done.

    Attributes:
        code: A stable, machine-readable name; the `type` of the problem document over HTTP.
        retryable: Whether the same call may succeed later without a change.
        hint: What to do about it, as one sentence, or None.
    """

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None, *, hint: str | None = None) -> None:
        """Take the sentence to show; without one, the class's own first line is used."""
        text = message or (type(self).__doc__ or type(self).__name__).strip().splitlines()[0]
        super().__init__(text)
        self.hint = hint

    @property
    def message(self) -> str:
        """The sentence alone, without the hint."""
        return str(self.args[0])

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class ConfigurationError(NetscriptError, ValueError):
    """A definition or a setting is wrong, so nothing was started."""

    code = "configuration"


class DuplicateIdError(ConfigurationError):
    """Two different definitions claim one id."""

    code = "duplicate-id"


class DiscoveryError(ConfigurationError):
    """A folder of definitions could not be loaded."""

    code = "discovery"


class SchemaOutdatedError(ConfigurationError):
    """The database schema is not the one this version needs."""

    code = "schema-outdated"


class NotFoundError(NetscriptError, LookupError):
    """Nothing has that id."""

    code = "not-found"


class _UnknownNameError(NotFoundError):
    """Nothing of a kind has that id; says which one was meant, if one is close."""

    kind: ClassVar[str]

    def __init__(self, wanted: str, known: Iterable[str] = ()) -> None:
        close = nearest(wanted, known)
        super().__init__(
            f'There is no {self.kind} "{wanted[:200]}".',
            hint=f'Did you mean "{close}"?' if close else None,
        )
        self.nearest = close


class JobNotFoundError(_UnknownNameError):
    """No job has that id."""

    code = "job-not-found"
    kind = "job"


class TaskNotFoundError(_UnknownNameError):
    """No task has that id."""

    code = "task-not-found"
    kind = "task"


class TriggerNotFoundError(_UnknownNameError):
    """No trigger has that id."""

    code = "trigger-not-found"
    kind = "trigger"


class ExecutionNotFoundError(NotFoundError):
    """No execution has that id."""

    code = "execution-not-found"


class EventNotFoundError(NotFoundError):
    """No event has that id."""

    code = "event-not-found"


class WorkerNotFoundError(NotFoundError):
    """No worker has that id."""

    code = "worker-not-found"


class CursorError(NetscriptError, ValueError):
    """The cursor is not one that a page before has given."""

    code = "cursor"


class PayloadError(NetscriptError, ValueError):
    """A payload or a result can't be used."""

    code = "payload"


class PayloadInvalidError(PayloadError):
    """The payload does not fit the job's payload model.

    Attributes:
        details: One entry per fault: `loc` (path of the field), `msg`, `type`.
    """

    code = "payload-invalid"

    def __init__(
        self,
        message: str | None = None,
        *,
        details: tuple[dict[str, Any], ...] = (),
        hint: str | None = None,
    ) -> None:
        """Take the sentence and, if a model refused, its faults field by field."""
        super().__init__(message, hint=hint)
        self.details = details


class PayloadTooLargeError(PayloadError):
    """The payload is larger than the limit."""

    code = "payload-too-large"


class ResultInvalidError(PayloadError):
    """The handler's result can't be stored as JSON."""

    code = "result-invalid"


class TaskFailedError(NetscriptError):
    """A task's process has failed; what a retry policy sees of it.

    Attributes:
        exit_code: What it exited with, unless a signal ended it.
        signal: The number of the signal that ended it.
    """

    code = "task-failed"

    def __init__(
        self,
        message: str | None = None,
        *,
        exit_code: int | None = None,
        signal: int | None = None,
        hint: str | None = None,
    ) -> None:
        """Take the sentence, and how its process ended."""
        super().__init__(message, hint=hint)
        self.exit_code = exit_code
        self.signal = signal


class TaskRefusedError(TaskFailedError):
    """A task can't run on this machine as it is defined; no retry mends that."""

    code = "task-refused"


class StateError(NetscriptError):
    """The state of the thing does not allow this."""

    code = "state"


class DuplicateStepError(StateError):
    """A step name was used twice in one attempt; each step of an attempt needs its own name."""

    code = "duplicate-step"


class IdempotencyConflictError(StateError):
    """The idempotency key was used before, with another payload.

    Attributes:
        execution_id: The execution that the key stands for.
    """

    code = "idempotency-conflict"

    def __init__(self, job_id: str, key: str, execution_id: str) -> None:
        """Name the job, the key, and the execution that came first."""
        super().__init__(
            f'The idempotency key "{key}" of job "{job_id}" was used with another payload '
            f"by execution {execution_id}.",
            hint="Send the payload of the first request, or use a new key.",
        )
        self.execution_id = execution_id


class VerificationError(NetscriptError):
    """A delivery does not prove where it comes from.

    Attributes:
        reason: Which check failed, for logs and counters; never told to the sender.
    """

    code = "verification"

    def __init__(self, reason: str) -> None:
        """Take the short, machine-readable reason, such as `signature-mismatch`."""
        super().__init__(f"The delivery could not be verified ({reason}).")
        self.reason = reason


class StoreUnavailableError(NetscriptError):
    """The database can't take this now."""

    code = "store-unavailable"
    retryable = True


class StoreBusyError(StoreUnavailableError):
    """SQLite is locked by another writer.

    Call configure_sqlite(engine) once on the engine of this session: its transactions then
    begin IMMEDIATE and wait for their turn instead of failing.
    """

    code = "store-busy"


class WaitTimeoutError(NetscriptError, TimeoutError):
    """The time to wait for an execution's result is over, and it has not ended.

    Attributes:
        execution_id: The execution; it goes on.
        explanation: What it does or waits for: a code, a sentence and facts.
    """

    code = "wait-timeout"

    def __init__(self, seconds: float, explanation: Explanation) -> None:
        """Take how long was waited, in seconds, and what the execution waits for."""
        super().__init__(
            f"Execution {explanation.execution_id} has not ended within {seconds:g} s.",
            hint=explanation.sentence,
        )
        self.execution_id = explanation.execution_id
        self.explanation = explanation


class WorkerFencedError(NetscriptError):
    """This worker lost its lease, so its executions were given to others and it must not go on."""

    code = "worker-fenced"


class JobControl(Exception):  # noqa: N818 - raised on purpose by handlers; not an error
    """What a handler raises to steer its own execution."""


class Snooze(JobControl):
    """Run this execution again later without using up an attempt.

    Args:
        seconds: How long to wait; zero or more.
    """

    def __init__(self, seconds: float) -> None:
        """Take the wait in seconds."""
        if not 0 <= seconds < float("inf"):
            msg = f"Snooze(seconds) takes zero or more seconds, not {seconds!r}."
            raise ValueError(msg)
        super().__init__(f"snoozed for {seconds:g} s")
        self.seconds = float(seconds)
