"""Event types: where they are found, and which are wanted."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from netscript_triggers.filters import is_wanted, shown_type, type_of


class Typed(BaseModel):
    type: str


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        ({"type": "a.b"}, "a.b"),
        ({"event": "x", "event_type": "y"}, "y"),
        ({"event": "x"}, "x"),
        ({"type": 5, "event": "x"}, "x"),
        ({"type": "\0", "event": {"type": "z"}}, None),
        ({"type": "\ud800"}, None),
        ({"type": "x" * 201}, None),
        (Typed(type="m"), "m"),
        ([1], None),
        ("text", None),
        (None, None),
    ],
)
def test_the_type_that_a_payload_names(payload: Any, found: str | None) -> None:
    assert type_of(payload) == found


@pytest.mark.parametrize(
    ("patterns", "event_type", "wanted"),
    [
        ((), None, True),
        (("payment.*",), "payment.done", True),
        (("payment.*",), "payment", False),
        (("payment.*",), "Payment.done", False),
        (("a", "b"), "b", True),
        (("a",), "ab", False),
        (("*",), None, True),
        (("a*",), None, False),
    ],
)
def test_which_types_are_wanted(
    patterns: tuple[str, ...], event_type: str | None, wanted: bool
) -> None:
    assert is_wanted(patterns, event_type) is wanted


def test_a_line_break_in_a_type_forges_no_log_line() -> None:
    assert shown_type("a\nb") is None
    assert shown_type("") is None
