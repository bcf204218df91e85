"""The wire: frames, and what goes through them unchanged."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netscript_workers.actions import PreparedJob
from netscript_workers.domain import NewExecution, Outcome, Reason, TriggeredBy, Verdict
from netscript_workers.errors import (
    JobNotFoundError,
    NetscriptError,
    PayloadInvalidError,
    ResultInvalidError,
)
from netscript_workers.execution.runners import wire
from netscript_workers.execution.runners.wire import Decoder, FrameError, FrameTooLongError
from tests.unit.fakes import claim_of

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(), VALUES), max_size=5), st.integers(1, 9))
def test_messages_arrive_whole_and_in_order_however_they_are_cut(
    messages: list[wire.Message], size: int
) -> None:
    stream = b"".join(map(wire.encode, messages))
    decoder = Decoder()
    found = [
        message
        for start in range(0, len(stream), size)
        for message in decoder.feed(stream[start : start + size])
    ]
    assert found == messages


def test_a_frame_has_a_bounded_size_on_both_ends() -> None:
    with pytest.raises(FrameTooLongError, match=r"It is 1,009 bytes; 1,000 fit between processes"):
        wire.encode({"t": "x" * 1001}, limit=1000)
    with pytest.raises(FrameError, match="1,001 bytes"):
        list(Decoder(limit=1000).feed(struct.pack(">I", 1001)))


@pytest.mark.parametrize("body", [b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(FrameError):
        list(Decoder().feed(struct.pack(">I", len(body)) + body))


def through(message: wire.Message) -> wire.Message:
    (found,) = Decoder().feed(wire.encode(message))
    return found


def test_claims_outcomes_and_prepared_jobs_come_back_as_they_were() -> None:
    claim = claim_of("a", '{"x":"\\ud800"}', concurrency_key="k", traceparent="00-1")
    told = through({"claim": wire.dump_claim(claim)})
    assert wire.load_claim(told["claim"]) == claim
    action = NewExecution(
        id="i", job_id="b", payload="{}", fingerprint="f", triggered_by=TriggeredBy.JOB
    )
    outcome = Outcome(
        execution_id=claim.id,
        token=claim.token,
        verdict=Verdict.RETRY,
        reason=Reason.RETRY,
        failure=Reason.ERROR,
        result="{}",
        error="no",
        detail="Traceback",
        delay=1.5,
        actions=(action,),
    )
    back = wire.load_outcome(claim, through(wire.dump_outcome(outcome)))
    assert back == outcome
    assert isinstance(back.verdict, Verdict)
    assert isinstance(back.actions[0].triggered_by, TriggeredBy)
    job = PreparedJob(
        topic="t", priority=1, max_attempts=2, strict_order=True, payload="{}", fingerprint="f"
    )
    assert wire.load_prepared(through(wire.dump_prepared(job))) == job


def test_an_outcome_speaks_for_its_own_claim_only() -> None:
    claim = claim_of("a")
    told = wire.dump_outcome(Outcome(execution_id="other", token=1, verdict=Verdict.COMPLETE))
    back = wire.load_outcome(claim, told)
    assert (back.execution_id, back.token) == (claim.id, claim.token)


NO_OUTCOMES: list[wire.Message] = [
    {"verdict": "won"},
    {"reason": "x"},
    {"actions": ["a"]},
    {"more": 1},
]


@pytest.mark.parametrize("changes", NO_OUTCOMES)
def test_what_is_no_outcome_is_refused(changes: wire.Message) -> None:
    told = wire.dump_outcome(Outcome(execution_id="i", token=1, verdict=Verdict.COMPLETE))
    with pytest.raises(FrameError):
        wire.load_outcome(claim_of("a"), {**told, **changes})


@pytest.mark.parametrize(
    "error",
    [
        JobNotFoundError("mial", ["mail"]),
        PayloadInvalidError("No.", details=({"loc": ["a"]},)),
        ResultInvalidError(),
    ],
)
def test_an_error_comes_back_with_its_class_and_its_sentence(error: NetscriptError) -> None:
    back = wire.load_error(through(wire.dump_error(error)))
    assert (type(back), str(back), back.hint) == (type(error), str(error), error.hint)


def test_an_error_of_a_class_that_is_unknown_keeps_its_sentence() -> None:
    back = wire.load_error({"class": "nearest", "message": "No.", "hint": None})
    assert (type(back), str(back)) == (NetscriptError, "No.")
