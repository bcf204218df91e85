"""A signature in a header, over a text put together from the request: most schemes there are.

What a provider signs, where it says so and with which kind of key is data; `presets.py` holds it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

from netscript_triggers.verifiers import Answer, RawRequest, Scheme, Signed, Verified
from netscript_triggers.verifiers.keys import Key, Mac, check, prove
from netscript_triggers.verifiers.reading import (
    Found,
    SignatureHeader,
    Unit,
    as_object,
    as_text,
    check_time,
    find,
    peek,
    read_body,
    read_time,
    wire,
    write_time,
    written,
)
from netscript_workers.errors import ConfigurationError, VerificationError
from netscript_workers.ids import new_id

_FIELD = re.compile(r"\{(\w+)\}")
_FIELDS = frozenset({"id", "time", "body", "method", "url", "uri"})
_MAX_TYPE = 200
# Those that HubSpot undoes before it signs, and no others.
_ESCAPE = re.compile(rb"%(?:3A|2F|3F|40|21|24|27|28|29|2A|2C|3B)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """Where a sender says something: in the first of these headers, or at this place in the body.

    Attributes:
        headers: Their names.
        path: Names of JSON objects, and numbers of places in lists.
    """

    headers: tuple[str, ...] = ()
    path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Where a sender says when it signed.

    Attributes:
        headers: The first of these; without one and without a path, beside the signature.
        path: A place in the (signed) JSON body.
        unit: Seconds or milliseconds since the epoch, or ISO 8601 with a zone.
    """

    headers: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    unit: Unit = "s"


@dataclass(frozen=True, slots=True)
class Handshake:
    """How a sender's question whether somebody is there is answered.

    Attributes:
        answer: Called before the signature is checked with None, and afterwards with what it
            proves; returns None for a delivery.
        methods: Those of questions, where they are not the deliveries'.
    """

    answer: Callable[[RawRequest, Verified | None, Sequence[bytes]], Answer | None]
    methods: frozenset[str] = frozenset()


