"""Senders that prove themselves by a JWT in a header, most of them with a hash of the body."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from netscript_triggers.verifiers import RawRequest, Scheme, Signed, Verified
from netscript_triggers.verifiers.fetching import Documents
from netscript_triggers.verifiers.headers import NOTHING, Said
from netscript_triggers.verifiers.jws import (
    JwtAlgorithm,
    Token,
    check_times,
    check_token,
    keys_of,
    read_token,
    write_token,
)
from netscript_triggers.verifiers.keyfiles import Malformed
from netscript_triggers.verifiers.keys import same
from netscript_triggers.verifiers.reading import as_text, find, peek, wire
from netscript_workers.errors import ConfigurationError, VerificationError

LEEWAY = 60.0
_RENEW_SECONDS = 60.0
_KID = re.compile(r"[A-Za-z0-9._=-]{1,128}")


class KeySource(Protocol):
    """Where the keys of tokens come from."""

    async def prepare(self, kid: str, secrets: Sequence[bytes], now: float) -> None:
        """Fetch what is missing."""
        ...

    def keys(self, kid: str, secrets: Sequence[bytes], now: float) -> Sequence[bytes]:
        """Return those that may have signed a token that names `kid`, of what is here."""
        ...


class Shared:
    """The secrets are the keys; with `named`, what follows the colon of `name:key` is.

    Then the name, where one is given, must be the token's issuer.
    """

    def __init__(self, *, named: bool = False) -> None:
        """Take secrets as they are, or as names and keys."""
        self.named = named

    async def prepare(self, kid: str, secrets: Sequence[bytes], now: float) -> None:
        """Nothing is missing."""

    def keys(self, kid: str, secrets: Sequence[bytes], now: float) -> Sequence[bytes]:
        """Return the secrets."""
        return [secret.rpartition(b":")[2] for secret in secrets] if self.named else secrets


class KeySet:
    """A JWK set: the one that is given, or the provider's.

    A token with a name that is not in it has it fetched anew, at most once a minute.
    """

    def __init__(self, url: str, algorithm: JwtAlgorithm, given: str = "") -> None:
        """Take keys from `url`, or from `given` (JSON) and never fetch any."""
        self._url = url
        self._algorithm: JwtAlgorithm = algorithm
        self._given = given.encode()
        self._documents = Documents(lifetime=24 * 3600.0)

    async def prepare(self, kid: str, secrets: Sequence[bytes], now: float) -> None:
        """Fetch the set if it is not here, old, or without this name."""
        if self._given:
            return
        age = self._documents.age(self._url, now)
        if age > 3600 or (age > _RENEW_SECONDS and not self.keys(kid, secrets, now)):
            await self._documents.fetch(self._url, now)

    def keys(self, kid: str, secrets: Sequence[bytes], now: float) -> Sequence[bytes]:
        """Return the keys of this name."""
        document = self._given or self._documents.get(self._url, now)
        if document is None:
            raise VerificationError("keys-unavailable")
        return keys_of(document, kid, self._algorithm)


class PlaidKeys:
    """Plaid's keys by their names.

    A secret is either a JWK (or a set of them) as JSON without blanks, and then nothing is fetched,
    or `client_id:secret` of the account, which may ask Plaid for a key.
    """

    def __init__(self, environment: Literal["production", "sandbox"]) -> None:
        """Ask Plaid's production or its sandbox."""
        self._url = f"https://{environment}.plaid.com/webhook_verification_key/get"
        self._documents = Documents(lifetime=24 * 3600.0)

    async def prepare(self, kid: str, secrets: Sequence[bytes], now: float) -> None:
        """Ask for a key that is not here, the same at most once a minute."""
        account = next((secret for secret in secrets if _is_account(secret)), None)
        if account is None or not _KID.fullmatch(kid):
            return
        if self._documents.get(kid, now) or self._documents.age(kid, now) < _RENEW_SECONDS:
            return
        client, _, secret = account.decode("utf-8", "replace").partition(":")
        asked = {"client_id": client, "secret": secret, "key_id": kid}
        await self._documents.fetch(self._url, now, name=kid, post=asked)

    def keys(self, kid: str, secrets: Sequence[bytes], now: float) -> Sequence[bytes]:
        """Return the key of this name that is given, or was told by Plaid and has not expired."""
        documents = [secret for secret in secrets if secret.startswith(b"{")]
        fetched = self._documents.get(kid, now) if kid else None
        if fetched is not None:
            expired = find(_parsed(fetched), ("key", "expired_at"))
            if not isinstance(expired, (int, float)) or expired > now:
                documents.append(fetched)
        if not documents:
            raise VerificationError("keys-unavailable")
        return [key for document in documents for key in keys_of(document, kid, "ES256")]


def _is_account(secret: bytes) -> bool:
    return not secret.startswith(b"{") and b":" in secret


