"""Handlers that run unchanged wherever a worker runs them."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from netscript_workers import (
    JobContext,
    JobResult,
    Retry,
    Snooze,
    create_failure_result,
    create_success_result,
    enqueue_batch,
    enqueue_job,
    job,
)
from netscript_workers.errors import DuplicateStepError

AT_ONCE = Retry(max_attempts=3, initial_delay=0.0)


class Order(BaseModel):
    order: str


class Charge(BaseModel):
    id: str
    cents: int


def charge(order: str) -> Charge:
    return Charge(id=f"ch_{order}", cents=1200)


async def ship(order: str) -> str:
    await asyncio.sleep(0)
    return f"shipped {order}"


async def is_twice_refused(ctx: JobContext[Any]) -> bool:
    try:
        await ctx.step("ship", ship, "again")
    except DuplicateStepError:
        return True
    return False


@job(id="whole", retry=AT_ONCE)
async def whole(ctx: JobContext[Order]) -> JobResult:
    """Fail once after its steps, and have them back the second time."""
    await ctx.report_progress(150, "more than all")
    charged = await ctx.step("charge", charge, ctx.payload.order)
    shipped = await ctx.step("ship", ship, ctx.payload.order)
    ctx.log.info("attempt %d of %s", ctx.attempt, ctx.payload.order)
    ctx.log.debug("not kept")
    if ctx.attempt == 1:
        raise LookupError("no such parcel")
    return create_success_result(
        {
            "charged": type(charged).__name__,
            "cents": charged.cents,
            "shipped": shipped,
            "twice_refused": await is_twice_refused(ctx),
        },
        actions=[
            enqueue_job(context, {"order": "next"}, idempotency_key="next"),
            enqueue_job("elsewhere", {"any": "thing"}),
        ],
    )


@job(id="whole-sync", retry=AT_ONCE)
def whole_sync(ctx: JobContext[Order]) -> JobResult:
    """Do the same in a `def` handler."""
    ctx.report_progress(150, "more than all")
    charged = ctx.step("charge", charge, ctx.payload.order).result()
    shipped = ctx.step("ship", ship, ctx.payload.order).result()
    ctx.log.info("attempt %d of %s", ctx.attempt, ctx.payload.order)
    if ctx.attempt == 1:
        raise LookupError("no such parcel")
    try:
        ctx.step("ship", ship, "again")
        refused = False
    except DuplicateStepError:
        refused = True
    return create_success_result(
        {
            "charged": type(charged).__name__,
            "cents": charged.cents,
            "shipped": shipped,
            "twice_refused": refused,
        },
        actions=[
            enqueue_job(context, {"order": "next"}, idempotency_key="next"),
            enqueue_job("elsewhere", {"any": "thing"}),
        ],
    )


@job(id="context")
async def context(ctx: JobContext[Order]) -> dict[str, Any]:
    return {
        "traceparent": ctx.traceparent,
        "tracestate": ctx.tracestate,
        "correlation_id": ctx.correlation_id,
        "id": ctx.id,
        "token": ctx.fence_token,
        "attempts": [ctx.attempt, ctx.max_attempts],
        "payload": ctx.payload.order,
        "cancelled": ctx.cancelled,
    }


@job(id="refuses")
async def refuses(ctx: JobContext) -> JobResult:
    return create_failure_result("declined", {"code": 51}, retry=False)


@job(id="exits", retry=Retry(max_attempts=1))
def exits(ctx: JobContext) -> None:
    sys.exit("enough")


class GivenUp(Exception):
    """Raised where there is no second try."""


@job(id="gives-up", retry=Retry(max_attempts=9, give_up_on=GivenUp))
async def gives_up(ctx: JobContext) -> None:
    raise GivenUp("it can't be")


@job(id="snoozes")
async def snoozes(ctx: JobContext[dict[str, str]]) -> int:
    seen = Path(ctx.payload["seen"])
    if not seen.exists():
        seen.touch()
        raise Snooze(0.01)
    return ctx.attempt


@job(id="slow", timeout=0.3, retry=Retry(max_attempts=1))
async def slow(ctx: JobContext) -> None:
    await asyncio.sleep(600)


@job(id="slow-sync", timeout=0.3, retry=Retry(max_attempts=1))
def slow_sync(ctx: JobContext) -> str:
    while not ctx.cancelled:
        time.sleep(0.01)
    return "in vain"


@job(id="waits", timeout=None)
async def waits(ctx: JobContext) -> None:
    await ctx.report_progress(5, str(os.getpid()))
    try:
        await ctx.wait_cancelled()
    finally:
        ctx.log.info("told to end: %s", ctx.cancelled)


@job(id="waits-sync", timeout=None)
def waits_sync(ctx: JobContext) -> None:
    ctx.report_progress(5, str(os.getpid()))
    while not ctx.cancelled:
        time.sleep(0.01)
    ctx.log.info("told to end: %s", ctx.cancelled)
    raise InterruptedError("not done yet")


@job(id="too-much")
async def too_much(ctx: JobContext) -> str:
    return "x" * 2_000_000


@job(id="asks-nobody", retry=Retry(max_attempts=1))
async def asks_nobody(ctx: JobContext) -> JobResult:
    return create_success_result(actions=[enqueue_job("elsewher")])


@job(id="asks-wrongly", retry=Retry(max_attempts=1))
def asks_wrongly(ctx: JobContext) -> JobResult:
    return create_success_result(actions=[enqueue_job("elsewhere", {"any": object()})])


@job(id="many-steps", retry=AT_ONCE)
async def many_steps(ctx: JobContext) -> int:
    """Have more to remember than fits into one message."""
    sizes = [len(await ctx.step(f"step-{n}", "x".__mul__, 900_000)) for n in range(6)]
    if ctx.attempt == 1:
        raise LookupError
    return sum(sizes)


@job(id="fans-out")
async def fans_out(ctx: JobContext) -> JobResult:
    """Have two parts run, and then one more."""
    parts = [enqueue_job("where-async", {"part": n}) for n in range(2)]
    return create_success_result(actions=[enqueue_batch(parts, enqueue_job("joins", {"of": 2}))])


@job(id="joins")
async def joins(ctx: JobContext) -> int:
    return int(ctx.payload["of"])


@job(id="no-json")
def no_json(ctx: JobContext) -> object:
    return object()


@job(id="hard")
async def hard(ctx: JobContext) -> list[Any]:
    ctx.log.info("a NUL \0 and half a pair \ud800")
    return ["\0", "\ud800", 10**300, "naïve"]


@job(id="where")
def where(ctx: JobContext) -> dict[str, Any]:
    main = threading.current_thread() is threading.main_thread()
    return {"pid": os.getpid(), "main": main}


@job(id="where-async")
async def where_async(ctx: JobContext) -> dict[str, Any]:
    main = threading.current_thread() is threading.main_thread()
    return {"pid": os.getpid(), "main": main}
