"""Form bodies: `application/x-www-form-urlencoded`, as browsers and many senders write it."""

from __future__ import annotations

import binascii
import re
from collections.abc import Set
from typing import Any

from netscript_workers.strict_json import MalformedError, parse

MAX_FIELDS = 10_000
_MAX_BROKEN = 10_000
_BROKEN = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def read_form(body: bytes, *, lists: Set[str] = frozenset()) -> Any:
    """Read a form (URL standard, section 5.1), strict where that one is lenient.

    GitHub, Slack and others put JSON into one field called `payload`; that JSON is returned.

    Args:
        body: As it came.
        lists: Fields that are lists also where they are there once.

    Returns:
        The fields by name: text, or a list of texts where a field is repeated.

    Raises:
        MalformedError: It is not UTF-8, or has more than 10,000 fields or broken escapes.
    """
    try:
        body.decode()
        pairs = [(name.decode(), value.decode()) for name, value in read_pairs(body, MAX_FIELDS)]
    except UnicodeDecodeError:
        raise MalformedError("The form is not UTF-8.") from None
    if len(pairs) == 1 and pairs[0][0] == "payload" and pairs[0][1].lstrip()[:1] in {"{", "["}:
        return parse(pairs[0][1].encode())
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    return {
        name: values if len(values) > 1 or name in lists else values[0]
        for name, values in fields.items()
    }


def read_pairs(text: bytes, most: int) -> list[tuple[bytes, bytes]]:
    """Return names and values in order, without their escapes (URL standard, section 5.1).

    Args:
        text: A form, or a query.
        most: How many there may be.

    Raises:
        MalformedError: There are more, or more than 10,000 percent signs that escape nothing.
    """
    if text.count(b"&") >= most:
        raise MalformedError(f"The form may have {most:,} fields.")
    whole, broken = _BROKEN.subn(b"%25", text, count=_MAX_BROKEN + 1)
    if broken > _MAX_BROKEN:
        raise MalformedError("The form has too many percent signs that escape nothing.")
    split = [field.partition(b"=") for field in whole.split(b"&") if field]
    return [(_unescaped(name), _unescaped(value)) for name, _, value in split]


def _unescaped(text: bytes) -> bytes:
    """Read percent-encoding as the quoted-printable that it nearly is: that reader is quick."""
    text = text.replace(b"+", b" ")
    if b"%" not in text:
        return text
    return binascii.a2b_qp(text.replace(b"=", b"=3D").replace(b"%", b"="))
