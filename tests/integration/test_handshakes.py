"""Senders that ask whether somebody is there, at the edge itself: an answer, and no event."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import respx

from netscript_triggers import WebhookDefinition, WebhookEvent, define_webhook
from netscript_triggers.testing import signed_request
from netscript_triggers.verifiers.sns import SnsVerifier
from netscript_workers.store.engine import Store
from tests.edge import Edge, open_edge
from tests.unit.triggers.verifiers.samples import (
    TOPIC,
    certificate,
    ed_key,
    pem_of,
    rsa_key,
    spki_of,
)
from tests.unit.triggers.verifiers.test_handshakes import CONFIRM, SNS_PEM

SECRET = "a-secret-of-some-length"
PUBLIC, PRIVATE = spki_of(ed_key(0)), pem_of(ed_key(0))
META = "hub.mode=subscribe&hub.verify_token=word&hub.challenge=115"
PLAIN = {
    "plainToken": "token",
    "encryptedToken": hmac.new(SECRET.encode(), b"token", "sha256").hexdigest(),
}
CRC = base64.b64encode(hmac.new(SECRET.encode(), b"abc", hashlib.sha256).digest()).decode()


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a sender asks, and is answered.

    Attributes:
        signed: What signs the question; empty where nothing does.
        wrong: Another query, which is refused.
    """

    method: str = "POST"
    query: str = ""
    body: bytes = b""
    headers: Mapping[str, str] | None = None
    secret: str = SECRET
    signed: str = ""
    status: int = 200
    told: bytes | dict[str, Any] = b""
    wrong: str = ""


def asking(payload: Any, told: Any, *, signed: str = SECRET, **more: Any) -> Question:
    return Question(body=json.dumps(payload).encode(), told=told, signed=signed, **more)


TWITCH = {"Twitch-Eventsub-Message-Type": "webhook_callback_verification"}
CHALLENGE = Question(method="GET", query="challenge=abc", told=b"abc", wrong="challenge=<b>")
PROBE = Question(method="HEAD")
SUBSCRIBE = Question(
    method="GET",
    query=META,
    told=b"115",
    secret="verify-token=word",
    wrong=META.replace("word", "no"),
)
QUESTIONS: dict[str, tuple[str, Question]] = {
    "slack": ("slack", asking({"type": "url_verification", "challenge": "abc"}, b"abc")),
    "zoom": (
        "zoom",
        asking({"event": "endpoint.url_validation", "payload": {"plainToken": "token"}}, PLAIN),
    ),
    "twitch": ("twitch", asking({"challenge": "xyz"}, b"xyz", headers=TWITCH)),
    "xero": ("xero", asking({"events": []}, b"")),
    "discord interactions": (
        "discord", asking({"type": 1}, {"type": 1}, secret=PUBLIC, signed=PRIVATE),
    ),
    "discord events": (
        "discord", asking({"type": 0}, b"", secret=PUBLIC, signed=PRIVATE, status=204),
    ),
    "dropbox": ("dropbox", CHALLENGE),
    "nylas": ("nylas", CHALLENGE),
    "meta": ("meta", SUBSCRIBE),
    "whatsapp": ("whatsapp", SUBSCRIBE),
    "instagram": ("instagram", SUBSCRIBE),
    "x": (
        "x",
        Question(method="GET", query="crc_token=abc", told={"response_token": f"sha256={CRC}"},
                 wrong="crc_token=123"),
    ),
    "okta": (
        "okta",
        Question(method="GET", headers={"X-Okta-Verification-Challenge": "abc"},
                 told={"verification": "abc"}),
    ),
    "intercom": ("intercom", PROBE),
    "trello": ("trello", PROBE),
    "ms-graph": (
        "ms-graph",
        Question(query="validationToken=Testing%3A+a", told=b"Testing: a",
                 wrong="validationToken=%00"),
    ),
}  # fmt: skip


def nothing(event: WebhookEvent) -> None:
    raise AssertionError(event.id)


def hook(verifier: Any) -> WebhookDefinition[Any]:
    return define_webhook(
        nothing, id="asked", path="/asked", verifier=verifier, secret_env="ASKED", dedupe=None
    )


async def ask(edge: Edge, name: str, *, query: str, signed: str) -> httpx.Response:
    preset, question = QUESTIONS[name]
    headers, body = dict(question.headers or {}), question.body
    if signed:
        made = signed_request(hook(preset), body, secret=signed, headers=headers)
        headers, body = dict(made.headers), made.body
    url = f"/asked?{query}" if query else "/asked"
    return await edge.client.request(question.method, url, content=body, headers=headers)


@pytest.mark.parametrize("name", QUESTIONS)
async def test_a_question_is_answered_and_becomes_no_event(store: Store, name: str) -> None:
    preset, question = QUESTIONS[name]
    async with open_edge(store, hook(preset)) as edge:
        edge.environment["ASKED"] = question.secret
        answer = await ask(edge, name, query=question.query, signed=question.signed)
        assert answer.status_code == question.status, answer.text
        told = answer.json() if isinstance(question.told, dict) else answer.content
        assert told == question.told
        kind = "application/json" if isinstance(question.told, dict) else "text/plain"
        assert answer.headers["content-type"].startswith(kind)
        assert answer.headers["x-content-type-options"] == "nosniff"
        if question.signed:
            other = pem_of(ed_key(1)) if question.signed == PRIVATE else "another"
            refused = await ask(edge, name, query="", signed=other)
            assert refused.status_code == 401
        if question.wrong:
            refused = await ask(edge, name, query=question.wrong, signed="")
            assert refused.status_code == 401
        assert edge.nothing_is_stored()


@respx.mock
async def test_sns_is_confirmed_once_its_question_is_proven(store: Store) -> None:
    pem = certificate(0, at=time.time())
    respx.get(SNS_PEM).mock(return_value=httpx.Response(200, text=pem))
    confirmed = respx.get(CONFIRM).mock(return_value=httpx.Response(200, text="ok"))
    question = {
        "Type": "SubscriptionConfirmation", "Token": "t", "SubscribeURL": CONFIRM,
        "Message": "m", "TopicArn": TOPIC,
    }  # fmt: skip
    async with open_edge(store, hook(SnsVerifier(confirm=True))) as edge:
        edge.environment["ASKED"] = TOPIC
        made = signed_request(hook("aws-sns"), question, secret=pem_of(rsa_key(0)))
        answer = await edge.client.post("/asked", content=made.body, headers=dict(made.headers))
        assert (answer.status_code, confirmed.call_count) == (200, 1)
        forged = made.body.replace(b'"Token":"t"', b'"Token":"u"')
        answer = await edge.client.post("/asked", content=forged, headers=dict(made.headers))
        assert (answer.status_code, confirmed.call_count) == (401, 1)
        assert edge.nothing_is_stored()
