"""Providers whose signature stands in a header, one entry each: what `HeaderVerifier` needs.

Where a provider's page is named, it says what is signed; `docs/verifiers.md` is drawn from here.
"""

from __future__ import annotations

from netscript_triggers.verifiers import handshakes
from netscript_triggers.verifiers.headers import Clock, HeaderVerifier, Said
from netscript_triggers.verifiers.keys import Ecdsa, Ed25519, Mac
from netscript_triggers.verifiers.reading import SignatureHeader

_BESIDE = Clock()
_SHA1 = Mac("sha1")
_SHA512 = Mac("sha512")


def _header(name: str, prefix: str = "") -> SignatureHeader:
    return SignatureHeader(headers=(name,), prefix=prefix)


def _base64(name: str, prefix: str = "") -> SignatureHeader:
    return SignatureHeader(headers=(name,), prefix=prefix, encoding="base64")


def _pairs(name: str, version: str, time: str = "t=", separator: str = ",") -> SignatureHeader:
    return SignatureHeader(headers=(name,), prefix=version, separator=separator, time=time)


def _from(*headers: str) -> Said:
    return Said(headers=headers)


def _at(*path: str) -> Said:
    return Said(path=path)


OVER_THE_BODY = (
    HeaderVerifier(
        name="github",
        signature=_header("X-Hub-Signature-256", "sha256="),
        id=_from("X-GitHub-Delivery"),
        event=_from("X-GitHub-Event"),
        source="https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries",
    ),
    *(
        HeaderVerifier(
            name=name,
            signature=_header("X-Hub-Signature-256", "sha256="),
            event=_at("object"),
            challenge=handshakes.META,
            skip=handshakes.VERIFY_TOKEN,
            source="https://developers.facebook.com/docs/graph-api/webhooks/getting-started",
        )
        for name in ("meta", "whatsapp", "instagram")
    ),
    HeaderVerifier(
        name="bitbucket",
        signature=_header("X-Hub-Signature", "sha256="),
        id=_from("X-Request-UUID"),
        event=_from("X-Event-Key"),
        source="https://support.atlassian.com/bitbucket-cloud/docs/manage-webhooks/",
    ),
    HeaderVerifier(
        name="jira",
        signature=_header("X-Hub-Signature", "sha256="),
        id=_from("X-Atlassian-Webhook-Identifier"),
        event=_at("webhookEvent"),
        source="https://developer.atlassian.com/cloud/jira/platform/webhooks/",
    ),
    HeaderVerifier(
        name="intercom",
        signature=_header("X-Hub-Signature", "sha1="),
        key=_SHA1,
        id=_at("id"),
        event=_at("topic"),
        challenge=handshakes.PROBE,
        source="https://developers.intercom.com/docs/webhooks/webhook-notifications",
    ),
    HeaderVerifier(
        name="dropbox",
        signature=_header("X-Dropbox-Signature"),
        challenge=handshakes.DROPBOX,
        source="https://www.dropbox.com/developers/reference/webhooks",
    ),
    HeaderVerifier(
        name="shopify",
        signature=_base64("X-Shopify-Hmac-Sha256"),
        id=_from("X-Shopify-Webhook-Id"),
        event=_from("X-Shopify-Topic"),
        source="https://shopify.dev/docs/apps/build/webhooks/subscribe/https",
    ),
    HeaderVerifier(
        name="typeform",
        signature=_base64("Typeform-Signature", "sha256="),
        id=_at("event_id"),
        event=_at("event_type"),
        source="https://www.typeform.com/developers/webhooks/secure-your-webhooks/",
    ),
    HeaderVerifier(
        name="line",
        signature=_base64("X-Line-Signature"),
        source="https://developers.line.biz/en/docs/messaging-api/verify-webhook-signature/",
    ),
    HeaderVerifier(
        name="gocardless",
        signature=_header("Webhook-Signature"),
        id=_at("meta", "webhook_id"),
        source="https://developer.gocardless.com/getting-started/api/staying-up-to-date-with-webhooks/",
    ),
    HeaderVerifier(
        name="razorpay",
        signature=_header("X-Razorpay-Signature"),
        id=_from("X-Razorpay-Event-Id"),
        event=_at("event"),
        source="https://razorpay.com/docs/webhooks/validate-test/",
    ),
    HeaderVerifier(
        name="docusign",
        signature=SignatureHeader(
            headers=tuple(f"X-DocuSign-Signature-{number}" for number in range(1, 101)),
            encoding="base64",
            every=True,
            limit=100,
        ),
        event=_at("event"),
        source="https://developers.docusign.com/platform/webhooks/connect/validate",
    ),
    HeaderVerifier(
        name="pagerduty",
        signature=_pairs("X-PagerDuty-Signature", "v1=", time=""),
        id=_at("event", "id"),
        event=_at("event", "event_type"),
        source="https://developer.pagerduty.com/docs/verifying-webhook-signatures",
    ),
    HeaderVerifier(
        name="adyen-platform",
        signature=_base64("HmacSignature"),
        key=Mac(form="hex"),
        event=_at("type"),
        source="https://docs.adyen.com/development-resources/webhooks/secure-webhooks/verify-hmac-signatures",
    ),
    HeaderVerifier(
        name="linear",
        signature=_header("Linear-Signature"),
        clock=Clock(path=("webhookTimestamp",), unit="ms"),
        tolerance=60,
        id=_from("Linear-Delivery"),
        event=_from("Linear-Event"),
        source="https://linear.app/developers/webhooks",
    ),
    HeaderVerifier(
        name="cal-com",
        signature=_header("X-Cal-Signature-256"),
        event=_at("triggerEvent"),
        source="https://cal.com/docs/developing/guides/automation/webhooks",
    ),
    HeaderVerifier(
        name="woocommerce",
        signature=_base64("X-WC-Webhook-Signature"),
        id=_from("X-WC-Webhook-Delivery-ID"),
        event=_from("X-WC-Webhook-Topic"),
        source="https://woocommerce.com/document/webhooks/",
    ),
    HeaderVerifier(
        name="vercel",
        signature=_header("X-Vercel-Signature"),
        key=_SHA1,
        id=_at("id"),
        event=_at("type"),
        source="https://vercel.com/docs/headers/request-headers",
    ),
    HeaderVerifier(
        name="sentry",
        signature=_header("Sentry-Hook-Signature"),
        id=_from("Request-ID"),
        event=_from("Sentry-Hook-Resource"),
        source="https://docs.sentry.io/organization/integrations/integration-platform/webhooks/",
    ),
    HeaderVerifier(
        name="notion",
        signature=_header("X-Notion-Signature", "sha256="),
        id=_at("id"),
        event=_at("type"),
        source="https://developers.notion.com/reference/webhooks",
    ),
    HeaderVerifier(
        name="x",
        signature=_base64("X-Twitter-Webhooks-Signature", "sha256="),
        challenge=handshakes.X,
        source="https://docs.x.com/x-api/webhooks/introduction",
    ),
    HeaderVerifier(
        name="xero",
        signature=_base64("X-Xero-Signature"),
        challenge=handshakes.XERO,
        source="https://developer.xero.com/documentation/guides/webhooks/overview/",
    ),
    HeaderVerifier(
        name="nylas",
        signature=_header("X-Nylas-Signature"),
        id=_at("id"),
        event=_at("type"),
        challenge=handshakes.DROPBOX,
        source="https://developer.nylas.com/docs/v3/notifications/",
    ),
    HeaderVerifier(
        name="authorize-net",
        signature=_header("X-ANET-Signature", "sha512="),
        key=_SHA512,
        id=_at("notificationId"),
        event=_at("eventType"),
        source="https://developer.authorize.net/api/reference/features/webhooks.html",
    ),
    HeaderVerifier(
        name="terraform",
        signature=_header("X-TFE-Notification-Signature"),
        key=_SHA512,
        event=_at("notifications", "0", "trigger"),
        source="https://developer.hashicorp.com/terraform/cloud-docs/api-docs/notification-configurations",
    ),
    HeaderVerifier(
        name="onfleet",
        signature=_header("X-Onfleet-Signature"),
        key=Mac("sha512", "hex"),
        source="https://docs.onfleet.com/reference/webhooks",
    ),
)

