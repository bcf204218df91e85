"""What a body says it is: its media type, its character set, its compression."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Literal, TypeAlias

from netscript_workers.errors import PayloadInvalidError
from netscript_workers.strict_json import MalformedError

Parse: TypeAlias = Literal["json", "form", "raw", "cloudevents"]
PARSES: tuple[Parse, ...] = ("json", "form", "raw", "cloudevents")

FORM = "application/x-www-form-urlencoded"
_MAX_TYPE = 256
_UTF8 = frozenset({"", "utf-8", "utf8", "us-ascii"})
# zlib reads both forms when it is told to look: RFC 1952 (gzip) and RFC 1950 (deflate).
_LOOK = 32 + zlib.MAX_WBITS
_SAYS: dict[Parse, str] = {
    "json": "Send application/json in UTF-8.",
    "form": f"Send {FORM} in UTF-8.",
    "raw": "",
    "cloudevents": "Send application/cloudevents+json, or the data with ce- headers.",
}


class UnsupportedError(Exception):
    """The body is of a kind that is not taken here.

    Attributes:
        reason: For counts and logs.
        detail: For the sender, who has proven who it is.
    """

    def __init__(self, reason: str, detail: str) -> None:
        """Say both."""
        super().__init__(reason)
        self.reason, self.detail = reason, detail


class InflatedTooLargeError(PayloadInvalidError):
    """The body is larger than allowed once it is decompressed."""

    code = "too-large"


def parse_media(value: str) -> tuple[str, str]:
    """Return media type and character set in lower case; empty where they are not said."""
    kind, _, parameters = value.lower().partition(";")
    charset = ""
    for parameter in parameters.split(";"):
        name, _, said = parameter.partition("=")
        if name.strip() == "charset":
            charset = said.strip().strip('"')
    return kind.strip(), charset


def is_json(kind: str) -> bool:
    """Tell whether a media type is JSON's, or built on it (RFC 6839)."""
    return kind in ("application/json", "text/json") or kind.endswith("+json")


def check_media(
    headers: Sequence[tuple[bytes, bytes]],
    parse: Parse,
    *,
    decompress: bool = False,
    also: Collection[str] = (),
) -> None:
    """Take what the webhook reads, or what says nothing of itself; anything else would be a guess.

    Args:
        headers: As they came.
        parse: How the body is read.
        decompress: Whether compressed bodies are taken.
        also: Media types that the sender gives to what is JSON all the same.

    Raises:
        UnsupportedError: It is something else.
    """
    said: bytes | None = None
    encoded = False
    for name, value in headers:
        if name == b"content-encoding":
            if encoded:
                raise UnsupportedError("content-encoding", "Compress a body once.")
            encoded = True
            _check_encoding(value, decompress=decompress)
        elif name == b"content-type":
            if said is not None and said != value:
                raise UnsupportedError("content-type", "Send one Content-Type.")
            said = value
    if said is None or (also and _is_one_of(said, also)):
        return
    if (fault := _fault(said[: _MAX_TYPE + 1], parse)) is not None:
        raise UnsupportedError("content-type", fault)


def _is_one_of(said: bytes, kinds: Collection[str]) -> bool:
    kind, charset = parse_media(said[:_MAX_TYPE].decode("latin-1"))
    return kind in kinds and charset in _UTF8


def _check_encoding(value: bytes, *, decompress: bool) -> None:
    kind = value.strip().lower()
    if kind in (b"", b"identity") or (decompress and kind in (b"gzip", b"x-gzip", b"deflate")):
        return
    told = "Compress with gzip or deflate only." if decompress else "without compression."
    raise UnsupportedError("content-encoding", told if decompress else f"Send the body {told}")


@lru_cache(maxsize=256)
def _fault(value: bytes, parse: Parse) -> str | None:
    kind, charset = parse_media(value.decode("latin-1"))
    says = _SAYS[parse]
    if len(value) > _MAX_TYPE:
        return says or "Send a shorter Content-Type."
    if parse == "raw" or (not kind and charset in _UTF8):
        return None
    if parse == "cloudevents":
        return _fault_of_event(kind, charset)
    taken = is_json(kind) if parse == "json" else kind == FORM
    return None if taken and charset in _UTF8 else says


def _fault_of_event(kind: str, charset: str) -> str | None:
    if kind.startswith("application/cloudevents-batch"):
        return "Send one event at a time; batches are not taken."
    ours = kind == "application/cloudevents+json"
    if kind.startswith("application/cloudevents") and not ours:
        return "Of the formats of CloudEvents, application/cloudevents+json is taken."
    in_utf8 = charset in _UTF8 or not (ours or is_json(kind))
    return None if in_utf8 else _SAYS["cloudevents"]


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """Return a body without its compression.

    Args:
        body: As it came.
        encoding: What the header says.
        limit: Bytes it may have.

    Raises:
        InflatedTooLargeError: It is larger; no more than that was ever unpacked.
        MalformedError: It is not what the header says, breaks off, or has something behind it.
    """
    if encoding.strip().lower() in ("", "identity"):
        return body
    unpacking = zlib.decompressobj(_LOOK)
    try:
        plain = unpacking.decompress(body, limit + 1)
    except zlib.error:
        raise MalformedError("The body can't be decompressed.") from None
    if len(plain) > limit:
        raise InflatedTooLargeError(f"The body may have {limit:,} bytes, decompressed.")
    if not unpacking.eof or unpacking.unused_data:
        raise MalformedError("The compressed body breaks off, or something follows it.")
    return plain
