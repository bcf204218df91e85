"""Authentication: from a token or a cookie to whom it stands for, with guessing slowed."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from netscript_workers.addresses import Clients
from netscript_workers.api.answers import Problem
from netscript_workers.api.sessions import COOKIE, SECURE_PREFIX, Sessions
from netscript_workers.limits import MAX_KEYS, Limiter, per_minute
from netscript_workers.tokens import Role, Token, Tokens

logger = logging.getLogger(__name__)

# Wrong tokens in a minute that one address may present.
MAX_FAILURES = 10
_REALM = 'Bearer realm="netscript"'
_SITE_BITS = 64


class Authentication:
    """Knows the tokens, and who has tried which."""

    def __init__(
        self,
        tokens: Tokens,
        *,
        rate: int = 0,
        clients: Clients | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare.

        Args:
            tokens: Of those who may use the API.
            rate: Requests in a minute that each is good for; 0 for any number.
            clients: Finds out who sent a request.
            now: Seconds on a clock that is never set.
        """
        self.tokens = tokens
        self.sessions = Sessions(tokens)
        self._clients = clients or Clients()
        self._failures = Limiter(per_minute(MAX_FAILURES), now)
        self._requests = Limiter(per_minute(rate), now) if rate else None
        # Who came with which token before: guessing from the same address must not lock them out.
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()

    def address(self, scope: Mapping[str, Any]) -> str:
        """Return the address of a request's sender, as text."""
        return str(self._clients.address(scope) or "unknown")

    def by_token(self, presented: str, scope: Mapping[str, Any]) -> Token | Problem:
        """Return whom a token stands for, or what to answer instead.

        Where an address has presented too many wrong tokens, it learns nothing of others either,
        unless it came with one of them before.
        """
        site = self._site(scope)
        token = self.tokens.find(presented)
        if token is None:
            wait = self._failures.take(site)
            if not wait:
                logger.warning("a wrong token came from %s", site)
                return unauthorized("The token is none of this server's.", "invalid_token")
            return _too_many("Too many wrong tokens came from this address", wait)
        pair = (site, token.name)
        if pair not in self._known and (wait := self._failures.wait(site)):
            return _too_many("Too many wrong tokens came from this address", wait)
        self._known[pair] = None
        self._known.move_to_end(pair)
        if len(self._known) > MAX_KEYS:
            self._known.popitem(last=False)
        return token

    def by_cookie(self, scope: Mapping[str, Any]) -> tuple[Token, str] | None:
        """Return whose session a request belongs to, and its cookie."""
        cookies = cookies_of(scope)
        for name in (f"{SECURE_PREFIX}{COOKIE}", COOKIE):
            if (cookie := cookies.get(name)) and (token := self.sessions.read(cookie)):
                return token, cookie
        return None

    def count(self, token: Token) -> Problem | None:
        """Count a request of this token; return what to answer if it is one too many."""
        wait = self._requests.take(token.name) if self._requests is not None else 0
        return _too_many("This token has made too many requests", wait) if wait else None

    def _site(self, scope: Mapping[str, Any]) -> str:
        # Whoever has one address of IPv6 has a whole network of them.
        address = self._clients.address(scope)
        if isinstance(address, IPv6Address):
            return str(IPv6Network((address, _SITE_BITS), strict=False))
        return str(address or "unknown")


def unauthorized(detail: str, error: str | None = None) -> Problem:
    """Return the answer to a request that does not prove who sends it (RFC 6750, section 3)."""
    answer = Problem(401, "unauthorized", detail)
    answer.headers["WWW-Authenticate"] = _REALM if error is None else f'{_REALM}, error="{error}"'
    return answer


def insufficient(who: str, role: Role, needed: Role) -> Problem:
    """Return the answer to a request that its sender's role does not allow."""
    detail = f'"{who}" has the role {role}; this needs {needed}.'
    answer = Problem(403, "insufficient-scope", detail, role=role, required_role=needed)
    answer.headers["WWW-Authenticate"] = f'{_REALM}, error="insufficient_scope", scope="{needed}"'
    return answer


def cookies_of(scope: Mapping[str, Any]) -> dict[str, str]:
    """Return the cookies of a request."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        if name == b"cookie":
            for part in value.decode("latin-1").split(";"):
                key, is_pair, text = part.strip().partition("=")
                if is_pair:
                    found.setdefault(key, text)
    return found


def _too_many(told: str, seconds: int) -> Problem:
    answer = Problem(429, "too-many-requests", f"{told}; come back in {seconds} s.")
    answer.headers["Retry-After"] = str(seconds)
    return answer
