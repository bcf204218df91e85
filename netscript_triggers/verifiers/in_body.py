"""Senders that put the signature into the body: Mailgun, Adyen's standard webhooks, Braintree."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from netscript_triggers.forms import read_pairs
from netscript_triggers.verifiers import RawRequest, Scheme, Signed, Verified
from netscript_triggers.verifiers.headers import replace_body
from netscript_triggers.verifiers.keys import Mac, check, prove
from netscript_triggers.verifiers.reading import (
    as_list,
    as_object,
    as_text,
    check_time,
    decode,
    encode,
    find,
    peek,
    read_body,
    read_time,
    written,
)
from netscript_workers.errors import ConfigurationError, VerificationError
from netscript_workers.ids import new_id
from netscript_workers.strict_json import MalformedError

_MAX_ITEMS = 100
_MAX_PAIRS = 16


def text_of(value: Any, reason: str) -> str:
    """Return a text that must be there, in ASCII.

    Raises:
        VerificationError: It is not, for this reason.
    """
    if not isinstance(value, str) or not value or not value.isascii():
        raise VerificationError(reason)
    return value


def object_of(request: RawRequest, name: str) -> dict[str, Any]:
    """Return a body that is to be signed inside.

    Raises:
        ConfigurationError: It is no JSON object.
    """
    body = as_object(peek(request))
    if body is None:
        raise ConfigurationError(f"{name} signs JSON objects only.")
    return body


@dataclass(frozen=True, slots=True, kw_only=True)
class MailgunVerifier(Scheme):
    """Checks `signature` in the body, which covers a time and a token, and nothing of the event.

    So whoever has seen one delivery could send another event with its signature while that is
    fresh; the token is the delivery's id, and is signed: it is taken once.
    """

    name: str = "mailgun"
    tolerance: float | None = 900
    source: str = (
        "https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/securing-webhooks"
    )

    private_headers: frozenset[str] = frozenset()

    @property
    def signs_time(self) -> bool:
        """Always."""
        return True

    def with_tolerance(self, seconds: float) -> MailgunVerifier:
        """Return the same with another tolerance."""
        return replace(self, tolerance=seconds)

    def verify(self, request: RawRequest, secrets: Sequence[bytes], now: float) -> Verified:
        """Check the signature, and then the time.

        Raises:
            VerificationError: Something is missing, malformed, wrong or out of time.
        """
        body = read_body(request)
        time = text_of(find(body, ("signature", "timestamp")), "timestamp-missing").encode()
        token = text_of(find(body, ("signature", "token")), "token-missing")
        given = text_of(find(body, ("signature", "signature")), "signature-missing").encode()
        key = Mac()
        message = time + token.encode()
        prove(key, message, [decode(given, "hex", key.size)], secrets)
        check_time(read_time(time, "s"), now, self.tolerance)
        return Verified(
            signed=message,
            delivery_id=token,
            id_signed=True,
            event_type=as_text(find(body, ("event-data", "event"))),
        )

    def sign_request(self, request: RawRequest, secret: bytes, now: float) -> Signed:
        """Write the signature into the body."""
        body = object_of(request, self.name)
        time, token = str(int(now)), new_id().replace("-", "") + "0" * 18
        made = Mac().sign((time + token).encode(), secret).hex()
        signature = {"timestamp": time, "token": token, "signature": made}
        return Signed({}, written({**body, "signature": signature}), request.query)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdyenVerifier(Scheme):
    """Checks each item of Adyen's standard webhooks; secrets are hexadecimal.

    An item's signature covers eight of its fields, and none of the others. One item that is not
    signed, or none at all, refuses the whole delivery.
    """

    name: str = "adyen"
    source: str = "https://docs.adyen.com/development-resources/webhooks/secure-webhooks/verify-hmac-signatures"

    private_headers: frozenset[str] = frozenset()

    def verify(self, request: RawRequest, secrets: Sequence[bytes], now: float) -> Verified:
        """Check every item.

        Raises:
            VerificationError: One is not signed, or wrongly, or there is none.
        """
        items = as_list(find(read_body(request), ("notificationItems",)))
        if not items:
            raise VerificationError("batch-empty")
        if len(items) > _MAX_ITEMS:
            raise VerificationError("batch-too-large")
        key = Mac(form="hex")
        messages: list[bytes] = []
        for entry in items:
            item = find(entry, ("NotificationRequestItem",))
            given = find(item, ("additionalData", "hmacSignature"))
            signature = decode(text_of(given, "signature-missing").encode(), "base64", key.size)
            messages.append(_adyen_text(item))
            prove(key, messages[-1], [signature], secrets)
        first = find(items[0], ("NotificationRequestItem", "eventCode"))
        single = len(items) == 1
        return Verified(
            signed=b"\n".join(messages),
            delivery_id=_adyen_id(messages[0]) if single else None,
            id_signed=single,
            event_type=as_text(first) if single else None,
            type_signed=single,
        )

    def check_secret(self, secret: bytes) -> None:
        """Refuse what is not hexadecimal."""
        check(Mac(form="hex"), self.name, secret)

    def sign_request(self, request: RawRequest, secret: bytes, now: float) -> Signed:
        """Sign each item."""
        body = object_of(request, self.name)
        items = as_list(body.get("notificationItems"))
        if not items:
            raise ConfigurationError("adyen signs the items of notificationItems; there is none.")
        signed: list[Any] = []
        for entry in items:
            fields = as_object(find(entry, ("NotificationRequestItem",)))
            if fields is None:
                raise ConfigurationError("adyen signs NotificationRequestItem; an item has none.")
            made = encode(Mac(form="hex").sign(_adyen_text(fields), secret), "base64")
            data = {**(as_object(fields.get("additionalData")) or {}), "hmacSignature": made}
            signed.append({"NotificationRequestItem": {**fields, "additionalData": data}})
        return Signed({}, written({**body, "notificationItems": signed}), request.query)


_ADYEN_FIELDS = (
    ("pspReference",),
    ("originalReference",),
    ("merchantAccountCode",),
    ("merchantReference",),
    ("amount", "value"),
    ("amount", "currency"),
    ("eventCode",),
    ("success",),
)


def _adyen_text(item: Any) -> bytes:
    """Return the fields that are signed; a missing one is empty, a colon is not escaped."""
    parts: list[str] = []
    for path in _ADYEN_FIELDS:
        value = find(item, path)
        if isinstance(value, bool):
            value = "true" if value else "false"
        if isinstance(value, (dict, list, float)):
            raise VerificationError("body-malformed")
        parts.append("" if value is None else str(value))
    return ":".join(parts).encode("utf-8", "surrogatepass")


def _adyen_id(message: bytes) -> str:
    """Return what Adyen's pages call a duplicate: reference, event and success.

    The whole signed text stands for it: a colon in one field can't be taken for another's end.
    """
    return message.decode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True, kw_only=True)
class BraintreeVerifier(Scheme):
    """Checks the form field `bt_signature` over `bt_payload`; secrets are `public key:private key`.

    Other fields of the form are not covered.
    """

    name: str = "braintree"
    source: str = "https://developer.paypal.com/braintree/docs/guides/webhooks/parse"

    private_headers: frozenset[str] = frozenset()

    def verify(self, request: RawRequest, secrets: Sequence[bytes], now: float) -> Verified:
        """Check the signature of the public key that is ours.

        Raises:
            VerificationError: Something is missing, repeated, malformed or wrong.
        """
        fields = _form(request)
        message, given = fields.get(b"bt_payload"), fields.get(b"bt_signature")
        if not message or not given:
            raise VerificationError("signature-missing")
        pairs = [pair.partition(b"|") for pair in given.split(b"&", _MAX_PAIRS)]
        if not any(secrets):
            raise VerificationError("secret-missing")
        key, proven = Mac("sha1", "sha1"), False
        for secret in secrets:
            public, _, private = secret.partition(b":")
            mine = [text for name, _, text in pairs if name == public]
            if not public or not private or not mine:
                continue
            signatures = [decode(text, "hex", key.size) for text in mine]
            # A line end at the end of the payload may have been lost in the form.
            proven |= key.matches(message, signatures, private)
            proven |= key.matches(message + b"\n", signatures, private)
        if not proven:
            raise VerificationError("signature-mismatch")
        return Verified(signed=message)

    def check_secret(self, secret: bytes) -> None:
        """Refuse what has no two parts."""
        public, _, private = secret.partition(b":")
        if not public or not private:
            raise ConfigurationError(
                "A secret of braintree can't be used: it needs both keys.",
                hint="Write it as public key:private key.",
            )

    def sign_request(self, request: RawRequest, secret: bytes, now: float) -> Signed:
        """Make the form: the body is the payload, which is sent in base64."""
        self.check_secret(secret)
        public, _, private = secret.partition(b":")
        payload = base64.encodebytes(request.body)
        made = Mac("sha1", "sha1").sign(payload, private).hex()
        fields = {"bt_signature": f"{public.decode()}|{made}", "bt_payload": payload}
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        signed = replace_body(request, urlencode(fields).encode())
        return Signed(headers, signed.body, request.query)


def _form(request: RawRequest) -> dict[bytes, bytes]:
    try:
        pairs = read_pairs(request.body, _MAX_PAIRS)
    except MalformedError:
        raise VerificationError("form-malformed") from None
    if len(dict(pairs)) < len(pairs):
        raise VerificationError("form-malformed")
    return dict(pairs)
