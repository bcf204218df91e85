"""What users write. Both checkers must take every line, in their strictest mode."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypedDict, assert_type

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from netscript_triggers import (
    EnqueueBatch,
    EnqueueJob,
    FileEvent,
    FileWatchDefinition,
    HmacVerifier,
    Stability,
    TriggerContext,
    WebhookEvent,
    define_file_watch,
    define_webhook,
    file_watch,
    webhook,
)
from netscript_workers import (
    Enqueued,
    JobContext,
    JobDefinition,
    JobResult,
    Permissions,
    Retry,
    TaskDefinition,
    create_success_result,
    define_job_handler,
    define_task,
    enqueue,
    enqueue_async,
    enqueue_batch,
    enqueue_job,
    job,
)
from netscript_workers.testing import JobRun, run_job


class Payment(BaseModel):
    order_id: str
    amount_cents: int


class Charge(BaseModel):
    id: str


@dataclass
class Mail:
    to: str


class Row(TypedDict):
    id: int


async def charge(order_id: str, cents: int) -> Charge:
    return Charge(id=f"{order_id}-{cents}")


def count(word: str) -> int:
    return len(word)


@job(id="process-payment", topic="payments", retry=Retry(max_attempts=5), timeout=30.0)
async def process_payment(ctx: JobContext[Payment]) -> JobResult:
    assert_type(ctx.payload, Payment)
    await ctx.report_progress(10, "charging")
    charged = await ctx.step("charge", charge, ctx.payload.order_id, ctx.payload.amount_cents)
    assert_type(charged, Charge)
    length = await ctx.step("count", count, ctx.payload.order_id)
    assert_type(length, int)
    if ctx.cancelled:
        await ctx.wait_cancelled()
    return create_success_result({"charge": charged.id}, actions=[enqueue_job(send, Mail("a"))])


@job
def send(ctx: JobContext[Mail]) -> None:
    assert_type(ctx.payload.to, str)
    ctx.report_progress(50)
    assert_type(ctx.step("count", count, ctx.payload.to).result(), int)
    ctx.log.info("sent to %s", ctx.payload.to)


@job(retry=Retry(on=ValueError, give_up_on=(KeyError, TypeError)), tags=["a"], metadata={"a": 1})
async def untyped(ctx: JobContext) -> dict[str, int]:
    assert_type(ctx.payload, dict[str, Any])
    return {"n": len(ctx.payload)}


@job(id="rows")
async def rows(ctx: JobContext[Row]) -> int:
    return ctx.payload["id"]


async def refund(ctx: JobContext[Payment]) -> str:
    return ctx.payload.order_id


refund_payment = define_job_handler(refund, id="refund-payment", priority=80)

assert_type(send, JobDefinition[Mail, None])
assert_type(send.id, str)


@webhook(
    id="payment-webhook",
    path="/webhooks/payment",
    verifier="hmac-sha256",
    secret_env=["WEBHOOK_SECRET", "NEXT_SECRET"],
)
def payment_webhook(event: WebhookEvent) -> list[EnqueueJob[Payment]]:
    return [
        enqueue_job(
            process_payment,
            payload={"order_id": event.payload["orderId"], "amount_cents": 5},
            idempotency_key=event.payload["orderId"],
        ),
        enqueue_job(process_payment, Payment(order_id="o", amount_cents=1), delay=5.0),
    ]


@webhook(id="typed", path="/webhooks/typed", verifier=HmacVerifier(), secret_env="S", model=Payment)
async def typed_webhook(
    event: WebhookEvent[Payment], context: TriggerContext
) -> EnqueueJob[Payment]:
    assert_type(event.payload, Payment)
    context.log.info("event %s", event.id)
    return enqueue_job(process_payment, event.payload)


def ignore(event: WebhookEvent) -> None:
    assert_type(event.body, bytes)


ignored = define_webhook(ignore, id="ignored", path="/webhooks/ignored", verifier="memory")


def by_id(event: WebhookEvent) -> list[EnqueueJob[Any]]:
    return [enqueue_job("process-payment", {"order_id": "o"}), enqueue_job(send, {"to": "a"})]


mixed = define_webhook(
    by_id,
    id="mixed",
    path="/webhooks/mixed",
    verifier="hmac-sha1",
    secret_env="S",
    dispatch="background",
    dedupe="id",
    max_body=1000,
    retry=Retry(max_attempts=2),
)


def in_a_batch(event: WebhookEvent) -> list[EnqueueJob[Payment] | EnqueueBatch]:
    payment = Payment(order_id="o", amount_cents=1)
    parts = [enqueue_job(process_payment, payment), enqueue_job(refund_payment, payment)]
    batch = enqueue_batch(parts, on_complete=enqueue_job(send, Mail("a")))
    mixed: list[EnqueueJob[Any]] = [enqueue_job(send, Mail("a")), enqueue_job(rows, {"id": 1})]
    assert_type(enqueue_batch(mixed), EnqueueBatch)
    enqueue_batch([enqueue_job(process_payment, payment), enqueue_job(send, Mail("a"))])
    return [batch, enqueue_job(process_payment, payment)]


batched = define_webhook(in_a_batch, id="batched", path="/webhooks/batched", verifier="memory")


@file_watch(
    id="orders",
    paths=["/data/inbox", Path("inbox")],
    patterns=["*.csv"],
    on=("create", "delete"),
    stability=Stability(interval=0.5, checks=2),
    existing="ignore",
)
def orders(event: FileEvent) -> EnqueueJob[Any]:
    assert_type(event.path, str)
    assert_type(event.modified_at, datetime)
    assert_type(event.sha256, str | None)
    return enqueue_job("import", {"path": event.path})


assert_type(orders, FileWatchDefinition[EnqueueJob[Any]])
watched = define_file_watch(orders.handler, id="watched", paths=["/data"], polling=True)


def with_modes(session: Session) -> None:
    mail, minute = Mail("a"), timedelta(minutes=1)
    enqueue(
        session,
        enqueue_job(send, mail, idempotency_key="a", idempotency="while_pending"),
        enqueue_job(send, mail, "a", idempotency="replace", delay=5, max_wait=minute),
        enqueue_job(send, mail, "a", idempotency="rerun_if_running"),
        enqueue_batch([enqueue_job(send, mail)]),
    )
    create_success_result(actions=[enqueue_batch([enqueue_job(send, mail)])])


def in_a_transaction(session: Session) -> None:
    assert_type(enqueue(session, enqueue_job(send, Mail("a"))), list[Enqueued])


async def in_an_async_transaction(session: AsyncSession) -> None:
    (told,) = await enqueue_async(session, enqueue_job(send, Mail("a")))
    assert_type(told.execution_id, str)


async def called_by_hand(ctx: JobContext[Payment], event: WebhookEvent) -> None:
    assert_type(await process_payment(ctx), JobResult)
    assert_type(await refund_payment(ctx), str)
    assert_type(payment_webhook(event), list[EnqueueJob[Payment]])


assert_type(run_job(send, Mail("a")), JobRun)


pay_by_script = define_task(
    id="pay-by-script",
    runtime="shell",
    entrypoint="tasks/pay.sh",
    payload=Payment,
    permissions=Permissions(net=True),
    retry=Retry(max_attempts=2),
)
assert_type(pay_by_script, TaskDefinition[Payment])
assert_type(enqueue_job(pay_by_script, Payment(order_id="o", amount_cents=1)), EnqueueJob[Payment])
anything = define_task(id="anything", runtime="node", entrypoint="a.js", permissions="none")
assert_type(anything, TaskDefinition[dict[str, Any]])
