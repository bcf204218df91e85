"""Problem documents (RFC 9457): how errors look over HTTP."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

PROBLEM_TYPE = "application/problem+json"


def problem(status: int, code: str, detail: str | None = None, **extra: Any) -> dict[str, Any]:
    """Return a problem document.

    Args:
        status: The HTTP status.
        code: A stable, machine-readable name; the end of `type`.
        detail: What went wrong and what to do, for people.
        **extra: More members.
    """
    document: dict[str, Any] = {
        "type": f"urn:netscript:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
    }
    if detail is not None:
        document["detail"] = detail
    return {**document, **extra}


def to_bytes(value: Any) -> bytes:
    """Write JSON as ASCII: a lone surrogate, which JSON allows, has no UTF-8."""
    return _encode(value).encode()


_encode = json.JSONEncoder(separators=(",", ":")).encode
