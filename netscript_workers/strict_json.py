"""JSON as it comes from outside: what is ambiguous or made to hurt is refused."""

from __future__ import annotations

import gc
import json
import threading
from array import array
from collections.abc import Generator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, cast

from pydantic_core import SchemaValidator, ValidationError, core_schema

from netscript_workers.payloads import MAX_JSON_DEPTH

# Below this a collection during the reading costs less than keeping it off.
_LARGE = 16_384


class MalformedError(ValueError):
    """The bytes are not the JSON we take; the message may be told to the sender."""


def parse(body: bytes) -> Any:
    """Read JSON.

    Raises:
        MalformedError: It is not UTF-8, not JSON, nested deeper than 200, names a key twice, holds
            NaN or an infinity (which JSON does not have), or an integer of thousands of digits.
    """
    if len(body) < _LARGE:
        return _parse(body)
    with _COLLECTOR.paused():
        return _parse(body)


class _Collector:
    """Python's cyclic collector, which sleeps while a large body is read.

    Half a million lists that are all in use would be looked through again and again, which takes
    five times as long as reading them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._was_enabled = False

    @contextmanager
    def paused(self) -> Generator[None]:
        with self._lock:
            if not self._readers:
                self._was_enabled = gc.isenabled()
                gc.disable()
            self._readers += 1
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1
                if not self._readers and self._was_enabled:
                    gc.enable()


def _parse(body: bytes) -> Any:
    try:
        value = _decode(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise MalformedError("The body is not UTF-8.") from None
    except RecursionError:
        raise MalformedError("The body is nested too deep.") from None
    except MalformedError:
        raise
    except ValidationError:
        raise MalformedError("The body holds a number that is too large.") from None
    except ValueError as error:
        # json's own errors say where; Python's limit on digits is the other one there is.
        told = error.msg if isinstance(error, json.JSONDecodeError) else "a number is too long"
        raise MalformedError(f"The body is not JSON: {told}.") from None
    # Fewer brackets than the limit can't be nested deeper than it.
    if body.count(b"[") + body.count(b"{") > MAX_JSON_DEPTH and _depth(body) > MAX_JSON_DEPTH:
        raise MalformedError("The body is nested too deep.")
    return value


def _decode(text: str) -> Any:
    # The decoder's own method looks for blanks around the value by regular expressions.
    if text[:1] == "{":
        try:
            value, end = _scan(text, 0)
        except StopIteration:  # it breaks off; the other way has the words for it
            return _DECODER.decode(text)
        if end == len(text) or not text[end:].strip(_BLANKS):
            return value
    return _DECODER.decode(text)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Of a body that is all small objects, a third of the time would go into dict() and len().
    if not pairs:
        return {}
    if len(pairs) == 1:
        ((name, only),) = pairs
        return {name: only}
    value = dict(pairs)
    if len(value) != len(pairs):
        raise MalformedError("The body names a key twice.")
    return value


def _no_constant(name: str) -> Any:
    raise MalformedError(f"The body holds {name}, which is not JSON.")


def _depth(body: bytes) -> int:
    """Return how deep JSON, which this must be, is nested: a count over its text, for speed."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = body.translate(_STEPS, _NO_MARKS).replace(b'""', b"")
    if b'"' in marks:  # every other piece between quotes is a text, with brackets in it
        marks = b"".join(marks.split(b'"')[::2])
    # Every innermost pair ends a way down: leaving them all out, many at once, is one level.
    steps = marks.replace(_DOWN + _UP, b"")
    depth, deepest = 0, 0
    for place in range(0, len(steps), _BLOCK):
        block = steps[place : place + _BLOCK]
        down = block.count(_DOWN)
        if depth + down > deepest:  # it may go deeper than all before
            deepest = max(deepest, depth + max(accumulate(array("b", block))))
        depth += 2 * down - len(block)
    return 1 + deepest


_BLANKS = " \t\r\n"
_BLOCK = 64
_DOWN, _UP = b"\x01", b"\xff"
_STEPS = bytes.maketrans(b"[{]}", 2 * _DOWN + 2 * _UP)
_NO_MARKS = bytes(set(range(256)) - set(b'[{]}"'))
_COLLECTOR = _Collector()
# Pydantic's own reading of a float refuses infinity, in a third of the time that Python takes.
_finite = SchemaValidator(core_schema.float_schema(allow_inf_nan=False)).validate_python
_DECODER = json.JSONDecoder(
    object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite
)
_scan: Any = cast("Any", _DECODER).scan_once
