"""How attempts end that somebody ends, whatever their handlers do about it."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest

from netscript_workers import JobContext, job
from netscript_workers.domain import Reason, Verdict
from tests.unit.fakes import bench, claim_of

Verb = Literal["cancel", "drain", "drop"]


@pytest.mark.parametrize("verb", ["cancel", "drain", "drop"])
async def test_what_is_ended_before_its_first_step_ends_and_is_not_called(verb: Verb) -> None:
    called: list[str] = []

    @job(id="late")
    async def late(ctx: JobContext) -> None:
        called.append(ctx.id)

    async with bench(late) as at:
        claim = claim_of(late)
        at.runner.start(claim)
        if verb == "drain":
            at.runner.drain()
        else:
            getattr(at.runner, verb)(claim.id)
        outcome = await at.end_of(claim)
        assert at.runner.running == 0
    told = None if outcome is None else outcome.verdict
    expected = {"cancel": Verdict.CANCEL, "drain": Verdict.RELEASE, "drop": None}
    assert told is expected[verb]
    assert called == []


async def test_a_handler_that_turns_its_timeout_into_its_own_is_told_as_timed_out() -> None:
    @job(id="slow", timeout=0.05)
    async def slow(ctx: JobContext) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise TimeoutError("mine") from None

    async with bench(slow) as at:
        outcome = await at.run(slow)
    assert outcome.failure is Reason.TIMEOUT


async def test_a_timeout_of_the_handlers_own_is_an_error_like_any() -> None:
    @job(id="quick", timeout=60.0)
    async def quick(ctx: JobContext) -> None:
        raise TimeoutError("mine")

    async with bench(quick) as at:
        outcome = await at.run(quick)
    assert outcome.failure is Reason.ERROR
