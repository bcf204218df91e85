"""Sessions: who logged in to the dashboard, said by a signed cookie that holds no token.

Nothing is stored. A cookie is signed with a key that is made of the token it stands for, so that
every server process knows it, and none does once the token is gone from the settings.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from hmac import compare_digest

from netscript_workers.tokens import Token, Tokens

LIFETIME_SECONDS = 12 * 3600
COOKIE = "netscript_session"
# Of the form to log in, before anybody is known.
FORM_COOKIE = "netscript_login"
# A browser takes such a cookie over HTTPS only, from this very host, and gives it to no other.
SECURE_PREFIX = "__Host-"

_MAX_LENGTH = 512
_NOBODYS = secrets.token_bytes(32)


class Sessions:
    """Makes and reads the cookies of sessions."""

    def __init__(self, tokens: Tokens, now: Callable[[], float] = time.time) -> None:
        """Know these tokens.

        Args:
            tokens: Those that can log in.
            now: Seconds since the epoch.
        """
        self._tokens = tokens
        self._now = now

    def issue(self, token: Token) -> str:
        """Return the cookie of a new session."""
        expires = int(self._now()) + LIFETIME_SECONDS
        told = f"{token.name}.{expires}.{secrets.token_urlsafe(12)}"
        return f"{told}.{_sign(token.session_key, 'session', told)}"

    def read(self, cookie: str) -> Token | None:
        """Return whose session a cookie is; None if it is none, or is over."""
        told, _, signature = cookie.rpartition(".")
        name, _, rest = told.partition(".")
        token = self._tokens.named(name)
        key = _NOBODYS if token is None else token.session_key
        if len(cookie) > _MAX_LENGTH or not cookie.isascii():
            return None
        if not compare_digest(_sign(key, "session", told), signature) or token is None:
            return None
        expires = int(rest.partition(".")[0])  # it is ours, for it is signed
        return token if self._now() < expires else None

    def form_token(self, cookie: str) -> str:
        """Return what a form, or a header, must repeat to prove that a page of ours sent it."""
        token = self._tokens.named(cookie.partition(".")[0])
        return _sign(_NOBODYS if token is None else token.session_key, "form", cookie)

    def is_form_token(self, cookie: str, given: str) -> bool:
        """Tell whether this is the form token of a session."""
        return given.isascii() and compare_digest(self.form_token(cookie), given)


def _sign(key: bytes, purpose: str, told: str) -> str:
    return hmac.digest(key, f"{purpose}:{told}".encode(), "sha256").hex()
