from __future__ import annotations

import dataclasses

import pytest

from netscript_workers import create_failure_result, create_success_result, enqueue_job


def test_a_success_keeps_data_and_actions() -> None:
    action = enqueue_job("next")
    result = create_success_result({"a": 1}, actions=[action])

    assert result.success
    assert result.data == {"a": 1}
    assert result.actions == (action,)
    assert result.error is None


def test_a_success_needs_nothing() -> None:
    result = create_success_result()

    assert result.success
    assert result.data is None
    assert result.actions == ()


def test_actions_may_come_from_a_generator() -> None:
    result = create_success_result(actions=(enqueue_job(name) for name in "ab"))

    assert result.actions == (enqueue_job("a"), enqueue_job("b"))


def test_a_failure_keeps_its_error_and_data_and_may_be_retried() -> None:
    result = create_failure_result("declined", {"code": 5})

    assert not result.success
    assert result.error == "declined"
    assert result.data == {"code": 5}
    assert result.retry


def test_a_failure_can_be_final() -> None:
    assert not create_failure_result("declined", retry=False).retry


def test_a_result_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        create_success_result().success = False  # type: ignore[misc]
