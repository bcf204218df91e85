"""What schemes read from a request: signatures, times, ids and names, each bounded."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from netscript_triggers.verifiers import RawRequest
from netscript_workers.errors import VerificationError
from netscript_workers.strict_json import MalformedError

Encoding: TypeAlias = Literal["hex", "base64"]
Unit: TypeAlias = Literal["s", "ms", "iso"]

_DIGITS = re.compile(rb"[0-9]{1,16}")
_ISO = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", flags=re.ASCII)


@lru_cache(maxsize=512)
def wire(names: tuple[str, ...]) -> tuple[bytes, ...]:
    """Return header names as they come off the wire."""
    return tuple(name.lower().encode() for name in names)


def decode(text: bytes, encoding: Encoding, size: int | None) -> bytes:
    """Read a signature.

    Raises:
        VerificationError: It is not written as told, or has another size.
    """
    try:
        if encoding == "hex":
            signature = binascii.unhexlify(text)
        else:
            signature = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise VerificationError("signature-malformed") from None
    if not signature or (size is not None and len(signature) != size):
        raise VerificationError("signature-malformed")
    return signature


def encode(signature: bytes, encoding: Encoding) -> str:
    """Write a signature."""
    return signature.hex() if encoding == "hex" else base64.b64encode(signature).decode()


@dataclass(frozen=True, slots=True)
class Found:
    """What stands in the headers of a signature: the signatures, and the time beside them."""

    signatures: Sequence[bytes]
    time: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureHeader:
    """Where signatures stand, and how they are written.

    Attributes:
        headers: The first of them that is there counts.
        prefix: Stands before each signature that counts, as in `sha256=…` or `v1,…`; where there
            may be several, others (of versions unknown) are passed over.
        encoding: Of the signature.
        separator: Between several; empty where there is only one. Blanks around signatures don't
            count.
        time: What stands before the time where it is one of them, as in `t=…`.
        every: Whether each of the headers counts, and not the first alone.
        limit: How many signatures may be there.
    """

    headers: tuple[str, ...]
    prefix: str = ""
    encoding: Encoding = "hex"
    separator: str = ""
    time: str = ""
    every: bool = False
    limit: int = 16

    def read(self, request: RawRequest, size: int | None) -> Found:
        """Read the signatures.

        Raises:
            VerificationError: There is none, there are too many or they are malformed, or a header
                or the time is there twice.
        """
        names = wire(self.headers)
        if self.every:
            values = [value for name in names if (value := request.header((name,))) is not None]
        else:
            value = request.header(names)
            values = [] if value is None else [value]
        if not values:
            raise VerificationError("signature-missing")
        if not self.separator:
            signatures = [self._strip(value) for value in values]
            return Found([decode(one, self.encoding, size) for one in signatures])
        return self._several(b"".join(values), size)

    def _strip(self, value: bytes) -> bytes:
        prefix = self.prefix.encode()
        if not value.startswith(prefix):
            raise VerificationError("signature-malformed")
        return value[len(prefix) :]

    def _several(self, value: bytes, size: int | None) -> Found:
        prefix, mark = self.prefix.encode(), self.time.encode()
        between = (self.separator.strip() or self.separator).encode()
        times: list[bytes] = []
        signatures: list[bytes] = []
        for part in value.split(between, 4 * self.limit):
            item = part.strip()
            if mark and item.startswith(mark):
                times.append(item[len(mark) :])
            elif item.startswith(prefix):
                signatures.append(item[len(prefix) :])
        if not signatures:
            raise VerificationError("signature-missing")
        if len(signatures) > self.limit or value.count(between) > 4 * self.limit:
            raise VerificationError("signature-too-many")
        if len(times) > 1:
            raise VerificationError("timestamp-repeated")
        read = [decode(one, self.encoding, size) for one in signatures]
        return Found(read, times[0] if times else None)

    def write(self, signature: bytes, time: str) -> dict[str, str]:
        """Write it as a sender does."""
        text = self.prefix + encode(signature, self.encoding)
        if self.time:
            text = f"{self.time}{time}{self.separator}{text}"
        return {self.headers[0]: text}


def read_time(text: bytes, unit: Unit) -> float:
    """Return seconds since the epoch.

    Raises:
        VerificationError: It is no time as told.
    """
    pattern = _ISO if unit == "iso" else _DIGITS
    if not pattern.fullmatch(text):
        raise VerificationError("timestamp-malformed")
    if unit != "iso":
        return int(text) / (1000 if unit == "ms" else 1)
    try:
        return datetime.fromisoformat(text.decode("ascii")).timestamp()
    except (ValueError, OverflowError):
        raise VerificationError("timestamp-malformed") from None


def write_time(now: float, unit: Unit) -> str:
    """Write a time as a sender does."""
    if unit == "iso":
        return datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return str(int(now * 1000) if unit == "ms" else int(now))


def check_time(sent: float, now: float, tolerance: float | None) -> None:
    """Refuse a time that is too far from now, in either direction.

    Raises:
        VerificationError: It is.
    """
    if tolerance is None:
        return
    if sent < now - tolerance:
        raise VerificationError("timestamp-stale")
    if sent > now + tolerance:
        raise VerificationError("timestamp-future")


def read_body(request: RawRequest) -> Any:
    """Read a body as JSON.

    Raises:
        VerificationError: It is none.
    """
    try:
        return request.json()
    except MalformedError:
        raise VerificationError("body-malformed") from None


def peek(request: RawRequest) -> Any:
    """Read a body that is proven; what is no JSON says nothing here, and is refused later."""
    try:
        return request.json()
    except MalformedError:
        return None


def written(value: object) -> bytes:
    """Write JSON as most senders do."""
    return json.dumps(value, separators=(",", ":")).encode()


def as_list(value: Any) -> list[Any] | None:
    """Return a JSON array, and None for anything else."""
    return value if isinstance(value, list) else None  # pyright: ignore[reportUnknownVariableType] - JSON


def as_object(value: Any) -> dict[str, Any] | None:
    """Return a JSON object, and None for anything else."""
    return value if isinstance(value, dict) else None  # pyright: ignore[reportUnknownVariableType] - JSON


def find(value: Any, path: Sequence[str]) -> Any:
    """Follow names, and numbers of places in lists, into JSON; None where they lead nowhere."""
    for step in path:
        if (fields := as_object(value)) is not None:
            value = fields.get(step)
        elif (items := as_list(value)) is not None and step.isdigit():
            value = items[int(step)] if int(step) < len(items) else None
        else:
            return None
    return value


def as_text(value: object) -> str | None:
    """Return a text, or a whole number as one; None for anything else."""
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if abs(value) < 10**30 else ""
    return value if isinstance(value, str) and value else None
