"""Amazon SNS: chosen fields of the body, signed with a key whose certificate the body names.

https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any, Literal
from urllib.parse import urlsplit

from cryptography import x509

from netscript_triggers.verifiers import Answer, RawRequest, Scheme, Signed, Verified
from netscript_triggers.verifiers.fetching import Documents, download
from netscript_triggers.verifiers.in_body import object_of, text_of
from netscript_triggers.verifiers.keyfiles import Malformed
from netscript_triggers.verifiers.keys import Rsa, check, prove
from netscript_triggers.verifiers.reading import (
    as_object,
    check_time,
    decode,
    encode,
    read_body,
    read_time,
    write_time,
    written,
)
from netscript_workers.errors import ConfigurationError, VerificationError
from netscript_workers.ids import new_id

_HOST = re.compile(r"sns\.[a-zA-Z0-9-]{3,}\.amazonaws\.com(\.cn)?")
_ARN = re.compile(rb"arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_.-]{1,256}")
_MAX_URL = 1024
_NOTIFICATION = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
_CONFIRMATION = (
    "Message",
    "MessageId",
    "SubscribeURL",
    "Timestamp",
    "Token",
    "TopicArn",
    "Type",
)
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "Notification": _NOTIFICATION,
    "SubscriptionConfirmation": _CONFIRMATION,
    "UnsubscribeConfirmation": _CONFIRMATION,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SnsVerifier(Scheme):
    """Checks messages of the topics that the secrets name.

    The secrets are the topics' ARNs, for anybody may have a topic of their own send here. With a
    certificate in PEM among them nothing is fetched; without, SNS's own comes from the address that
    the message names, if that is SNS's.

    Attributes:
        version: `2` is RSA with SHA-256, `1` (which topics begin with) with SHA-1.
        confirm: Whether a subscription is confirmed by itself, by calling the URL in its message,
            at SNS only. Otherwise the message is an event like any other.
        tolerance: Seconds that the signed time may be off; None does not look at it.
    """

    version: Literal["1", "2"] = "2"
    confirm: bool = False
    tolerance: float | None = None
    name: str = "aws-sns"
    source: str = "https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html"
    private_headers: frozenset[str] = frozenset()
    _documents: Documents = field(default_factory=Documents, repr=False, compare=False)

    @property
    def media_types(self) -> frozenset[str]:
        """SNS calls its JSON plain text."""
        return frozenset({"text/plain"})

    @property
    def signs_time(self) -> bool:
        """Always."""
        return True

    def with_tolerance(self, seconds: float) -> SnsVerifier:
        """Return the same with another tolerance."""
        return replace(self, tolerance=seconds)

    @property
    def _key(self) -> Rsa:
        return Rsa("pkcs1-sha1" if self.version == "1" else "pkcs1-sha256")

    def check_secret(self, secret: bytes) -> None:
        """Refuse what is neither a topic nor a certificate."""
        if _is_certificate(secret):
            check(self._key, self.name, secret)
        elif not _ARN.fullmatch(secret):
            raise ConfigurationError(
                f"A secret of {self.name} is neither a topic's ARN nor a certificate.",
                hint="Name the topic, as in arn:aws:sns:eu-west-1:123456789012:orders.",
            )

    async def prepare(self, request: RawRequest, secrets: Sequence[bytes], now: float) -> None:
        """Fetch the certificate, if the message is of a known topic and SNS has it."""
        message = self._read(request, secrets)
        url = _signer(message)
        if any(map(_is_certificate, secrets)) or self._documents.get(url, now):
            return
        if self._documents.age(url, now) > 60:
            await self._documents.fetch(url, now)

    def verify(self, request: RawRequest, secrets: Sequence[bytes], now: float) -> Verified:
        """Check topic, certificate, signature and time.

        Raises:
            VerificationError: Something is missing, malformed, wrong or out of time.
        """
        message = self._read(request, secrets)
        given = text_of(message.get("Signature"), "signature-missing")
        signature = decode(given.encode(), "base64", None)
        covered = _covered(message)
        prove(self._key, covered, [signature], self._certificates(message, secrets, now))
        sent = read_time(text_of(message.get("Timestamp"), "timestamp-missing").encode(), "iso")
        check_time(sent, now, self.tolerance)
        return Verified(
            signed=covered,
            delivery_id=text_of(message.get("MessageId"), "id-missing"),
            id_signed=True,
            event_type=message["Type"],
            type_signed=True,
        )

    def handshake(
        self, request: RawRequest, verified: Verified | None, secrets: Sequence[bytes], now: float
    ) -> Answer | None:
        """Confirm a subscription, if that is wanted."""
        if not self.confirm or verified is None:
            return None
        if verified.event_type != "SubscriptionConfirmation":
            return None
        url = _at_sns(self._read(request, secrets).get("SubscribeURL"))
        return Answer(first=partial(_confirm, url))

    def sign_request(self, request: RawRequest, secret: bytes, now: float) -> Signed:
        """Sign a message: a body with `Message` and `TopicArn`; the secret is a private key."""
        message = {
            "Type": "Notification",
            "MessageId": new_id(),
            "Timestamp": write_time(now, "iso"),
            "SigningCertURL": "https://sns.eu-west-1.amazonaws.com/test.pem",
            **object_of(request, self.name),
            "SignatureVersion": self.version,
        }
        if message["Type"] not in _FIELDS:
            raise ConfigurationError("aws-sns has no messages of this Type.")
        try:
            made = self._key.sign(_covered(message), secret)
        except Malformed as error:
            raise ConfigurationError(f"Only SNS can sign as SNS: {error}.") from None
        signed = {**message, "Signature": encode(made, "base64")}
        return Signed({"Content-Type": "text/plain; charset=UTF-8"}, written(signed), request.query)

    def _read(self, request: RawRequest, secrets: Sequence[bytes]) -> Mapping[str, Any]:
        """Return a message that may be worth a look: of a known kind, version and topic."""
        topics = [secret for secret in secrets if secret and not _is_certificate(secret)]
        if not topics:
            raise VerificationError("secret-missing")
        message = as_object(read_body(request))
        if message is None:
            raise VerificationError("body-malformed")
        if not isinstance(message.get("Type"), str) or message["Type"] not in _FIELDS:
            raise VerificationError("type-unknown")
        if message.get("SignatureVersion") != self.version:
            raise VerificationError("signature-version")
        topic = message.get("TopicArn")
        if not isinstance(topic, str) or topic.encode("utf-8", "replace") not in topics:
            raise VerificationError("topic-mismatch")
        return message

    def _certificates(
        self, message: Mapping[str, Any], secrets: Sequence[bytes], now: float
    ) -> Sequence[bytes]:
        given = [secret for secret in secrets if _is_certificate(secret)]
        if given:
            return given
        fetched = self._documents.get(_signer(message), now)
        if fetched is None:
            raise VerificationError("keys-unavailable")
        if not _in_force(fetched, now):
            raise VerificationError("certificate-expired")
        return [fetched]


async def _confirm(url: str) -> None:
    if await download(url) is None:
        raise VerificationError("confirmation-failed")


def _is_certificate(secret: bytes) -> bool:
    return secret.startswith(b"-----BEGIN ")


def _signer(message: Mapping[str, Any]) -> str:
    url = _at_sns(message.get("SigningCertURL"))
    parts = urlsplit(url)
    if not parts.path.endswith(".pem") or parts.query:
        raise VerificationError("certificate-url")
    return url


def _at_sns(url: Any) -> str:
    """Return a URL of SNS itself: https, its host, no port, no user, nothing unprintable.

    Raises:
        VerificationError: It is another's.
    """
    if not isinstance(url, str) or len(url) > _MAX_URL or not re.fullmatch(r"[!-~]+", url):
        raise VerificationError("certificate-url")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise VerificationError("certificate-url") from None
    # The whole authority, so that neither a user nor a port nor a backslash is in it.
    if parts.scheme != "https" or not _HOST.fullmatch(parts.netloc) or parts.fragment:
        raise VerificationError("certificate-url")
    return url


def _covered(message: Mapping[str, Any]) -> bytes:
    lines: list[str] = []
    for name in _FIELDS[message["Type"]]:
        value = message.get(name)
        if value is None and name == "Subject":
            continue
        if not isinstance(value, str):
            raise VerificationError("body-malformed")
        lines += [name, value]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")


@lru_cache(maxsize=64)
def _validity(pem: bytes) -> tuple[datetime, datetime] | None:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError:
        return None
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def _in_force(pem: bytes, now: float) -> bool:
    validity = _validity(pem)
    moment = datetime.fromtimestamp(now, UTC)
    return validity is not None and validity[0] <= moment <= validity[1]