NOTHING = Said()
Keys: TypeAlias = Callable[[Sequence[bytes]], Sequence[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderVerifier(Scheme):
    """Checks a signature that stands in a header.

    Attributes:
        name: For lists and logs.
        signature: Where it stands.
        key: Its kind, and the form of the secrets.
        template: What is signed: text with `{id}`, `{time}`, `{body}`, `{method}`, `{url}` and
            `{uri}`, which is the URL with the escapes of ``:/?@!$'()*,;`` undone.
        clock: Where the time stands, if there is one; to be signed, it must be in the template or
            in the body.
        tolerance: Seconds that the time may be off, both ways; None does not look at it.
        id: Where the delivery's id stands.
        event: Where the event's type stands.
        challenge: How questions are answered.
        source: Where the scheme is written down.
        skip: A prefix that marks words among the secrets that are no keys.

    Raises:
        ConfigurationError: The template names something that there is not, or a tolerance is given
            where no time is signed.
    """

    name: str
    signature: SignatureHeader
    key: Key = field(default_factory=Mac)
    template: str = "{body}"
    clock: Clock | None = None
    tolerance: float | None = None
    id: Said = NOTHING
    event: Said = NOTHING
    challenge: Handshake | None = None
    source: str = ""
    skip: bytes = b""

    def __post_init__(self) -> None:
        """Refuse what can't verify anything."""
        fields = set(_FIELD.findall(self.template))
        if "body" not in fields or not fields <= _FIELDS:
            raise ConfigurationError(
                f"{self.name}: the template {self.template!r} can't be used.",
                hint=f"Name the body, and of the rest some of {', '.join(sorted(_FIELDS))}.",
            )
        if self.clock is None and (self.tolerance is not None or "time" in fields):
            raise ConfigurationError(f"{self.name}: there is a time, but no clock to read it from.")
        if "id" in fields and not self.id.headers:
            raise ConfigurationError(f"{self.name}: an id that is signed must stand in a header.")

    @property
    def private_headers(self) -> frozenset[str]:
        """The signature's headers."""
        return frozenset(header.lower() for header in self.signature.headers)

    @property
    def needs_url(self) -> bool:
        """Whether the URL is signed."""
        return "{url}" in self.template or "{uri}" in self.template

    @property
    def handshake_methods(self) -> frozenset[str]:
        """Those of questions."""
        return self.challenge.methods if self.challenge else frozenset()

    @property
    def signs_time(self) -> bool:
        """Whether `tolerance` may be set."""
        return self.clock is not None

    def with_tolerance(self, seconds: float) -> HeaderVerifier:
        """Return the same with another tolerance."""
        return replace(self, tolerance=seconds)

    def verify(self, request: RawRequest, secrets: Sequence[bytes], now: float) -> Verified:
        """Check the signature, and then the time.

        Raises:
            VerificationError: Something is missing, repeated, malformed, wrong or out of time.
        """
        found = self.signature.read(request, self.key.size)
        time = self._header_time(request, found)
        delivery_id = request.header(wire(self.id.headers)) if self.id.headers else None
        parts = {"time": time, "id": delivery_id}
        message = self._message(request, parts)
        prove(self.key, message, found.signatures, self._keys(secrets))
        return self._verified(request, time, delivery_id, now)

    def handshake(
        self, request: RawRequest, verified: Verified | None, secrets: Sequence[bytes], now: float
    ) -> Answer | None:
        """Answer a question as the preset says."""
        return self.challenge.answer(request, verified, secrets) if self.challenge else None

    def check_secret(self, secret: bytes) -> None:
        """Refuse what is no key."""
        for one in self._keys([secret]):
            check(self.key, self.name, one)

    def sign_request(self, request: RawRequest, secret: bytes, now: float) -> Signed:
        """Sign as a sender would."""
        time = write_time(now, self.clock.unit) if self.clock else ""
        request = self._with_time(request, time)
        headers: dict[str, str] = {}
        given = request.header(wire(self.id.headers)) if self.id.headers else None
        if "{id}" in self.template and given is None:
            given = new_id().encode()
            headers[self.id.headers[0]] = given.decode()
        if self.clock and self.clock.headers:
            headers[self.clock.headers[0]] = time
        message = self._message(request, {"time": time.encode(), "id": given})
        try:
            made = self.key.sign(message, secret)
        except ValueError as error:
            raise ConfigurationError(f"{self.name} can't sign with this secret: {error}.") from None
        return Signed({**headers, **self.signature.write(made, time)}, request.body, request.query)

    def _keys(self, secrets: Sequence[bytes]) -> Sequence[bytes]:
        if not self.skip:
            return secrets
        return [secret for secret in secrets if not secret.startswith(self.skip)]

    def _header_time(self, request: RawRequest, found: Found) -> bytes | None:
        if self.clock is None or self.clock.path:
            return None
        time = request.header(wire(self.clock.headers)) if self.clock.headers else found.time
        if time is None:
            raise VerificationError("timestamp-missing")
        return time

    def _message(self, request: RawRequest, parts: Mapping[str, bytes | None]) -> bytes:
        if self.template == "{body}":
            return request.body
        return b"".join(_part(request, parts, one) for one in _compiled(self.template))

    def _verified(
        self, request: RawRequest, time: bytes | None, delivery_id: bytes | None, now: float
    ) -> Verified:
        in_body = bool(self.id.path or self.event.path)
        body = peek(request) if in_body else None
        if self.clock and self.clock.path:
            body = read_body(request)
            time = (as_text(find(body, self.clock.path)) or "").encode("utf-8", "replace")
        if self.clock and time is not None and (self.tolerance is not None or self.clock.path):
            check_time(read_time(time, self.clock.unit), now, self.tolerance)
        told = as_text(delivery_id) or as_text(find(body, self.id.path))
        named = self.event.headers and request.header(wire(self.event.headers))
        kind = as_text(named or None) or as_text(find(body, self.event.path))
        return Verified(
            # Not with the time: a redelivery that is signed anew is the same delivery.
            signed=request.body,
            delivery_id=told,
            id_signed=delivery_id is None or "{id}" in self.template,
            event_type=kind and kind[:_MAX_TYPE],
            type_signed=kind is not None and not named,
        )

    def _with_time(self, request: RawRequest, time: str) -> RawRequest:
        """Write the time into the body where it belongs there and is missing."""
        if self.clock is None or not self.clock.path:
            return request
        body = as_object(peek(request))
        (name,) = self.clock.path
        if body is None or name in body:
            return request
        return replace_body(request, written({**body, name: int(time)}))


def replace_body(request: RawRequest, body: bytes, query: bytes | None = None) -> RawRequest:
    """Return the same request with another body, and possibly another query."""
    asked = request.query if query is None else query
    path, raw, origin = request.path, request.raw_path, request.origin
    return RawRequest(request.method, path, request.headers, body, asked, raw, origin)


def _part(request: RawRequest, parts: Mapping[str, bytes | None], part: str | bytes) -> bytes:
    if isinstance(part, bytes):
        return part
    if part == "body":
        return request.body
    if part == "url":
        return request.url
    if part == "uri":
        return _ESCAPE.sub(lambda found: unquote_to_bytes(found[0]), request.url)
    if part == "method":
        return request.method.encode()
    value = parts[part]
    if value is None:
        raise VerificationError("id-missing" if part == "id" else "timestamp-missing")
    return value


@lru_cache(maxsize=64)
def _compiled(template: str) -> tuple[str | bytes, ...]:
    """Return literal bytes, and the names of fields as text, in order."""
    pieces = _FIELD.split(template)
    found: list[str | bytes] = []
    for place, piece in enumerate(pieces):
        if place % 2:
            found.append(piece)
        elif piece:
            found.append(piece.encode())
    return tuple(found)
