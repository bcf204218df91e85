from __future__ import annotations

import hashlib
import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from netscript_workers.payloads import PayloadModel


class Order(BaseModel):
    order_id: str
    trace: str = Field(default_factory=lambda: uuid.uuid4().hex)


ORDER = PayloadModel[Order](Order, 'job "order"')
FREE = PayloadModel[dict[str, Any]](dict, 'job "free"')


def by_the_contract(value: Any) -> str:
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()


def print_of(payload: Any, model: PayloadModel[Any] = FREE) -> str:
    return model.store(payload)[1]


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.booleans())))
def test_a_fingerprint_is_the_sha_256_of_the_sorted_json(payload: dict[str, Any]) -> None:
    assert print_of(payload) == by_the_contract(payload)


def test_the_order_of_keys_does_not_matter() -> None:
    assert print_of({"a": 1, "b": {"c": 2, "d": 3}}) == print_of({"b": {"d": 3, "c": 2}, "a": 1})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"a": "1"}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": 1}, {"a": True}),
        ({"a": None}, {}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": "\0"}, {"a": ""}),
        ({"a": "\ud800"}, {"a": "\ud801"}),
    ],
)
def test_payloads_that_differ_have_different_fingerprints(one: Any, other: Any) -> None:
    assert print_of(one) != print_of(other)


def test_a_mapping_is_told_as_it_was_given_not_as_the_model_reads_it() -> None:
    assert print_of({"order_id": "1"}, ORDER) == by_the_contract({"order_id": "1"})
    assert print_of({"order_id": "1", "more": 1}, ORDER) == by_the_contract(
        {"order_id": "1", "more": 1}
    )


@pytest.mark.trap("D-94")
def test_a_default_that_is_made_anew_each_time_is_no_difference() -> None:
    one, other = Order(order_id="1"), Order(order_id="1")

    assert one.trace != other.trace
    assert print_of(one, ORDER) == print_of(other, ORDER) == by_the_contract({"order_id": "1"})


def test_an_instance_and_the_mapping_of_what_was_set_are_the_same_payload() -> None:
    assert print_of(Order(order_id="1"), ORDER) == print_of({"order_id": "1"}, ORDER)


def test_the_default_of_an_instance_is_stored_all_the_same() -> None:
    order = Order(order_id="1")

    assert ORDER.restore(ORDER.store(order)[0]) == order


def test_a_field_that_was_set_to_its_default_counts() -> None:
    assert print_of(Order(order_id="1", trace="t"), ORDER) == by_the_contract(
        {"order_id": "1", "trace": "t"}
    )


def test_nothing_given_is_the_fingerprint_of_an_empty_object() -> None:
    assert print_of(None) == print_of({}) == hashlib.sha256(b"{}").hexdigest()
