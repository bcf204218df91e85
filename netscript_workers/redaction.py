"""Redaction: secrets that somebody logs are masked before anything is written.

Masked are the secrets that this process knows, and what looks like one by its form.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from urllib.parse import quote

MASK = "***"
# What is shorter could be any word.
MIN_LENGTH = 6
# Of secrets that come and go, those that came last are known.
MOST = 1_000

_BEARER = re.compile(r"(\bbearer\s+)[\w.~+/=-]{6,}", re.IGNORECASE)
_HEADER = re.compile(
    r"(\bauthorization\b[\"']?\s*[:=,]\s*(?:b(?=[\"']))?[\"']?(?:(?:basic|bearer|token|digest)\s+)?+)[^\s\"',)]{4,}",
    re.IGNORECASE,
)
_URL = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s:/@\"']{0,128}:)[^\s\"']{1,512}(?=@)")
_PREFIXES = ("whsec_", "sk_live_", "sk_test_", "rk_live_", "ghp_", "github_pat_", "glpat-", "xoxb-")
_PREFIXED = re.compile(rf"\b({'|'.join(_PREFIXES)})[\w+/=.-]{{4,}}")


class Redactor:
    """Masks secrets in text."""

    def __init__(self) -> None:
        """Know no secret yet, only forms."""
        self._lock = threading.Lock()
        self._known: dict[str, None] = {}
        # The longest first: one may stand in another.
        self._words: tuple[str, ...] = ()

    @property
    def known(self) -> tuple[str, ...]:
        """What is masked wherever it stands."""
        return self._words

    def learn(self, words: Iterable[str | bytes]) -> None:
        """Mask these from now on; what is too short for a secret is left alone."""
        with self._lock:
            for word in words:
                told = word.decode("utf-8", "replace") if isinstance(word, bytes) else word
                for one in (told, quote(told, safe="")):
                    if len(one) >= MIN_LENGTH:
                        self._known.pop(one, None)
                        self._known[one] = None
            while len(self._known) > MOST:
                del self._known[next(iter(self._known))]
            self._words = tuple(sorted(self._known, key=len, reverse=True))

    def __call__(self, text: str) -> str:
        """Return the text without secrets."""
        for word in self._words:
            if word in text:
                text = text.replace(word, MASK)
        lower = text.lower()
        if "authorization" in lower:
            text = _HEADER.sub(rf"\1{MASK}", text)
        if "bearer" in lower:
            text = _BEARER.sub(rf"\1{MASK}", text)
        if "://" in text:
            text = _URL.sub(rf"\1{MASK}", text)
        if any(prefix in text for prefix in _PREFIXES):
            text = _PREFIXED.sub(rf"\1{MASK}", text)
        return text


redact = Redactor()
"""The process's own."""
