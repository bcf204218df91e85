"""Compact JWS (RFC 7515) and JWK (RFC 7517): reading and checking them, with a fixed algorithm.

Not PyJWT: what is left beside our own keys and clock is this much, and a header's `jku`, `jwk`,
`x5c` or another `alg` can't be followed by code that does not read it. The tests hold it against
PyJWT.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from netscript_triggers.verifiers.keys import Ecdsa, Key, Mac, Rsa, prove
from netscript_triggers.verifiers.reading import as_list, as_object, find
from netscript_workers.errors import VerificationError
from netscript_workers.strict_json import MalformedError, parse

JwtAlgorithm: TypeAlias = Literal["HS256", "ES256", "RS256"]

KEYS: Mapping[str, Key] = {"HS256": Mac(), "ES256": Ecdsa(raw=True), "RS256": Rsa()}
_MAX_TOKEN = 8192
_MAX_KEYS = 100


@dataclass(frozen=True, slots=True)
class Token:
    """A token that has been read, and not been checked.

    Attributes:
        header: Its own.
        claims: What it claims.
        message: What is signed.
        signature: By whom it can't be known yet.
    """

    header: Mapping[str, Any]
    claims: Mapping[str, Any]
    message: bytes
    signature: bytes

    @property
    def kid(self) -> str:
        """The name of its key; empty without one."""
        kid = self.header.get("kid")
        return kid if isinstance(kid, str) and len(kid) <= 200 else ""


def read_token(text: bytes) -> Token:
    """Read a token.

    Raises:
        VerificationError: It is none.
    """
    parts = text.split(b".", 3)
    if len(text) > _MAX_TOKEN or len(parts) != 3:
        raise VerificationError("token-malformed")
    header, claims = _object(parts[0]), _object(parts[1])
    if "crit" in header:  # it asks for what we don't know
        raise VerificationError("token-malformed")
    message = parts[0] + b"." + parts[1]
    return Token(header, claims, message, unpadded(parts[2]))


def check_token(token: Token, algorithm: JwtAlgorithm, keys: Sequence[bytes]) -> None:
    """Refuse a token that none of the keys has signed, with this algorithm.

    Raises:
        VerificationError: None has.
    """
    if token.header.get("alg") != algorithm:
        raise VerificationError("token-algorithm")
    key = KEYS[algorithm]
    if key.size is not None and len(token.signature) != key.size:
        raise VerificationError("signature-malformed")
    prove(key, token.message, [token.signature], keys)


def check_times(token: Token, now: float, leeway: float, max_age: float | None) -> None:
    """Refuse a token that is expired, from the future, or too old.

    Args:
        token: A proven one.
        now: Seconds since the epoch.
        leeway: Seconds that clocks may differ.
        max_age: Seconds that `iat`, which then must be there, may be off, both ways. Without one,
            `exp` must be there.

    Raises:
        VerificationError: It is.
    """
    expires, begins, issued = (_time(token, name) for name in ("exp", "nbf", "iat"))
    if max_age is None and expires is None:
        raise VerificationError("token-without-exp")
    if max_age is not None and issued is None:
        raise VerificationError("token-without-iat")
    if expires is not None and now > expires + leeway:
        raise VerificationError("timestamp-stale")
    if max_age is not None and issued is not None and now > issued + max_age:
        raise VerificationError("timestamp-stale")
    ahead = leeway if max_age is None else max_age
    if (begins is not None and begins > now + leeway) or (issued or 0) > now + ahead:
        raise VerificationError("timestamp-future")


def write_token(
    claims: Mapping[str, Any], algorithm: JwtAlgorithm, secret: bytes, kid: str = ""
) -> str:
    """Sign a token.

    Raises:
        Malformed: The secret is no (private) key of the algorithm.
    """
    header = {"alg": algorithm, "typ": "JWT", **({"kid": kid} if kid else {})}
    message = ".".join(_written(part) for part in (header, claims))
    signature = KEYS[algorithm].sign(message.encode(), secret)
    return f"{message}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def keys_of(document: bytes, kid: str, algorithm: JwtAlgorithm) -> list[bytes]:
    """Return the public keys of a JWK or a JWK set that may have signed, as SPKI in base64.

    Those that are of another kind, or another name where the token names one, are left out.
    """
    try:
        value = parse(document)
    except MalformedError:
        return []
    several = as_list(find(value, ("keys",)))
    # Without a set it is Plaid's answer, or a key by itself.
    listed = [find(value, ("key",)) or value] if several is None else several[:_MAX_KEYS]
    jwks = [jwk for jwk in map(as_object, listed) if jwk is not None]
    made = [_spki(jwk, kid, algorithm) for jwk in jwks]
    return [key for key in made if key is not None]


def _spki(jwk: Mapping[str, Any], kid: str, algorithm: JwtAlgorithm) -> bytes | None:
    if jwk.get("use", "sig") != "sig" or jwk.get("alg", algorithm) != algorithm:
        return None
    if kid and jwk.get("kid", kid) != kid:
        return None
    try:
        public = _public(jwk, algorithm)
    except (ValueError, TypeError, KeyError, VerificationError):
        return None
    der = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return base64.b64encode(der)


def _public(
    jwk: Mapping[str, Any], algorithm: JwtAlgorithm
) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
    if algorithm == "ES256" and (jwk["kty"], jwk["crv"]) == ("EC", "P-256"):
        x, y = _number(jwk["x"]), _number(jwk["y"])
        return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    if algorithm == "RS256" and jwk["kty"] == "RSA":
        return rsa.RSAPublicNumbers(_number(jwk["e"]), _number(jwk["n"])).public_key()
    raise ValueError("a key of another kind")


def _number(text: str) -> int:
    return int.from_bytes(unpadded(text.encode()), "big")


def unpadded(text: bytes) -> bytes:
    """Read base64url without padding (RFC 7515, section 2).

    Raises:
        VerificationError: It is none.
    """
    try:
        standard = text.translate(bytes.maketrans(b"-_+/=", b"+/:::"))
        return base64.b64decode(standard + b"=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise VerificationError("token-malformed") from None


def _object(text: bytes) -> Mapping[str, Any]:
    try:
        value = parse(unpadded(text))
    except MalformedError:
        raise VerificationError("token-malformed") from None
    claims = as_object(value)
    if claims is None:
        raise VerificationError("token-malformed")
    return claims


def _time(token: Token, name: str) -> float | None:
    value = token.claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 10**12:
        raise VerificationError("token-malformed")
    return float(value)


def _written(part: Mapping[str, Any]) -> str:
    text = json.dumps(part, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()
