from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netscript_workers.strict_json import MalformedError, parse

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Lone surrogates too: they are what JSON's \ud800 stands for.
    | st.text(st.characters(exclude_categories=())),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


@given(JSON_VALUES)
def test_what_json_writes_is_read_back_the_same(value: Any) -> None:
    assert parse(json.dumps(value).encode()) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with suppress(MalformedError):
        parse(body)


@given(st.text(alphabet='{}[]",:0123456789eE+-. \\untrfalsNIy\t\n', max_size=60))
def test_any_text_that_looks_like_json_is_read_as_json_reads_it_or_refused(text: str) -> None:
    try:
        read = parse(text.encode())
    except MalformedError:
        return
    assert read == json.loads(text)


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("shape", ["{}", "[{}]", '{{"a": {}}}'])
def test_numbers_that_json_does_not_have_are_refused_by_name(name: str, shape: str) -> None:
    with pytest.raises(MalformedError, match=f"holds {name}"):
        parse(shape.format(name).encode())


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b'{"a": [1E400]}', b"1" * 310 + b".0"])
def test_a_number_beyond_a_float_is_refused(number: bytes) -> None:
    with pytest.raises(MalformedError, match="too large"):
        parse(number)


def test_numbers_within_a_float_are_read() -> None:
    assert parse(b"1e308") == 1e308
    assert parse(b"1e-400") == 0.0
    assert math.copysign(1, parse(b"-0.0")) == -1


def test_a_long_integer_is_exact_and_an_endless_one_refused() -> None:
    assert parse(b"1" * 4_000) == int("1" * 4_000)
    with pytest.raises(MalformedError, match="too long"):
        parse(b"1" * 100_000)


@pytest.mark.parametrize(
    "body",
    [b'{"a": 1, "a": 1}', b'{"a": {"b": 1, "c": 2, "b": 3}}', b'[{"a": 1, "\\u0061": 2}]'],
)
def test_a_key_named_twice_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedError, match="twice"):
        parse(body)


def test_the_same_key_in_different_objects_is_fine() -> None:
    assert parse(b'{"a": {"a": 1}, "b": {"a": 2}}') == {"a": {"a": 1}, "b": {"a": 2}}


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_is_taken_up_to_the_limit(opening: bytes, closing: bytes) -> None:
    parse(opening * 200 + b"1" + closing * 200)
    with pytest.raises(MalformedError, match="too deep"):
        parse(opening * 201 + b"1" + closing * 201)


def test_mixed_nesting_counts_objects_and_lists_alike() -> None:
    with pytest.raises(MalformedError, match="too deep"):
        parse(b'[{"a":' * 101 + b"1" + b"}]" * 101)


def test_many_brackets_side_by_side_are_not_deep() -> None:
    assert parse(b"[" + b"{}," * 5_000 + b"[]]")[-1] == []


def test_brackets_within_a_text_are_not_deep() -> None:
    assert parse(json.dumps({"a": "[{" * 1_000}).encode()) == {"a": "[{" * 1_000}


@pytest.mark.parametrize("depth", [1_000, 100_000])
def test_endless_nesting_is_refused_and_does_not_break_the_process(depth: int) -> None:
    with pytest.raises(MalformedError):
        parse(b"[" * depth)
    with pytest.raises(MalformedError, match="too deep"):
        parse(b"[" * depth + b"]" * depth)


@pytest.mark.parametrize("body", [b"\xff", b'{"a": "\xe4"}', b'"\xed\xa0\x80"', b'"\xc0\x80"'])
def test_what_is_not_utf_8_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedError, match="not UTF-8"):
        parse(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b"{} {}",
        b"{}\0",
        b"{'a': 1}",
        b"[1,]",
        b'{"a"}',
        b"nul",
        b'"\n"',
        b"01",
        b"+1",
        b".5",
        b"// no\n1",
    ],
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedError, match=r"not (JSON|UTF-8)"):
        parse(body)


def test_a_refusal_does_not_repeat_the_body() -> None:
    with pytest.raises(MalformedError) as refusal:
        parse(b'{"password": "hunter2"')

    assert "hunter2" not in str(refusal.value)


def test_blanks_around_a_value_are_fine() -> None:
    assert parse(b" \t\r\n{} \n") == {}


def test_nul_and_lone_surrogates_are_what_json_says_they_are() -> None:
    assert parse(rb'"\u0000 \ud800"') == "\0 \ud800"
    assert parse(rb'"\ud83d\ude00"') == "\U0001f600"


def test_a_refusal_is_a_value_error() -> None:
    assert issubclass(MalformedError, ValueError)
