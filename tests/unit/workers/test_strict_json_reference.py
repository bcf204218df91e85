"""`parse`, which is written for speed, against a reading of JSON that is written to be plain."""

from __future__ import annotations

import gc
import json
import threading
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from netscript_workers import strict_json
from netscript_workers.strict_json import MalformedError, parse

INFINITY = float("inf")


def plainly(body: bytes) -> Any:
    """Read what `parse` reads, one rule after the other; `ValueError` for what it refuses."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        insist(len(set(names)) == len(names))
        return dict(pairs)

    def finite(text: str) -> float:
        insist(abs(float(text)) < INFINITY)
        return float(text)

    def no_constant(name: str) -> None:
        raise ValueError(name)

    value = json.loads(
        body.decode("utf-8"),
        object_pairs_hook=unique,
        parse_float=finite,
        parse_constant=no_constant,
    )
    insist(depth_of(value) <= 200)
    return value


def insist(holds: bool) -> None:
    if not holds:
        raise ValueError


def depth_of(value: Any) -> int:
    inside: Any = list(value.values()) if isinstance(value, dict) else value  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - JSON
    return 1 + max(map(depth_of, inside), default=0) if isinstance(inside, list) else 0  # pyright: ignore[reportUnknownArgumentType] - JSON


def outcome(read: Any, body: bytes) -> str:
    """Tell what was read, with its types, or that it was refused."""
    try:
        return repr(read(body))
    except (ValueError, RecursionError):
        return "refused"


def agree(body: bytes) -> None:
    assert outcome(parse, body) == outcome(plainly, body), body[:200]


# In the manner of JSONTestSuite: structures, numbers and texts, right and just not right.
CORPUS = [
    *(b"", b" ", b"\t", b"\n1\r", b"\x0b1", b"1\x0c", b"\xef\xbb\xbf1", b"\x001", b"1\x00"),
    *(b"[]", b"[ ]", b"[[]]", b"[[],[]]", b"[", b"]", b"[]]", b"[[]", b"[1", b"[1,", b"[,1]"),
    *(b"[1,]", b"[1,,2]", b"[1 2]", b"[1:2]", b"[\x00]", b"1,2", b"1 2", b"[1],[2]", b"[}", b"{]"),
    *(b"{}", b"{ }", b'{"a":1}', b'{"a" : 1 }', b"{", b"}", b'{"a"', b'{"a":', b'{"a":1', b"{a:1}"),
    *(b'{"a":1,}', b'{,"a":1}', b'{"a":1,,"b":2}', b'{"a" 1}', b'{"a":1 "b":2}', b"{1:2}"),
    *(b"{null:1}", b"{'a':1}", b'{"a":1}}', b'{"a":1}#', b'{"a":1}/**/', b'{"a"::1}'),
    *(
        b'{"a":1}\n',
        b'{"a":1} \r\n\t',
        b'{"a":1}\x0b',
        '{"a":1}\xa0'.encode(),
        b'{"a":1} {',
        b"{}\n1",
    ),
    *(b'{"":0}', b'{"":0,"":1}', b'{"a":1,"a":1}', b'{"a":1,"\\u0061":2}', b'{"a":{"a":1}}'),
    *(b'[{"b":1,"a":2,"b":3}]', b'{"a":1,"A":2}', b'{"a":[{"x":1},{"x":1,"x":2}]}'),
    *(b'{"\\ud800":1,"\\ud801":2}', b'{"\\ud800":1,"\\ud800":2}', '{"é":1,"é":2}'.encode()),
    *(b"0", b"-0", b"-", b"+1", b"01", b"-01", b"1.", b".1", b"-.1", b"1.0", b"0.10", b"1e5"),
    *(b"1E5", b"1e+5", b"1e-5", b"1e", b"1e+", b"1.e5", b"1.5e5.5", b"0x1", b"1_0", b"1e1_0"),
    *(b"1e308", b"1e309", b"-1e309", b"1e-400", b"-1e-400", b"1e99999999999999999999", b"-0.0"),
    *(b"1.7976931348623157e308", b"1.7976931348623159e308", b"2.2250738585072011e-308"),
    *(b"4.9e-324", b"2.4703282292062327e-324", b"9007199254740993", b"9007199254740993.0"),
    *(b"123456789012345678901234567890", b"0." + b"1" * 800, b"1" * 308 + b".5", b"1" * 310),
    *(b"1" * 310 + b".0", b"9" * 4300, b"9" * 4301, b"-" + b"9" * 4300, b"[" + b"9" * 5000 + b"]"),
    *(
        "\u0661".encode(),
        "1\u0660".encode(),
        b"NaN",
        b"-NaN",
        b"Infinity",
        b"-Infinity",
        b"+Infinity",
        b"inf",
    ),
    *(b"nan", b"[NaN]", b'{"a":Infinity}', b'"NaN"', b"true", b"false", b"null", b"True", b"nul"),
    *(b"tru", b"truee", b"[truE]", b"nulL", b"None", b"undefined"),
    *(b'""', b'"', b'"a', b'a"', b"'a'", b'"\\"', b'"\\""', b'"\\\\"', b'"\\\\\\""', b'"\\a"'),
    *(b'"\\/\\b\\f\\n\\r\\t"', b'"\\x41"', b'"\\u"', b'"\\u0"', b'"\\u00e"', b'"\\u00e9"'),
    *(b'"\\u00E9"', b'"\\U00e9"', b'"\\u 0e9"', b'"\\u+0e9"', b'"\\u0000"', b'"\\u_0e9"'),
    *(b'"\\ud83d\\ude00"', b'"\\ud83d"', b'"\\ude00"', b'"\\ude00\\ud83d"', b'"\\ud83d\\u0041"'),
    *(b'"\\ud83d\\ud83d\\ude00"', b'"\\ud83dx"', b'"\x00"', b'"\n"', b'"\t"', b'"\x1f"', b'"\x7f"'),
    *('"é😀\u2028"'.encode(), b'"\xff"', b'"\xc3"', b'"\xc0\xaf"', b'"\xed\xa0\x80"'),
    *(b'"\xf4\x90\x80\x80"', b'"\xe2\x82"', b"\xff", b"[1]\xff", '"é"'.encode("latin-1")),
    *('[1,"é"]'.encode("utf-16"), '{"a":1}'.encode("utf-16-le"), '{"a":1}'.encode("utf-32")),
    *(b"[" * 200 + b"]" * 200, b"[" * 201 + b"]" * 201, b"[" * 200 + b"1" + b"]" * 200),
    *(b'{"a":' * 200 + b"1" + b"}" * 200, b'{"a":' * 200 + b"{}" + b"}" * 200),
    *(b"[" * 199 + b"{}" + b"]" * 199, b"[" * 200 + b"{}" + b"]" * 200, b"[" * 100_000),
    *(b"[" + b"[],{}," * 150 + b"1]", b"[" + b'"[[",' * 150 + b"{}]", b'["' + b"[" * 300 + b'"]'),
    *(b"[" + b"[" * 199 + b"]" * 199 + b"," + b"[" * 200 + b"]" * 200 + b"]",),
    *(b"[" * 199 + b'"\\"]]][[[\\\\"' + b",[]" * 9 + b"]" * 199,),
    *(b"[" * 200 + b'"\\\\","]"' + b",[]" * 9 + b"]" * 200, b'["\\\\\\"[",' + b"[]," * 300 + b"1]"),
]


@pytest.mark.parametrize("body", CORPUS, ids=range(len(CORPUS)))
def test_both_ways_agree_on_what_is_json(body: bytes) -> None:
    agree(body)


@given(st.text(alphabet='{}[]",:0123456789eE+-. \\ud8/truefalsnNaIity\t\n\x00é', max_size=80))
def test_both_ways_agree_on_what_looks_like_json(text: str) -> None:
    agree(text.encode())


@given(
    st.recursive(
        st.sampled_from(CORPUS[:-8]).map(lambda body: body.decode("utf-8", "replace")),
        lambda inner: (
            st.lists(inner, max_size=4).map(lambda items: f"[{','.join(items)}]")
            | st.lists(st.tuples(st.sampled_from(["a", "b", "\\u0061", "[{", '\\"']), inner)).map(
                lambda pairs: "{" + ",".join(f'"{name}":{text}' for name, text in pairs) + "}"
            )
        ),
        max_leaves=8,
    ),
    st.integers(190, 202),
)
@example("1", 201)
def test_both_ways_agree_on_what_is_nested(text: str, depth: int) -> None:
    agree(text.encode())
    agree(b"[" * depth + text.encode() + b"]" * depth)


@given(
    st.from_regex(r"-?(0|[1-9][0-9]{0,400})(\.[0-9]{1,60})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
)
def test_both_ways_agree_on_numbers(text: str) -> None:
    agree(text.encode())


def test_large_bodies_are_read_the_same_with_the_collector_asleep() -> None:
    for body in (b"[" + b'{"a":[1.5,"x"]},' * 2_000 + b"{}]", b"[" + b"[]," * 9_000 + b"NaN]"):
        assert len(body) > strict_json._LARGE
        agree(body)
        assert gc.isenabled()


def test_the_collector_stays_as_it_was() -> None:
    body = b"[" + b"[]," * 9_000 + b"1]"
    gc.disable()
    try:
        parse(body)
        assert not gc.isenabled()
    finally:
        gc.enable()
    with pytest.raises(MalformedError):
        parse(body[:-1])
    assert gc.isenabled()


def test_the_collector_wakes_when_the_last_reader_is_done() -> None:
    inside, done = threading.Event(), threading.Event()

    def read_slowly() -> None:
        with strict_json._COLLECTOR.paused():
            inside.set()
            done.wait(10)

    other = threading.Thread(target=read_slowly)
    other.start()
    inside.wait(10)
    parse(b"[" + b"[]," * 9_000 + b"1]")
    assert not gc.isenabled()
    done.set()
    other.join()
    assert gc.isenabled()
