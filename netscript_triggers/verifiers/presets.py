"""Every preset by its name."""

from __future__ import annotations

from collections.abc import Mapping

from netscript_triggers.verifiers import Verifier
from netscript_triggers.verifiers.google import PubSubVerifier
from netscript_triggers.verifiers.graph import GraphVerifier
from netscript_triggers.verifiers.hmac import PRESETS as PLAIN
from netscript_triggers.verifiers.in_body import AdyenVerifier, BraintreeVerifier, MailgunVerifier
from netscript_triggers.verifiers.jwts import JWTS
from netscript_triggers.verifiers.message_signatures import MESSAGE_SIGNATURES
from netscript_triggers.verifiers.paypal import PayPalVerifier
from netscript_triggers.verifiers.senders import (
    ASYMMETRIC,
    OF_THE_URL,
    OVER_THE_BODY,
    STANDARD,
    WITH_A_TIME,
)
from netscript_triggers.verifiers.sns import SnsVerifier
from netscript_triggers.verifiers.tokens import TOKENS
from netscript_triggers.verifiers.twilio import TwilioVerifier

_NAMED: tuple[Verifier, ...] = (
    *STANDARD,
    *OVER_THE_BODY,
    *WITH_A_TIME,
    *OF_THE_URL,
    TwilioVerifier(),
    TwilioVerifier(name="twilio-sha256", algorithm="sha256"),
    *ASYMMETRIC,
    PayPalVerifier(),
    MailgunVerifier(),
    AdyenVerifier(),
    BraintreeVerifier(),
    SnsVerifier(),
    SnsVerifier(name="aws-sns-v1", version="1"),
    *JWTS,
    PubSubVerifier(),
    GraphVerifier(),
    *MESSAGE_SIGNATURES,
    *TOKENS,
)
PRESETS: Mapping[str, Verifier] = {**PLAIN, **{one.name: one for one in _NAMED}}
