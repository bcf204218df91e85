"""Ids: UUIDv7 strings (RFC 9562, section 5.7), increasing within a process."""

from __future__ import annotations

import os
import re
import threading
import time

_PATTERN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_RAND_BITS = 74
_TAIL_BITS = 62


class _Generator:
    """Mints ids; the 74 bits after the millisecond count up within it (RFC 9562, 6.2 method 2)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._millis = 0
        self._rand = 0
        self._noise = b""
        # A forked child must not mint its parent's next ids.
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._millis = 0
        self._noise = b""

    def _random(self, count: int) -> bytes:
        # Asking the kernel costs more than all the rest; a kilobyte costs as much as a byte.
        if len(self._noise) < count:
            self._noise = os.urandom(1024)
        drawn, self._noise = self._noise[:count], self._noise[count:]
        return drawn

    def new(self) -> str:
        with self._lock:
            millis = time.time_ns() // 1_000_000
            if millis > self._millis:
                self._millis = millis
                # The top bit is left free, so that counting up within a millisecond has room.
                self._rand = int.from_bytes(self._random(10), "big") >> (80 - _RAND_BITS + 1)
            else:  # the same millisecond, or a clock that stepped back
                self._rand += 1 + self._random(1)[0]
            millis, rand = self._millis, self._rand
        value = (
            (millis & 0xFFFFFFFFFFFF) << 80
            | 0x7 << 76
            | (rand >> _TAIL_BITS & 0xFFF) << 64
            | 0b10 << 62
            | rand & ((1 << _TAIL_BITS) - 1)
        )
        text = f"{value:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


_generator = _Generator()


def new_id() -> str:
    """Return a new id, greater than every id this process made before."""
    return _generator.new()


def is_id(text: str) -> bool:
    """Tell whether `text` is written as an id is; anything else can't name a stored thing."""
    return _PATTERN.fullmatch(text) is not None
