"""HEAD, and queries that are not text: what is the same for every path."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.responses import Response

from netscript_workers.api.answers import Problem
from netscript_workers.api.guard import App, Receive, Scope, Send

# Set where only the head of an answer is asked for, for those whose bodies have no end.
HEAD = "netscript.head"


class Methods:
    """Answers it; which methods a path has, the guard says."""

    def __init__(self, app: App) -> None:
        """Stand in front of `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _unreadable(scope)
        if answer is not None:
            await answer(scope, receive, send)
        elif scope["method"] == "HEAD":
            told = {**scope, "method": "GET", HEAD: True}
            await self._app(told, receive, _without_body(send))
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


def _without_body(send: Send) -> Send:
    async def send_head(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body":
            if message.get("more_body"):
                return
            message = {**message, "body": b""}
        await send(message)

    return send_head
