"""What a handler may give back: success with data and actions, or a failure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from netscript_workers.batches import Action


@dataclass(frozen=True, slots=True)
class JobResult:
    """The result of one attempt.

    Attributes:
        success: Whether the execution is done.
        data: Anything JSON can hold; kept with the execution.
        error: Why it failed, as one sentence.
        actions: Jobs to enqueue in the transaction that completes the execution.
        retry: Whether a failure may be tried again.
    """

    success: bool
    data: Any = None
    error: str | None = None
    actions: tuple[Action, ...] = ()
    retry: bool = True


def create_success_result(data: Any = None, actions: Iterable[Action] = ()) -> JobResult:
    """Complete the execution.

    Args:
        data: The result; anything JSON can hold, Pydantic models and dataclasses included.
        actions: `enqueue_job(...)` and `enqueue_batch(...)` actions, stored if and only if the
            execution completes.
    """
    return JobResult(success=True, data=data, actions=tuple(actions))


def create_failure_result(error: str, data: Any = None, *, retry: bool = True) -> JobResult:
    """Fail this attempt without raising.

    Args:
        error: Why, as one sentence; shown with the execution.
        data: Facts that help whoever reads it.
        retry: False ends the execution, whatever its retry policy says.
    """
    return JobResult(success=False, data=data, error=error, retry=retry)
