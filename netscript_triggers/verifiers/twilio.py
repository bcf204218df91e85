"""Twilio: HMAC of the URL and the sorted form, or of the URL with the body's hash in its query.

https://www.twilio.com/docs/usage/webhooks/webhooks-security
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from netscript_triggers.forms import read_pairs
from netscript_triggers.verifiers import RawRequest, Scheme, Signed, Verified
from netscript_triggers.verifiers.headers import replace_body
from netscript_triggers.verifiers.keys import Algorithm, Mac, prove
from netscript_triggers.verifiers.reading import as_text, decode
from netscript_workers.errors import VerificationError
from netscript_workers.strict_json import MalformedError

_SIGNATURE = (b"x-twilio-signature",)
_ID = (b"i-twilio-idempotency-token",)
_HASH = "bodySHA256"
_FORM = b"application/x-www-form-urlencoded"
_MAX_FIELDS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class TwilioVerifier(Scheme):
    """Checks `X-Twilio-Signature`.

    A form is signed field by field. Any other body must have its SHA-256 in the query, where it is
    signed with the URL; without it nothing covers the body, and the delivery is refused.

    Attributes:
        name: For lists and logs.
        algorithm: `sha1` with an account's token, `sha256` with a shared key. What the request's
            own settings header names is not looked at.
    """

    name: str = "twilio"
    algorithm: Algorithm = "sha1"
    source: str = "https://www.twilio.com/docs/usage/webhooks/webhooks-security"

    @property
    def private_headers(self) -> frozenset[str]:
        """The signature's header."""
        return frozenset({"x-twilio-signature"})

    @property
    def needs_url(self) -> bool:
        """Always: the URL is signed."""
        return True

    def verify(self, request: RawRequest, secrets: Sequence[bytes], now: float) -> Verified:
        """Check the signature, of the URL with and without its default port.

        Raises:
            VerificationError: Something is missing, repeated, malformed or wrong.
        """
        given = request.header(_SIGNATURE)
        if given is None:
            raise VerificationError("signature-missing")
        key = Mac(self.algorithm)
        signatures = [decode(given, "base64", key.size)]
        fields = _covered(request)
        try:
            prove(key, request.url + fields, signatures, secrets)
        except VerificationError:
            # Twilio's own side is not of one mind about the port.
            prove(key, _other_port(request.url) + fields, signatures, secrets)
        told = request.header(_ID)
        form = fields or not request.body
        return Verified(
            signed=request.url + fields if form else request.body, delivery_id=as_text(told)
        )

    def sign_request(self, request: RawRequest, secret: bytes, now: float) -> Signed:
        """Sign a form by its fields, and anything else by its hash, which goes into the query."""
        if request.body and not _is_form(request):
            digest = hashlib.sha256(request.body).hexdigest()
            asked = f"{_HASH}={digest}".encode()
            query = request.query + b"&" + asked if request.query else asked
            request = replace_body(request, request.body, query)
        made = Mac(self.algorithm).sign(request.url + _covered(request), secret)
        headers = {"X-Twilio-Signature": base64.b64encode(made).decode()}
        return Signed(headers, request.body, request.query)


def _covered(request: RawRequest) -> bytes:
    """Return the fields as they are signed, having checked the body's hash where there is one.

    Raises:
        VerificationError: Nothing covers the body, or its hash is another.
    """
    hashes = [value for name, value in _pairs(request.query) if name == _HASH.encode()]
    if hashes:
        digest = hashlib.sha256(request.body).hexdigest().encode()
        if len(hashes) > 1 or not hmac.compare_digest(digest, hashes[0].lower()):
            raise VerificationError("body-hash-mismatch")
        return b""
    if not request.body:
        return b""
    if not _is_form(request):
        raise VerificationError("body-not-signed")
    fields = set(_pairs(request.body))
    return b"".join(name + value for name, value in sorted(fields))


def _is_form(request: RawRequest) -> bool:
    kind = request.header((b"content-type",)) or b""
    return kind.partition(b";")[0].strip().lower() == _FORM


def _pairs(text: bytes) -> list[tuple[bytes, bytes]]:
    try:
        return read_pairs(text, _MAX_FIELDS)
    except MalformedError:
        raise VerificationError("form-malformed") from None


def _other_port(url: bytes) -> bytes:
    """Return the URL with its default port where it has none, and without one where it has."""
    scheme, _, rest = url.partition(b"://")
    host, slash, path = rest.partition(b"/")
    name, colon, port = host.rpartition(b":")
    if not (colon and port.isdigit()):
        name = host + (b":443" if scheme == b"https" else b":80")
    return scheme + b"://" + name + slash + path
