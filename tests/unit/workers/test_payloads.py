from __future__ import annotations

import json
from collections import UserDict
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NotRequired, Required, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, PositiveInt, field_validator

from netscript_workers.errors import (
    ConfigurationError,
    PayloadInvalidError,
    PayloadTooLargeError,
)
from netscript_workers.payloads import (
    MAX_JSON_BYTES,
    PayloadModel,
    TooLongError,
    to_json,
    to_stored_json,
)


class Payment(BaseModel):
    order_id: str
    amount_cents: PositiveInt
    note: str | None = None


@dataclass
class Point:
    x: int
    y: int = 0


class Options(TypedDict, total=False):
    depth: int
    name: Required[str]


class Nested(TypedDict):
    options: Options
    note: NotRequired[str]


class Anything(BaseModel):
    value: Any = None


class Measured(BaseModel):
    value: float


class Picky(BaseModel):
    value: int

    @field_validator("value")
    @classmethod
    def _lookup(cls, value: int) -> int:
        return {1: 1}[value]


PAYMENT = PayloadModel[Payment](Payment, 'job "pay"')
FREE = PayloadModel[dict[str, Any]](dict, 'job "free"')
GOOD = {"order_id": "o1", "amount_cents": 5}

JSON_OBJECTS = st.dictionaries(
    st.text(st.characters(exclude_categories=())),
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=()))
    | st.lists(st.integers()),
)


def stored(model: PayloadModel[Any], payload: Any) -> Any:
    return json.loads(model.store(payload)[0])


@given(JSON_OBJECTS)
def test_any_json_object_is_restored_as_it_was_given(payload: dict[str, Any]) -> None:
    text, _ = FREE.store(payload)

    assert text.isascii()
    assert "\0" not in text
    assert FREE.restore(text) == payload


def test_json_is_stored_with_sorted_keys_and_no_blanks() -> None:
    assert FREE.store({"b": [1, 2], "a": "é"})[0] == '{"a":"\\u00e9","b":[1,2]}'


def test_nul_and_lone_surrogates_are_kept() -> None:
    payload = {"a": "x\0y", "b": "\ud800", "\udc00": 1}

    assert FREE.restore(FREE.store(payload)[0]) == payload


def test_lone_surrogates_are_kept_through_a_model() -> None:
    payload = {"order_id": "\ud800\0", "amount_cents": 1}

    assert PAYMENT.restore(PAYMENT.store(payload)[0]).order_id == "\ud800\0"


def test_nothing_given_is_an_empty_object() -> None:
    assert FREE.store(None)[0] == "{}"


def test_a_mapping_is_stored_as_it_was_given_and_restored_as_the_model() -> None:
    text, _ = PAYMENT.store({"order_id": "o1", "amount_cents": "5"})

    assert json.loads(text) == {"order_id": "o1", "amount_cents": "5"}
    assert PAYMENT.restore(text) == Payment(order_id="o1", amount_cents=5)


def test_an_instance_of_the_model_is_stored_with_its_defaults() -> None:
    assert stored(PAYMENT, Payment.model_validate(GOOD)) == {**GOOD, "note": None}


@pytest.mark.parametrize("mapping", [MappingProxyType(GOOD), UserDict(GOOD)])
def test_any_mapping_is_as_good_as_a_dict(mapping: Any) -> None:
    assert stored(PAYMENT, mapping) == GOOD
    assert stored(FREE, {"inner": mapping}) == {"inner": GOOD}


def test_a_dataclass_is_stored_and_restored() -> None:
    model = PayloadModel[Point](Point, 'job "p"')

    assert stored(model, Point(1)) == {"x": 1, "y": 0}
    assert model.restore(model.store({"x": 1})[0]) == Point(1, 0)


def test_a_typed_dict_is_validated() -> None:
    model = PayloadModel[Options](Options, 'job "o"')

    assert model.restore(model.store({"name": "a"})[0]) == {"name": "a"}
    with pytest.raises(PayloadInvalidError, match="depth"):
        model.store({"name": "a", "depth": "deep"})
    with pytest.raises(PayloadInvalidError, match="name"):
        model.store({"depth": 1})


def test_a_typed_dict_within_a_typed_dict_is_validated() -> None:
    model = PayloadModel[Nested](Nested, 'job "n"')

    assert stored(model, {"options": {"name": "a"}}) == {"options": {"name": "a"}}
    with pytest.raises(PayloadInvalidError, match=r"options\.depth"):
        model.store({"options": {"name": "a", "depth": "deep"}})


def test_values_that_json_has_no_word_for_are_written_as_text() -> None:
    given_ = {"at": datetime(2026, 1, 1, tzinfo=UTC), "sum": Decimal("1.10"), "raw": b"x"}

    assert stored(FREE, given_) == {"at": "2026-01-01T00:00:00Z", "sum": "1.10", "raw": "x"}


