"""Charges a customer for an order."""

from __future__ import annotations

import hashlib

from pydantic import BaseModel, PositiveInt

from netscript_workers import (
    JobContext,
    JobResult,
    Retry,
    create_failure_result,
    create_success_result,
    job,
)


class Payment(BaseModel):
    order_id: str
    amount_cents: PositiveInt


class Charge(BaseModel):
    id: str
    ok: bool = True
    reason: str = ""


LIMIT_CENTS = 100_000_000


async def charge_customer(order_id: str, amount_cents: int) -> Charge:
    """Stand in for a payment provider: the same order is the same charge."""
    digest = hashlib.sha256(f"{order_id}:{amount_cents}".encode()).hexdigest()
    if amount_cents > LIMIT_CENTS:
        return Charge(id="", ok=False, reason="the amount is over the limit")
    return Charge(id=f"ch_{digest[:12]}")


@job(id="process-payment", topic="payments", retry=Retry(max_attempts=5), timeout=30.0)
async def process_payment(ctx: JobContext[Payment]) -> JobResult:
    """Charge the customer once, however often this runs."""
    await ctx.report_progress(10, "charging customer")
    charge = await ctx.step(
        "charge", charge_customer, ctx.payload.order_id, ctx.payload.amount_cents
    )
    if not charge.ok:
        return create_failure_result(f"charge declined: {charge.reason}", retry=False)
    await ctx.report_progress(100, "charged")
    return create_success_result({"order_id": ctx.payload.order_id, "charge_id": charge.id})
