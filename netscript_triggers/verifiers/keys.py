"""Keys: in which form they are written, and what each kind of signature proves."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from netscript_triggers.verifiers.keyfiles import (
    Malformed,
    from_base64,
    from_hex,
    private_key,
    public_key,
)
from netscript_workers.errors import ConfigurationError, VerificationError

Algorithm: TypeAlias = Literal["sha256", "sha1", "sha512"]
KeyForm: TypeAlias = Literal["text", "whsec", "base64", "hex", "sha1"]

_DIGEST_BYTES = {"sha256": 32, "sha1": 20, "sha512": 64}
_RSA_BITS = 2048


class Key(Protocol):
    """One kind of signature, and the form of its keys."""

    @property
    def size(self) -> int | None:
        """How many bytes a signature has, where that is fixed."""
        ...

    def matches(self, message: bytes, candidates: Sequence[bytes], secret: bytes) -> bool:
        """Whether one of these signatures was made of the message with this secret's key.

        Raises:
            Malformed: It is no key.
        """
        ...

    def sign(self, message: bytes, secret: bytes) -> bytes:
        """Sign; with the private key, where there are two.

        Raises:
            Malformed: It is no key.
        """
        ...

    def check(self, secret: bytes) -> None:
        """Refuse what is no key.

        Raises:
            Malformed: It is no key.
        """
        ...


def prove(key: Key, message: bytes, candidates: Sequence[bytes], secrets: Sequence[bytes]) -> None:
    """Refuse a message unless one of the signatures is one of the secrets'.

    Raises:
        VerificationError: There is no secret, none of the signatures is right, or (and then that
            is the reason) a secret is malformed.
    """
    if not any(secrets):
        raise VerificationError("secret-missing")
    proven, malformed = False, False
    for secret in secrets:
        if secret:
            try:
                proven |= key.matches(message, candidates, secret)
            except Malformed:
                malformed = True
    if not proven:
        raise VerificationError("secret-malformed" if malformed else "signature-mismatch")


def check(key: Key, owner: str, secret: bytes) -> None:
    """Refuse a secret that is no key.

    Raises:
        ConfigurationError: It is none; the sentence does not show it.
    """
    try:
        key.check(secret)
    except Malformed as error:
        raise ConfigurationError(f"A secret of {owner} can't be used: {error}.") from None


def same(one: bytes, other: bytes) -> bool:
    """Compare in a time that does not depend on where two texts, of any length, differ."""
    return hmac.compare_digest(hashlib.sha256(one).digest(), hashlib.sha256(other).digest())


def any_same(word: bytes, secrets: Sequence[bytes]) -> bool:
    """Whether a word is one of the secrets; how long that takes does not say which."""
    matches = False
    for secret in secrets:
        matches |= bool(secret) and same(word, secret)
    return matches


@dataclass(frozen=True, slots=True)
class Mac:
    """HMAC (RFC 2104).

    Attributes:
        algorithm: Of the digest.
        form: How the secret's text becomes the key: as it is (`text`), from base64, possibly
            behind `whsec_` or `v1,whsec_` (`whsec`), from base64 or hex, or as its SHA-1 (`sha1`).
    """

    algorithm: Algorithm = "sha256"
    form: KeyForm = "text"

    @property
    def size(self) -> int:
        """The digest's."""
        return _DIGEST_BYTES[self.algorithm]

    def matches(self, message: bytes, candidates: Sequence[bytes], secret: bytes) -> bool:
        """Compare each candidate in constant time."""
        expected = self.sign(message, secret)
        proven = False
        for candidate in candidates:
            proven |= hmac.compare_digest(expected, candidate)
        return proven

    def sign(self, message: bytes, secret: bytes) -> bytes:
        """Return the MAC."""
        # Not hmac.digest(), which lets go of the GIL for the smallest message.
        keyed = _keyed(secret, self.algorithm, self.form).copy()
        keyed.update(message)
        return keyed.digest()

    def check(self, secret: bytes) -> None:
        """Refuse what this form can't be read from."""
        _keyed(secret, self.algorithm, self.form)


@lru_cache(maxsize=256)
def _keyed(secret: bytes, algorithm: Algorithm, form: KeyForm) -> hmac.HMAC:
    """Return an HMAC that has its key and no data yet; to be copied."""
    key = _FORMS[form](secret)
    if not key:
        raise Malformed("it is empty")
    return hmac.new(key, digestmod=algorithm)


_FORMS: dict[str, Callable[[bytes], bytes]] = {
    "text": lambda secret: secret,
    "whsec": lambda secret: from_base64(secret.removeprefix(b"v1,").removeprefix(b"whsec_")),
    "base64": from_base64,
    "hex": from_hex,
    "sha1": lambda secret: hashlib.sha1(secret, usedforsecurity=False).digest(),
}