WITH_A_TIME = (
    HeaderVerifier(
        name="stripe",
        signature=_pairs("Stripe-Signature", "v1="),
        template="{time}.{body}",
        clock=_BESIDE,
        tolerance=300,
        id=_at("id"),
        event=_at("type"),
        source="https://docs.stripe.com/webhooks/signature",
    ),
    HeaderVerifier(
        name="calendly",
        signature=_pairs("Calendly-Webhook-Signature", "v1="),
        template="{time}.{body}",
        clock=_BESIDE,
        tolerance=180,
        event=_at("event"),
        source="https://developer.calendly.com/api-docs/overview/webhooks/webhook-signatures",
    ),
    HeaderVerifier(
        name="workos",
        signature=_pairs("WorkOS-Signature", "v1=", separator=", "),
        template="{time}.{body}",
        clock=Clock(unit="ms"),
        tolerance=180,
        id=_at("id"),
        event=_at("event"),
        source="https://workos.com/docs/events/data-syncing/webhooks",
    ),
    HeaderVerifier(
        name="paddle",
        signature=_pairs("Paddle-Signature", "h1=", time="ts=", separator=";"),
        template="{time}:{body}",
        clock=_BESIDE,
        # Paddle's own library takes 5 s, less than a queue in between or a clock may cost.
        tolerance=300,
        id=_at("event_id"),
        event=_at("event_type"),
        source="https://developer.paddle.com/webhooks/signature-verification",
    ),
    HeaderVerifier(
        name="elevenlabs",
        signature=_pairs("ElevenLabs-Signature", "v0="),
        template="{time}.{body}",
        clock=_BESIDE,
        tolerance=1800,
        event=_at("type"),
        source="https://elevenlabs.io/docs/product-guides/administration/webhooks",
    ),
    HeaderVerifier(
        name="slack",
        signature=_header("X-Slack-Signature", "v0="),
        template="v0:{time}:{body}",
        clock=Clock(headers=("X-Slack-Request-Timestamp",)),
        tolerance=300,
        id=_at("event_id"),
        event=_at("event", "type"),
        challenge=handshakes.SLACK,
        source="https://api.slack.com/authentication/verifying-requests-from-slack",
    ),
    HeaderVerifier(
        name="zoom",
        signature=_header("x-zm-signature", "v0="),
        template="v0:{time}:{body}",
        clock=Clock(headers=("x-zm-request-timestamp",)),
        tolerance=300,
        event=_at("event"),
        challenge=handshakes.ZOOM,
        source="https://developers.zoom.us/docs/api/webhooks/",
    ),
    HeaderVerifier(
        name="zendesk",
        signature=_base64("X-Zendesk-Webhook-Signature"),
        template="{time}{body}",
        clock=Clock(headers=("X-Zendesk-Webhook-Signature-Timestamp",), unit="iso"),
        id=_from("X-Zendesk-Webhook-Invocation-Id"),
        event=_at("type"),
        source="https://developer.zendesk.com/documentation/webhooks/verifying/",
    ),
    HeaderVerifier(
        name="box",
        signature=SignatureHeader(
            headers=("Box-Signature-Primary", "Box-Signature-Secondary"),
            encoding="base64",
            every=True,
        ),
        template="{body}{time}",
        clock=Clock(headers=("Box-Delivery-Timestamp",), unit="iso"),
        tolerance=600,
        id=_from("Box-Delivery-Id"),
        event=_at("trigger"),
        source="https://developer.box.com/guides/webhooks/v2/signatures-v2/",
    ),
    HeaderVerifier(
        name="twitch",
        signature=_header("Twitch-Eventsub-Message-Signature", "sha256="),
        template="{id}{time}{body}",
        clock=Clock(headers=("Twitch-Eventsub-Message-Timestamp",), unit="iso"),
        tolerance=600,
        id=_from("Twitch-Eventsub-Message-Id"),
        event=_at("subscription", "type"),
        challenge=handshakes.TWITCH,
        source="https://dev.twitch.tv/docs/eventsub/handling-webhook-events/",
    ),
    HeaderVerifier(
        name="customer-io",
        signature=_header("X-CIO-Signature"),
        template="v0:{time}:{body}",
        clock=Clock(headers=("X-CIO-Timestamp",)),
        tolerance=300,
        id=_at("event_id"),
        event=_at("metric"),
        source="https://docs.customer.io/journeys/webhooks/",
    ),
)