def _parsed(document: bytes) -> object:
    return peek(RawRequest("", "", (), document))


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtVerifier(Scheme):
    """Checks a JWT in a header, and the hash of the body in it.

    Attributes:
        name: For lists and logs.
        header: Where the token stands, with or without `Bearer` before it.
        algorithm: The only one that is taken.
        keys: Where its keys come from.
        body_claim: The claim that is the SHA-256 of the body.
        encoding: How that is written.
        max_age: Seconds since the token's `iat` at most; None looks at `exp` alone.
        id: Where in the body the delivery's id stands.
        id_claim: Which claim is the delivery's id.
        event: Where in the body the event's type stands.
        source: Where the scheme is written down.
    """

    name: str
    header: str
    algorithm: JwtAlgorithm
    keys: KeySource = field(default_factory=Shared)
    body_claim: str
    encoding: Literal["hex", "base64"] = "hex"
    max_age: float | None = None
    id: Said = NOTHING
    id_claim: str = ""
    event: Said = NOTHING
    source: str = ""

    @property
    def private_headers(self) -> frozenset[str]:
        """The token's header."""
        return frozenset({self.header.lower()})

    @property
    def _named(self) -> bool:
        return isinstance(self.keys, Shared) and self.keys.named

    @property
    def tolerance(self) -> float | None:
        """What `max_age` is."""
        return self.max_age

    @property
    def signs_time(self) -> bool:
        """Whether `tolerance` may be set."""
        return self.max_age is not None

    def with_tolerance(self, seconds: float) -> JwtVerifier:
        """Return the same with another age."""
        return replace(self, max_age=seconds)

    def check_secret(self, secret: bytes) -> None:
        """Refuse what this scheme's keys can't come from."""
        if isinstance(self.keys, PlaidKeys):
            is_set = secret.startswith(b"{") and keys_of(secret, "", "ES256")
            if not is_set and not _is_account(secret):
                raise ConfigurationError(
                    f"A secret of {self.name} can't be used.",
                    hint="Write it as client_id:secret, or give a JWK set as JSON without blanks.",
                )

    async def prepare(self, request: RawRequest, secrets: Sequence[bytes], now: float) -> None:
        """Fetch the key that the token names, if it may and must be."""
        token = self._token(request)
        if token.header.get("alg") == self.algorithm:
            await self.keys.prepare(token.kid, secrets, now)

    def verify(self, request: RawRequest, secrets: Sequence[bytes], now: float) -> Verified:
        """Check the token, its times and the body's hash.

        Raises:
            VerificationError: Something is missing, repeated, malformed, wrong or out of time.
        """
        if not any(secrets):
            raise VerificationError("secret-missing")
        token = self._token(request)
        check_token(token, self.algorithm, self.keys.keys(token.kid, secrets, now))
        check_times(token, now, LEEWAY, self.max_age)
        if self._named:
            _check_issuer(token, secrets)
        claimed = token.claims.get(self.body_claim)
        if not isinstance(claimed, str) or not same(
            claimed.encode("utf-8", "replace"), self._hash(request.body)
        ):
            raise VerificationError("body-hash-mismatch")
        body = peek(request) if self.id.path or self.event.path else None
        told = token.claims.get(self.id_claim) if self.id_claim else find(body, self.id.path)
        kind = as_text(find(body, self.event.path))
        return Verified(
            signed=request.body,
            delivery_id=as_text(told),
            id_signed=True,
            event_type=kind and kind[:200],
            type_signed=kind is not None,
        )

    def sign_request(self, request: RawRequest, secret: bytes, now: float) -> Signed:
        """Sign a token for this body."""
        issuer, _, key = secret.rpartition(b":") if self._named else (b"", b"", secret)
        claims: dict[str, object] = {
            "iat": int(now),
            "exp": int(now) + 300,
            self.body_claim: self._hash(request.body).decode(),
        }
        if self.id_claim:
            claims[self.id_claim] = hashlib.sha256(request.body + b"%f" % now).hexdigest()[:32]
        if issuer:
            claims["iss"] = issuer.decode()
        try:
            made = write_token(claims, self.algorithm, key)
        except Malformed as error:
            raise ConfigurationError(f"{self.name} can't sign with this secret: {error}.") from None
        bearer = "Bearer " if self.header == "Authorization" and self.name != "livekit" else ""
        return Signed({self.header: bearer + made}, request.body, request.query)

    def _token(self, request: RawRequest) -> Token:
        given = request.header(wire((self.header,)))
        if given is None:
            raise VerificationError("token-missing")
        return read_token(without_bearer(given))

    def _hash(self, body: bytes) -> bytes:
        digest = hashlib.sha256(body)
        if self.encoding == "hex":
            return digest.hexdigest().encode()
        return base64.b64encode(digest.digest())


def without_bearer(value: bytes) -> bytes:
    """Return a token without the name of its scheme."""
    scheme, _, token = value.partition(b" ")
    return token.strip() if token and scheme.lower() == b"bearer" else value


def _check_issuer(token: Token, secrets: Sequence[bytes]) -> None:
    names = [secret.rpartition(b":")[0] for secret in secrets]
    issuer = token.claims.get("iss")
    if all(names) and (
        not isinstance(issuer, str) or issuer.encode("utf-8", "replace") not in names
    ):
        raise VerificationError("issuer-mismatch")


def plaid(environment: Literal["production", "sandbox"] = "production") -> JwtVerifier:
    """Return Plaid's: ES256, with the body's hash, at most five minutes old."""
    return JwtVerifier(
        name="plaid" if environment == "production" else f"plaid-{environment}",
        header="Plaid-Verification",
        algorithm="ES256",
        keys=PlaidKeys(environment),
        body_claim="request_body_sha256",
        max_age=300,
        event=Said(path=("webhook_code",)),
        source="https://plaid.com/docs/api/webhooks/webhook-verification/",
    )


JWTS = (
    plaid(),
    plaid("sandbox"),
    JwtVerifier(
        name="vonage",
        header="Authorization",
        algorithm="HS256",
        body_claim="payload_hash",
        max_age=300,
        id_claim="jti",
        source="https://developer.vonage.com/en/getting-started/concepts/webhooks",
    ),
    JwtVerifier(
        name="livekit",
        header="Authorization",
        algorithm="HS256",
        keys=Shared(named=True),
        body_claim="sha256",
        encoding="base64",
        id=Said(path=("id",)),
        event=Said(path=("event",)),
        source="https://docs.livekit.io/home/server/webhooks/",
    ),
)
