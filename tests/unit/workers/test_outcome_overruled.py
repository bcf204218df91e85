"""What is stored for an attempt that was made to end, and told of an end of its own."""

from __future__ import annotations

from typing import Any

import pytest

from netscript_workers import JobContext, Retry, define_job_handler
from netscript_workers.domain import Reason, Verdict
from netscript_workers.execution.outcome import (
    Cancelled,
    Drained,
    Ending,
    Raised,
    Returned,
    Snoozed,
    TimedOut,
    conclude,
    overruled,
)
from tests.unit.fakes import claim_of

ENDED = RuntimeError("what it had started was told to end")


def _work(ctx: JobContext[Any]) -> None:
    raise AssertionError("only its end matters here")


@pytest.mark.parametrize(
    ("ending", "told", "verdict", "reason"),
    [
        (Cancelled(), Raised(ENDED), Verdict.CANCEL, Reason.CANCELLED),
        (Cancelled(), Returned(None), Verdict.CANCEL, Reason.CANCELLED),
        (Cancelled(), Snoozed(5), Verdict.CANCEL, Reason.CANCELLED),
        (Drained(), Raised(ENDED), Verdict.RELEASE, Reason.DRAINED),
        (Drained(), Returned(None), Verdict.COMPLETE, None),
        (Drained(), Snoozed(5), Verdict.SNOOZE, Reason.SNOOZE),
        (TimedOut(3), Raised(ENDED), Verdict.RETRY, Reason.RETRY),
        (TimedOut(3), Returned(None), Verdict.COMPLETE, None),
    ],
)
def test_what_fails_while_it_is_made_to_end_has_ended_as_it_was_made_to(
    ending: Ending, told: Ending, verdict: Verdict, reason: Reason | None
) -> None:
    job, claim = define_job_handler(_work, id="work", retry=Retry()), claim_of("work")
    found = overruled(job, claim, ending, conclude(job, claim, told))
    assert (found.verdict, found.reason) == (verdict, reason)
    if found.verdict is Verdict.RETRY:
        assert (found.failure, found.error) == (Reason.TIMEOUT, "It took longer than 3 s.")


def test_the_last_attempt_is_not_an_error_either_if_it_was_made_to_end() -> None:
    job = define_job_handler(_work, id="work", retry=Retry())
    claim = claim_of("work")._replace(attempt=5, max_attempts=5)
    told = conclude(job, claim, Raised(ENDED))
    assert told.verdict is Verdict.FAIL
    assert overruled(job, claim, Drained(), told).verdict is Verdict.RELEASE
    refused = conclude(job, claim, Returned(object()))
    assert overruled(job, claim, Drained(), refused) == refused
