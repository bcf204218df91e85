"""Senders that ask whether somebody is there, and what is fetched to verify them."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
import respx

from netscript_triggers.verifiers import Answer, RawRequest, Verifier
from netscript_triggers.verifiers.conformance import NOW, signed
from netscript_triggers.verifiers.presets import PRESETS
from netscript_triggers.verifiers.sns import SnsVerifier
from netscript_workers.errors import VerificationError
from tests.unit.triggers.verifiers.samples import (
    ORIGIN,
    TOPIC,
    certificate,
    ed_key,
    pem_of,
    rsa_key,
    spki_of,
)

META = b"hub.mode=subscribe&hub.verify_token=%s&hub.challenge=%s"
SNS_PEM = "https://sns.eu-west-1.amazonaws.com/test.pem"
CONFIRM = "https://sns.eu-west-1.amazonaws.com/?Action=Confirm"


def request(
    method: str = "POST",
    body: bytes = b"",
    query: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> RawRequest:
    wire = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    return RawRequest(method, "/webhooks/x", wire, body, query, origin=ORIGIN)


def asked(name: str, given: RawRequest, secret: str) -> Answer | None:
    verifier: Any = PRESETS[name]
    found: Answer | None = verifier.handshake(given, None, [secret.encode()], NOW)
    return found


def asked_signed(
    name: str, body: bytes, secret: str = "s", signing: str | None = None, **headers: str
) -> Answer | None:
    """Ask with a signed question, which is answered once it is proven and not before."""
    verifier: Any = PRESETS[name]
    names = {key.replace("_", "-"): value for key, value in headers.items()}
    given = signed(verifier, request(body=body, headers=names), (signing or secret).encode())
    secrets = [secret.encode()]
    assert verifier.handshake(given, None, secrets, NOW) is None
    with pytest.raises(VerificationError):
        verifier.verify(given, [pem_free(secret)], NOW)
    found: Answer | None = verifier.handshake(
        given, verifier.verify(given, secrets, NOW), secrets, NOW
    )
    return found


def pem_free(secret: str) -> bytes:
    """Return another secret of the same kind."""
    return spki_of(ed_key(1)).encode() if len(secret) > 20 else b"other"


def test_signed_questions_are_answered_once_they_are_proven() -> None:
    told = asked_signed("slack", b'{"type":"url_verification","challenge":"abc"}')
    assert told is not None
    assert (told.status, told.body) == (200, b"abc")
    told = asked_signed(
        "zoom", b'{"event":"endpoint.url_validation","payload":{"plainToken":"token"}}'
    )
    assert told is not None
    digest = hmac.new(b"s", b"token", hashlib.sha256).hexdigest()
    assert json.loads(told.body) == {"plainToken": "token", "encryptedToken": digest}
    told = asked_signed(
        "twitch",
        b'{"challenge":"xyz"}',
        twitch_eventsub_message_type="webhook_callback_verification",
    )
    assert told is not None
    assert told.body == b"xyz"


def test_discord_is_answered_for_interactions_and_for_events() -> None:
    public, private = spki_of(ed_key(0)), pem_of(ed_key(0))
    told = asked_signed("discord", b'{"type":1}', public, private)
    assert told is not None
    assert (told.status, json.loads(told.body)) == (200, {"type": 1})
    told = asked_signed("discord", b'{"type":0}', public, private)
    assert told is not None
    assert (told.status, told.body) == (204, b"")


@pytest.mark.parametrize(
    ("name", "given", "secret", "body"),
    [
        ("dropbox", request("GET", query=b"challenge=abc"), "s", b"abc"),
        ("meta", request("GET", query=META % (b"tok", b"115")), "verify-token=tok", b"115"),
        ("ms-graph", request(query=b"validationToken=Testing%3A+a+b"), "s", b"Testing: a b"),
        ("intercom", request("HEAD"), "s", b""),
    ],
    ids=lambda one: one if isinstance(one, str) else None,
)
def test_questions_that_nothing_signs_are_answered_as_plain_text(
    name: str, given: RawRequest, secret: str, body: bytes
) -> None:
    told = asked(name, given, secret)
    assert told is not None
    assert (told.status, told.body) == (200, body)
    assert told.content_type.startswith("text/plain")


def test_a_crc_is_signed_and_okta_gets_its_challenge_back() -> None:
    told = asked("x", request("GET", query=b"crc_token=abc"), "s")
    assert told is not None
    assert json.loads(told.body)["response_token"].startswith("sha256=")
    okta = request("GET", headers={"x-okta-verification-challenge": "abc"})
    told = asked("okta", okta, "s")
    assert told is not None
    assert json.loads(told.body) == {"verification": "abc"}


@pytest.mark.parametrize(
    ("name", "query", "secret"),
    [
        ("meta", META % (b"no", b"115"), "verify-token=tok"),
        ("meta", META % (b"", b"115"), "verify-token="),
        ("meta", META % (b"tok", b"<b>"), "verify-token=tok"),
        ("x", b"crc_token=123", "s"),
    ],
)
def test_what_would_make_an_oracle_or_a_page_of_us_is_refused(
    name: str, query: bytes, secret: str
) -> None:
    with pytest.raises(VerificationError):
        asked(name, request("GET", query=query), secret)


@pytest.mark.parametrize(("name", "other"), [("aws-sns", "aws-sns-v1"), ("aws-sns-v1", "aws-sns")])
def test_sns_is_held_to_its_topic_its_certificate_and_its_version(name: str, other: str) -> None:
    body = json.dumps({"Message": "m", "TopicArn": TOPIC}).encode()
    verifier: Any = PRESETS[name]
    given = signed(verifier, request(body=body), pem_of(rsa_key(0)).encode())
    topic, pinned = TOPIC.encode(), certificate(0).encode()
    assert verifier.verify(given, [topic, pinned], NOW).delivery_id
    refused: list[tuple[Verifier, list[bytes]]] = [
        (verifier, [topic, certificate(1).encode()]),
        (verifier, [topic + b"x", pinned]),
        (PRESETS[other], [topic, pinned]),
    ]
    for one, secrets in refused:
        with pytest.raises(VerificationError):
            one.verify(given, secrets, NOW)


@respx.mock
def test_sns_fetches_its_certificate_once_and_confirms_where_it_was_told_to() -> None:
    verifier: Any = SnsVerifier(confirm=True)
    question = {"Type": "SubscriptionConfirmation", "Token": "t", "SubscribeURL": CONFIRM}
    body = json.dumps({"Message": "m", "TopicArn": TOPIC, **question}).encode()
    given = signed(verifier, request(body=body), pem_of(rsa_key(0)).encode())
    topic = [TOPIC.encode()]
    pem = respx.get(SNS_PEM).mock(return_value=httpx.Response(200, text=certificate(0)))
    confirmed = respx.get(CONFIRM).mock(return_value=httpx.Response(200, text="ok"))

    async def ask() -> None:
        await asyncio.gather(*(verifier.prepare(given, topic, NOW) for _ in range(20)))
        told = verifier.handshake(given, verifier.verify(given, topic, NOW), topic, NOW)
        assert told is not None
        assert told.first is not None
        await told.first()

    asyncio.run(ask())
    assert (pem.call_count, confirmed.call_count) == (1, 1)
