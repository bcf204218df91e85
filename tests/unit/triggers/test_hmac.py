"""HMAC: what proves a delivery, and that nothing but a refusal ever comes of the rest."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netscript_triggers import HmacVerifier, RawRequest, VerificationError, Verified, Verifier
from netscript_triggers.verifiers import MemoryVerifier, verifier_named
from netscript_triggers.verifiers.hmac import PRESETS
from netscript_workers.errors import ConfigurationError

BODY = b'{"a":1}'
SHA256 = PRESETS["hmac-sha256"]


def ask(
    verifier: Verifier,
    *headers: tuple[str, bytes],
    body: bytes = BODY,
    secrets: Sequence[bytes] = (b"s",),
) -> Verified:
    raw = [(name.lower().encode(), value) for name, value in headers]
    return verifier.verify(RawRequest("POST", "/", raw, body), secrets, 0.0)


def digest(secret: bytes = b"s", body: bytes = BODY, algorithm: str = "sha256") -> bytes:
    return hmac.new(secret, body, getattr(hashlib, algorithm)).digest()


# RFC 4231, test cases 1, 2 and 6.
RFC_4231 = [
    (b"\x0b" * 20, b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
    (
        b"Jefe",
        b"what do ya want for nothing?",
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
    ),
    (
        b"\xaa" * 131,
        b"Test Using Larger Than Block-Size Key - Hash Key First",
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
    ),
]


@pytest.mark.parametrize(("secret", "body", "expected"), RFC_4231)
def test_the_vectors_of_the_rfc_are_accepted(secret: bytes, body: bytes, expected: str) -> None:
    signed = ask(SHA256, ("X-Signature-256", expected.encode()), body=body, secrets=[secret])
    assert signed.signed == body


@pytest.mark.parametrize("name", ["hmac-sha1", "hmac-sha256", "hmac-sha512"])
def test_what_a_preset_signs_it_accepts(name: str) -> None:
    verifier = verifier_named(name)
    headers = {key: value.encode() for key, value in verifier.sign(BODY, b"s", 0.0).items()}
    assert ask(verifier, *headers.items()).signed == BODY
    with pytest.raises(VerificationError):
        ask(verifier, *headers.items(), body=b"other")
    assert {key.lower() for key in headers} <= verifier.private_headers


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([], "signature-missing"),
        ([("x-signature-256", b"")], "signature-malformed"),
        ([("x-signature-256", b"zz" * 32)], "signature-malformed"),
        ([("x-signature-256", b"ab" * 31)], "signature-malformed"),
        ([("x-signature-256", b"sha1=" + b"ab" * 32)], "signature-malformed"),
        ([("x-signature-256", b"\xff\xfe")], "signature-malformed"),
        ([("x-signature-256", b"ab" * 32)], "signature-mismatch"),
        ([("x-signature-256", b"ab" * 32), ("x-signature-256", b"cd" * 32)], "header-repeated"),
    ],
)
def test_each_refusal_knows_its_reason(headers: list[tuple[str, bytes]], reason: str) -> None:
    with pytest.raises(VerificationError) as refusal:
        ask(SHA256, *headers)
    assert refusal.value.reason == reason


def test_without_a_secret_nothing_is_accepted() -> None:
    good = ("x-signature-256", digest(b"").hex().encode())
    with pytest.raises(VerificationError) as refusal:
        ask(SHA256, good, secrets=[])
    assert refusal.value.reason == "secret-missing"


def test_any_of_the_secrets_will_do_and_a_delivery_id_is_told() -> None:
    good = ("x-netscript-signature", base64.b64encode(digest(b"new")))
    told = ask(SHA256, good, ("Idempotency-Key", b" d-1 "), secrets=[b"old", b"new"])
    assert (told.delivery_id, told.id_signed) == ("d-1", False)


def test_options_name_other_headers() -> None:
    mine = HmacVerifier(algorithm="sha1", headers=("X-Mine",), prefix="v0=", id_headers=("X-Id",))
    value = b"v0=" + digest(algorithm="sha1").hex().encode()
    assert ask(mine, ("X-Mine", value), ("X-Id", b"7")).delivery_id == "7"
    with pytest.raises(ConfigurationError, match="md5"):
        HmacVerifier(algorithm="md5")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigurationError, match="no header"):
        HmacVerifier(headers=())


@given(
    signature=st.binary(max_size=200),
    id_=st.binary(max_size=50),
    body=st.binary(max_size=200),
    secrets=st.lists(st.binary(max_size=20), max_size=3),
)
def test_nothing_but_a_verification_error_ever_escapes(
    signature: bytes, id_: bytes, body: bytes, secrets: list[bytes]
) -> None:
    for verifier in PRESETS.values():
        for name in sorted(verifier.private_headers):
            with pytest.raises(VerificationError):
                ask(
                    verifier,
                    (name, signature),
                    ("idempotency-key", id_),
                    body=body,
                    secrets=secrets,
                )


def test_an_unknown_preset_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match='Did you mean "hmac-sha256"'):
        verifier_named("hmac-sha265")
    with pytest.raises(ConfigurationError, match=r"There are: .*hmac-sha1"):
        verifier_named("xyz")
    assert isinstance(verifier_named("memory"), MemoryVerifier)