OF_THE_URL = (
    HeaderVerifier(
        name="square",
        signature=_base64("X-Square-HmacSha256-Signature"),
        template="{url}{body}",
        id=_at("event_id"),
        event=_at("type"),
        source="https://developer.squareup.com/docs/webhooks/step3validate",
    ),
    HeaderVerifier(
        name="hubspot",
        signature=_base64("X-HubSpot-Signature-v3"),
        template="{method}{uri}{body}{time}",
        clock=Clock(headers=("X-HubSpot-Request-Timestamp",), unit="ms"),
        tolerance=300,
        source="https://developers.hubspot.com/docs/apps/developer-platform/build-apps/authentication/request-validation",
    ),
    HeaderVerifier(
        name="trello",
        signature=_base64("X-Trello-Webhook"),
        key=_SHA1,
        template="{body}{url}",
        id=_at("action", "id"),
        event=_at("action", "type"),
        challenge=handshakes.PROBE,
        source="https://developer.atlassian.com/cloud/trello/guides/rest-api/webhooks/",
    ),
)

ASYMMETRIC = (
    HeaderVerifier(
        name="discord",
        signature=_header("X-Signature-Ed25519"),
        key=Ed25519(),
        template="{time}{body}",
        clock=Clock(headers=("X-Signature-Timestamp",)),
        tolerance=300,
        id=_at("id"),
        event=_at("event", "type"),
        challenge=handshakes.DISCORD,
        source="https://docs.discord.com/developers/interactions/overview",
    ),
    HeaderVerifier(
        name="telnyx",
        signature=_base64("telnyx-signature-ed25519"),
        key=Ed25519(),
        template="{time}|{body}",
        clock=Clock(headers=("telnyx-timestamp",)),
        tolerance=300,
        id=_at("data", "id"),
        event=_at("data", "event_type"),
        source="https://developers.telnyx.com/docs/messaging/messages/receiving-webhooks",
    ),
    HeaderVerifier(
        name="sendgrid",
        signature=_base64("X-Twilio-Email-Event-Webhook-Signature"),
        key=Ecdsa(),
        template="{time}{body}",
        clock=Clock(headers=("X-Twilio-Email-Event-Webhook-Timestamp",)),
        source="https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features",
    ),
)


