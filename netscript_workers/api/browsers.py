"""What a browser could be tricked into sending, and what it is told of each answer."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from netscript_workers.addresses import host_of, is_loopback
from netscript_workers.api.answers import Problem

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
STYLE = (
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:24rem;margin:4rem auto;padding:0 1rem}"
    "input,button{font:inherit;padding:.4rem .6rem}input{width:100%;box-sizing:border-box}"
    ":root{color-scheme:light dark}"
)

_STYLE_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
# With "no-referrer" a form's Origin would be null, and could not be checked.
HEADERS: Mapping[bytes, bytes] = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"content-security-policy": _POLICY.encode(),
    b"referrer-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}


def foreign_host(headers: Mapping[bytes, str]) -> Problem | None:
    """Refuse names that others may have had resolved to this machine (DNS rebinding)."""
    if is_loopback(host_of(headers.get(b"host", ""))):
        return None
    return Problem(421, "host", "Without tokens the API answers to loopback names only.")


def foreign_origin(headers: Mapping[bytes, str], method: str, public_url: str) -> Problem | None:
    """Refuse what the pages of others have a browser send."""
    origin = headers.get(b"origin")
    if origin is not None:
        own = {headers.get(b"host", ""), urlsplit(public_url).netloc}
        scheme, _, host = origin.partition("://")
        if scheme not in ("http", "https") or not host or host not in own:
            return Problem(403, "origin", "Pages of other origins may not use the API.")
    site = headers.get(b"sec-fetch-site", "")
    if method not in SAFE and site in ("cross-site", "same-site"):
        return Problem(403, "origin", "Pages of other sites may not use the API.")
    return None


def foreign_body(headers: Mapping[bytes, str]) -> Problem | None:
    """Refuse bodies that a plain form can send."""
    kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
    empty = headers.get(b"content-length", "0") == "0" and b"transfer-encoding" not in headers
    if kind != "application/json" and not (empty and not kind):
        return Problem(415, "content-type", "Send application/json.")
    return None


def is_https(scope: Mapping[str, Any], public_url: str) -> bool:
    """Tell whether a browser talks HTTPS with us or a proxy of ours: its own word first."""
    origin = next((value for name, value in scope["headers"] if name == b"origin"), b"")
    if origin:
        return bool(origin.startswith(b"https://"))
    return scope.get("scheme") == "https" or public_url.startswith("https://")
