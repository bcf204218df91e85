"""Logging in with a browser: a token becomes a cookie. And the page that says who has."""

from __future__ import annotations

import secrets
from hmac import compare_digest
from html import escape
from urllib.parse import parse_qs

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from netscript_workers.api.answers import Problem
from netscript_workers.api.auditing import Recorder
from netscript_workers.api.authentication import Authentication, cookies_of
from netscript_workers.api.browsers import STYLE, is_https
from netscript_workers.api.guard import FORM_HEADER, Caller, caller_of
from netscript_workers.api.sessions import COOKIE, FORM_COOKIE, LIFETIME_SECONDS, SECURE_PREFIX
from netscript_workers.store.audit import Deed

FORM_FIELD = "form_token"
_MAX_FORM = 4096
_FORM_SECONDS = 3600


def routes(authentication: Authentication, recorder: Recorder, public_url: str = "") -> APIRouter:
    """Return the routes of pages.

    Args:
        authentication: Knows the tokens.
        recorder: Stores who logged in.
        public_url: What browsers call us by.
    """
    pages = APIRouter(include_in_schema=False)
    sessions = authentication.sessions

    def set_cookie(answer: Response, request: Request, name: str, value: str, seconds: int) -> None:
        secure = is_https(request.scope, public_url)
        answer.set_cookie(
            f"{SECURE_PREFIX}{name}" if secure else name,
            value,
            max_age=seconds,
            path="/",
            secure=secure,
            httponly=True,
            samesite="strict",
        )

    def ask(request: Request, told: str = "", status: int = 200) -> Response:
        nonce = secrets.token_urlsafe(18)
        answer = HTMLResponse(_login_page(nonce, told), status)
        set_cookie(answer, request, FORM_COOKIE, nonce, _FORM_SECONDS)
        return answer

    @pages.get("/")
    async def home(request: Request) -> Response:
        """Say who is logged in."""
        caller = caller_of(request.scope)
        assert caller is not None
        form = sessions.form_token(caller.cookie) if caller.cookie else None
        return HTMLResponse(_home_page(caller, form))

    @pages.get("/login")
    async def login_form(request: Request) -> Response:
        """Ask for a token."""
        return ask(request) if authentication.tokens else RedirectResponse("/", 303)

    @pages.post("/login")
    async def login(request: Request) -> Response:
        """Take a token for a cookie."""
        form = await _read_form(request)
        cookies = cookies_of(request.scope)
        nonces = (cookies.get(f"{SECURE_PREFIX}{FORM_COOKIE}"), cookies.get(FORM_COOKIE))
        if not any(one and _equal(one, form.get(FORM_FIELD, "")) for one in nonces):
            return ask(request, "The form was too old. Try again.", 403)
        token = authentication.by_token(form.get("token", "").strip(), request.scope)
        if isinstance(token, Problem):
            told = "That is no token of this server."
            if token.status_code == 429:
                told = f"Too many wrong ones. Come back in {token.headers['Retry-After']} s."
            answer = ask(request, told, token.status_code)
            for name in ("Retry-After", "WWW-Authenticate"):
                if name in token.headers:
                    answer.headers[name] = token.headers[name]
            return answer
        address = authentication.address(request.scope)
        await recorder.record(Deed(who=token.name, action="login", address=address))
        answer = RedirectResponse("/", 303)
        set_cookie(answer, request, COOKIE, sessions.issue(token), LIFETIME_SECONDS)
        set_cookie(answer, request, FORM_COOKIE, "", 0)
        return answer

    @pages.post("/logout")
    async def logout(request: Request) -> Response:
        """Have the browser forget its cookie."""
        form = await _read_form(request)
        caller = caller_of(request.scope)
        if caller is not None and caller.cookie:
            told = form.get(FORM_FIELD) or request.headers.get(FORM_HEADER.decode(), "")
            if not sessions.is_form_token(caller.cookie, told):
                return Problem(403, "csrf", "The form is not that of the session.")
        answer = RedirectResponse("/login", 303)
        set_cookie(answer, request, COOKIE, "", 0)
        return answer

    return pages


async def _read_form(request: Request) -> dict[str, str]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_FORM:
            return {}
    try:
        given = parse_qs(body.decode("latin-1"), errors="replace", max_num_fields=10)
    except ValueError:  # there are more
        return {}
    return {name: values[0] for name, values in given.items()}


def _equal(one: str, other: str) -> bool:
    return compare_digest(one.encode("latin-1", "replace"), other.encode("latin-1", "replace"))


def _login_page(nonce: str, told: str) -> str:
    notice = f'<p role="alert">{escape(told)}</p>' if told else ""
    return _page(
        f'{notice}<form method="post" action="/login">'
        f'<input type="hidden" name="{FORM_FIELD}" value="{escape(nonce)}">'
        '<p><label>API token<br><input type="password" name="token" required autofocus '
        'autocomplete="current-password"></label></p>'
        "<p><button>Log in</button></p></form>"
    )


def _home_page(caller: Caller, form_token: str | None) -> str:
    who = f"<p>You are <strong>{escape(caller.who)}</strong>, with the role {caller.role}.</p>"
    out = ""
    if form_token is not None:
        out = (
            '<form method="post" action="/logout">'
            f'<input type="hidden" name="{FORM_FIELD}" value="{escape(form_token)}">'
            "<p><button>Log out</button></p></form>"
        )
    return _page(f'{who}<p><a href="/api/openapi.json">The API</a></p>{out}')


def _page(content: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>netscript</title>'
        f"<style>{STYLE}</style></head><body><h1>netscript</h1>{content}</body></html>"
    )
