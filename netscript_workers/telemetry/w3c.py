"""W3C trace context as text: what a `traceparent` header may say."""

from __future__ import annotations

import re

MAX_TRACESTATE = 512
# Of a version that is not known yet more may follow; of 00 nothing does.
_TRACEPARENT = re.compile(
    r"(?!ff)(?!00.{53}.)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)
_LENGTH = 55
_SAMPLED = frozenset("13579bdf")


def accepted(traceparent: str | None, tracestate: str | None) -> tuple[str | None, str | None]:
    """Return what a sender has said of its trace, or nothing where that can't be meant."""
    if traceparent is None or _TRACEPARENT.fullmatch(traceparent) is None:
        return None, None
    if tracestate is not None and not (
        tracestate.isascii() and 0 < len(tracestate) <= MAX_TRACESTATE
    ):
        tracestate = None
    return f"00{traceparent[2:_LENGTH]}", tracestate


def is_valid(traceparent: str) -> bool:
    """Tell whether this names a span."""
    return _TRACEPARENT.fullmatch(traceparent) is not None


def is_sampled(traceparent: str) -> bool:
    """Tell whether the trace that this names may be recorded."""
    return len(traceparent) < _LENGTH or traceparent[_LENGTH - 1] in _SAMPLED
