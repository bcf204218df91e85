"""Values that databases, JSON or memory can't take, wherever a user may put them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from netscript_triggers import WebhookEvent, enqueue_job
from netscript_workers import JobContext, Retry, job
from netscript_workers.errors import PayloadError
from netscript_workers.execution.context import MAX_LOG_CHARS
from netscript_workers.execution.outcome import MAX_ERROR_CHARS
from netscript_workers.store.engine import Store
from tests.edge import charge, open_edge, trigger
from tests.working import working

pytestmark = pytest.mark.trap("D-93")

NUL = "a\0b"
LONE = "a\ud800b"
HUGE = "x" * (10 * 1024 * 1024)
DIGITS = 10**299

# Values, and whether they can be stored as JSON.
VALUES = [
    pytest.param(NUL, True, id="nul"),
    pytest.param(LONE, True, id="lone-surrogate"),
    pytest.param(float("nan"), False, id="nan"),
    pytest.param(HUGE, False, id="10-MiB"),
    pytest.param(DIGITS, True, id="300-digits"),
]
TEXTS = [
    pytest.param(NUL, id="nul"),
    pytest.param(LONE, id="lone-surrogate"),
    pytest.param(HUGE, id="10-MiB"),
    pytest.param(str(DIGITS), id="300-digits"),
]


@job(id="good")
async def good(ctx: JobContext[dict[str, Any]]) -> str:
    return "good"


@pytest.mark.parametrize(("value", "fits"), VALUES)
async def test_a_result_is_kept_or_refused_with_a_reason_and_its_neighbours_are_stored(
    store: Store, value: Any, fits: bool
) -> None:
    gate = asyncio.Event()

    @job(id="odd", retry=Retry(max_attempts=1))
    async def odd(ctx: JobContext[dict[str, Any]]) -> Any:
        await gate.wait()
        return {"x": value}

    @job(id="beside")
    async def beside(ctx: JobContext[dict[str, Any]]) -> str:
        await gate.wait()
        return "good"

    async with working(store, odd, beside) as at:
        ids = [at.enqueue(one) for one in (beside, odd, beside, beside)]
        for id_ in ids:
            await at.ended(id_, "running")
        gate.set()  # all of them end in one tick
        told = [(await at.ended(id_)).execution for id_ in ids]
    assert [one.result for one in told if one.job_id == "beside"] == ["good"] * 3
    refused = told[1]
    if fits:
        assert (refused.status, refused.result) == ("completed", {"x": value})
    else:
        assert (refused.status, refused.reason) == ("failed", "result refused")
        assert refused.error


@pytest.mark.parametrize(("value", "fits"), VALUES)
async def test_a_step_is_kept_or_refused_with_a_reason(
    store: Store, value: Any, fits: bool
) -> None:
    @job(id="odd", retry=Retry(max_attempts=1))
    async def odd(ctx: JobContext[dict[str, Any]]) -> str:
        await ctx.step("before", lambda: 1)
        await ctx.step("odd", lambda: value)
        return "done"

    async with working(store, odd, good) as at:
        ids = [at.enqueue(one) for one in (good, odd, good)]
        told = [await at.ended(id_) for id_ in ids]
    assert [one.execution.status for one in (told[0], told[2])] == ["completed"] * 2
    steps = {step.name: step.result for step in told[1].steps}
    if fits:
        assert (told[1].execution.result, steps) == ("done", {"before": 1, "odd": value})
    else:
        assert (told[1].execution.status, steps) == ("failed", {"before": 1})
        assert 'The result of the step "odd"' in str(told[1].execution.error)


@pytest.mark.parametrize("text", TEXTS)
async def test_progress_logs_and_errors_are_kept_readable_and_bounded(
    store: Store, text: str
) -> None:
    # Kept with the execution, and not shown: a captured lone surrogate can't be sent to xdist.
    logging.getLogger("netscript.jobs.odd").setLevel(logging.CRITICAL)

    @job(id="odd", retry=Retry(max_attempts=1))
    async def odd(ctx: JobContext[dict[str, Any]]) -> None:
        ctx.log.warning("%s", text)
        await ctx.report_progress(50, text)
        raise ValueError(text)

    async with working(store, odd, good) as at:
        ids = [at.enqueue(one) for one in (good, odd, good)]
        told = [await at.ended(id_) for id_ in ids]
    assert [one.execution.status for one in (told[0], told[2])] == ["completed"] * 2
    record = told[1]
    assert (record.execution.status, record.execution.reason) == ("failed", "error")
    assert str(record.execution.error).startswith(f"ValueError: {text[0]}")
    assert len(str(record.execution.error)) <= MAX_ERROR_CHARS + 3
    (line,) = record.logs
    assert line.message.startswith(text[0])
    assert len(line.message) <= MAX_LOG_CHARS + 3
    assert record.execution.progress is not None
    assert str(record.execution.progress.message).startswith(text[0])
    (attempt,) = record.attempts
    assert (attempt.outcome, attempt.error) == ("error", record.execution.error)


@pytest.mark.parametrize(("value", "fits"), VALUES)
async def test_an_actions_payload_is_kept_or_makes_its_event_dead_with_a_reason(
    store: Store, value: Any, fits: bool
) -> None:
    def handler(event: WebhookEvent) -> Any:
        payload: Any = {"x": value} if event.payload["odd"] else {"x": 1}
        return [enqueue_job(good, {"n": 1}), enqueue_job(good, payload)]

    async with open_edge(store, trigger(handler, dedupe=None)) as edge:
        posts = [edge.post({"odd": n == 2}) for n in range(5)]
        told = [answer.json() for answer in await asyncio.gather(*posts)]
        statuses = [one["status"] for one in told]
        assert statuses == ["completed"] * 2 + ["completed" if fits else "dead"] + ["completed"] * 2
        assert edge.count("executions") == (10 if fits else 8)
        if not fits:
            assert edge.event(told[2]["event_id"]).event.error


BODIES: list[Any] = [
    pytest.param(rb'{"x":"a\u0000b"}', 202, id="nul"),
    pytest.param(rb'{"x":"a\ud800b"}', 202, id="lone-surrogate"),
    pytest.param(b'{"x":NaN}', 400, id="nan"),
    pytest.param(b'{"x":"' + HUGE.encode() + b'"}', 413, id="10-MiB"),
    pytest.param(b'{"x":' + str(DIGITS).encode() + b"}", 202, id="300-digits"),
]


@pytest.mark.parametrize(("body", "status"), BODIES)
async def test_a_body_is_taken_whole_or_refused_and_its_neighbours_are_taken(
    store: Store, body: bytes, status: int
) -> None:
    seen: list[Any] = []

    def handler(event: WebhookEvent) -> Any:
        seen.append(event.payload)
        return enqueue_job(good, event.payload)

    async with open_edge(store, trigger(handler)) as edge:
        answers = await asyncio.gather(
            edge.post({"x": 1}), edge.post(body), edge.post({"x": 2}), edge.post({"x": 3})
        )
        assert [answer.status_code for answer in answers] == [202, status, 202, 202]
        assert {answer.json().get("status") for answer in answers} <= {"completed", status}
        if status == 202:
            assert json.loads(body) in seen
            assert edge.count("executions") == 4
        else:
            assert edge.count("trigger_events") == edge.count("executions") == 3


REFUSED: list[Callable[[], Any]] = [
    lambda: {"x": float("nan")},
    lambda: {"x": HUGE},
    lambda: {"x": object()},
]


@pytest.mark.parametrize("given", REFUSED, ids=["nan", "10-MiB", "object"])
async def test_a_callers_payload_that_does_not_fit_is_refused_to_the_caller(
    store: Store, given: Callable[[], Any]
) -> None:
    async with working(store, charge) as at:
        with pytest.raises(PayloadError):
            at.enqueue(good, given())
