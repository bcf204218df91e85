"""A good delivery of every preset: its secrets, and what its scheme does not cover."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from netscript_triggers.verifiers import RawRequest, Verifier
from netscript_triggers.verifiers.conformance import NOW, Mutation
from netscript_triggers.verifiers.google import PubSubVerifier
from netscript_triggers.verifiers.presets import PRESETS

ORIGIN = "https://hooks.example.com"
BODY = b'{"id":"evt_1","type":"paid","cents":5}'
TOPIC = "arn:aws:sns:eu-west-1:123456789012:orders"


def pem_of(private: Any) -> str:
    pem: bytes = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return pem.decode()


def spki_of(private: Any) -> str:
    der = private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return base64.b64encode(der).decode()


@lru_cache
def rsa_key(number: int = 0) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@lru_cache
def ec_key(number: int = 0, curve: str = "P-256") -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1() if curve == "P-256" else ec.SECP384R1())


@lru_cache
def ed_key(number: int = 0) -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.from_private_bytes(bytes([number + 1]) * 32)


def b64url(number: int) -> str:
    raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def rsa_jwk(number: int = 0, **more: Any) -> dict[str, Any]:
    numbers = rsa_key(number).public_key().public_numbers()
    return {"kty": "RSA", "n": b64url(numbers.n), "e": b64url(numbers.e), **more}


def ec_jwk(number: int = 0, **more: Any) -> dict[str, Any]:
    numbers = ec_key(number).public_key().public_numbers()
    point = {"x": b64url(numbers.x), "y": b64url(numbers.y)}
    return {"kty": "EC", "crv": "P-256", **point, **more}


@lru_cache
def certificate(number: int = 0, host: str = "sns.amazonaws.com", at: float = NOW) -> str:
    """A certificate that signs itself, and is in force at a moment."""
    key = rsa_key(number)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    moment = datetime.fromtimestamp(at, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(number + 1)
        .not_valid_before(moment - timedelta(days=1))
        .not_valid_after(moment + timedelta(days=1))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
        .decode()
    )


def json_of(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


@dataclass(frozen=True, kw_only=True)
class Sample:
    """How `check_verifier` is told of a preset."""

    verifier: Verifier
    secret: str
    other: str
    signing: str = ""
    more_secrets: tuple[str, ...] = ()
    body: bytes = BODY
    headers: Mapping[str, str] | None = None
    signed_headers: tuple[str, ...] = ()
    accepts: Callable[[Mutation], bool] = lambda _mutation: False

    @property
    def request(self) -> RawRequest:
        given = {"content-type": "application/json", **(self.headers or {})}
        raw = [(name.lower().encode(), value.encode()) for name, value in given.items()]
        return RawRequest("POST", "/webhooks/x", raw, self.body, origin=ORIGIN)


def hmac_pair(name: str) -> tuple[str, str]:
    key: Any = getattr(PRESETS[name], "key", None)
    form = getattr(key, "form", "text")
    one, other = b"a secret of some length, 1", b"a secret of some length, 2"
    if form == "whsec":
        return tuple(f"whsec_{base64.b64encode(raw).decode()}" for raw in (one, other))  # type: ignore[return-value] # pyright: ignore[reportReturnType]
    if form == "hex":
        return one.hex(), other.hex()
    return "a-secret-of-some-length-and-more-1", "a-secret-of-some-length-and-more-2"


ADYEN_ITEM = {
    "pspReference": "7914073381342284",
    "originalReference": "",
    "merchantAccountCode": "TestMerchant",
    "merchantReference": "TestPayment-1407325143704",
    "amount": {"value": 1130, "currency": "EUR"},
    "eventCode": "AUTHORISATION",
    "success": "true",
}


def _whole_body_only(mutation: Mutation) -> bool:
    """Where JSON's values are covered and not its bytes."""
    return mutation.name == "body: blank added"


def _cut_only(mutation: Mutation) -> bool:
    """Where the signed text does not reach to the end of the body."""
    return mutation.name == "body: truncated"


def _no_body(mutation: Mutation) -> bool:
    return mutation.name.startswith("body:")


_SIGNED_HEADERS = {
    "slack": ("x-slack-request-timestamp",),
    "zoom": ("x-zm-request-timestamp",),
    "zendesk": ("x-zendesk-webhook-signature-timestamp",),
    "box": ("box-delivery-timestamp",),
    "twitch": ("twitch-eventsub-message-timestamp", "twitch-eventsub-message-id"),
    "customer-io": ("x-cio-timestamp",),
    "hubspot": ("x-hubspot-request-timestamp",),
    "discord": ("x-signature-timestamp",),
    "telnyx": ("telnyx-timestamp",),
    "sendgrid": ("x-twilio-email-event-webhook-timestamp",),
    "paypal": ("paypal-transmission-id", "paypal-transmission-time"),
}