def _standard(
    name: str,
    key: Mac | Ed25519 | None = None,
    brand: tuple[str, ...] = ("webhook",),
    source: str = "https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md",
) -> HeaderVerifier:
    """Return Standard Webhooks under a name, with these beginnings of its headers."""
    return HeaderVerifier(
        name=name,
        signature=SignatureHeader(
            headers=tuple(f"{one}-signature" for one in brand),
            prefix="v1a," if isinstance(key, Ed25519) else "v1,",
            encoding="base64",
            separator=" ",
        ),
        key=key or Mac(form="whsec"),
        template="{id}.{time}.{body}",
        clock=Clock(headers=tuple(f"{one}-timestamp" for one in brand)),
        tolerance=300,
        id=Said(headers=tuple(f"{one}-id" for one in brand)),
        event=_at("type"),
        source=source,
    )


_SVIX = ("svix", "webhook")
STANDARD = (
    _standard("standard-webhooks"),
    _standard("standard-webhooks-v1a", Ed25519()),
    _standard("svix", brand=_SVIX, source="https://docs.svix.com/receiving/verifying-payloads/how"),
    _standard("clerk", brand=_SVIX, source="https://clerk.com/docs/webhooks/overview"),
    _standard(
        "resend", brand=_SVIX, source="https://resend.com/docs/webhooks/verify-webhooks-requests"
    ),
    _standard("openai", source="https://platform.openai.com/docs/guides/webhooks"),
    _standard("replicate", source="https://replicate.com/docs/topics/webhooks/verify-webhook"),
    _standard("supabase", source="https://supabase.com/docs/guides/auth/auth-hooks"),
    _standard(
        "gitlab-signed", source="https://docs.gitlab.com/user/project/integrations/webhooks/"
    ),
)
