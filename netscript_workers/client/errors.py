"""What the server refuses, as exceptions with its problem document (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import httpx
from httpx_sse import SSEError

from netscript_workers.errors import NetscriptError
from netscript_workers.records import ExecutionRecord


class ApiError(NetscriptError):
    """The server has refused a request.

    Attributes:
        status: The HTTP status; 0 where no answer came.
        problem: The problem document, empty where there was none.
    """

    code = "api"

    def __init__(self, status: int, message: str, problem: Mapping[str, Any]) -> None:
        """Say what was refused."""
        super().__init__(message)
        self.status = status
        self.problem = dict(problem)


class UnauthorizedError(ApiError):
    """There is no token, or the server does not know it."""


class ForbiddenError(ApiError):
    """The token's role does not allow it."""


class MissingError(ApiError):
    """There is no such job or execution; the message names the nearest."""


class ConflictError(ApiError):
    """The state does not allow it, or the idempotency key was used with another payload.

    Attributes:
        execution_id: The execution that the key stands for, if it is about a key.
    """

    @property
    def execution_id(self) -> str | None:
        """Return the first execution's id."""
        found: str | None = self.problem.get("execution_id")
        return found


class RefusedError(ApiError):
    """The payload or an option does not fit."""


class UnavailableError(ApiError):
    """No answer came, or the server could not do it now, however often it was asked."""


class ExecutionEndedError(NetscriptError):
    """An execution that was waited for has failed or was cancelled.

    Attributes:
        execution: Its record.
    """

    code = "execution-ended"

    def __init__(self, execution: ExecutionRecord) -> None:
        """Say how it ended."""
        why = execution.error or execution.reason or "no reason is given"
        super().__init__(f"The execution {execution.id} is {execution.status.value}: {why}")
        self.execution = execution


_KINDS: Mapping[int, type[ApiError]] = {
    401: UnauthorizedError,
    403: ForbiddenError,
    404: MissingError,
    409: ConflictError,
    413: RefusedError,
    422: RefusedError,
    429: UnavailableError,
    502: UnavailableError,
    503: UnavailableError,
    504: UnavailableError,
}


def error_of(outcome: httpx.Response | httpx.TransportError) -> ApiError:
    """Return the exception for an answer that is no success, or for none."""
    if isinstance(outcome, httpx.TransportError):
        told = f"No answer came: {type(outcome).__name__}."
        if isinstance(outcome, SSEError):
            told = "What answers is no live stream; is it the right address?"
        return UnavailableError(0, told, {})
    problem: dict[str, Any] = {}
    try:
        value: object = outcome.json()
    except ValueError:
        value = None
    if isinstance(value, dict):
        problem = cast("dict[str, Any]", value)
    told = str(problem.get("detail") or problem.get("title") or outcome.reason_phrase)
    kind = _KINDS.get(outcome.status_code, ApiError)
    return kind(outcome.status_code, f"{told} ({outcome.status_code})", problem)
