"""Ids: UUIDv7 strings (RFC 9562, section 5.7), increasing within a process."""

from __future__ import annotations

import os
import re
import threading
import time

ID_PATTERN = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
_PATTERN = re.compile(ID_PATTERN)
_RAND_BITS = 74
_TAIL_BITS = 62
_NOISE = 4096
# The start of a millisecond's ids, and how far they are apart.
_DRAWN = 10 + 4


class _Generator:
    """Mints ids; the 74 bits after the millisecond count up within it (RFC 9562, 6.2 method 2)."""

    def __init__(self) -> None:
        # A forked child must not mint its parent's next ids.
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._millis = 0
        self._rand = 0
        self._step = 1
        self._noise = b""

    def _begin_millisecond(self, millis: int) -> None:
        # Asking the kernel costs more than all the rest; a page costs as much as a byte.
        if len(self._noise) < _DRAWN:
            self._noise = os.urandom(_NOISE)
        drawn, self._noise = self._noise[:_DRAWN], self._noise[_DRAWN:]
        self._millis = millis
        # The top bit is left free, so that counting up within a millisecond has room.
        self._rand = int.from_bytes(drawn[:10], "big") >> (80 - _RAND_BITS + 1)
        self._step = 1 + int.from_bytes(drawn[10:], "big")

    def new(self) -> str:
        with self._lock:
            millis = time.time_ns() // 1_000_000
            if millis > self._millis:
                self._begin_millisecond(millis)
            else:  # the same millisecond, or a clock that stepped back
                millis = self._millis
                self._rand += self._step
            rand = self._rand
        high, low = millis >> 16 & 0xFFFFFFFF, millis & 0xFFFF
        top, middle = rand >> _TAIL_BITS & 0xFFF, 0x8000 | rand >> 48 & 0x3FFF
        return f"{high:08x}-{low:04x}-7{top:03x}-{middle:04x}-{rand & 0xFFFFFFFFFFFF:012x}"


_generator = _Generator()


def new_id() -> str:
    """Return a new id, greater than every id this process made before."""
    return _generator.new()


def is_id(text: str) -> bool:
    """Tell whether `text` is written as an id is; anything else can't name a stored thing."""
    return _PATTERN.fullmatch(text) is not None
