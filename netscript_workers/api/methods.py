"""HEAD, OPTIONS, methods that a path does not have, and queries that are not text."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.responses import Response
from starlette.routing import Route

from netscript_workers.api.answers import Problem
from netscript_workers.api.guard import App, Receive, Scope, Send

# Set where only the head of an answer is asked for, for those whose bodies have no end.
HEAD = "netscript.head"


class Methods:
    """Answers what is the same for every path.

    A path that is written out goes before one with a parameter, also for the methods that it lacks.
    """

    def __init__(self, app: App, routes: Sequence[Route]) -> None:
        """Stand in front of `app`, which has these routes."""
        self._app = app
        self._routes = [(one.path, one.path_regex, one.methods or set()) for one in routes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _unreadable(scope) or self._answer(scope)
        if answer is not None:
            await answer(scope, receive, send)
        elif scope["method"] == "HEAD":
            told = {**scope, "method": "GET", HEAD: True}
            await self._app(told, receive, _without_body(send))
        else:
            await self._app(scope, receive, send)

    def _answer(self, scope: Scope) -> Response | None:
        allowed = self._allowed(scope["path"])
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

    def _allowed(self, path: str) -> set[str]:
        """Return the methods of a path; none where there is no such path."""
        matching = [one for one in self._routes if one[1].match(path)]
        literal = [one for one in matching if one[0] == path]
        methods = {method for *_, some in literal or matching for method in some}
        if "GET" in methods:
            methods.add("HEAD")
        return methods | {"OPTIONS"} if methods else methods


def _unreadable(scope: Scope) -> Response | None:
    raw = scope.get("raw_path") or b""
    for part, name in ((scope.get("query_string", b""), "query"), (raw, "path")):
        try:
            unquote_to_bytes(part).decode()
        except UnicodeDecodeError:
            return Problem(400, "malformed", f"The {name} is not UTF-8.")
    return None


def _without_body(send: Send) -> Send:
    async def send_head(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body":
            if message.get("more_body"):
                return
            message = {**message, "body": b""}
        await send(message)

    return send_head
