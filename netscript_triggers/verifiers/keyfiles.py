"""Public and private keys, in the forms in which providers hand them out."""

from __future__ import annotations

import base64
import binascii
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

_PEM = b"-----BEGIN "
_ED25519_BYTES = 32
_KINDS: dict[Any, str] = {
    ed25519.Ed25519PublicKey: "an Ed25519 public key",
    ed25519.Ed25519PrivateKey: "an Ed25519 private key",
    ec.EllipticCurvePublicKey: "an elliptic curve public key",
    ec.EllipticCurvePrivateKey: "an elliptic curve private key",
    rsa.RSAPublicKey: "an RSA public key",
    rsa.RSAPrivateKey: "an RSA private key",
}


class Malformed(ValueError):  # noqa: N818 - a fact about a value, raised as a refusal elsewhere
    """A secret is not written as its scheme writes them; the message does not show it."""


def from_base64(text: bytes) -> bytes:
    """Read base64 with its padding and without blanks.

    Raises:
        Malformed: It is none.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed("it is not base64") from None


def from_hex(text: bytes) -> bytes:
    """Read hexadecimal digits.

    Raises:
        Malformed: They are none.
    """
    try:
        return binascii.unhexlify(text)
    except (binascii.Error, ValueError):
        raise Malformed("it is not hexadecimal") from None


def public_key(text: bytes, kind: Any) -> Any:
    """Read a public key of a kind, which is a class of `cryptography`.

    It may be PEM, a certificate in PEM, base64 of SPKI, or of Ed25519 the 32 bytes: in hex, in
    base64, or in base64 behind `whpk_`.

    Raises:
        Malformed: It is none of this kind.
    """
    return _of_kind(_public(text), kind)


def private_key(text: bytes, kind: Any) -> Any:
    """Read a private key of a kind: PEM, base64 of PKCS 8, or of Ed25519 the seed in hex or base64.

    Behind `whsk_` the public key may follow the seed, as Standard Webhooks writes it.

    Raises:
        Malformed: It is none of this kind.
    """
    return _of_kind(_private(text), kind)


def _of_kind(key: Any, kind: Any) -> Any:
    if not isinstance(key, kind):
        raise Malformed(f"it is not {_KINDS[kind]}")
    return key


@lru_cache(maxsize=256)
def _public(text: bytes) -> Any:
    try:
        if text.startswith(b"-----BEGIN CERTIFICATE-----"):
            return x509.load_pem_x509_certificate(_lines(text)).public_key()
        if text.startswith(_PEM):
            return serialization.load_pem_public_key(_lines(text))
        raw = _raw(text, b"whpk_")
        if len(raw) == _ED25519_BYTES:
            return ed25519.Ed25519PublicKey.from_public_bytes(raw)
        return serialization.load_der_public_key(raw)
    except (ValueError, UnsupportedAlgorithm):
        raise Malformed("it is not a public key") from None


@lru_cache(maxsize=64)
def _private(text: bytes) -> Any:
    try:
        if text.startswith(_PEM):
            return serialization.load_pem_private_key(_lines(text), None)
        raw = _raw(text, b"whsk_")
        if len(raw) == _ED25519_BYTES or text.startswith(b"whsk_"):
            return ed25519.Ed25519PrivateKey.from_private_bytes(raw[:_ED25519_BYTES])
        return serialization.load_der_private_key(raw, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Malformed("it is not a private key") from None


def _lines(text: bytes) -> bytes:
    """Give a PEM its line ends back where a variable could not hold them."""
    return text.replace(b"\\n", b"\n")


def _raw(text: bytes, prefix: bytes) -> bytes:
    if len(text) == 2 * _ED25519_BYTES:
        try:
            return from_hex(text)
        except Malformed:
            pass
    return from_base64(text.removeprefix(prefix))
