"""Reading what callers of the API send."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from netscript_workers.api.answers import MalformedRequestError
from netscript_workers.api.services import Instant
from netscript_workers.domain import IdempotencyMode
from netscript_workers.errors import PayloadInvalidError, PayloadTooLargeError
from netscript_workers.options import MAX_KEY_LENGTH
from netscript_workers.payloads import MAX_JSON_BYTES, fault_details
from netscript_workers.strict_json import MalformedError, parse

MAX_HEADER_KEY = 255

M = TypeVar("M", bound=BaseModel)


class TriggerOptions(BaseModel):
    """How to enqueue; each is a query parameter, or a header such as `Idempotency-Key`."""

    model_config = ConfigDict(extra="forbid")

    priority: int | None = Field(None, ge=0, le=100, description="Higher first; the job's own.")
    delay: float | None = Field(None, ge=0, le=1e9, description="Seconds from now.")
    run_at: Instant | None = Field(None, description="The instant to run it, RFC 3339.")
    correlation_id: str | None = Field(None, min_length=1, max_length=MAX_KEY_LENGTH)
    concurrency_key: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_KEY_LENGTH,
        description="Executions that share it never overlap.",
    )
    idempotency_key: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_KEY_LENGTH,
        description="A second call with it creates nothing and yields the first execution.",
    )
    idempotency: IdempotencyMode = Field(
        "once", description="What becomes of a second call with the same key."
    )
    max_wait: float | None = Field(
        None, gt=0, le=1e9, description="Seconds that replacing can put it off, at most."
    )
    topic: str | None = Field(None, min_length=1, max_length=MAX_KEY_LENGTH)


def trigger_options(request: Request) -> TriggerOptions:
    """Read the options of a trigger request.

    Raises:
        PayloadInvalidError: One can't be used, or is not known.
    """
    given: dict[str, Any] = dict(request.query_params)
    check_key_header(request)
    for name in TriggerOptions.model_fields:
        header = name.replace("_", "-")
        value = request.headers.get(header, request.headers.get(f"x-{header}"))
        if value is not None:
            given.setdefault(name, value)
    return fit(TriggerOptions, given)


def check_key_header(request: Request) -> None:
    """Refuse an `Idempotency-Key` that others could write in another way.

    Raises:
        PayloadInvalidError: It is longer than 255 characters, or holds what is not printable ASCII.
    """
    for name in ("idempotency-key", "x-idempotency-key"):
        key = request.headers.get(name, "")
        if len(key) > MAX_HEADER_KEY or not (key.isascii() and key.isprintable()):
            raise PayloadInvalidError(
                f"{name.title()} must have 1 to {MAX_HEADER_KEY} printable ASCII characters."
            )


def fit(model: type[M], given: Mapping[str, Any]) -> M:
    """Read options into their model.

    Raises:
        PayloadInvalidError: One can't be used, or is not known.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        details = fault_details(error)
        told = "; ".join(f"{detail['loc'][0]}: {detail['msg']}" for detail in details)
        raise PayloadInvalidError(f"The options don't fit: {told}.", details=details) from None


async def read_object(request: Request) -> Mapping[str, Any]:
    """Read the body as a JSON object; an empty body is an empty one.

    Raises:
        PayloadTooLargeError: It is longer than 1 MiB.
        MalformedRequestError: It is no JSON.
        PayloadInvalidError: It is no object.
    """
    value = await read_value(request)
    if not isinstance(value, dict):
        raise PayloadInvalidError("The payload must be a JSON object.")
    return value  # pyright: ignore[reportUnknownVariableType] - JSON keys are strings


async def read_value(request: Request) -> Any:
    """Read the body as JSON; an empty body is an empty object.

    Raises:
        PayloadTooLargeError: It is longer than 1 MiB.
        MalformedRequestError: It is no JSON.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_JSON_BYTES:
            raise PayloadTooLargeError(f"The body may have {MAX_JSON_BYTES:,} bytes.")
    if not body.strip():
        return {}
    try:
        return parse(body)
    except MalformedError as error:
        raise MalformedRequestError(str(error)) from None


def parameters() -> list[dict[str, Any]]:
    """Return the options for the OpenAPI document."""
    schema = TriggerOptions.model_json_schema()["properties"]
    found = [
        {"name": name, "in": "query", "required": False, "schema": part}
        for name, part in schema.items()
    ]
    key = {"name": "Idempotency-Key", "in": "header", "required": False}
    schema = {"type": "string", "minLength": 1, "maxLength": MAX_HEADER_KEY, "pattern": "^[ -~]+$"}
    return [*found, {**key, "schema": schema}]
