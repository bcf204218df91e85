"""The guard: nothing of the API is reached but by those who may, and none of it by foreign pages.

With tokens, everybody proves who they are, by a token or by the cookie of a login. Without, only
this machine reaches the API, and no web page does that somebody on it looks at.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import parse_qs

from starlette.responses import RedirectResponse, Response

from netscript_workers.api.access import AccessTable, Found
from netscript_workers.api.answers import Problem
from netscript_workers.api.auditing import Recorder, notes_of
from netscript_workers.api.authentication import Authentication, insufficient, unauthorized
from netscript_workers.api.browsers import (
    HEADERS,
    SAFE,
    foreign_body,
    foreign_host,
    foreign_origin,
)
from netscript_workers.store.audit import Deed, as_text
from netscript_workers.tokens import LOCAL, Role, Token

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

CALLER = "netscript.caller"
FORM_HEADER = b"x-csrf-token"

# They check the token of their form themselves, for it stands in the body.
_FORMS = frozenset({"/login", "/logout"})
# Where people are asked to log in; programs get a problem document.
_PAGES = frozenset({"/", "/logout"})
_SCHEME = "bearer"
_HTML = "text/html"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request.

    Attributes:
        who: The name of a token, or `local`.
        role: What it may do.
        cookie: Of its session, if it came with one.
    """

    who: str
    role: Role
    cookie: str | None = None


_LOCAL = Caller(LOCAL, Role.ADMIN)


class Guard:
    """Stands in front of an app."""

    def __init__(
        self,
        app: App,
        *,
        table: AccessTable,
        authentication: Authentication,
        recorder: Recorder,
        public_url: str = "",
        insecure: bool = False,
    ) -> None:
        """Stand in front of `app`.

        Args:
            app: What is guarded.
            table: What each route asks for.
            authentication: Knows who sends a request.
            recorder: Stores what was done.
            public_url: What browsers call us by, if a proxy calls us otherwise.
            insecure: Answer to any host, though there are no tokens.
        """
        self._app = app
        self._table = table
        self._authentication = authentication
        self._recorder = recorder
        self._public_url = public_url
        self._insecure = insecure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = _with_headers(send)
        found = self._table.find(scope["method"], scope["path"])
        refusal = self._refusal(scope, found)
        if refusal is not None:
            await refusal(scope, receive, send)
        elif found.access is not None and found.access.action is not None:
            await self._app(scope, receive, self._recording(scope, found, send))
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope, found: Found) -> Response | None:
        headers = _headers_of(scope)
        if not self._authentication.tokens and not self._insecure:
            refusal = foreign_host(headers)
            if refusal is not None:
                return refusal
        caller = self._caller(scope, headers, found)
        if isinstance(caller, Response):
            return caller
        if caller is not None:
            scope[CALLER] = caller
        if found.access is None:
            # Nothing that the table lacks goes on, however the app would read its path.
            return _missing(scope["method"], found)
        needed = found.access.role
        if needed is not None:
            assert caller is not None
            if not caller.role.may(needed):
                return insufficient(caller.who, caller.role, needed)
        if scope["method"] in SAFE or not scope["path"].startswith("/api/"):
            return None
        return foreign_body(headers)

    def _caller(
        self, scope: Scope, headers: dict[bytes, str], found: Found
    ) -> Caller | Response | None:
        """Return who sends a request, None where nobody asks, or what to answer instead."""
        path: str = scope["path"]
        method: str = scope["method"]
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if not self._authentication.tokens:
            # What a proxy lets in from elsewhere is none of ours here.
            return foreign_origin(headers, method, "") or _LOCAL
        is_open = found.access.role is None if found.access else not _is_ours(path)
        if given and not is_open:  # what no browser sends by itself
            return self._by_token(given, scope)
        refusal = foreign_origin(headers, method, self._public_url)
        if refusal is not None or is_open:
            return refusal
        return self._by_cookie(scope, headers)

    def _by_token(self, given: list[bytes], scope: Scope) -> Caller | Problem:
        scheme, _, presented = given[0].decode("latin-1").strip().partition(" ")
        if len(given) > 1:
            return Problem(400, "malformed", "There is more than one Authorization header.")
        if scheme.lower() != _SCHEME or not presented.strip():
            return unauthorized("Send a token: Authorization: Bearer …")
        token = self._authentication.by_token(presented.strip(), scope)
        return token if isinstance(token, Problem) else self._counted(token, None)

    def _by_cookie(self, scope: Scope, headers: dict[bytes, str]) -> Caller | Response:
        session = self._authentication.by_cookie(scope)
        if session is None:
            if scope["path"] in _PAGES and _HTML in headers.get(b"accept", ""):
                return RedirectResponse("/login", 303)
            return unauthorized("Send a token: Authorization: Bearer …")
        token, cookie = session
        if scope["method"] not in SAFE and scope["path"] not in _FORMS:
            told = headers.get(FORM_HEADER, "")
            if not self._authentication.sessions.is_form_token(cookie, told):
                return Problem(403, "csrf", "The header X-CSRF-Token is not that of the session.")
        return self._counted(token, cookie)

    def _counted(self, token: Token, cookie: str | None) -> Caller | Problem:
        return self._authentication.count(token) or Caller(token.name, token.role, cookie)

    def _recording(self, scope: Scope, found: Found, send: Send) -> Send:
        """Store what a request did before its answer begins, if it did something."""

        async def record_and_send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and _has_done(message["status"], found):
                await self._recorder.record(self._deed(scope, found))
            await send(message)

        return record_and_send

    def _deed(self, scope: Scope, found: Found) -> Deed:
        assert found.access is not None
        assert found.access.action is not None
        notes = notes_of(scope)
        reason = notes.get("reason") or _headers_of(scope).get(b"x-reason")
        if reason is None and found.access.reason_in_query:
            asked = parse_qs(scope["query_string"].decode("latin-1"), errors="replace")
            reason = next(iter(asked.get("reason", ())), None)
        subject = notes.get("subject") or found.subject
        caller: Caller = scope[CALLER]
        return Deed(
            who=caller.who,
            action=found.access.action,
            subject=as_text(subject) if subject else None,
            reason=as_text(reason) if reason else None,
            address=self._authentication.address(scope),
        )


