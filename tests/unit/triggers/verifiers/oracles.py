"""Providers' own libraries, as judges of our verifiers: what they sign, and what they accept.

A library is loaded when its oracle is asked.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from types import SimpleNamespace
from typing import Any

from netscript_triggers.verifiers import RawRequest, Verifier
from tests.unit.triggers.verifiers.samples import Sample, samples

# What a library makes of a request with these secrets: anything it raises is a refusal, too.
Accepts = Callable[[RawRequest, str], object]
# The headers, and the body if it changes, with which a library sends this request.
Signs = Callable[[RawRequest, str, int], tuple[Mapping[str, str], bytes | None]]


@dataclass(frozen=True, kw_only=True)
class Oracle:
    """A library's word on one preset.

    Attributes:
        preset: Its name.
        package: What pip calls the library.
        accepts: Its verdict.
        signs: Its signature; None where it only verifies.
        lenient: Mutations that it accepts and we refuse.
        skew: Whether it refuses times out of tolerance: of the past (-1), of the future (1).
        body: What is delivered, where the library takes no other.
        verifier: Ours, where it is not the preset as it is.
    """

    preset: str
    package: str
    accepts: Accepts
    signs: Signs | None = None
    lenient: frozenset[str] = frozenset()
    skew: tuple[int, ...] = ()
    body: bytes = b""
    verifier: Verifier | None = None

    @property
    def installed(self) -> bool:
        """Whether the library is here."""
        try:
            distribution(self.package)
        except PackageNotFoundError:
            return False
        return True

    @property
    def given(self) -> Sample:
        """The delivery, before it is signed, and its secrets."""
        known = samples()[self.preset]
        body, verifier = self.body or known.body, self.verifier or known.verifier
        return replace(known, body=body, verifier=verifier)


def fields(request: RawRequest) -> dict[str, str]:
    """Return the headers as libraries are given them: one of each."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}


def json_at(request: RawRequest, *path: str) -> Any:
    value = json.loads(request.body)
    for name in path:
        value = value[name]
    return value


def text(request: RawRequest) -> str:
    return request.body.decode()


def module(name: str) -> Any:
    return importlib.import_module(name)


# Signatures in a header.


def _stripe(request: RawRequest, secret: str) -> object:
    header = fields(request)["stripe-signature"]
    return module("stripe").WebhookSignature.verify_header(text(request), header, secret, 300)


def _stripe_signs(request: RawRequest, secret: str, now: int) -> tuple[Mapping[str, str], None]:
    make = module("stripe").WebhookSignature.generate_signature_header
    return {"stripe-signature": make(text(request), secret, now)}, None


def _slack(request: RawRequest, secret: str) -> object:
    judge = module("slack_sdk.signature").SignatureVerifier(secret)
    return judge.is_valid_request(request.body, fields(request))


def _slack_signs(request: RawRequest, secret: str, now: int) -> tuple[Mapping[str, str], None]:
    maker = module("slack_sdk.signature").SignatureVerifier(secret)
    made = maker.generate_signature(timestamp=str(now), body=request.body)
    return {"x-slack-request-timestamp": str(now), "x-slack-signature": made}, None


def _standard(where: str) -> Accepts:
    def accepts(request: RawRequest, secret: str) -> object:
        module(where).Webhook(secret).verify(text(request), fields(request))
        return True

    return accepts


def _standard_signs(where: str, brand: str) -> Signs:
    def signs(request: RawRequest, secret: str, now: int) -> tuple[Mapping[str, str], None]:
        moment = datetime.fromtimestamp(now, UTC)
        made = module(where).Webhook(secret).sign("msg_1", moment, text(request))
        names = {"id": "msg_1", "timestamp": str(now), "signature": made}
        return {f"{brand}-{name}": value for name, value in names.items()}, None

    return signs


@cache
def _openai_client() -> Any:
    return module("openai").OpenAI(api_key="none")


def _openai(request: RawRequest, secret: str) -> object:
    _openai_client().webhooks.verify_signature(text(request), fields(request), secret=secret)
    return True


def _replicate(request: RawRequest, secret: str) -> object:
    hooks = module("replicate.webhook")
    given = {"headers": fields(request), "body": text(request), "tolerance": 300}
    hooks.Webhooks.validate(**given, secret=hooks.WebhookSigningSecret(key=secret))
    return True


def _resend(request: RawRequest, secret: str) -> object:
    said = fields(request)
    named = {name: said[f"svix-{name}"] for name in ("id", "timestamp", "signature")}
    options = {"payload": text(request), "headers": named, "webhook_secret": secret}
    module("resend").Webhooks.verify(options)
    return True


def _github(request: RawRequest, secret: str) -> object:
    signature = fields(request)["x-hub-signature-256"]
    module("gidgethub.sansio").validate_event(request.body, signature=signature, secret=secret)
    return True


def _line(request: RawRequest, secret: str) -> object:
    judge = module("linebot.v3.webhook").SignatureValidator(secret)
    return judge.validate(text(request), fields(request)["x-line-signature"])


def _gocardless(request: RawRequest, secret: str) -> object:
    parse = module("gocardless_pro.webhooks").parse
    return parse(request.body, secret, fields(request)["webhook-signature"]) is not None


