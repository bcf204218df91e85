"""Microsoft Graph change notifications: a word in every item, and tokens where data comes along.

https://learn.microsoft.com/graph/change-notifications-delivery-webhooks
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from netscript_triggers.verifiers import Answer, RawRequest, Scheme, Signed, Verified
from netscript_triggers.verifiers.handshakes import asked, echo
from netscript_triggers.verifiers.in_body import object_of
from netscript_triggers.verifiers.jws import Token, check_times, check_token, read_token
from netscript_triggers.verifiers.jwts import LEEWAY, KeySet, KeySource
from netscript_triggers.verifiers.keys import any_same
from netscript_triggers.verifiers.reading import (
    as_list,
    as_object,
    as_text,
    find,
    read_body,
    written,
)
from netscript_workers.errors import ConfigurationError, VerificationError

KEYS = "https://login.microsoftonline.com/common/discovery/v2.0/keys"
# The application that sends change notifications, the same in every tenant.
PUBLISHER = "0bf30f3b-4a52-48df-9a82-234910c4a086"
_TENANT = re.compile(r"[0-9a-fA-F-]{36}")
_MAX_ITEMS = 1000
_MAX_TOKENS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphVerifier(Scheme):
    """Compares `clientState` of every item with the secrets.

    Nothing else of a notification is covered, unless it carries data and `app_id` is given: then
    each of its tokens must be Microsoft's, for this application.

    Attributes:
        app_id: The application that has subscribed; with it, items with data need tokens.
        jwks: Microsoft's keys as JSON, where none shall be fetched.
    """

    app_id: str = ""
    jwks: str = field(default="", repr=False)
    name: str = "ms-graph"
    source: str = "https://learn.microsoft.com/graph/change-notifications-delivery-webhooks"
    private_headers: frozenset[str] = frozenset()
    _keys: KeySource = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Make the keys' place."""
        object.__setattr__(self, "_keys", KeySet(KEYS, "RS256", self.jwks))

    async def prepare(self, request: RawRequest, secrets: Sequence[bytes], now: float) -> None:
        """Fetch Microsoft's keys, if tokens are looked at and name some that are not here."""
        if not self.app_id:
            return
        body = read_body(request)
        _check_states(body, secrets)  # whoever does not know the word causes no fetch
        for token in _tokens(body):
            if token.header.get("alg") == "RS256" and token.claims.get("aud") == self.app_id:
                await self._keys.prepare(token.kid, secrets, now)

    def verify(self, request: RawRequest, secrets: Sequence[bytes], now: float) -> Verified:
        """Check every item, and every token.

        Raises:
            VerificationError: One is wrong, or there is none.
        """
        if not any(secrets):
            raise VerificationError("secret-missing")
        body = read_body(request)
        items = _check_states(body, secrets)
        if self.app_id:
            self._check_tokens(body, items, secrets, now)
        single = items[0] if len(items) == 1 else None
        return Verified(
            signed=request.body,
            delivery_id=as_text(find(single, ("id",))),
            event_type=as_text(find(items[0], ("changeType",))),
        )

    def handshake(
        self, request: RawRequest, verified: Verified | None, secrets: Sequence[bytes], now: float
    ) -> Answer | None:
        """Send a validation token back, which comes before there is anything to verify."""
        if verified is not None or not request.query:
            return None
        token = asked(request).get("validationToken")
        return None if token is None else echo(token, free=True)

    def sign_request(self, request: RawRequest, secret: bytes, now: float) -> Signed:
        """Write the word into every item."""
        body = object_of(request, self.name)
        items = as_list(body.get("value"))
        if not items:
            raise ConfigurationError("ms-graph marks the items of value; there is none.")
        state = secret.decode("utf-8", "replace")
        marked = [{**(as_object(item) or {}), "clientState": state} for item in items]
        return Signed({}, written({**body, "value": marked}), request.query)

    def _check_tokens(
        self, body: Any, items: Sequence[Any], secrets: Sequence[bytes], now: float
    ) -> None:
        tokens = _tokens(body)
        if not tokens and any(find(item, ("encryptedContent",)) is not None for item in items):
            raise VerificationError("token-missing")
        for token in tokens:
            check_token(token, "RS256", self._keys.keys(token.kid, secrets, now))
            check_times(token, now, LEEWAY, None)
            self._check_claims(token)

    def _check_claims(self, token: Token) -> None:
        tenant = token.claims.get("tid")
        if not isinstance(tenant, str) or not _TENANT.fullmatch(tenant):
            raise VerificationError("issuer-mismatch")
        issuers = (
            f"https://sts.windows.net/{tenant}/",
            f"https://login.microsoftonline.com/{tenant}/v2.0",
        )
        if token.claims.get("iss") not in issuers:
            raise VerificationError("issuer-mismatch")
        if token.claims.get("aud") != self.app_id:
            raise VerificationError("audience-mismatch")
        if PUBLISHER not in (token.claims.get("azp"), token.claims.get("appid")):
            raise VerificationError("publisher-mismatch")


def _check_states(body: Any, secrets: Sequence[bytes]) -> list[Any]:
    items = as_list(find(body, ("value",)))
    if not items:
        raise VerificationError("batch-empty")
    if len(items) > _MAX_ITEMS:
        raise VerificationError("batch-too-large")
    for item in items:
        state = find(item, ("clientState",))
        word = state.encode("utf-8", "surrogatepass") if isinstance(state, str) else b""
        if not any_same(word, secrets):
            raise VerificationError("token-mismatch")
    return items


def _tokens(body: Any) -> list[Token]:
    given = find(body, ("validationTokens",))
    if given is None:
        return []
    tokens = as_list(given)
    if tokens is None or len(tokens) > _MAX_TOKENS:
        raise VerificationError("token-malformed")
    return [read_token(_ascii(one)) for one in tokens]


def _ascii(token: Any) -> bytes:
    if not isinstance(token, str) or not token.isascii():
        raise VerificationError("token-malformed")
    return token.encode()
