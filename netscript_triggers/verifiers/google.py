"""Google Pub/Sub push: an OIDC token of the subscription's service account; the body is not signed.

https://cloud.google.com/pubsub/docs/authenticate-push-subscriptions
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from netscript_triggers.verifiers import RawRequest, Scheme, Signed, Verified
from netscript_triggers.verifiers.jws import check_times, check_token, read_token, write_token
from netscript_triggers.verifiers.jwts import LEEWAY, KeySet, KeySource, without_bearer
from netscript_triggers.verifiers.keyfiles import Malformed
from netscript_triggers.verifiers.keys import any_same
from netscript_triggers.verifiers.reading import as_text, find, peek
from netscript_workers.errors import ConfigurationError, VerificationError

CERTIFICATES = "https://www.googleapis.com/oauth2/v3/certs"
_ISSUERS = ("https://accounts.google.com", "accounts.google.com")
_AUTHORIZATION = (b"authorization",)


@dataclass(frozen=True, slots=True, kw_only=True)
class PubSubVerifier(Scheme):
    """Checks Google's token: audience, issuer and the service account's e-mail address.

    The secrets are the addresses of the service accounts that may push: any Google project can get
    a token for our URL, but only with its own account's address in it. Anybody who sees a token
    can send any body with it until it expires, after an hour.

    Attributes:
        audience: What the subscription names; by default its URL, as Pub/Sub does.
        jwks: Google's keys as JSON, where none shall be fetched.
    """

    audience: str = ""
    jwks: str = field(default="", repr=False)
    name: str = "google-pubsub"
    source: str = "https://cloud.google.com/pubsub/docs/authenticate-push-subscriptions"
    private_headers: frozenset[str] = frozenset({"authorization"})
    _keys: KeySource = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Make the keys' place."""
        object.__setattr__(self, "_keys", KeySet(CERTIFICATES, "RS256", self.jwks))

    @property
    def needs_url(self) -> bool:
        """Unless the audience is named."""
        return not self.audience

    def check_secret(self, secret: bytes) -> None:
        """Refuse what is no address."""
        if b"@" not in secret:
            raise ConfigurationError(
                "A secret of google-pubsub is not an e-mail address.",
                hint="Name the service account of the push subscription.",
            )

    async def prepare(self, request: RawRequest, secrets: Sequence[bytes], now: float) -> None:
        """Fetch Google's keys, if they are not here or lack the token's."""
        token = read_token(_given(request))
        if token.header.get("alg") == "RS256" and token.claims.get("iss") in _ISSUERS:
            await self._keys.prepare(token.kid, secrets, now)

    def verify(self, request: RawRequest, secrets: Sequence[bytes], now: float) -> Verified:
        """Check the token and what it claims.

        Raises:
            VerificationError: Something is missing, repeated, malformed, wrong or out of time.
        """
        if not any(secrets):
            raise VerificationError("secret-missing")
        token = read_token(_given(request))
        check_token(token, "RS256", self._keys.keys(token.kid, secrets, now))
        check_times(token, now, LEEWAY, None)
        claims = token.claims
        if claims.get("iss") not in _ISSUERS:
            raise VerificationError("issuer-mismatch")
        if claims.get("aud") not in self._audiences(request):
            raise VerificationError("audience-mismatch")
        email = claims.get("email")
        mail = email.encode("utf-8", "replace") if isinstance(email, str) else b""
        if claims.get("email_verified") is not True or not any_same(mail, secrets):
            raise VerificationError("account-mismatch")
        body = peek(request)
        told = as_text(find(body, ("message", "messageId")))
        place = as_text(find(body, ("subscription",)))
        return Verified(
            signed=request.body, delivery_id=f"{place}/{told}" if told and place else told
        )

    def sign_request(self, request: RawRequest, secret: bytes, now: float) -> Signed:
        """Sign a token; the secret is `address private-key-in-PEM`, for tests with `jwks`."""
        address, _, key = secret.partition(b" ")
        claims = {
            "iss": _ISSUERS[0],
            "aud": self._audiences(request)[0],
            "email": address.decode(),
            "email_verified": True,
            "iat": int(now),
            "exp": int(now) + 3600,
        }
        try:
            made = write_token(claims, "RS256", key)
        except Malformed as error:
            raise ConfigurationError(f"Only Google can sign as Pub/Sub: {error}.") from None
        return Signed({"Authorization": f"Bearer {made}"}, request.body, request.query)

    def _audiences(self, request: RawRequest) -> tuple[str, ...]:
        if self.audience:
            return (self.audience,)
        url = request.url.decode("latin-1")
        return (url, url.partition("?")[0])


def _given(request: RawRequest) -> bytes:
    given = request.header(_AUTHORIZATION)
    if given is None:
        raise VerificationError("token-missing")
    return without_bearer(given)
