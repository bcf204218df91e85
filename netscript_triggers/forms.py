"""Form bodies: `application/x-www-form-urlencoded`, as browsers and many senders write it."""

from __future__ import annotations

from collections.abc import Set
from typing import Any
from urllib.parse import parse_qsl

from netscript_workers.strict_json import MalformedError, parse

MAX_FIELDS = 10_000


def read_form(body: bytes, *, lists: Set[str] = frozenset()) -> Any:
    """Read a form (URL standard, section 5.1), strict where that one is lenient.

    GitHub, Slack and others put JSON into one field called `payload`; that JSON is returned.

    Args:
        body: As it came.
        lists: Fields that are lists also where they are there once.

    Returns:
        The fields by name: text, or a list of texts where a field is repeated.

    Raises:
        MalformedError: It is not UTF-8, or has more than 10,000 fields.
    """
    try:
        pairs = parse_qsl(
            body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
        )
    except UnicodeDecodeError:
        raise MalformedError("The form is not UTF-8.") from None
    except ValueError:
        raise MalformedError(f"The form may have {MAX_FIELDS:,} fields.") from None
    if len(pairs) == 1 and pairs[0][0] == "payload" and pairs[0][1].lstrip()[:1] in {"{", "["}:
        return parse(pairs[0][1].encode())
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    return {
        name: values if len(values) > 1 or name in lists else values[0]
        for name, values in fields.items()
    }
