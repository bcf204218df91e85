"""HMAC over the raw body: the scheme of most senders."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from netscript_triggers.verifiers import RawRequest, Verified, Verifier
from netscript_workers.errors import ConfigurationError, VerificationError

Algorithm: TypeAlias = Literal["sha256", "sha1", "sha512"]

_DIGEST_BYTES: dict[str, int] = {"sha256": 32, "sha1": 20, "sha512": 64}


@dataclass(frozen=True, slots=True)
class HmacVerifier:
    """Checks an HMAC (RFC 2104) of the raw body, in hex or base64.

    The algorithm is the configuration's; a request can't choose another.

    Args:
        algorithm: `sha256`, `sha1` or `sha512`.
        headers: Where the signature may stand; the first of them that is there counts.
        prefix: May stand before the signature, as in `sha256=…`.
        id_headers: Where the delivery's id may stand. It is not covered by the signature.
        name: For lists and logs.
    """

    algorithm: Algorithm = "sha256"
    headers: tuple[str, ...] = ("X-NetScript-Signature", "X-Signature-256", "X-Hub-Signature-256")
    prefix: str = "sha256="
    id_headers: tuple[str, ...] = ("X-Idempotency-Key", "Idempotency-Key")
    name: str = "hmac"
    _signature_names: tuple[bytes, ...] = field(init=False, repr=False, compare=False)
    _id_names: tuple[bytes, ...] = field(init=False, repr=False, compare=False)
    _private: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse what can't verify anything."""
        if self.algorithm not in _DIGEST_BYTES:
            raise ConfigurationError(
                f"HmacVerifier(algorithm={self.algorithm!r}) is not known.",
                hint=f"Use one of {', '.join(_DIGEST_BYTES)}.",
            )
        given: dict[str, Any] = {"headers": self.headers, "id_headers": self.id_headers}
        for option, names in given.items():
            if isinstance(names, str):  # its letters would be the names
                raise ConfigurationError(
                    f"HmacVerifier({option}={names!r}) must be several.",
                    hint=f"Write {option}=({names!r},).",
                )
        if not self.headers:
            raise ConfigurationError(
                "HmacVerifier(headers=()) has no header to read.", hint="Name at least one."
            )
        object.__setattr__(self, "_signature_names", _wire(self.headers))
        object.__setattr__(self, "_id_names", _wire(self.id_headers))
        private = frozenset(header.lower() for header in self.headers)
        object.__setattr__(self, "_private", private)

    @property
    def needs_secret(self) -> bool:
        """Always: without one everything is refused."""
        return True

    @property
    def private_headers(self) -> frozenset[str]:
        """The signature's headers."""
        return self._private

    def verify(self, request: RawRequest, secrets: Sequence[bytes], now: float) -> Verified:
        """Check the signature, in constant time, against each secret.

        Raises:
            VerificationError: It is missing, repeated, malformed or wrong, or there is no secret.
        """
        if not any(secrets):
            raise VerificationError("secret-missing")
        given = request.header(self._signature_names)
        if given is None:
            raise VerificationError("signature-missing")
        signature = self._decode(given)
        matches = False
        for secret in secrets:
            if secret:
                # Not hmac.digest(): that one lets go of the GIL for the smallest body, and getting
                # it back from a busy thread costs a thousand times the digest.
                expected = _keyed(secret, self.algorithm).copy()
                expected.update(request.body)
                matches |= hmac.compare_digest(expected.digest(), signature)
        if not matches:
            raise VerificationError("signature-mismatch")
        delivery_id = request.header(self._id_names)
        return Verified(
            signed=request.body,
            delivery_id=delivery_id.decode("latin-1") if delivery_id else None,
        )

    def sign(self, body: bytes, secret: bytes, now: float) -> Mapping[str, str]:
        """Sign as a sender would, in hex with the prefix."""
        digest = hmac.new(secret, body, getattr(hashlib, self.algorithm)).hexdigest()
        return {self.headers[0]: f"{self.prefix}{digest}"}

    def _decode(self, given: bytes) -> bytes:
        """Read hex or base64; their lengths tell them apart."""
        text = given.removeprefix(self.prefix.encode())
        size = _DIGEST_BYTES[self.algorithm]
        try:
            if len(text) == 2 * size:
                return binascii.unhexlify(text)
            signature = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise VerificationError("signature-malformed") from None
        if len(signature) != size:
            raise VerificationError("signature-malformed")
        return signature


def _wire(names: tuple[str, ...]) -> tuple[bytes, ...]:
    """Return header names as they come off the wire."""
    return tuple(name.lower().encode() for name in names)


@lru_cache(maxsize=256)
def _keyed(secret: bytes, algorithm: Algorithm) -> hmac.HMAC:
    """Return an HMAC that has its key and no data yet; to be copied."""
    return hmac.new(secret, digestmod=algorithm)


PRESETS: dict[str, Verifier] = {
    "hmac-sha256": HmacVerifier(name="hmac-sha256"),
    "hmac-sha1": HmacVerifier(
        algorithm="sha1", headers=("X-Hub-Signature",), prefix="sha1=", name="hmac-sha1"
    ),
    "hmac-sha512": HmacVerifier(
        algorithm="sha512", headers=("X-Signature-512",), prefix="sha512=", name="hmac-sha512"
    ),
}
