from __future__ import annotations

import pickle

import pytest

from netscript_workers import Snooze, errors
from netscript_workers.errors import (
    ConfigurationError,
    DuplicateStepError,
    ExecutionNotFoundError,
    IdempotencyConflictError,
    JobNotFoundError,
    NetscriptError,
    PayloadInvalidError,
    StoreBusyError,
    StoreUnavailableError,
    VerificationError,
    describe,
    nearest,
)

ALL = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, NetscriptError)
]


def test_every_error_has_a_code_of_its_own_and_words() -> None:
    public = [error for error in ALL if not error.__name__.startswith("_")]
    codes = [error.code for error in public]

    assert len(set(codes)) == len(codes)
    assert all(error.__doc__ for error in public)


def test_an_error_without_a_message_says_the_first_line_of_its_docstring() -> None:
    assert str(StoreBusyError()) == "SQLite is locked by another writer."


def test_the_hint_follows_the_message() -> None:
    error = ConfigurationError("The port is taken.", hint="Use another one.")

    assert error.message == "The port is taken."
    assert str(error) == "The port is taken. Use another one."


def test_errors_are_also_the_builtin_kind_that_a_caller_would_catch() -> None:
    assert issubclass(ConfigurationError, ValueError)
    assert issubclass(PayloadInvalidError, ValueError)
    assert issubclass(JobNotFoundError, LookupError)
    assert issubclass(ExecutionNotFoundError, LookupError)


def test_only_a_store_that_is_down_is_worth_a_retry() -> None:
    retryable = {error for error in ALL if error.retryable}

    assert retryable == {StoreUnavailableError, StoreBusyError}


def test_an_unknown_job_names_the_nearest_one() -> None:
    error = JobNotFoundError("proces-payment", ["send-mail", "process-payment"])

    assert error.nearest == "process-payment"
    assert str(error) == 'There is no job "proces-payment". Did you mean "process-payment"?'


def test_an_unknown_job_far_from_all_others_names_none() -> None:
    error = JobNotFoundError("zzz", ["process-payment"])

    assert error.nearest is None
    assert str(error) == 'There is no job "zzz".'


def test_an_unknown_name_of_any_length_makes_a_short_message() -> None:
    assert len(str(JobNotFoundError("x" * 100_000))) < 300


def test_a_conflict_names_the_execution_that_came_first() -> None:
    error = IdempotencyConflictError("pay", "order-1", "0190-id")

    assert error.execution_id == "0190-id"
    assert '"pay"' in str(error)
    assert '"order-1"' in str(error)
    assert "0190-id" in str(error)


def test_a_verification_error_keeps_the_reason_for_logs() -> None:
    assert VerificationError("signature-mismatch").reason == "signature-mismatch"


def test_details_of_a_refused_payload_are_kept() -> None:
    fault = {"loc": ["a"], "msg": "no", "type": "missing"}

    assert PayloadInvalidError("no", details=(fault,)).details == (fault,)


@pytest.mark.parametrize("seconds", [-1, -0.001, float("nan"), float("inf")])
def test_a_snooze_refuses_what_is_no_wait(seconds: float) -> None:
    with pytest.raises(ValueError, match="zero or more seconds"):
        Snooze(seconds)


def test_a_snooze_keeps_its_seconds() -> None:
    assert Snooze(2).seconds == 2.0
    assert Snooze(0).seconds == 0.0


def test_a_snooze_is_no_error_of_netscript() -> None:
    assert not issubclass(Snooze, NetscriptError)


def test_the_nearest_name_is_none_without_names() -> None:
    assert nearest("a", []) is None


def test_describe_names_class_and_message() -> None:
    assert describe(ValueError("no")) == "ValueError: no"
    assert describe(ValueError()) == "ValueError"


def test_describe_copes_with_an_error_that_cannot_be_printed() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    class Leaves(Exception):
        def __str__(self) -> str:
            raise SystemExit(3)

    assert describe(Broken()) == "Broken"
    assert describe(Leaves()) == "Leaves"


def test_plain_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(DuplicateStepError("twice")))

    assert isinstance(error, DuplicateStepError)
    assert error.message == "twice"
