"""JSON as it comes from outside: what is ambiguous or made to hurt is refused."""

from __future__ import annotations

import json
from typing import Any, cast

from netscript_workers.payloads import MAX_JSON_DEPTH


class MalformedError(ValueError):
    """The bytes are not the JSON we take; the message may be told to the sender."""


def parse(body: bytes) -> Any:
    """Read JSON.

    Raises:
        MalformedError: It is not UTF-8, not JSON, nested deeper than 200, names a key twice, holds
            NaN or an infinity (which JSON does not have), or an integer of thousands of digits.
    """
    try:
        value = _decode(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise MalformedError("The body is not UTF-8.") from None
    except RecursionError:
        raise MalformedError("The body is nested too deep.") from None
    except MalformedError:
        raise
    except ValueError as error:
        # json's own errors say where; Python's limit on digits is the other one there is.
        told = error.msg if isinstance(error, json.JSONDecodeError) else "a number is too long"
        raise MalformedError(f"The body is not JSON: {told}.") from None
    # Fewer brackets than the limit can't be nested deeper than it.
    if body.count(b"[") + body.count(b"{") > MAX_JSON_DEPTH:
        _check_depth(value)
    return value


def _decode(text: str) -> Any:
    # The decoder's own method looks for blanks around the value by regular expressions.
    if text[:1] == "{":
        try:
            value, end = _scan(text, 0)
        except StopIteration:  # it breaks off; the other way has the words for it
            return _DECODER.decode(text)
        if end == len(text):
            return value
    return _DECODER.decode(text)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise MalformedError("The body names a key twice.")
    return value


def _no_constant(name: str) -> Any:
    raise MalformedError(f"The body holds {name}, which is not JSON.")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise MalformedError("The body holds a number that is too large.")
    return value


def _check_depth(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return
    raise MalformedError("The body is nested too deep.")


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [child for child in value.values() if isinstance(child, (dict, list))]  # pyright: ignore[reportUnknownVariableType]
    return [child for child in value if isinstance(child, (dict, list))]  # pyright: ignore[reportUnknownVariableType]


_DECODER = json.JSONDecoder(
    object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite
)
_scan: Any = cast("Any", _DECODER).scan_once
