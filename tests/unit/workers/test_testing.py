"""`run_job`: a job's attempt without a worker."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from netscript_workers import (
    EnqueueJob,
    JobContext,
    JobResult,
    PayloadInvalidError,
    Snooze,
    create_failure_result,
    create_success_result,
    enqueue_job,
    job,
)
from netscript_workers.testing import ManualClock, arun_job, run_job


class Order(BaseModel):
    id: int


calls: list[int] = []


def price(order: int) -> int:
    calls.append(order)
    return order * 100


@job(id="charge")
async def charge(ctx: JobContext[Order]) -> JobResult:
    for percent in (10, 20, 30):
        await ctx.report_progress(percent, "charging")
    ctx.log.info("order %d", ctx.payload.id)
    ctx.log.debug("not kept")
    cents = await ctx.step("price", price, ctx.payload.id)
    if cents > 500:
        return create_failure_result("too much")
    return create_success_result({"cents": cents}, actions=[enqueue_job(mail, {"to": "a"})])


@job(id="mail")
def mail(ctx: JobContext[dict[str, str]]) -> str:
    if ctx.attempt == 1:
        raise Snooze(5)
    if ctx.payload["to"] == "nobody":
        raise LookupError("nobody")
    ctx.report_progress(50)
    return f"{ctx.step('shout', str.upper, ctx.payload['to']).result()} {ctx.attempt}"


def test_it_shows_everything_that_one_attempt_does() -> None:
    run = run_job(charge, Order(id=3))
    assert (run.success, run.data, run.error) == (True, {"cents": 300}, None)
    assert [percent for percent, _ in run.progress] == [10, 20, 30]
    assert run.logs == ["order 3"]
    assert run.steps == {"price": "300"}
    assert [action.job_id for action in run.actions if isinstance(action, EnqueueJob)] == ["mail"]


def test_a_later_attempt_gets_the_steps_of_the_first() -> None:
    first = run_job(charge, {"id": 4})
    calls.clear()
    again = run_job(charge, {"id": 4}, attempt=2, steps=first.steps)
    assert (again.data, calls) == ({"cents": 400}, [])


def test_a_failure_a_snooze_and_an_error_are_what_they_are() -> None:
    assert run_job(charge, {"id": 9}).error == "too much"
    assert run_job(mail, {"to": "a"}).snoozed == 5
    assert run_job(mail, {"to": "a"}, attempt=2).data == "A 2"
    with pytest.raises(LookupError):
        run_job(mail, {"to": "nobody"}, attempt=2)
    with pytest.raises(PayloadInvalidError):
        run_job(charge, {"id": "x"})


async def test_it_works_inside_an_async_test_too() -> None:
    assert run_job(charge, {"id": 1}).success
    assert (await arun_job(charge, {"id": 1})).success


def test_a_manual_clock_moves_when_told() -> None:
    clock = ManualClock()
    before = clock.now()
    clock.advance(1.5)
    assert clock.now() == before + 1_500_000
    clock.advance(-2)
    assert clock.now() == before - 500_000
