"""PayPal: RSA over the delivery's id, its time, the webhook's id and the body's CRC.

https://developer.paypal.com/api/rest/webhooks/rest/#link-messageverification
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store
from cryptography.x509.verification import VerificationError as ChainError

from netscript_triggers.verifiers import RawRequest, Scheme, Signed, Verified
from netscript_triggers.verifiers.fetching import Documents
from netscript_triggers.verifiers.keyfiles import Malformed
from netscript_triggers.verifiers.keys import Rsa, check, prove
from netscript_triggers.verifiers.reading import (
    as_text,
    check_time,
    decode,
    encode,
    find,
    peek,
    read_time,
    write_time,
)
from netscript_workers.errors import ConfigurationError, VerificationError
from netscript_workers.ids import new_id

_ID = b"paypal-transmission-id"
_TIME = b"paypal-transmission-time"
_SIGNATURE = b"paypal-transmission-sig"
_URL = b"paypal-cert-url"
_HOSTS = frozenset(
    {"api.paypal.com", "api.sandbox.paypal.com", "api-m.paypal.com", "api-m.sandbox.paypal.com"}
)
_WEBHOOK_ID = re.compile(rb"[A-Za-z0-9-]{1,64}")
_NAME = ".paypal.com"
_MAX_CHAIN = 8
_KEY = Rsa("pkcs1-sha256")


@dataclass(frozen=True, slots=True, kw_only=True)
class PayPalVerifier(Scheme):
    """Checks `PAYPAL-TRANSMISSION-SIG`. The secrets are the ids of our webhooks at PayPal.

    The body is covered by a CRC only, which anybody can keep the same while changing the rest: a
    delivery that moves money should be asked for again over PayPal's API.

    With a certificate in PEM among the secrets nothing is fetched; without, PayPal's own is, from
    its hosts, and has to chain to a root.

    Attributes:
        tolerance: Seconds that the signed time may be off; None does not look at it.
        roots: Certificates in PEM that a fetched chain has to end at; by default the usual ones.
    """

    tolerance: float | None = None
    roots: bytes = field(default=b"", repr=False)
    name: str = "paypal"
    source: str = "https://developer.paypal.com/api/rest/webhooks/rest/"
    private_headers: frozenset[str] = frozenset({"paypal-transmission-sig"})
    _documents: Documents = field(default_factory=Documents, repr=False, compare=False)

    @property
    def signs_time(self) -> bool:
        """Always."""
        return True

    def with_tolerance(self, seconds: float) -> PayPalVerifier:
        """Return the same with another tolerance."""
        return replace(self, tolerance=seconds)

    def check_secret(self, secret: bytes) -> None:
        """Refuse what is neither a webhook's id nor a certificate."""
        if _is_certificate(secret):
            check(_KEY, self.name, secret)
        elif not _WEBHOOK_ID.fullmatch(secret):
            raise ConfigurationError(
                "A secret of paypal is neither the id of a webhook nor a certificate.",
                hint="Copy the webhook's id from PayPal's developer pages.",
            )

    async def prepare(self, request: RawRequest, secrets: Sequence[bytes], now: float) -> None:
        """Fetch the certificate, if it is PayPal's and not here."""
        if any(map(_is_certificate, secrets)):
            return
        _needed(request, _SIGNATURE, "signature-missing")
        url = _certificate_url(request)
        if self._documents.get(url, now) is None and self._documents.age(url, now) > 60:
            await self._documents.fetch(url, now)

    def verify(self, request: RawRequest, secrets: Sequence[bytes], now: float) -> Verified:
        """Check certificate, signature and time.

        Raises:
            VerificationError: Something is missing, repeated, malformed, wrong or out of time.
        """
        webhooks = [secret for secret in secrets if secret and not _is_certificate(secret)]
        if not webhooks:
            raise VerificationError("secret-missing")
        given = _needed(request, _SIGNATURE, "signature-missing")
        signature = decode(given, "base64", None)
        delivery_id = _needed(request, _ID, "id-missing")
        time = _needed(request, _TIME, "timestamp-missing")
        keys = self._keys(request, secrets, now)
        _prove_any([_message(request, delivery_id, time, one) for one in webhooks], signature, keys)
        check_time(read_time(time, "iso"), now, self.tolerance)
        return Verified(
            signed=request.body,
            delivery_id=as_text(delivery_id),
            id_signed=True,
            event_type=as_text(find(peek(request), ("event_type",))),
        )

    def sign_request(self, request: RawRequest, secret: bytes, now: float) -> Signed:
        """Sign; the secret is `webhook-id private-key-in-PEM`, for tests with a certificate."""
        webhook, _, key = secret.partition(b" ")
        delivery_id, time = new_id(), write_time(now, "iso")
        message = _message(request, delivery_id.encode(), time.encode(), webhook)
        try:
            made = _KEY.sign(message, key)
        except Malformed as error:
            raise ConfigurationError(f"Only PayPal can sign as PayPal: {error}.") from None
        headers = {
            "PAYPAL-TRANSMISSION-ID": delivery_id,
            "PAYPAL-TRANSMISSION-TIME": time,
            "PAYPAL-TRANSMISSION-SIG": encode(made, "base64"),
            "PAYPAL-CERT-URL": "https://api.paypal.com/v1/notifications/certs/CERT-test",
            "PAYPAL-AUTH-ALGO": "SHA256withRSA",
        }
        return Signed(headers, request.body, request.query)

    def _keys(self, request: RawRequest, secrets: Sequence[bytes], now: float) -> Sequence[bytes]:
        given = [secret for secret in secrets if _is_certificate(secret)]
        if given:
            return given
        fetched = self._documents.get(_certificate_url(request), now)
        if fetched is None:
            raise VerificationError("keys-unavailable")
        # By the hour, so that a chain is built once and not for each delivery.
        leaf = _trusted(fetched, self.roots, int(now // 3600) * 3600)
        if leaf is None:
            raise VerificationError("certificate-untrusted")
        return [leaf]


def _prove_any(messages: Sequence[bytes], signature: bytes, keys: Sequence[bytes]) -> None:
    for message in messages[:-1]:
        try:
            prove(_KEY, message, [signature], keys)
        except VerificationError:
            continue
        return
    prove(_KEY, messages[-1], [signature], keys)


def _message(request: RawRequest, delivery_id: bytes, time: bytes, webhook: bytes) -> bytes:
    crc = str(zlib.crc32(request.body)).encode()
    return b"|".join((delivery_id, time, webhook, crc))


def _needed(request: RawRequest, name: bytes, reason: str) -> bytes:
    value = request.header((name,))
    if not value or b"|" in value:
        raise VerificationError(reason)
    return value


def _is_certificate(secret: bytes) -> bool:
    return secret.startswith(b"-----BEGIN ")


def _certificate_url(request: RawRequest) -> str:
    """Return where the certificate is, if that is at PayPal.

    Raises:
        VerificationError: It is not.
    """
    given = _needed(request, _URL, "certificate-url")
    if len(given) > 1024 or not re.fullmatch(rb"[!-~]+", given):
        raise VerificationError("certificate-url")
    url = given.decode("ascii")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise VerificationError("certificate-url") from None
    if parts.scheme != "https" or parts.netloc not in _HOSTS or parts.query or parts.fragment:
        raise VerificationError("certificate-url")
    return url


@lru_cache(maxsize=64)
def _trusted(chain: bytes, roots: bytes, moment: int) -> bytes | None:
    """Return the first certificate of a chain, if it is PayPal's and ends at a root."""
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    try:
        leaf, *between = x509.load_pem_x509_certificates(chain)[:_MAX_CHAIN]
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = names.get_values_for_type(x509.DNSName)
        host = next(name for name in hosts if name.endswith(_NAME) and "*" not in name)
        policy = PolicyBuilder().store(_store(roots)).time(datetime.fromtimestamp(moment, UTC))
        policy.build_server_verifier(x509.DNSName(host)).verify(leaf, between)
    except (ValueError, ChainError, x509.ExtensionNotFound, StopIteration):
        return None
    return leaf.public_bytes(Encoding.PEM)


@lru_cache(maxsize=4)
def _store(roots: bytes) -> Store:
    if not roots:
        import certifi  # noqa: PLC0415 - httpx brings it

        roots = Path(certifi.where()).read_bytes()
    return Store(x509.load_pem_x509_certificates(roots))
