"""The OpenAPI document: what FastAPI finds, and what holds for all routes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter
from starlette.routing import Route

from netscript_workers.api.shapes import Problem
from netscript_workers.problems import PROBLEM_TYPE

_REF = "#/components/schemas/"
_SAID = {
    304: "It is as the sent `If-None-Match` says.",
    400: "The request can't be read: its JSON, its encoding or its cursor.",
    401: "There is no token, or it is not known.",
    403: "The token's role or the `Origin` does not allow it.",
    404: "There is none; the detail names the nearest.",
    409: "The state does not allow it, or the key was used with another payload.",
    413: "The body is longer than 1 MiB.",
    415: "The body is not `application/json`.",
    421: "Without tokens, the `Host` must be a name of this machine.",
    422: "A parameter or the body does not fit; `errors` says which fields.",
    429: "Too many requests; `Retry-After` says when to come again.",
    503: "The database can't answer now; `Retry-After` says when to come again.",
}
_EVERYWHERE = (400, 401, 403, 421, 422, 429, 503)
_WITH_BODY = (413, 415)
ETAG_HEADER = {"ETag": {"description": "For `If-None-Match`.", "schema": {"type": "string"}}}


def answers(
    model: Any, example: Any = None, *problems: int, status: int = 200, etag: bool = False
) -> dict[int | str, dict[str, Any]]:
    """Return what a route may answer, for its `responses`.

    Args:
        model: The shape of its answer.
        example: One such answer.
        *problems: Statuses of problems beside those that every route has.
        status: Of its answer.
        etag: Whether it answers conditional requests.
    """
    told: dict[str, Any] = {"model": model}
    if example is not None:
        told["content"] = {"application/json": {"example": example}}
    if etag:
        told["headers"] = ETAG_HEADER
    found: dict[int | str, dict[str, Any]] = {status: told}
    if etag:
        found[304] = {"description": _SAID[304]}
    return {**found, **{one: {"description": _SAID[one]} for one in problems}}


def body(
    model: type[BaseModel], example: Any = None, *, required: bool = False, **more: Any
) -> dict[str, Any]:
    """Return what is told of a body that a route reads by itself; `more` goes into its schema."""
    content: dict[str, Any] = {"schema": {**model.model_json_schema(), **more}}
    if example is not None:
        content["example"] = example
    return {"requestBody": {"required": required, "content": {"application/json": content}}}


def bulk_body(
    model: type[BaseModel], example: Any, conditions: Sequence[str], statuses: Sequence[str]
) -> dict[str, Any]:
    """Return what is told of a bulk change's body: at least one condition, or all."""
    given = [
        {"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in conditions
    ]
    told = body(
        model,
        example,
        required=True,
        anyOf=[*given, {"required": ["all"], "properties": {"all": {"const": True}}}],
    )
    one = {"enum": list(statuses)}
    many = {"type": "array", "items": one, "minItems": 1}
    schema = told["requestBody"]["content"]["application/json"]["schema"]
    schema["properties"]["status"] = {"anyOf": [one, many, {"type": "null"}]}
    return told


def operation_id(route: APIRoute) -> str:
    """Return the name of a route's function."""
    return route.name


def describe(app: FastAPI, routes: Sequence[Route]) -> Callable[[], dict[str, Any]]:
    """Return what makes the document of an app with these routes, once."""
    made: dict[str, Any] = {}

    def document() -> dict[str, Any]:
        if not made:
            made.update(_document(app, routes))
        return made

    return document


def _document(app: FastAPI, routes: Sequence[Route]) -> dict[str, Any]:
    told = get_openapi(
        title=app.title,
        version=app.version,
        description="Errors are problem documents (RFC 9457), times RFC 3339, ids UUIDv7.",
        routes=app.routes,
    )
    schemas: dict[str, Any] = told.setdefault("components", {}).setdefault("schemas", {})
    _hoist(told, schemas)
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = TypeAdapter(Problem).json_schema(ref_template=_REF + "{model}")
    named = {route.name: route for route in routes if isinstance(route, APIRoute)}
    for path, method, operation in _operations(told):
        _give_examples(operation, named[operation["operationId"]])
        _complete(path, method, operation)
    # Where there are no tokens, this machine needs none.
    told["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    told["components"]["schemas"] = dict(sorted(schemas.items()))
    return told


def _operations(told: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in told["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", ()):
        parameter["schema"] = _without_null(parameter["schema"])
    responses: dict[str, Any] = operation["responses"]
    if path.startswith("/api/"):
        operation["security"] = [{"token": []}, {}]
        common = _EVERYWHERE if method == "get" else (*_EVERYWHERE, *_WITH_BODY)
        for one in common:
            responses.setdefault(str(one), {"description": _SAID[one]})
    else:
        if path == "/metrics":
            operation["security"] = [{"token": []}, {}]
        responses.setdefault("400", {"description": _SAID[400]})
        for one in (403, 421):
            responses.setdefault(str(one), {"description": _SAID[one]})
    for status, response in responses.items():
        if int(status) >= HTTPStatus.BAD_REQUEST:
            response["description"] = response.get("description") or _SAID[int(status)]
            response["content"] = {PROBLEM_TYPE: {"schema": {"$ref": f"{_REF}Problem"}}}
    if "422" in responses:
        responses["422"]["description"] = _SAID[422]
    operation["responses"] = dict(sorted(responses.items()))


def _give_examples(operation: dict[str, Any], route: APIRoute) -> None:
    """Put examples back as they were: FastAPI leaves out what is null in them."""
    asked = (route.openapi_extra or {}).get("requestBody", {})
    pairs = [(operation.get("requestBody", {}), asked)]
    answers_: dict[str, Any] = operation["responses"]
    pairs += [(answers_[str(status)], one) for status, one in route.responses.items()]
    for told, given in pairs:
        for kind, content in given.get("content", {}).items():
            if "example" in content:
                told["content"][kind]["example"] = content["example"]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter that is not given is left out; there is no null in a query."""
    kinds = schema.get("anyOf")
    if kinds is None or {"type": "null"} not in kinds:
        return schema
    left = [kind for kind in kinds if kind != {"type": "null"}]
    rest = {name: value for name, value in schema.items() if name not in {"anyOf", "default"}}
    return {**left[0], **rest} if len(left) == 1 else {"anyOf": left, **rest}


def _hoist(node: Any, schemas: dict[str, Any]) -> None:
    """Move definitions of bodies to where those of answers are."""
    if isinstance(node, list):
        for member in node:  # pyright: ignore[reportUnknownVariableType] - a JSON document
            _hoist(member, schemas)
    if not isinstance(node, dict):
        return
    found: dict[str, Any] = node  # pyright: ignore[reportUnknownVariableType] - a JSON document
    for name, schema in found.pop("$defs", {}).items():
        schemas.setdefault(name, schema)
    ref = found.get("$ref")
    if isinstance(ref, str):
        found["$ref"] = ref.replace("#/$defs/", _REF)
    for member in list(found.values()):
        _hoist(member, schemas)
