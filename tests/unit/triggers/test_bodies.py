"""What a body is read as: JSON, forms, raw bytes and CloudEvents, with and without compression."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from netscript_triggers import WebhookDefinition, WebhookEvent, define_webhook
from netscript_triggers.cloudevents import permission
from netscript_triggers.events import CloudEvent
from netscript_triggers.keys import key_of
from netscript_triggers.media import PARSES, Parse, UnsupportedError, check_media
from netscript_triggers.payloads import read_payload
from netscript_triggers.testing import fire, signed_request
from netscript_triggers.verifiers import RawRequest, Verified
from netscript_workers import PayloadInvalidError
from netscript_workers.strict_json import MalformedError

EVENT = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "paid", "data": {"cents": 5}}


class Paid(BaseModel):
    cents: int
    tags: list[str] = []


def nothing(event: WebhookEvent) -> None: ...


def hook(**options: Any) -> WebhookDefinition[Any]:
    known: dict[str, Any] = {"id": "w", "path": "/w", "verifier": "memory"}
    return define_webhook(nothing, **{**known, **options})


def read(parse: Parse, body: bytes, headers: dict[str, str] | None = None, **more: Any) -> Any:
    return read_payload(hook(parse=parse, **more), body, headers or {})[0]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", {}),
        (b"a=1&b=x+y%21", {"a": "1", "b": "x y!"}),
        (b"a=1&a=2&b=", {"a": ["1", "2"], "b": ""}),
        ("a=é".encode(), {"a": "é"}),
        (b"a=%C3%A9%00", {"a": "é\0"}),
        (b"payload=%7B%22a%22%3A1%7D", {"a": 1}),
        (b"payload=text", {"payload": "text"}),
        (b"payload=%7B%7D&b=1", {"payload": "{}", "b": "1"}),
    ],
)
def test_a_form_is_its_fields_or_the_json_it_carries(body: bytes, expected: Any) -> None:
    assert read("form", body) == expected


@pytest.mark.parametrize(
    "body", [b"a=%ff", b"\xff", b"a&" * 10_001, b"payload=%7B", b'payload={"a":1,"a":2}']
)
def test_a_form_that_can_not_be_read_is_refused(body: bytes) -> None:
    with pytest.raises(PayloadInvalidError):
        read("form", body)


def test_a_models_lists_are_lists_also_where_a_field_is_there_once() -> None:
    assert read("form", b"cents=5&tags=a", model=Paid) == Paid(cents=5, tags=["a"])
    assert read("form", b"cents=5&tags=a&tags=b", model=Paid) == Paid(cents=5, tags=["a", "b"])
    with pytest.raises(PayloadInvalidError, match="cents"):
        read("form", b"cents=1&cents=2", model=Paid)


def test_a_raw_body_is_its_bytes() -> None:
    assert read("raw", b"<a>\xff\0</a>") == b"<a>\xff\0</a>"


@pytest.mark.parametrize("parse", ["json", "cloudevents"])
def test_a_body_that_its_verifier_has_read_is_not_read_again(parse: Parse) -> None:
    body, headers = structured() if parse == "cloudevents" else (b'{"data":{"cents":5}}', {})
    request = RawRequest("POST", "/w", [], body)
    payload, _ = read_payload(hook(parse=parse), body, headers, request)
    assert payload == {"cents": 5} if parse == "cloudevents" else {"data": {"cents": 5}}
    known = request.json()["data"]
    assert known is (payload if parse == "cloudevents" else payload["data"])
    packed = gzip.compress(b'{"cents":6}')
    unpacked = RawRequest("POST", "/w", [], packed)
    how = hook(decompress=True)
    assert read_payload(how, packed, {"content-encoding": "gzip"}, unpacked)[0] == {"cents": 6}


def test_what_can_not_be_read_is_refused_each_time() -> None:
    request = RawRequest("POST", "/w", [], b'{"a":1,"a":2}')
    for _ in range(2):
        with pytest.raises(MalformedError, match="twice"):
            request.json()


def structured(**changes: Any) -> tuple[bytes, dict[str, str]]:
    whole = {name: value for name, value in {**EVENT, **changes}.items() if value is not ...}
    return json.dumps(whole).encode(), {"content-type": "application/cloudevents+json"}


def test_a_structured_event_has_data_and_attributes() -> None:
    body, headers = structured(subject="o-1", region="eu")
    payload, about = read_payload(hook(parse="cloudevents", model=Paid), body, headers)
    assert payload == Paid(cents=5)
    assert about == CloudEvent(
        id="1", source="/shop", type="paid", structured=True, subject="o-1",
        extensions={"region": "eu"},
    )  # fmt: skip
    encoded = base64.b64encode(b"\xff").decode()
    assert read("cloudevents", *structured(data=..., data_base64=encoded)) == b"\xff"
    assert read("cloudevents", *structured(data=...)) is None


def test_a_binary_event_has_its_attributes_in_headers() -> None:
    headers = {
        "ce-specversion": "1.0",
        "ce-id": "%C3%A9",
        "ce-source": "/shop",
        "ce-type": "paid",
        "content-type": "application/json",
    }
    payload, about = read_payload(hook(parse="cloudevents"), b'{"cents":5}', headers)
    assert payload == {"cents": 5}
    assert about is not None
    assert (about.id, about.structured, about.datacontenttype) == ("é", False, "application/json")
    assert read("cloudevents", b"\xff", {**headers, "content-type": "image/png"}) == b"\xff"
    for bad in ({"ce-datacontenttype": "text/plain"}, {"ce-id": "%ff"}, {"ce-a-b": "x"}):
        with pytest.raises(PayloadInvalidError):
            read("cloudevents", b"{}", {**headers, **bad})
    with pytest.raises(PayloadInvalidError, match="no CloudEvent"):
        read("cloudevents", b"{}", {"content-type": "application/json"})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"specversion": ...}, "specversion"),
        ({"id": ...}, "no id"),
        ({"id": ""}, "id must be text"),
        ({"source": 5}, "source must be text"),
        ({"source": "a b"}, "URI reference"),
        ({"source": "a\nb"}, "URI reference"),
        ({"type": None}, "no type"),
        ({"Bad": "x"}, "a-z and 0-9"),
        ({"more": {"a": 1}}, "more must be"),
        ({"more": "x" * 3000}, "too long"),
        ({"data_base64": "eA=="}, "not both"),
        ({"data": ..., "data_base64": "?"}, "no base64"),
    ],
)
def test_what_is_no_cloudevent_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(PayloadInvalidError, match=told):
        read("cloudevents", *structured(**changes))


def test_source_and_id_are_a_signed_key_only_in_a_signed_body() -> None:
    trigger, body = hook(parse="cloudevents"), b"{}"
    inside = CloudEvent(id="1", source="/s", type="t", structured=True)
    outside = CloudEvent(id="1", source="/s", type="t", structured=False)
    stamped, elsewhere = Verified(signed=b"1." + body), Verified(signed=b"")
    assert key_of(trigger, stamped, body, "d", about=inside) == "/s 1"
    assert key_of(trigger, elsewhere, body, "d", about=inside) == "/s 1:d"
    assert key_of(trigger, stamped, body, "d", about=outside) == "/s 1:d"


def test_what_one_tenant_sends_is_no_other_ones() -> None:
    trigger, same = hook(), Verified(signed=b"x", delivery_id="1", id_signed=True)
    keys = {key_of(trigger, same, b"x", "d", path=path) for path in ("/w/a", "/w/b", None)}
    assert keys == {"/w/a 1", "/w/b 1", "1"}
    assert len(key_of(trigger, same, b"x", "d", path="/w/" + "a" * 900) or "") == 64


@pytest.mark.parametrize(
    ("origin", "rate", "expected"),
    [
        (b"events.example.com", None, (b"events.example.com", b"*")),
        (b"a", 60, (b"a", b"60")),
        (b"a\r\nx: y", None, None),
        (b"<script>", None, None),
        (b"a" * 254, None, None),
        (b"", None, None),
    ],
)
def test_leave_is_given_to_whoever_has_a_name(
    origin: bytes, rate: int | None, expected: tuple[bytes, bytes] | None
) -> None:
    answer = dict(permission({b"webhook-request-origin": origin}, rate))
    names = (b"webhook-allowed-origin", b"webhook-allowed-rate")
    assert answer == ({} if expected is None else dict(zip(names, expected, strict=True)))


@pytest.mark.parametrize(
    ("parse", "kind", "taken"),
    [
        ("json", "application/json", True),
        ("json", "application/vnd.x+json; Charset=UTF-8", True),
        ("json", "", True),
        ("json", "application/jsonp", False),
        ("json", "application/json; charset=utf-16", False),
        ("json", "application/x-www-form-urlencoded", False),
        ("json", "application/json;" + "x" * 300, False),
        ("form", "application/x-www-form-urlencoded; charset=utf-8", True),
        ("form", "multipart/form-data; boundary=x", False),
        ("form", "application/json", False),
        ("raw", "text/xml; charset=latin-1", True),
        ("cloudevents", "application/cloudevents+json", True),
        ("cloudevents", "application/cloudevents-batch+json", False),
        ("cloudevents", "application/cloudevents+xml", False),
        ("cloudevents", "image/png", True),
    ],
)
def test_each_way_of_reading_has_its_media_types(parse: Parse, kind: str, taken: bool) -> None:
    headers = [(b"content-type", kind.encode())]
    refused = contextlib.nullcontext() if taken else pytest.raises(UnsupportedError)
    with refused:
        check_media(headers, parse)


def test_a_compressed_body_is_read_as_far_as_the_limit() -> None:
    headers = {"content-encoding": "gzip"}
    assert read("json", gzip.compress(b"[1]"), headers, decompress=True) == [1]
    with pytest.raises(PayloadInvalidError, match="may have 100 bytes"):
        read("json", gzip.compress(b"[1]" + b" " * 10**7), headers, decompress=True, max_body=100)
    for bad in (gzip.compress(b"[1]") + b"x", gzip.compress(b"[1]")[:-1], b"[1]", b""):
        with pytest.raises(PayloadInvalidError):
            read("json", bad, headers, decompress=True)


def test_a_model_that_breaks_is_told_as_a_bad_payload() -> None:
    class Odd(BaseModel):
        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
            from pydantic_core import core_schema

            return core_schema.no_info_plain_validator_function(lambda value: value["geheim"])

    with pytest.raises(PayloadInvalidError, match="could not be read"):
        read("json", b"{}", model=Odd)


async def test_a_trigger_is_tried_and_signed_the_way_it_reads() -> None:
    seen: list[WebhookEvent] = []
    tenants = define_webhook(
        seen.append, id="w", path="/w/{tenant}", verifier="hmac-sha256", parse="form",
        secret_env=lambda request: f"SECRET_{request.path_params['tenant']}",
    )  # fmt: skip
    await fire(tenants, {"a": ["1", "2"]}, path_params={"tenant": "x"})
    assert (seen[0].payload, seen[0].path_params) == ({"a": ["1", "2"]}, {"tenant": "x"})
    made = signed_request(tenants, {"a": "ä"}, secret="s", path_params={"tenant": "ä b"})
    assert (made.path, made.body) == ("/w/%C3%A4%20b", b"a=%C3%A4")
    assert made.headers["Content-Type"] == "application/x-www-form-urlencoded"
    events = define_webhook(seen.append, id="e", path="/e", verifier="memory", parse="cloudevents")
    await fire(events, EVENT)
    assert seen[1].payload == {"cents": 5}
    assert seen[1].cloudevent is not None and seen[1].cloudevent.type == "paid"


HOSTILE = st.binary(max_size=300) | st.from_regex(rb'[\[\]{}":,0-9eE.\\u%&=+ -]{0,200}')
TEXT = st.text(max_size=40)


@settings(max_examples=100, deadline=None)
@given(
    parse=st.sampled_from(PARSES),
    body=HOSTILE,
    headers=st.dictionaries(
        st.sampled_from(
            ["content-type", "content-encoding", "ce-id", "ce-source", "ce-specversion"]
        )
        | TEXT,
        TEXT | st.sampled_from(["1.0", "gzip", "application/cloudevents+json", "application/json"]),
        max_size=6,
    ),
    packed=st.booleans(),
)
@example(parse="json", body=b"[" * 200_000, headers={}, packed=False)
@example(parse="json", body=b"[" + b"{}," * 300_000 + b"{}]", headers={}, packed=False)
@example(parse="json", body=b"[" + b"1.5," * 250_000 + b"1]", headers={}, packed=False)
@example(parse="form", body=b"%" * 1_000_000, headers={}, packed=False)
def test_whatever_comes_is_read_or_refused_soon(
    parse: Parse, body: bytes, headers: dict[str, str], packed: bool
) -> None:
    since = time.thread_time()
    with contextlib.suppress(PayloadInvalidError):
        read_payload(hook(parse=parse, decompress=packed), body, headers)
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    with contextlib.suppress(UnsupportedError):
        check_media(raw, parse, decompress=packed)
    assert time.thread_time() - since < 1.0