@dataclass(frozen=True, slots=True)
class Ed25519:
    """Ed25519 (RFC 8032); keys in hex, base64, PEM, SPKI, or behind `whpk_` and `whsk_`."""

    @property
    def size(self) -> int:
        """64 bytes."""
        return 64

    def matches(self, message: bytes, candidates: Sequence[bytes], secret: bytes) -> bool:
        """Check each candidate."""
        public: ed25519.Ed25519PublicKey = public_key(secret, ed25519.Ed25519PublicKey)
        return any(_holds(public.verify, candidate, message) for candidate in candidates)

    def sign(self, message: bytes, secret: bytes) -> bytes:
        """Sign."""
        private: ed25519.Ed25519PrivateKey = private_key(secret, ed25519.Ed25519PrivateKey)
        return private.sign(message)

    def check(self, secret: bytes) -> None:
        """Refuse what is no public key."""
        public_key(secret, ed25519.Ed25519PublicKey)


@dataclass(frozen=True, slots=True)
class Ecdsa:
    """ECDSA (FIPS 186-5); public keys as SPKI in base64 or PEM.

    Attributes:
        curve: P-256 with SHA-256, or P-384 with SHA-384.
        raw: Whether signatures are r and s side by side, and not DER.
    """

    curve: Literal["P-256", "P-384"] = "P-256"
    raw: bool = False

    @property
    def size(self) -> int | None:
        """Of raw ones, twice the curve's."""
        return 2 * self._bytes if self.raw else None

    @property
    def _bytes(self) -> int:
        return 32 if self.curve == "P-256" else 48

    @property
    def _algorithm(self) -> ec.ECDSA:
        return ec.ECDSA(hashes.SHA256() if self.curve == "P-256" else hashes.SHA384())

    def matches(self, message: bytes, candidates: Sequence[bytes], secret: bytes) -> bool:
        """Check each candidate."""
        public = self._on_curve(public_key(secret, ec.EllipticCurvePublicKey))
        return any(
            _holds(public.verify, self._der(candidate), message, self._algorithm)
            for candidate in candidates
        )

    def sign(self, message: bytes, secret: bytes) -> bytes:
        """Sign."""
        private = self._on_curve(private_key(secret, ec.EllipticCurvePrivateKey))
        der: bytes = private.sign(message, self._algorithm)
        if not self.raw:
            return der
        return b"".join(part.to_bytes(self._bytes, "big") for part in decode_dss_signature(der))

    def check(self, secret: bytes) -> None:
        """Refuse what is no public key of the curve."""
        self._on_curve(public_key(secret, ec.EllipticCurvePublicKey))

    def _der(self, candidate: bytes) -> bytes:
        if not self.raw:
            return candidate
        half = self._bytes
        first, second = candidate[:half], candidate[half:]
        return encode_dss_signature(int.from_bytes(first, "big"), int.from_bytes(second, "big"))

    def _on_curve(self, key: Any) -> Any:
        if key.curve.key_size != self._bytes * 8:
            raise Malformed(f"it is not a key of the curve {self.curve}")
        return key


@dataclass(frozen=True, slots=True)
class Rsa:
    """RSA (RFC 8017); public keys as PEM, SPKI in base64, or a certificate in PEM.

    Attributes:
        scheme: `pkcs1-sha256`, `pkcs1-sha1` (as old senders use it) or `pss-sha512`.
    """

    scheme: Literal["pkcs1-sha256", "pkcs1-sha1", "pss-sha512"] = "pkcs1-sha256"

    @property
    def size(self) -> None:
        """The key's."""
        return

    def matches(self, message: bytes, candidates: Sequence[bytes], secret: bytes) -> bool:
        """Check each candidate."""
        public: rsa.RSAPublicKey = public_key(secret, rsa.RSAPublicKey)
        if public.key_size < _RSA_BITS:
            raise Malformed(f"an RSA key of less than {_RSA_BITS} bits proves nothing")
        scheme = self._scheme()
        return any(_holds(public.verify, candidate, message, *scheme) for candidate in candidates)

    def sign(self, message: bytes, secret: bytes) -> bytes:
        """Sign."""
        private: rsa.RSAPrivateKey = private_key(secret, rsa.RSAPrivateKey)
        padded, digest = self._scheme()
        return private.sign(message, padded, digest)

    def check(self, secret: bytes) -> None:
        """Refuse what is no public key."""
        self.matches(b"", (), secret)

    def _scheme(self) -> tuple[padding.AsymmetricPadding, hashes.HashAlgorithm]:
        if self.scheme == "pss-sha512":
            return padding.PSS(padding.MGF1(hashes.SHA512()), salt_length=64), hashes.SHA512()
        digest = hashes.SHA256() if self.scheme == "pkcs1-sha256" else hashes.SHA1()  # noqa: S303 - the sender's choice, and configured
        return padding.PKCS1v15(), digest


def _holds(verify: Callable[..., object], *args: object) -> bool:
    try:
        verify(*args)
    except (InvalidSignature, ValueError):
        return False
    return True