def _razorpay(request: RawRequest, secret: str) -> object:
    judge = module("razorpay.utility").Utility()
    given = fields(request)["x-razorpay-signature"]
    return judge.verify_webhook_signature(text(request), given, secret)


def _workos(request: RawRequest, secret: str) -> object:
    header = fields(request)["workos-signature"]
    verify = module("workos.webhooks._verification").verify_header
    verify(event_body=request.body, event_signature=header, secret=secret)
    return True


def _paddle(request: RawRequest, secret: str) -> object:
    notifications = module("paddle_billing.Notifications")
    given = SimpleNamespace(headers=_titled(request), body=request.body)
    judge = notifications.Verifier(300)
    return judge.verify(given, notifications.Secret(secret))


def _titled(request: RawRequest) -> dict[str, str]:
    return {name.title(): value for name, value in fields(request).items()}


def _elevenlabs(request: RawRequest, secret: str) -> object:
    client = module("elevenlabs.webhooks_custom").WebhooksClient(client_wrapper=None)
    return client.construct_event(text(request), fields(request)["elevenlabs-signature"], secret)


def _box(request: RawRequest, secret: str) -> object:
    manager = module("box_sdk_gen.managers.webhooks").WebhooksManager
    said = {
        "box-signature-version": "1",
        "box-signature-algorithm": "HmacSHA256",
        **fields(request),
    }
    return manager.validate_message(text(request), said, secret)


def _square(request: RawRequest, secret: str) -> object:
    verify = module("square.utils.webhooks_helper").verify_signature
    return verify(
        request_body=text(request),
        signature_header=fields(request)["x-square-hmacsha256-signature"],
        signature_key=secret,
        notification_url=request.url.decode(),
    )


def _hubspot(request: RawRequest, secret: str) -> object:
    said = fields(request)
    return module("hubspot.utils.signature").Signature.is_valid(
        signature=said["x-hubspot-signature-v3"],
        client_secret=secret,
        request_body=text(request),
        http_uri=request.url.decode(),
        http_method=request.method,
        signature_version="v3",
        timestamp=said["x-hubspot-request-timestamp"],
    )


def _hubspot_signs(request: RawRequest, secret: str, now: int) -> tuple[Mapping[str, str], None]:
    make = module("hubspot.utils.signature").Signature.get_signature
    time = str(now * 1000)
    made = make(secret, text(request), "v3", request.url.decode(), request.method, time)
    return {"x-hubspot-request-timestamp": time, "x-hubspot-signature-v3": made}, None


IN_HEADERS = (
    Oracle(
        preset="stripe", package="stripe",
        accepts=_stripe, signs=_stripe_signs, skew=(-1,),
    ),
    Oracle(
        preset="slack", package="slack_sdk",
        accepts=_slack, signs=_slack_signs, skew=(-1, 1),
    ),
    *(
        Oracle(
            preset=preset, package=library, skew=(-1, 1),
            accepts=_standard(where), signs=_standard_signs(where, brand),
        )
        for preset, library, where, brand in (
            ("standard-webhooks", "standardwebhooks", "standardwebhooks", "webhook"),
            ("supabase", "standardwebhooks", "standardwebhooks", "webhook"),
            ("gitlab-signed", "standardwebhooks", "standardwebhooks", "webhook"),
            ("svix", "svix", "svix.webhooks", "svix"),
            ("clerk", "svix", "svix.webhooks", "svix"),
        )
    ),
    Oracle(
        preset="openai", package="openai", accepts=_openai, skew=(-1, 1),
        signs=_standard_signs("standardwebhooks", "webhook"),
    ),
    Oracle(
        preset="replicate", package="replicate",
        accepts=_replicate, skew=(-1, 1),
        lenient=frozenset({"header webhook-signature: not ASCII"}),
    ),
    Oracle(
        preset="resend", package="resend",
        accepts=_resend, skew=(-1, 1), lenient=frozenset({"header svix-signature: not ASCII"}),
    ),
    Oracle(preset="github", package="gidgethub", accepts=_github),
    Oracle(preset="line", package="line-bot-sdk", accepts=_line),
    Oracle(
        preset="gocardless", package="gocardless_pro", accepts=_gocardless,
        body=b'{"events":[],"meta":{"webhook_id":"WB1"}}',
    ),
    Oracle(preset="razorpay", package="razorpay", accepts=_razorpay),
    Oracle(preset="workos", package="workos", accepts=_workos, skew=(-1, 1)),
    Oracle(
        preset="paddle", package="paddle-python-sdk", accepts=_paddle,
        skew=(-1, 1),
    ),
    Oracle(
        preset="elevenlabs", package="elevenlabs", accepts=_elevenlabs,
        skew=(-1,),
    ),
    Oracle(preset="box", package="boxsdk", accepts=_box, skew=(-1, 1)),
    Oracle(preset="square", package="squareup", accepts=_square),
    Oracle(
        preset="hubspot", package="hubspot-api-client",
        accepts=_hubspot, signs=_hubspot_signs, skew=(-1,),
    ),
)  # fmt: skip