def test_aliases_are_the_names_that_callers_send() -> None:
    class Order(BaseModel):
        order_id: str = Field(alias="orderId")

    model = PayloadModel[Order](Order, 'job "o"')

    assert stored(model, Order(orderId="1")) == {"orderId": "1"}
    assert model.restore(model.store({"orderId": "1"})[0]).order_id == "1"


@pytest.mark.parametrize("payload", [[], [1], "text", 5, True, b"{}", Payment, object()])
def test_a_payload_that_is_no_object_is_refused(payload: Any) -> None:
    with pytest.raises(PayloadInvalidError, match="must be a JSON object"):
        FREE.store(payload)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_does_not_have_are_refused(value: float) -> None:
    with pytest.raises(PayloadInvalidError):
        FREE.store({"a": value})
    with pytest.raises(PayloadInvalidError):
        PayloadModel(Measured, "j").store(Measured(value=value))


def test_a_value_that_cannot_be_json_is_refused_by_whatever_way_it_comes() -> None:
    class Limit:
        """Its name once made a refusal look like one for size."""

    for payload in ({"a": Limit()}, Anything(value=Limit()), {1: 2, "b": {Limit(): 1}}):
        with pytest.raises(PayloadInvalidError):
            PayloadModel(Anything if isinstance(payload, Anything) else dict, "j").store(payload)


def test_endless_nesting_is_refused() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    circle: dict[str, Any] = {}
    circle["self"] = circle

    for payload in ({"a": nested}, circle):
        with pytest.raises(PayloadInvalidError):
            FREE.store(payload)


def test_the_limit_is_one_mebibyte_of_json() -> None:
    room = MAX_JSON_BYTES - len('{"a":""}')

    FREE.store({"a": "x" * room})
    with pytest.raises(PayloadTooLargeError, match="1,048,576"):
        FREE.store({"a": "x" * (room + 1)})


def test_what_a_model_refuses_is_told_field_by_field_without_the_values() -> None:
    with pytest.raises(PayloadInvalidError) as refusal:
        PAYMENT.store({"order_id": 5, "amount_cents": -123456})

    told = str(refusal.value)
    assert 'job "pay"' in told
    assert "order_id" in told
    assert "amount_cents" in told
    assert "123456" not in told
    assert [fault["loc"] for fault in refusal.value.details] == [["order_id"], ["amount_cents"]]
    assert "123456" not in json.dumps(refusal.value.details)


def test_many_faults_are_told_in_short_and_kept_in_full() -> None:
    model = PayloadModel[dict[str, int]](dict[str, int], 'job "m"')

    with pytest.raises(PayloadInvalidError, match=r"\(and 15 more\)") as refusal:
        model.store({str(number): "x" for number in range(20)})

    assert len(refusal.value.details) == 20


def test_a_validator_that_breaks_refuses_the_payload_without_telling_the_value() -> None:
    model = PayloadModel[Picky](Picky, 'job "p"')

    for use in (lambda: model.store({"value": 99}), lambda: model.restore('{"value":99}')):
        with pytest.raises(PayloadInvalidError, match="KeyError") as refusal:
            use()
        assert "99" not in str(refusal.value)


def test_a_stored_payload_that_fits_no_more_is_refused() -> None:
    with pytest.raises(PayloadInvalidError, match="amount_cents"):
        PAYMENT.restore('{"order_id":"o1"}')


def test_a_type_that_cannot_be_validated_is_refused_with_what_can() -> None:
    class Plain:
        pass

    for declared in (Plain, 5):
        with pytest.raises(ConfigurationError, match="Use a Pydantic model, a dataclass"):
            PayloadModel(declared, 'job "p"')


def test_the_schema_is_what_callers_must_send() -> None:
    schema = PAYMENT.json_schema()

    assert schema["required"] == ["order_id", "amount_cents"]
    assert FREE.json_schema()["type"] == "object"


@pytest.mark.parametrize("value", [1, "a", None, [1], {"a": 1}])
def test_any_json_value_can_be_a_result(value: Any) -> None:
    assert json.loads(to_stored_json(value)) == value


def test_a_model_within_a_result_is_written_by_its_aliases() -> None:
    class Out(BaseModel):
        total: int = Field(serialization_alias="sum")

    assert to_stored_json([Out(total=1)]) == '[{"sum":1}]'


def test_a_result_beyond_its_limit_says_both_numbers() -> None:
    with pytest.raises(TooLongError, match="12 bytes of JSON; the limit is 5"):
        to_stored_json("x" * 10, limit=5)


def test_plain_json_refuses_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"a": float("nan")})
