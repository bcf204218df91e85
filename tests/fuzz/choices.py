"""Bytes as choices: what a fuzzer makes up, turned into what is done to a request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

# What parsers of this project look for, and what others have stumbled over.
WORDS: tuple[bytes, ...] = (
    *(b'"', b"\\", b"=", b",", b";", b":", b".", b"%", b"&", b"|", b" ", b"\t", b"\r\n", b"\0"),
    *(
        b"\xff",
        b"\xc3\xa9",
        b"\xed\xa0\x80",
        b"{}",
        b"[]",
        b"[",
        b"}",
        b'""',
        b"\\ud800",
        b"\\u0000",
    ),
    *(b"NaN", b"1e999", b"-0", b"null", b"9" * 400, b"9" * 5000, b"[" * 210, b'{"a":1,"a":1}'),
    *(b"v1=", b"v1,", b"v0=", b"t=", b"ts=", b"h1=", b"sha256=", b"whsec_", b"Bearer ", b"Basic "),
    *(b"bodySHA256=", b"payload=", b"%00", b"%ff", b"%zz", b"a=1&a=2", b"data_base64", b"ce-"),
    *(b'("@method" "@target-uri")', b";created=1", b";alg=", b"sig1=:", b":=", b"sha-256=:"),
    *(b"https://sns.eu-west-1.amazonaws.com/x.pem", b"https://api.paypal.com/", b"-----BEGIN "),
    *(b"1700000000", b"1700000000000", b"2023-11-14T22:13:20Z", b"0001-01-01T00:00:00+23:59"),
    *(b"9999-12-31T23:59:59.999999999-23:59", b"true", b"eyJhbGciOiJub25lIn0.e30.", b"chunked"),
)


# Twice what a body may have: more would try nothing else.
MOST = 2_097_152


class Choices:
    """Takes choices off some bytes; without any left, always the first one."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self, below: int) -> int:
        """Return one of the numbers from 0 on."""
        size = 1 if below <= 256 else 2 if below <= 65_536 else 4
        taken = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(taken, "big") % below if below else 0

    def pick(self, several: Sequence[T]) -> T:
        """Return one of several."""
        return several[self.number(len(several))]

    def some(self, most: int = 64) -> bytes:
        """Return up to so many bytes as they are."""
        size = self.number(most + 1)
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken

    def word(self) -> bytes:
        """Return a word that means something somewhere, or bytes that nobody has thought of."""
        return self.some() if self.number(4) == 3 else self.pick(WORDS)

    def meddled(self, value: bytes) -> bytes:
        """Return a text after somebody has meddled with it."""
        place = self.number(len(value) + 1)
        before, after = value[:place], value[place:]
        match self.number(8):
            case 0:
                made = before
            case 1:
                made = before + self.word() + after
            case 2:
                made = before + self.word() + after[1 + self.number(16) :]
            case 3:
                flipped = bytes([before[-1] ^ (1 << self.number(8))]) if before else b""
                made = before[:-1] + flipped + after
            case 4:
                made = after + before
            case 5:
                made = (value or self.word()) * (2 + self.number(30))
            case 6:
                made = self.word() * (1 + self.number(200))
            case _:
                made = self.some(255)
        return made[:MOST]
