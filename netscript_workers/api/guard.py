"""The guard: without tokens, no web page and no other machine may reach the API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from netscript_workers.api.answers import Problem
from netscript_workers.settings import LOOPBACK

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Guard:
    """Refuses what a browser could be tricked into sending.

    The `Host` must be a loopback name (against DNS rebinding), an `Origin` must be this server's
    own (against pages of others), and a body must be JSON, which no plain form can send.
    """

    def __init__(self, app: App) -> None:
        """Stand in front of `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        refusal = _refusal(scope) if scope["type"] == "http" else None
        await (self._app if refusal is None else refusal)(scope, receive, send)


def _refusal(scope: Scope) -> Problem | None:
    headers = {name: value.decode("latin-1").strip() for name, value in scope["headers"]}
    host = headers.get(b"host", "")
    if _name_of(f"//{host}") not in LOOPBACK:
        return Problem(403, "host", "Without tokens the API answers to loopback names only.")
    origin = headers.get(b"origin")
    if origin is not None and origin.partition("://")[2] != host:
        return Problem(403, "origin", "Pages of other origins may not use the API.")
    if scope["method"] in _SAFE or not scope["path"].startswith("/api/"):
        return None
    kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
    empty = headers.get(b"content-length", "0") == "0" and b"transfer-encoding" not in headers
    if kind != "application/json" and not (empty and not kind):
        return Problem(415, "content-type", "Send application/json.")
    return None


def _name_of(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