def _asymmetric(name: str) -> dict[str, Any]:
    if name in {"discord", "telnyx", "standard-webhooks-v1a", "http-message-signatures-ed25519"}:
        return {
            "secret": spki_of(ed_key(0)),
            "other": spki_of(ed_key(1)),
            "signing": pem_of(ed_key(0)),
        }
    if "rsa" in name:
        return {
            "secret": spki_of(rsa_key(0)),
            "other": spki_of(rsa_key(1)),
            "signing": pem_of(rsa_key(0)),
        }
    curve = "P-384" if "p384" in name else "P-256"
    return {
        "secret": spki_of(ec_key(0, curve)),
        "other": spki_of(ec_key(1, curve)),
        "signing": pem_of(ec_key(0, curve)),
    }


def _special() -> dict[str, dict[str, Any]]:
    graph = {"value": [{"clientState": "x", "changeType": "created", "id": "n1"}]}
    key = pem_of(rsa_key(0))
    jwks = json_of({"keys": [rsa_jwk(0, kid="")]})
    return {
        "twilio": {
            "headers": {"content-type": "application/x-www-form-urlencoded"},
            "body": b"MessageSid=SM1&Empty=&Body=hello+there",
        },
        "twilio-sha256": {},
        "mailgun": {
            "body": json_of({"event-data": {"event": "opened"}}).encode(),
            "accepts": _whole_body_only,
        },
        "adyen": {
            "body": json_of(
                {"live": "true", "notificationItems": [{"NotificationRequestItem": ADYEN_ITEM}]}
            ).encode(),
            "secret": "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056",
            "other": "54782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056",
            "accepts": _whole_body_only,
        },
        "braintree": {
            "secret": "public:private",
            "other": "public:other",
            "body": b"<xml/>",
            "accepts": _cut_only,
        },
        "basic": {"secret": "user:word", "other": "user:other"},
        "plaid": {
            "secret": json_of({"keys": [ec_jwk(0)]}),
            "other": json_of({"keys": [ec_jwk(1)]}),
            "signing": pem_of(ec_key(0)),
        },
        "google-pubsub": {
            "verifier": PubSubVerifier(jwks=jwks),
            "secret": "push@project.iam.gserviceaccount.com",
            "other": "other@project.iam.gserviceaccount.com",
            "signing": f"push@project.iam.gserviceaccount.com {key}",
            "accepts": _no_body,
        },
        "ms-graph": {"body": json_of(graph).encode(), "accepts": _whole_body_only},
        "livekit": {
            "secret": "key:a-secret-of-32-bytes-or-so-xxxxx",
            "other": "key:b-secret-xxxxxx",
        },
    }


TOKENS = ("gitlab", "telegram", "okta", "bearer", "basic", "postmark", "chargebee")
# Their secrets are not keys: what else they are told is tried in tests of their own.
APART = ("aws-sns", "aws-sns-v1", "paypal")


def _sample(name: str) -> Sample:
    special = _special()
    known = {
        **special,
        "plaid-sandbox": special["plaid"],
        "postmark": special["basic"],
        "chargebee": special["basic"],
    }
    given: dict[str, Any] = {"verifier": PRESETS[name]}
    given["secret"], given["other"] = hmac_pair(name)
    given["signed_headers"] = _SIGNED_HEADERS.get(name, ())
    if name.startswith("http-message-signatures"):
        given["signed_headers"] = ("signature-input", "content-digest")
        given["secret"], given["other"] = (base64.b64encode(x * 40).decode() for x in (b"a", b"b"))
    if name.startswith("http-message-signatures-") or name in {
        "discord",
        "telnyx",
        "sendgrid",
        "standard-webhooks-v1a",
    }:
        given |= _asymmetric(name)
    if name in TOKENS:
        given["accepts"] = _no_body
    brand = {"svix": "svix", "clerk": "svix", "resend": "svix"}.get(name, "webhook")
    if "{id}.{time}" in getattr(PRESETS[name], "template", ""):
        given["signed_headers"] = (f"{brand}-id", f"{brand}-timestamp")
    return Sample(**{**given, **known.get(name, {})})


@lru_cache
def samples() -> dict[str, Sample]:
    return {name: _sample(name) for name in PRESETS if name not in APART}
