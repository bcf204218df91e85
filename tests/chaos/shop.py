"""The project that the soak runs: every kind of execution there is."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.lives import NOTE
from tests.support import write_project

JOBS = (
    NOTE
    + """
from netscript_workers import Retry, create_success_result, enqueue_job

TRIED = set()

@job(id="plain")
async def plain(ctx: JobContext):
    note("start", ctx)
    note("end", ctx)
    return ctx.fence_token

@job(id="keyed")
async def keyed(ctx: JobContext):
    note("start", ctx)
    try:
        await asyncio.sleep(0.005)
    finally:  # an attempt that is cancelled has ended too
        note("end", ctx)
    return ctx.fence_token

@job(id="flaky", retry=Retry(max_attempts=5, initial_delay=0.2))
async def flaky(ctx: JobContext):
    note("start", ctx)
    note("end", ctx)
    if ctx.attempt == 1:
        raise ValueError("not the first time")
    return ctx.fence_token

def charge(number):
    return number * 2

@job(id="steps")
async def steps(ctx: JobContext):
    note("start", ctx)
    try:
        first = await ctx.step("first", charge, ctx.payload["number"])
        await ctx.report_progress(50, "half")
        await ctx.step("second", charge, first)
    finally:
        note("end", ctx)
    return ctx.fence_token

@job(id="parent")
async def parent(ctx: JobContext):
    note("start", ctx)
    note("end", ctx)
    return create_success_result(ctx.fence_token, actions=[enqueue_job(plain, {})])
"""
)

TRIGGERS = """
from netscript_triggers import enqueue_job, webhook

def actions(event):
    number = event.payload["number"]
    kind = number % 10
    if kind == 0:
        key = f"key-{number // 10 % 7}"
        return [enqueue_job("keyed", {"key": key}, concurrency_key=key)]
    if kind == 1:
        return [enqueue_job("plain", {}, delay=0.5 + number % 3 / 2)]
    if kind == 2:
        return [enqueue_job("flaky", {})]
    if kind == 3:
        return [enqueue_job("steps", {"number": number})]
    if kind == 4:
        return [enqueue_job("parent", {})]
    if kind == 6:
        return [enqueue_job("plain", {}, idempotency_key=event.payload["id"])] * 2
    return [enqueue_job("plain", {})]

@webhook(id="orders", path="/webhooks/orders", verifier="hmac-sha256", secret_env="WEBHOOK_SECRET")
def orders(event):
    return actions(event)

@webhook(
    id="later", path="/webhooks/later", verifier="hmac-sha256", secret_env="WEBHOOK_SECRET",
    dispatch="background",
)
def later(event):
    return actions(event)
"""


def shop(place: Path) -> Path:
    """Write the project; return its folder."""
    return write_project(place, {"jobs/shop.py": JOBS, "triggers/shop.py": TRIGGERS})