def caller_of(scope: Scope) -> Caller | None:
    """Return who sent a request; None where the route asks nobody."""
    found: Caller | None = scope.get(CALLER)
    return found


def _is_ours(path: str) -> bool:
    return path in ("/", "/metrics") or path.startswith("/api/") or path == "/api"


def _has_done(status: int, found: Found) -> bool:
    """Tell whether a request may have changed something: one of many is done a part at a time."""
    action = (found.access and found.access.action) or ""
    return status < 400 or (status >= 500 and action.endswith("-many"))


def _missing(method: str, found: Found) -> Response:
    if not found.allowed:
        return Problem(404, "not-found")
    implied = {"HEAD", "OPTIONS"} if "GET" in found.allowed else {"OPTIONS"}
    told = ", ".join(sorted(implied.union(found.allowed)))
    if method == "OPTIONS":
        return Response(status_code=204, headers={"Allow": told})
    answer = Problem(405, "method", f"This path takes {told}.")
    answer.headers["Allow"] = told
    return answer


def _headers_of(scope: Scope) -> dict[bytes, str]:
    return {name: value.decode("latin-1").strip() for name, value in scope["headers"]}


def _with_headers(send: Send) -> Send:
    """Add to each answer what a browser is to know of it."""

    async def add_and_send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            given: list[tuple[bytes, bytes]] = list(message.get("headers", ()))
            has = {name.lower() for name, _ in given}
            more = [(name, value) for name, value in HEADERS.items() if name not in has]
            message = {**message, "headers": [*given, *more]}
        await send(message)

    return add_and_send
