"""What providers and specifications publish: these bytes, this key, this signature."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest

from netscript_triggers import RawRequest, VerificationError
from netscript_triggers.verifiers import Verifier
from netscript_triggers.verifiers.headers import HeaderVerifier
from netscript_triggers.verifiers.message_signatures import HttpSignatureVerifier
from netscript_triggers.verifiers.presets import PRESETS
from tests.unit.triggers.verifiers.samples import ADYEN_ITEM

SLACK_BODY = (
    "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
    "&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
    "&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F"
    "96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
)
STANDARD = {"webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp": "1614265330"}
V1 = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
V1A = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
WHPK = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
SENDGRID_KEY = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw"
    "+2fNNRaINXvVpiglSI8eNEc6wEA3F+g=="
)
SENDGRID_ITEM = {
    "email": "hello@world.com",
    "event": "dropped",
    "reason": "Bounced Address",
    "sg_event_id": "ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA",
    "sg_message_id": "LRzXl_NHStOGhQ4kofSm_A.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0",
    "smtp-id": "<LRzXl_NHStOGhQ4kofSm_A@ismtpd0039p1iad1.sendgrid.net>",
    "timestamp": 1600112492,
}
SENDGRID_BODY = json.dumps([SENDGRID_ITEM], sort_keys=True, separators=(",", ":")) + "\r\n"

# (preset, secret, headers, body, now)
HEADERS: list[tuple[str, str, dict[str, str], str, float]] = [
    *(
        (name, WHSEC, {**STANDARD, "webhook-signature": V1}, '{"test": 2432232314}', 1614265330)
        for name in ("standard-webhooks", "svix", "openai", "gitlab-signed", "clerk", "resend")
    ),
    (
        "standard-webhooks-v1a",
        WHPK,
        {**STANDARD, "webhook-signature": f"{V1} {V1A}"},
        '{"test": 2432232314}',
        1614265330,
    ),
    (
        "github",
        "It's a Secret to Everybody",
        {
            "X-Hub-Signature-256": "sha256=757107ea0eb2509fc211221cce984b8a"
            "37570b6d7586c22c46f4379c8b043e17"
        },
        "Hello, World!",
        0,
    ),
    (
        "bitbucket",
        "It's a Secret to Everybody",
        {
            "X-Hub-Signature": "sha256=a4771c39fbe90f317c7824e83ddef3ca"
            "ae9cb3d976c214ace1f2937e133263c9"
        },
        "Hello World!",
        0,
    ),
    (
        "slack",
        "8f742231b10e8888abcd99yyyzzz85a5",
        {
            "X-Slack-Request-Timestamp": "1531420618",
            "X-Slack-Signature": "v0=a2114d57b48eac39b9ad189dd8316235"
            "a7b4a8d21a10bd27519666489c69b503",
        },
        SLACK_BODY,
        1531420618,
    ),
    (
        "line",
        "channel_secret",
        {"X-Line-Signature": "/gg9a+LvFevTH1sd7XCQycD7tsWclCsInj7MhBHxN7k="},
        "bodybodybodybody",
        0,
    ),
    (
        "sendgrid",
        SENDGRID_KEY,
        {
            "X-Twilio-Email-Event-Webhook-Timestamp": "1600112502",
            "X-Twilio-Email-Event-Webhook-Signature": "MEUCIGHQVtGj+Y3LkG9fLcxf3qfI10QysgDWmMOVmxG0"
            "u6ZUAiEAyBiXDWzM+uOe5W0JuG+luQAbPIqHh89M15TluLtEZtM=",
        },
        SENDGRID_BODY,
        1600112502,
    ),
]


def request_of(headers: dict[str, str], body: str | bytes, **more: Any) -> RawRequest:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    content = body.encode() if isinstance(body, str) else body
    return RawRequest(more.pop("method", "POST"), more.pop("path", "/"), raw, content, **more)


def refuses(verifier: Verifier, request: RawRequest, secret: str, now: float) -> bool:
    with pytest.raises(VerificationError):
        verifier.verify(request, [secret.encode()], now)
    return True


@pytest.mark.parametrize(("name", "secret", "headers", "body", "now"), HEADERS)
def test_a_published_signature_is_accepted(
    name: str, secret: str, headers: dict[str, str], body: str, now: float
) -> None:
    verifier = PRESETS[name]
    told = verifier.verify(request_of(headers, body), [b"x", secret.encode()], now)
    assert told.signed == body.encode()
    assert refuses(verifier, request_of(headers, body + " "), secret, now)


def test_what_was_read_is_told() -> None:
    headers = {**STANDARD, "webhook-signature": V1}
    request = request_of(headers, '{"test": 2432232314}')
    told = PRESETS["standard-webhooks"].verify(request, [WHSEC.encode()], 1614265330)
    assert (told.delivery_id, told.id_signed) == (STANDARD["webhook-id"], True)


TWILIO_URL = "https://mycompany.com/myapp.php?foo=1&bar=2"
TWILIO_FORM = (
    "CallSid=CA1234567890ABCDE&Digits=1234&From=%2B14158675309&To=%2B18005551212"
    "&Caller=%2B14158675309"
)
TWILIO_JSON = '{"property": "value", "boolean": true}'
TWILIO_HASH = "0a1ff7634d9ab3b95db5c9a2dfe9416e41502b283a80c7cf19632632f96e6620"
TWILIO = [
    ("https://mycompany.com", "foo=1&bar=2", TWILIO_FORM, "RSOYDt4T1cUTdK1PDd93/VVr8B8="),
    ("https://mycompany.com", "foo=1&bar=2", TWILIO_FORM, "kvajT1Ptam85bY51eRf/AJRuM3w="),
    ("http://mycompany.com", "foo=1&bar=2", TWILIO_FORM, "0ZXoZLH/DfblKGATFgpif+LLRf4="),
    ("http://mycompany.com:1234", "foo=1&bar=2", TWILIO_FORM, "Zmvh+3yNM1Phv2jhDCwEM3q5ebU="),
    (
        "https://mycompany.com",
        "foo=1&bar=2",
        "Sid=CA123&SidAccount=AC123&Digits=5678&Digits=1234&Digits=1234",
        "IK+Dwps556ElfBT0I3Rgjkr1wJU=",
    ),
    (
        "https://mycompany.com",
        f"foo=1&bar=2&bodySHA256={TWILIO_HASH}",
        TWILIO_JSON,
        "a9nBmqA0ju/hNViExpshrM61xv4=",
    ),
    (
        "https://mycompany.com",
        f"bodySHA256={TWILIO_HASH}",
        TWILIO_JSON,
        "y77kIzt2vzLz71DgmJGsen2scGs=",
    ),
]


@pytest.mark.parametrize(("origin", "query", "body", "signature"), TWILIO)
def test_twilios_vectors_are_accepted(origin: str, query: str, body: str, signature: str) -> None:
    form = "application/json" if body == TWILIO_JSON else "application/x-www-form-urlencoded"
    headers = {"X-Twilio-Signature": signature, "Content-Type": form}
    where: dict[str, Any] = {"path": "/myapp.php", "query": query.encode(), "origin": origin}
    PRESETS["twilio"].verify(request_of(headers, body, **where), [b"12345"], 0)
    where["query"] += b"&more=1"
    assert refuses(PRESETS["twilio"], request_of(headers, body, **where), "12345", 0)


def test_a_twilio_body_that_nothing_covers_is_refused() -> None:
    headers = {"X-Twilio-Signature": "RSOYDt4T1cUTdK1PDd93/VVr8B8="}
    where: dict[str, Any] = {"query": b"foo=1&bar=2", "origin": "https://mycompany.com"}
    for body in (TWILIO_JSON, "", TWILIO_FORM):
        assert refuses(PRESETS["twilio"], request_of(headers, body, **where), "12345", 0)
    twice = {**where, "query": f"bodySHA256={TWILIO_HASH}&bodySHA256={TWILIO_HASH}".encode()}
    assert refuses(PRESETS["twilio"], request_of(headers, TWILIO_JSON, **twice), "12345", 0)


def test_squares_vector_is_accepted() -> None:
    headers = {"X-Square-HmacSha256-Signature": "2kRE5qRU2tR+tBGlDwMEw2avJ7QM4ikPYD/PJ3bd9Og="}
    where: dict[str, Any] = {"path": "/webhook", "origin": "https://example.com"}
    square = PRESETS["square"]
    square.verify(request_of(headers, '{"hello":"world"}', **where), [b"asdf1234"], 0)
    other = {**where, "origin": "https://evil.example"}
    assert refuses(square, request_of(headers, '{"hello":"world"}', **other), "asdf1234", 0)
    nowhere = {**where, "origin": ""}
    assert refuses(square, request_of(headers, '{"hello":"world"}', **nowhere), "asdf1234", 0)


ADYEN_KEY = "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056"
ADYEN_SIGNATURE = "coqCmt/IZ4E3CzPvMY8zTjQVL5hYJUiBRg8UU+iCWo0="


def adyen(*items: dict[str, Any]) -> RawRequest:
    listed = [{"NotificationRequestItem": item} for item in items]
    return request_of({}, json.dumps({"live": "false", "notificationItems": listed}))


def test_adyens_vector_is_accepted_and_every_item_counts() -> None:
    good = {**ADYEN_ITEM, "additionalData": {"hmacSignature": ADYEN_SIGNATURE}}
    told = PRESETS["adyen"].verify(adyen(good), [ADYEN_KEY.encode()], 0)
    assert (told.event_type, told.type_signed, told.id_signed) == ("AUTHORISATION", True, True)
    without = {name: value for name, value in good.items() if name != "originalReference"}
    assert PRESETS["adyen"].verify(adyen(without), [ADYEN_KEY.encode()], 0) == told
    forged = {**good, "amount": {"value": 1131, "currency": "EUR"}}
    for bad in ([forged], [good, forged], [good, ADYEN_ITEM], [ADYEN_ITEM], []):
        assert refuses(PRESETS["adyen"], adyen(*bad), ADYEN_KEY, 0)
    for broken in ("{}", "[]", '{"notificationItems":{}}', '{"notificationItems":[1]}', "x"):
        assert refuses(PRESETS["adyen"], request_of({}, broken), ADYEN_KEY, 0)


RFC_9421 = {
    "Host": "example.com",
    "Date": "Tue, 20 Apr 2021 02:07:55 GMT",
    "Content-Type": "application/json",
    "Content-Digest": "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+T"
    "aPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:",
    "Content-Length": "18",
}
RFC_BODY = '{"hello": "world"}'
RFC_SECRET = (
    "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ=="
)
RFC_ED25519 = "MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs="


def test_the_vectors_of_rfc_9421_are_accepted() -> None:
    where: dict[str, Any] = {
        "path": "/foo",
        "query": b"param=Value&Pet=dog",
        "origin": "https://example.com",
    }
    b25 = {
        "Signature-Input": 'sig-b25=("date" "@authority" "content-type")'
        ';created=1618884473;keyid="test-shared-secret"',
        "Signature": "sig-b25=:pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=:",
    }
    b26 = {
        "Signature-Input": 'sig-b26=("date" "@method" "@path" "@authority" "content-type" '
        '"content-length");created=1618884473;keyid="test-key-ed25519"',
        "Signature": "sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1"
        "u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:",
    }
    hmac = HttpSignatureVerifier(components=("date", "@authority"), keyid="test-shared-secret")
    ed25519 = HttpSignatureVerifier(algorithm="ed25519", components=("@method", "date"))
    for verifier, given, secret in ((hmac, b25, RFC_SECRET), (ed25519, b26, RFC_ED25519)):
        request = request_of({**RFC_9421, **given}, RFC_BODY, **where)
        verifier.verify(request, [secret.encode()], 1618884473)
        changed = {**RFC_9421, **given, "Date": "Tue, 20 Apr 2021 02:07:56 GMT"}
        assert refuses(verifier, request_of(changed, RFC_BODY, **where), secret, 1618884473)
        assert refuses(verifier, request, secret, 1618884473 + 301)
        other = replace(verifier, keyid="another")
        assert refuses(other, request, secret, 1618884473)
        more = replace(verifier, components=("@method", "@target-uri", "content-digest"))
        assert refuses(more, request, secret, 1618884473)


def test_a_seed_and_its_public_key_may_stand_behind_whsk() -> None:
    seed = bytes(range(32))
    private = f"whsk_{base64.b64encode(seed + bytes(32)).decode()}"
    verifier = PRESETS["standard-webhooks-v1a"]
    assert isinstance(verifier, HeaderVerifier)
    made = verifier.sign(b"{}", private.encode(), 1000.0)
    assert made["webhook-signature"].startswith("v1a,")
