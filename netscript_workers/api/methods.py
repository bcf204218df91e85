"""HEAD, OPTIONS, methods that a path does not have, and queries that are not text."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.responses import Response
from starlette.routing import Match, Route

from netscript_workers.api.answers import Problem
from netscript_workers.api.guard import App, Receive, Scope, Send


class Methods:
    """Answers what is the same for every path.

    A path that is written out goes before one with a parameter, also for the methods that it lacks.
    """

    def __init__(self, app: App) -> None:
        """Stand in front of `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _unreadable(scope) or _answer(scope)
        if answer is not None:
            await answer(scope, receive, send)
        elif scope["method"] == "HEAD":
            await self._app({**scope, "method": "GET"}, receive, _without_body(send))
        else:
            await self._app(scope, receive, send)


def _unreadable(scope: Scope) -> Response | None:
    raw = scope.get("raw_path") or b""
    for part, name in ((scope.get("query_string", b""), "query"), (raw, "path")):
        try:
            unquote_to_bytes(part).decode()
        except UnicodeDecodeError:
            return Problem(400, "malformed", f"The {name} is not UTF-8.")
    return None


def _answer(scope: Scope) -> Response | None:
    allowed = _allowed(scope)
    if not allowed:
        return None
    told = ", ".join(sorted(allowed))
    if scope["method"] == "OPTIONS":
        return Response(status_code=204, headers={"Allow": told})
    if scope["method"] in allowed:
        return None
    answer = Problem(405, "method", f"This path takes {told}.")
    answer.headers["Allow"] = told
    return answer


def _allowed(scope: Scope) -> set[str]:
    """Return the methods of a path; none where there is no such path."""
    routes: list[Any] = scope["app"].routes
    matching = [
        route
        for route in routes
        if isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE
    ]
    literal = [route for route in matching if route.path == scope["path"]]
    methods = {method for route in literal or matching for method in route.methods or ()}
    if "GET" in methods:
        methods.add("HEAD")
    return methods | {"OPTIONS"} if methods else methods


def _without_body(send: Send) -> Send:
    async def send_head(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body":
            if message.get("more_body"):
                return
            message = {**message, "body": b""}
        await send(message)

    return send_head
