"""Nobody makes a verifier work hard: how much of what a request has is looked at, is bounded."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from netscript_triggers.verifiers import RawRequest
from netscript_triggers.verifiers.conformance import NOW
from netscript_workers.errors import VerificationError
from tests.fuzz.targets import deliveries

MIB = 1_048_576


def with_header(name: str, header: bytes, value: bytes) -> RawRequest:
    """Return the preset's good delivery with another value of one header."""
    good = deliveries()[name].request
    headers = [(key, value if key == header else one) for key, one in good.headers]
    assert headers != good.headers
    return RawRequest(good.method, good.path, headers, good.body, good.query, b"", good.origin)


def with_body(name: str, body: Any) -> RawRequest:
    good = deliveries()[name].request
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return RawRequest(good.method, good.path, good.headers, content, good.query, b"", good.origin)


def items(name: str, field: str, count: int) -> RawRequest:
    """Return the preset's good delivery with its one item many times."""
    whole = json.loads(deliveries()[name].request.body)
    return with_body(name, {**whole, field: whole[field] * count})


def time_and(signature: bytes, count: int) -> bytes:
    return b"t=1700000000," + b",".join([signature] * count)


INPUT, SIGNATURE = b"signature-input", b"signature"
CASES: dict[str, tuple[str, RawRequest, str]] = {
    "17 signatures": (
        "stripe",
        with_header("stripe", b"stripe-signature", time_and(b"v1=" + b"ab" * 32, 17)),
        "signature-too-many",
    ),
    "10,000 of versions unknown": (
        "stripe",
        with_header("stripe", b"stripe-signature", time_and(b"v9=ab", 10_000)),
        "signature-missing",
    ),
    "10,000 with a blank between": (
        "standard-webhooks",
        with_header("standard-webhooks", b"webhook-signature", b"v1,aGVsbG8= " * 10_000),
        "signature-too-many",
    ),
    "a signature of a MiB": (
        "github",
        with_header("github", b"x-hub-signature-256", b"sha256=" + b"ab" * (MIB // 2)),
        "signature-malformed",
    ),
    "a time of 17 digits": (
        "slack",
        with_header("slack", b"x-slack-request-timestamp", b"1" * 17),
        "signature-mismatch",
    ),
    "a token of 9,000 bytes": (
        "plaid",
        with_header("plaid", b"plaid-verification", b"e30." * 3000),
        "token-malformed",
    ),
    "9 labels": (
        "http-message-signatures",
        with_header(
            "http-message-signatures", INPUT, b", ".join(b"s%d=()" % one for one in range(9))
        ),
        "signature-malformed",
    ),
    "an input of 9,000 bytes": (
        "http-message-signatures",
        with_header("http-message-signatures", INPUT, b"sig1=(" + b'"a" ' * 2500 + b")"),
        "signature-malformed",
    ),
    "a thousand and one fields": ("twilio", with_body("twilio", b"a=1&" * 1001), "form-malformed"),
    "percent signs": ("twilio", with_body("twilio", b"%" * MIB), "form-malformed"),
    "17 fields": ("braintree", with_body("braintree", b"a=1&" * 17), "form-malformed"),
    "101 items": ("adyen", items("adyen", "notificationItems", 101), "batch-too-large"),
    "1,001 items": ("ms-graph", items("ms-graph", "value", 1001), "batch-too-large"),
}


@pytest.mark.parametrize(("name", "request_", "reason"), CASES.values(), ids=CASES)
def test_what_is_too_much_is_refused_for_that(name: str, request_: RawRequest, reason: str) -> None:
    good = deliveries()[name]
    with pytest.raises(VerificationError) as refused:
        good.verifier.verify(request_, good.secrets, NOW)
    assert refused.value.reason == reason


def test_a_token_that_is_long_is_not_even_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    long = base64.urlsafe_b64encode(b'{"alg":"ES256"}' * 600) + b".e30.x"

    def never(*_args: object) -> None:
        raise AssertionError

    monkeypatch.setattr("netscript_triggers.verifiers.jws.unpadded", never)
    request = with_header("plaid", b"plaid-verification", long)
    good = deliveries()["plaid"]
    with pytest.raises(VerificationError):
        good.verifier.verify(request, good.secrets, NOW)
