"""Senders that prove nothing but that they know a word: tokens, bearer tokens and passwords.

Whoever sees one request can send any other. Where a provider also signs, use that.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from netscript_triggers.verifiers import Answer, RawRequest, Scheme, Signed, Verified
from netscript_triggers.verifiers.handshakes import GET, as_json
from netscript_triggers.verifiers.headers import NOTHING, Handshake, Said
from netscript_triggers.verifiers.keys import any_same
from netscript_triggers.verifiers.reading import as_text, find, peek, wire
from netscript_workers.errors import ConfigurationError, VerificationError


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenVerifier(Scheme):
    """Compares a header with the secrets, in constant time.

    Attributes:
        name: For lists and logs.
        header: Where the token stands.
        scheme: An authentication scheme before it: `Bearer`, or `Basic`, whose secrets are written
            `user:password` (RFC 7617).
        id: Where the delivery's id stands; nothing covers it.
        event: Where the event's type stands; nothing covers it.
        challenge: How questions are answered.
        source: Where the scheme is written down.
    """

    name: str
    header: str
    scheme: str = ""
    id: Said = NOTHING
    event: Said = NOTHING
    challenge: Handshake | None = None
    source: str = ""

    @property
    def private_headers(self) -> frozenset[str]:
        """The token's header."""
        return frozenset({self.header.lower()})

    @property
    def handshake_methods(self) -> frozenset[str]:
        """Those of questions."""
        return self.challenge.methods if self.challenge else frozenset()

    def verify(self, request: RawRequest, secrets: Sequence[bytes], now: float) -> Verified:
        """Compare the token.

        Raises:
            VerificationError: It is missing, repeated or wrong, or there is no secret.
        """
        if not any(secrets):
            raise VerificationError("secret-missing")
        token = self._token(request)
        if not any_same(token, [self._word(secret) for secret in secrets if secret]):
            raise VerificationError("token-mismatch")
        in_body = self.id.path or self.event.path
        body = peek(request) if in_body else None
        told = self.id.headers and request.header(wire(self.id.headers))
        kind = self.event.headers and request.header(wire(self.event.headers))
        return Verified(
            signed=request.body,
            delivery_id=as_text(told or None) or as_text(find(body, self.id.path)),
            event_type=as_text(kind or None) or as_text(find(body, self.event.path)),
        )

    def handshake(
        self, request: RawRequest, verified: Verified | None, secrets: Sequence[bytes], now: float
    ) -> Answer | None:
        """Answer a question as the preset says."""
        return self.challenge.answer(request, verified, secrets) if self.challenge else None

    def check_secret(self, secret: bytes) -> None:
        """Refuse a password without its user."""
        if self.scheme == "Basic" and b":" not in secret:
            raise ConfigurationError(
                f"A secret of {self.name} can't be used: it has no colon.",
                hint="Write it as user:password.",
            )

    def sign_request(self, request: RawRequest, secret: bytes, now: float) -> Signed:
        """Send the token."""
        word = self._word(secret).decode("latin-1")
        value = f"{self.scheme} {word}" if self.scheme else word
        return Signed({self.header: value}, request.body, request.query)

    def _token(self, request: RawRequest) -> bytes:
        given = request.header(wire((self.header,)))
        if given is None:
            raise VerificationError("token-missing")
        if not self.scheme:
            return given
        scheme, _, token = given.partition(b" ")
        if scheme.lower() != self.scheme.lower().encode():
            raise VerificationError("token-missing")
        return token.strip()

    def _word(self, secret: bytes) -> bytes:
        return base64.b64encode(secret) if self.scheme == "Basic" else secret


def _okta(
    request: RawRequest, verified: Verified | None, secrets: Sequence[bytes]
) -> Answer | None:
    if request.method != "GET":
        return None
    challenge = request.header((b"x-okta-verification-challenge",))
    text = as_text(challenge)
    if text is None or len(text) > 1024 or not text.isascii() or not text.isprintable():
        raise VerificationError("challenge-malformed")
    return as_json({"verification": text})


TOKENS = (
    TokenVerifier(
        name="gitlab",
        header="X-Gitlab-Token",
        id=Said(headers=("Idempotency-Key", "X-Gitlab-Event-UUID")),
        event=Said(headers=("X-Gitlab-Event",)),
        source="https://docs.gitlab.com/user/project/integrations/webhooks/",
    ),
    TokenVerifier(
        name="telegram",
        header="X-Telegram-Bot-Api-Secret-Token",
        id=Said(path=("update_id",)),
        source="https://core.telegram.org/bots/api#setwebhook",
    ),
    TokenVerifier(
        name="okta",
        header="Authorization",
        id=Said(path=("eventId",)),
        event=Said(path=("eventType",)),
        challenge=Handshake(_okta, GET),
        source="https://developer.okta.com/docs/concepts/event-hooks/",
    ),
    TokenVerifier(
        name="bearer",
        header="Authorization",
        scheme="Bearer",
        source="https://www.rfc-editor.org/rfc/rfc6750",
    ),
    *(
        TokenVerifier(
            name=name,
            header="Authorization",
            scheme="Basic",
            id=Said(path=("id",)) if name == "chargebee" else NOTHING,
            event=Said(path=path),
            source=source,
        )
        for name, path, source in (
            ("basic", (), "https://www.rfc-editor.org/rfc/rfc7617"),
            (
                "postmark",
                ("RecordType",),
                "https://postmarkapp.com/developer/webhooks/webhooks-overview",
            ),
            ("chargebee", ("event_type",), "https://www.chargebee.com/docs/webhook_settings.html"),
        )
    ),
)
