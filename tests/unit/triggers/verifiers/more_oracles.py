"""More oracles: of URLs, of bodies with a signature inside, of public keys and of tokens."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import ImmutableMultiDict

from netscript_triggers.verifiers import RawRequest
from netscript_triggers.verifiers.keyfiles import public_key
from netscript_triggers.verifiers.message_signatures import (
    REQUIRED,
    HttpAlgorithm,
    HttpSignatureVerifier,
)
from tests.unit.triggers.verifiers.oracles import Accepts, Oracle, Signs, fields, module, text
from tests.unit.triggers.verifiers.samples import (
    ORIGIN,
    certificate,
    ec_key,
    ed_key,
    pem_of,
    rsa_key,
)

# Twilio: of the URL, with a form or with the hash of a body.


def _twilio_params(request: RawRequest) -> Any:
    if b"bodySHA256=" in request.query:
        return text(request)
    return ImmutableMultiDict(parse_qsl(text(request), keep_blank_values=True))


def _twilio(algorithm: str) -> Accepts:
    def accepts(request: RawRequest, secret: str) -> object:
        judge = module("twilio.request_validator").RequestValidator(secret)
        given, params = fields(request)["x-twilio-signature"], _twilio_params(request)
        return judge.validate(request.url.decode(), params, given, algorithm)

    return accepts


def _twilio_signs(request: RawRequest, secret: str, now: int) -> tuple[Mapping[str, str], None]:
    maker = module("twilio.request_validator").RequestValidator(secret)
    made = maker.compute_signature(request.url.decode(), _twilio_params(request))
    return {"x-twilio-signature": made}, None


# Signatures in the body.


def _mailgun(request: RawRequest, secret: str) -> object:
    given = json.loads(request.body)["signature"]
    verify = module("mailgun.security").SecurityGuard.verify_webhook
    return verify(secret, given["token"], given["timestamp"], given["signature"])


def _adyen(request: RawRequest, secret: str) -> object:
    return module("Adyen.util").is_valid_hmac_notification(json.loads(request.body), secret)


def _adyen_signs(request: RawRequest, secret: str, now: int) -> tuple[Mapping[str, str], bytes]:
    body = json.loads(request.body)
    for entry in body["notificationItems"]:
        item = entry["NotificationRequestItem"]
        made = module("Adyen.util").generate_notification_sig(item, secret)
        item["additionalData"] = {"hmacSignature": made.decode()}
    return {}, json.dumps(body, separators=(",", ":")).encode()


def _adyen_platform(request: RawRequest, secret: str) -> object:
    given = fields(request)["hmacsignature"]
    return module("Adyen.util").is_valid_hmac_payload(given, secret, request.body)


def _adyen_platform_signs(
    request: RawRequest, secret: str, now: int
) -> tuple[Mapping[str, str], None]:
    made = module("Adyen.util").generate_payload_sig(request.body, secret)
    return {"hmacsignature": made.decode()}, None


def _braintree_gateway(secret: str) -> Any:
    braintree = module("braintree")
    public, _, private = secret.partition(":")
    keys = {"merchant_id": "m", "public_key": public, "private_key": private}
    configuration = braintree.Configuration(braintree.Environment.Sandbox, **keys)
    return braintree.BraintreeGateway(configuration)


def _braintree(request: RawRequest, secret: str) -> object:
    form = dict(parse_qsl(text(request), strict_parsing=True))
    gateway = _braintree_gateway(secret)
    return gateway.webhook_notification.parse(form["bt_signature"], form["bt_payload"])


def _braintree_signs(request: RawRequest, secret: str, now: int) -> tuple[Mapping[str, str], bytes]:
    made = _braintree_gateway(secret).webhook_testing.sample_notification("check", "1")
    return {"content-type": "application/x-www-form-urlencoded"}, urlencode(made).encode()


# Public keys.


def _discord(request: RawRequest, secret: str) -> object:
    der = base64.b64decode(secret)
    said = fields(request)
    message = said["x-signature-timestamp"].encode() + request.body
    signature = bytes.fromhex(said["x-signature-ed25519"])
    return module("nacl.signing").VerifyKey(der[-32:]).verify(message, signature) is not None


def _nacl_sign(message: bytes) -> bytes:
    seed = ed_key(0).private_bytes_raw()
    made: bytes = module("nacl.signing").SigningKey(seed).sign(message).signature
    return made


def _discord_signs(request: RawRequest, secret: str, now: int) -> tuple[Mapping[str, str], None]:
    made = _nacl_sign(str(now).encode() + request.body).hex()
    return {"x-signature-timestamp": str(now), "x-signature-ed25519": made}, None


def _telnyx(request: RawRequest, secret: str) -> object:
    raw = base64.b64encode(base64.b64decode(secret)[-32:]).decode()
    verify = module("telnyx.lib.webhook_verification").verify_webhook_signature
    verify(request.body, fields(request), raw)
    return True


def _telnyx_signs(request: RawRequest, secret: str, now: int) -> tuple[Mapping[str, str], None]:
    made = base64.b64encode(_nacl_sign(b"%d|%s" % (now, request.body))).decode()
    return {"telnyx-timestamp": str(now), "telnyx-signature-ed25519": made}, None


def _sendgrid(request: RawRequest, secret: str) -> object:
    said, header = fields(request), "x-twilio-email-event-webhook"
    judge = module("sendgrid.helpers.eventwebhook").EventWebhook(secret)
    return judge.verify_signature(
        text(request), said[f"{header}-signature"], said[f"{header}-timestamp"]
    )


# Tokens.


def sha256_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _plaid(request: RawRequest, secret: str) -> object:
    jwt = module("jwt")
    key = jwt.PyJWK(json.loads(secret)["keys"][0], algorithm="ES256").key
    required = {"require": ["iat"]}
    token = fields(request)["plaid-verification"]
    claims = jwt.decode(token, key, algorithms=["ES256"], options=required, leeway=300)
    age = datetime.now(UTC).timestamp() - claims["iat"]
    return claims["request_body_sha256"] == sha256_of(request.body) and age <= 300


def _plaid_signs(request: RawRequest, secret: str, now: int) -> tuple[Mapping[str, str], None]:
    claims = {"iat": now, "request_body_sha256": sha256_of(request.body)}
    made = module("jwt").encode(claims, pem_of(ec_key(0)), "ES256", {"kid": "k1"})
    return {"plaid-verification": made}, None


def _vonage(request: RawRequest, secret: str) -> object:
    token = fields(request)["authorization"].removeprefix("Bearer ")
    if not module("vonage_jwt.verify_jwt").verify_signature(token, secret):
        return False
    claims = module("jwt").decode(token, options={"verify_signature": False})
    return claims["payload_hash"] == sha256_of(request.body)


def _vonage_signs(request: RawRequest, secret: str, now: int) -> tuple[Mapping[str, str], None]:
    claims = {"iat": now, "jti": "1", "payload_hash": sha256_of(request.body)}
    made = module("jwt").encode(claims, secret, "HS256")
    return {"authorization": f"Bearer {made}"}, None


def _livekit(request: RawRequest, secret: str) -> object:
    api = module("livekit.api")
    receiver = api.WebhookReceiver(api.TokenVerifier(*secret.split(":")))
    return receiver.receive(text(request), fields(request)["authorization"])


def _livekit_signs(request: RawRequest, secret: str, now: int) -> tuple[Mapping[str, str], None]:
    token = module("livekit.api").AccessToken(*secret.split(":"))
    digest = base64.b64encode(hashlib.sha256(request.body).digest()).decode()
    return {"authorization": token.with_sha256(digest).to_jwt()}, None


def _google(request: RawRequest, secret: str) -> object:
    jwt = module("google.auth.jwt")
    token = fields(request)["authorization"].removeprefix("Bearer ")
    claims = jwt.decode(token, certs=certificate(0), audience=AUDIENCE)
    return claims["email"] == secret and claims["email_verified"] is True


AUDIENCE = f"{ORIGIN}/webhooks/x"
TOLERANCE = timedelta(seconds=150)  # of the age, and then of the skew


def _google_signs(request: RawRequest, secret: str, now: int) -> tuple[Mapping[str, str], None]:
    claims = {
        "iss": "https://accounts.google.com",
        "aud": AUDIENCE,
        "email": secret,
        "email_verified": True,
        "iat": now,
        "exp": now + 3600,
    }
    signer = module("google.auth.crypt").RSASigner.from_string(pem_of(rsa_key(0)))
    made = module("google.auth.jwt").encode(signer, claims).decode()
    return {"authorization": f"Bearer {made}"}, None


# HTTP Message Signatures.


KINDS: Mapping[str, HttpAlgorithm] = {
    "HMAC_SHA256": "hmac-sha256",
    "ED25519": "ed25519",
    "ECDSA_P256_SHA256": "ecdsa-p256-sha256",
    "ECDSA_P384_SHA384": "ecdsa-p384-sha384",
    "RSA_PSS_SHA512": "rsa-pss-sha512",
    "RSA_V1_5_SHA256": "rsa-v1_5-sha256",
}


class _Key:
    """The one key that there is, for both sides."""

    def __init__(self, verifying: Any, signing: Any) -> None:
        self._verifying = verifying
        self._signing = signing

    def resolve_public_key(self, key_id: str) -> Any:
        return self._verifying

    def resolve_private_key(self, key_id: str) -> Any:
        return self._signing


def _message(request: RawRequest) -> Any:
    headers = module("http_message_signatures.structures").CaseInsensitiveDict(fields(request))
    return SimpleNamespace(method=request.method, url=request.url.decode(), headers=headers)


def rfc9421(algorithm: str, signing: Any) -> tuple[Accepts, Signs]:
    """Return both sides of the library, for an algorithm by its name there."""

    def accepts(request: RawRequest, secret: str) -> object:
        kind = getattr(module("http_message_signatures").algorithms, algorithm)
        shared = algorithm == "HMAC_SHA256"
        key = base64.b64decode(secret) if shared else public_key(secret.encode(), object)
        judge = module("http_message_signatures").HTTPMessageVerifier(
            signature_algorithm=kind, key_resolver=_Key(key, None)
        )
        judge.max_clock_skew = TOLERANCE
        return judge.verify(
            _message(request), max_age=TOLERANCE, require_components=REQUIRED, body=request.body
        )

    def signs(request: RawRequest, secret: str, now: int) -> tuple[Mapping[str, str], None]:
        kind = getattr(module("http_message_signatures").algorithms, algorithm)
        key = base64.b64decode(secret) if signing is None else signing
        maker = module("http_message_signatures").HTTPMessageSigner(
            signature_algorithm=kind, key_resolver=_Key(None, key)
        )
        message = _message(request)
        moment = datetime.fromtimestamp(now, UTC)
        maker.sign(
            message,
            key_id="k1",
            created=moment,
            body=request.body,
            covered_component_ids=REQUIRED,
        )
        names = ("signature-input", "signature", "content-digest")
        return {name: message.headers[name] for name in names}, None

    return accepts, signs


_XML = (
    b"<notification><kind>check</kind><timestamp type='datetime'>2026-01-01T00:00:00Z</timestamp>"
    b"<subject><check type='boolean'>true</check></subject></notification>"
)


def _rfc9421(algorithm: str, preset: str, signing: Any = None) -> Oracle:
    accepts, signs = rfc9421(algorithm, signing)
    return Oracle(
        preset=preset, package="http-message-signatures",
        accepts=accepts, signs=signs, skew=(-1, 1),
        verifier=HttpSignatureVerifier(algorithm=KINDS[algorithm], keyid="k1"),
    )  # fmt: skip


ELSEWHERE = (
    Oracle(
        preset="twilio", package="twilio",
        accepts=_twilio("HMAC_SHA1"), signs=_twilio_signs,
    ),
    Oracle(
        preset="twilio-sha256", package="twilio", accepts=_twilio("HMAC_SHA256"),
    ),
    Oracle(
        preset="mailgun", package="mailgun", accepts=_mailgun, skew=(-1, 1)
    ),
    Oracle(preset="adyen", package="Adyen", accepts=_adyen, signs=_adyen_signs),
    Oracle(
        preset="adyen-platform", package="Adyen",
        accepts=_adyen_platform, signs=_adyen_platform_signs,
    ),
    Oracle(
        preset="braintree", package="braintree",
        accepts=_braintree, signs=_braintree_signs, body=_XML,
    ),
    Oracle(
        preset="discord", package="PyNaCl",
        accepts=_discord, signs=_discord_signs,
    ),
    Oracle(
        preset="telnyx", package="telnyx",
        accepts=_telnyx, signs=_telnyx_signs, skew=(-1, 1),
    ),
    Oracle(preset="sendgrid", package="sendgrid", accepts=_sendgrid),
    Oracle(
        preset="plaid", package="PyJWT",
        accepts=_plaid, signs=_plaid_signs, skew=(-1, 1),
    ),
    Oracle(
        preset="vonage", package="vonage-jwt",
        accepts=_vonage, signs=_vonage_signs, skew=(-1, 1),
    ),
    Oracle(
        preset="livekit", package="livekit-api",
        accepts=_livekit, signs=_livekit_signs, skew=(-1, 1),
    ),
    Oracle(
        preset="google-pubsub", package="google-auth",
        accepts=_google, signs=_google_signs, skew=(-1, 1),
    ),
    _rfc9421("HMAC_SHA256", "http-message-signatures"),
    _rfc9421("ED25519", "http-message-signatures-ed25519", ed_key(0)),
    _rfc9421("ECDSA_P256_SHA256", "http-message-signatures-ecdsa-p256-sha256", ec_key(0, "P-256")),
    _rfc9421("ECDSA_P384_SHA384", "http-message-signatures-ecdsa-p384-sha384", ec_key(0, "P-384")),
    _rfc9421("RSA_PSS_SHA512", "http-message-signatures-rsa-pss-sha512", rsa_key(0)),
    _rfc9421("RSA_V1_5_SHA256", "http-message-signatures-rsa-v1_5-sha256", rsa_key(0)),
)  # fmt: skip
