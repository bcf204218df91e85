"""CloudEvents 1.0 over HTTP: structured and binary mode, and the handshake before the first.

https://github.com/cloudevents/spec: spec.md, formats/json-format.md,
bindings/http-protocol-binding.md, http-webhook.md.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias
from urllib.parse import unquote_to_bytes

from netscript_triggers.events import CloudEvent
from netscript_triggers.media import is_json, parse_media
from netscript_workers.strict_json import MalformedError, parse

STRUCTURED = "application/cloudevents+json"
_FAMILY = "application/cloudevents"
_PREFIX = "ce-"
_KNOWN = ("id", "source", "type", "subject", "time", "datacontenttype", "dataschema")
_NAME = re.compile(r"[a-z0-9]{1,64}")
_MAX_ATTRIBUTE = 2048
_ORIGIN = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")


Read: TypeAlias = Callable[[bytes], Any]


def read_event(
    body: bytes, headers: Mapping[str, str], read: Read = parse
) -> tuple[CloudEvent, Any]:
    """Read an event and its data.

    Args:
        body: Without compression.
        headers: By lower-case name.
        read: Reads JSON.

    Raises:
        MalformedError: It is no CloudEvent of version 1.0.
    """
    kind, _charset = parse_media(headers.get("content-type", ""))
    if kind.startswith(_FAMILY):
        return _structured(body, read)
    return _binary(body, kind, headers, read)


def _structured(body: bytes, read: Read) -> tuple[CloudEvent, Any]:
    envelope = read(body)
    if not isinstance(envelope, dict):
        raise MalformedError("A CloudEvent is a JSON object.")
    attributes: dict[str, Any] = dict(envelope)  # pyright: ignore[reportUnknownArgumentType] - JSON
    data = attributes.pop("data", None)
    if "data_base64" in attributes:
        if "data" in envelope:
            raise MalformedError("A CloudEvent has data or data_base64, not both.")
        data = _from_base64(attributes.pop("data_base64"))
    return _event(attributes, structured=True), data


def _from_base64(text: Any) -> bytes:
    if isinstance(text, str):
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            pass
    raise MalformedError("The CloudEvent's data_base64 is no base64.")


def _binary(
    body: bytes, kind: str, headers: Mapping[str, str], read: Read
) -> tuple[CloudEvent, Any]:
    attributes = {
        name.removeprefix(_PREFIX): _unescape(value)
        for name, value in headers.items()
        if name.startswith(_PREFIX)
    }
    if not attributes:
        raise MalformedError(
            f"This is no CloudEvent: send {STRUCTURED}, or the attributes as ce- headers."
        )
    if "datacontenttype" in attributes:
        raise MalformedError("In binary mode, Content-Type says what a CloudEvent's data is.")
    if kind:
        attributes["datacontenttype"] = headers["content-type"]
    data = read(body) if is_json(kind) else body or None
    return _event(attributes, structured=False), data


def _unescape(value: str) -> str:
    """Read an attribute out of a header: percent-encoded UTF-8."""
    try:
        return unquote_to_bytes(value.encode("latin-1")).decode()
    except UnicodeError:
        raise MalformedError("A ce- header is not UTF-8.") from None


def _event(attributes: dict[str, Any], *, structured: bool) -> CloudEvent:
    if attributes.pop("specversion", None) != "1.0":
        raise MalformedError("The CloudEvent's specversion must be 1.0.")
    for name, value in attributes.items():
        if not _NAME.fullmatch(name):
            raise MalformedError("A CloudEvent's attributes have names of a-z and 0-9.")
        if not isinstance(value, (str, bool, int)) and value is not None:
            raise MalformedError(f"The CloudEvent's {name} must be text, a number or a boolean.")
        if isinstance(value, str) and len(value) > _MAX_ATTRIBUTE:
            raise MalformedError(f"The CloudEvent's {name} is too long.")
    known = {name: _text(name, attributes.pop(name, None)) for name in _KNOWN}
    for name in ("id", "source", "type"):
        if known[name] is None:
            raise MalformedError(f"The CloudEvent has no {name}.")
    if not str(known["source"]).isprintable() or " " in str(known["source"]):
        raise MalformedError("The CloudEvent's source must be a URI reference.")
    given: dict[str, Any] = dict(known)
    return CloudEvent(structured=structured, extensions=attributes, **given)


def _text(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise MalformedError(f"The CloudEvent's {name} must be text, and not empty.")
    return value


def permission(
    headers: Mapping[bytes, bytes], per_minute: int | None
) -> tuple[tuple[bytes, bytes], ...]:
    """Answer the OPTIONS request that asks whether a sender may deliver here (http-webhook.md, 4).

    Leave is given to whoever asks, for each delivery has to prove itself all the same. A callback
    that the request names is never called: it could be anybody's.

    Args:
        headers: Of the request, by lower-case name.
        per_minute: How many deliveries there may be; None for any number.

    Returns:
        The answer's headers; none where nobody asked.
    """
    origin = headers.get(b"webhook-request-origin", b"").decode("latin-1").strip()
    if not _ORIGIN.fullmatch(origin):
        return ()
    rate = b"*" if per_minute is None else str(per_minute).encode()
    return (
        (b"webhook-allowed-origin", origin.encode()),
        (b"webhook-allowed-rate", rate),
    )
