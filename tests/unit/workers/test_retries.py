from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netscript_workers import Retry
from netscript_workers.errors import ConfigurationError

BOOM = ValueError("boom")


def waits(policy: Retry, attempts: int) -> list[float]:
    return [policy.delay(failures, BOOM) for failures in range(1, attempts + 1)]


def test_the_exponential_backoff_doubles_up_to_the_cap() -> None:
    policy = Retry(initial_delay=1.0, max_delay=10.0, jitter=False)

    assert waits(policy, 6) == [1, 2, 4, 8, 10, 10]


def test_the_multiplier_shapes_the_exponential_backoff() -> None:
    assert waits(Retry(initial_delay=2, multiplier=3, jitter=False), 3) == [2, 6, 18]


def test_the_linear_backoff_grows_by_the_initial_delay() -> None:
    policy = Retry(backoff="linear", initial_delay=5, max_delay=12, jitter=False)

    assert waits(policy, 4) == [5, 10, 12, 12]


def test_the_constant_backoff_stays() -> None:
    assert waits(Retry(backoff="constant", initial_delay=7, jitter=False), 3) == [7, 7, 7]


@pytest.mark.parametrize("backoff", ["exponential", "linear", "constant"])
def test_jitter_spreads_between_half_and_all_of_the_wait(backoff: Any) -> None:
    spread = Retry(backoff=backoff, initial_delay=10, max_delay=60)
    exact = Retry(backoff=backoff, initial_delay=10, max_delay=60, jitter=False)

    for failures in range(1, 6):
        full = exact.delay(failures, BOOM)
        seen = [spread.delay(failures, BOOM) for _ in range(200)]
        assert all(full / 2 <= wait <= full for wait in seen)
        assert max(seen) - min(seen) > full / 4


@given(
    st.integers(1, 10_000),
    st.floats(0, 1e300),
    st.floats(0, 1e300),
    st.floats(0, 1e300),
    st.sampled_from(["exponential", "linear", "constant"]),
)
def test_a_wait_is_never_negative_nor_longer_than_the_cap(
    failures: int, initial: float, cap: float, multiplier: float, backoff: Any
) -> None:
    policy = Retry(backoff=backoff, initial_delay=initial, max_delay=cap, multiplier=multiplier)

    assert 0 <= policy.delay(failures, BOOM) <= cap


def test_a_growth_beyond_all_numbers_is_the_cap() -> None:
    assert Retry(multiplier=1e10, jitter=False).delay(1_000, BOOM) == 300


def test_no_initial_delay_is_no_wait_however_often_it_failed() -> None:
    assert Retry(initial_delay=0, multiplier=1e10).delay(1_000, BOOM) == 0


def test_a_callable_backoff_gets_the_failures_and_the_error_and_is_left_as_it_is() -> None:
    seen: list[tuple[int, BaseException]] = []

    def backoff(attempt: int, error: BaseException) -> float:
        seen.append((attempt, error))
        return 1_000.0

    assert Retry(backoff=backoff, max_delay=1).delay(4, BOOM) == 1_000.0
    assert seen == [(4, BOOM)]


@pytest.mark.parametrize("answer", [math.nan, math.inf, -math.inf])
def test_a_callable_backoff_that_answers_no_number_waits_for_the_cap(answer: float) -> None:
    assert Retry(backoff=lambda _attempt, _error: answer, max_delay=9).delay(1, BOOM) == 9


def test_a_callable_backoff_that_answers_less_than_zero_waits_not_at_all() -> None:
    assert Retry(backoff=lambda _attempt, _error: -5.0).delay(1, BOOM) == 0


def test_a_callable_backoff_cannot_wait_for_more_than_a_year() -> None:
    assert Retry(backoff=lambda _attempt, _error: 1e18).delay(1, BOOM) == 366 * 24 * 3600


def test_attempts_run_out() -> None:
    policy = Retry(max_attempts=3)

    assert [policy.allows(BOOM, failures) for failures in (1, 2, 3, 4)] == [
        True,
        True,
        False,
        False,
    ]


def test_one_attempt_is_no_retry() -> None:
    assert not Retry(max_attempts=1).allows(BOOM, 1)


def test_the_executions_own_limit_wins() -> None:
    assert Retry(max_attempts=1).allows(BOOM, 4, max_attempts=5)
    assert not Retry(max_attempts=9).allows(BOOM, 5, max_attempts=5)


def test_only_the_errors_named_are_retried() -> None:
    policy = Retry(on=(ConnectionError, TimeoutError))

    assert policy.allows(ConnectionResetError(), 1)
    assert policy.allows(TimeoutError(), 1)
    assert not policy.allows(BOOM, 1)


def test_errors_to_give_up_on_win_over_those_to_retry_on() -> None:
    policy = Retry(on=(OSError,), give_up_on=(ConnectionError,))

    assert policy.allows(OSError(), 1)
    assert not policy.allows(ConnectionError(), 1)


def test_a_single_class_stands_for_a_tuple_of_one() -> None:
    policy = Retry(on=ConnectionError, give_up_on=ConnectionResetError)

    assert policy == Retry(on=(ConnectionError,), give_up_on=(ConnectionResetError,))
    assert policy.allows(ConnectionError(), 1)
    assert not policy.allows(ConnectionResetError(), 1)
    assert not policy.allows(BOOM, 1)


def test_a_list_of_classes_is_taken_too() -> None:
    listed: Any = [ValueError]

    assert Retry(on=listed).allows(BOOM, 1)
    assert not Retry(give_up_on=listed).allows(BOOM, 1)


def test_a_returned_failure_is_retried_whatever_errors_are_named() -> None:
    assert Retry(on=(ConnectionError,)).allows(None, 1)
    assert not Retry().allows(None, 3)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_attempts": 0}, "max_attempts=0"),
        ({"max_attempts": True}, "max_attempts=True"),
        ({"max_attempts": 2.5}, "max_attempts=2.5"),
        ({"max_attempts": "3"}, "max_attempts='3'"),
        ({"backoff": "quadratic"}, "exponential"),
        ({"backoff": None}, "exponential"),
        ({"initial_delay": -1}, "initial_delay=-1"),
        ({"initial_delay": "1"}, "initial_delay='1'"),
        ({"max_delay": math.inf}, "max_delay=inf"),
        ({"max_delay": math.nan}, "max_delay=nan"),
        ({"multiplier": -2}, "multiplier=-2"),
        ({"multiplier": True}, "multiplier=True"),
        ({"on": ("ValueError",)}, "on="),
        ({"on": "ValueError"}, "on="),
        ({"on": 5}, "on=5"),
        ({"on": (BOOM,)}, "on="),
        ({"give_up_on": (int,)}, "give_up_on="),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        Retry(**options)

    assert told in str(refusal.value)


def test_policies_are_frozen_and_equal_by_value() -> None:
    assert Retry() == Retry()
    with pytest.raises(AttributeError):
        Retry().max_attempts = 5  # type: ignore[misc]
