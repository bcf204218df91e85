"""How the API answers: JSON, problem documents, and which error is which status."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from netscript_workers.errors import (
    ConfigurationError,
    CursorError,
    IdempotencyConflictError,
    NetscriptError,
    NotFoundError,
    PayloadInvalidError,
    PayloadTooLargeError,
    StateError,
    StoreUnavailableError,
)
from netscript_workers.problems import PROBLEM_TYPE, problem, to_bytes
from netscript_workers.records import plain

logger = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 5

_STATUS: tuple[tuple[type[NetscriptError], int], ...] = (
    (NotFoundError, 404),
    (CursorError, 400),
    (PayloadTooLargeError, 413),
    (PayloadInvalidError, 422),
    (ConfigurationError, 422),
    (StateError, 409),
    (StoreUnavailableError, 503),
)


class Answer(Response):
    """Records and plain values as JSON."""

    media_type = "application/json"

    def __init__(self, content: Any, status_code: int = 200) -> None:
        """Answer with `content`."""
        super().__init__(to_bytes(plain(content)), status_code)


def tagged(request: Request, content: Any) -> Response:
    """Answer with `content`, or that it is what the caller has."""
    answer = Answer(content)
    tag = f'W/"{hashlib.sha256(answer.body).hexdigest()[:32]}"'
    given = request.headers.get("if-none-match", "")
    known = {one.strip().removeprefix("W/") for one in given.split(",")}
    if known & {tag.removeprefix("W/"), "*"}:
        return Response(status_code=304, headers={"ETag": tag})
    answer.headers["ETag"] = tag
    return answer


class Problem(Response):
    """A problem document (RFC 9457)."""

    media_type = PROBLEM_TYPE

    def __init__(self, status: int, code: str, detail: str | None = None, **extra: Any) -> None:
        """Answer with a problem; `extra` are more members."""
        super().__init__(to_bytes(problem(status, code, detail, **extra)), status)
        if status == 503:
            self.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)


class MalformedRequestError(NetscriptError, ValueError):
    """The request can't be read."""

    code = "malformed"


def problem_of(error: NetscriptError) -> Problem:
    """Return the problem document of an error."""
    if isinstance(error, MalformedRequestError):
        return Problem(400, error.code, str(error))
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    extra: dict[str, Any] = {}
    if isinstance(error, PayloadInvalidError) and error.details:
        extra["errors"] = error.details
    if isinstance(error, IdempotencyConflictError):
        extra["execution_id"] = error.execution_id
    return Problem(status, error.code, str(error), **extra)


def add_handlers(app: FastAPI) -> None:
    """Make the app answer every error with a problem document."""
    app.add_exception_handler(NetscriptError, _netscript_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(SQLAlchemyError, _database_error)
    app.add_exception_handler(Exception, _any_error)


async def _netscript_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, NetscriptError)
    return problem_of(error)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = [
        {"loc": list(fault["loc"]), "msg": fault["msg"], "type": fault["type"]}
        for fault in error.errors()
    ]
    told = "; ".join(f"{fault['loc'][-1]}: {fault['msg']}" for fault in faults)
    return Problem(422, "invalid", f"The request does not fit: {told}.", errors=faults)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {404: "not-found", 405: "method"}
    answer = Problem(error.status_code, codes.get(error.status_code, "http"))
    answer.headers.update(error.headers or {})
    return answer


async def _database_error(request: Request, error: Exception) -> Response:
    cause = getattr(error, "orig", None) or error
    logger.warning("the database did not answer: %s", type(cause).__name__)
    return Problem(503, "store-unavailable", "The database can't answer now. Try again.")


async def _any_error(request: Request, error: Exception) -> Response:
    answer = Problem(500, "internal", "This is a fault of the server; its log says more.")
    # Nothing that stands in front of the routes sees this one.
    answer.headers.update({"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})
    return answer
