"""What users must be told. Every marked line is refused by both checkers, and no other."""

from __future__ import annotations

from pydantic import BaseModel

from netscript_triggers import (
    FileEvent,
    WebhookEvent,
    define_file_watch,
    define_webhook,
    file_watch,
    webhook,
)
from netscript_workers import (
    JobContext,
    Retry,
    define_job_handler,
    define_task,
    enqueue_batch,
    enqueue_job,
    job,
)
from netscript_workers.testing import run_job


class Payment(BaseModel):
    order_id: str


class Mail(BaseModel):
    to: str


def count(word: str) -> int:
    return len(word)


@job(id="pay")
async def pay(ctx: JobContext[Payment]) -> str:
    print(ctx.payload.to)  # refused
    print(ctx.attempts)  # refused
    await ctx.step("count", count, 5)  # refused
    await ctx.step("count")  # refused
    length: str = await ctx.step("count", count, "a")  # refused
    await ctx.report_progress("half")  # refused
    return length


async def handler(ctx: JobContext[Payment]) -> None: ...


def no_context() -> None: ...


enqueue_job(pay, Mail(to="a"))  # refused
enqueue_job(pay, 5)  # refused
enqueue_job(pay, Payment(order_id="a"), idempotency_keys="a")  # refused
enqueue_job(pay, Payment(order_id="a"), priority="high")  # refused
enqueue_job(pay, Payment(order_id="a"), idempotency="twice")  # refused
enqueue_job(pay, Payment(order_id="a"), max_wait="1m")  # refused
enqueue_batch([enqueue_job(pay, Mail(to="a"))])  # refused
enqueue_batch([], on_complete=enqueue_job(pay, Mail(to="a")))  # refused
enqueue_batch([pay])  # refused
enqueue_batch([enqueue_batch([])])  # refused
run_job(pay, Mail(to="a"))  # refused

define_job_handler(handler, topics="a")  # refused
define_job_handler(handler, timeout="1m")  # refused
define_job_handler(no_context)  # refused
job(retries=3)  # refused
Retry(max_attempt=3)  # refused
Retry(backoff="quadratic")  # refused


def fine(event: WebhookEvent) -> None: ...


def numbers(event: WebhookEvent) -> list[int]:
    return [1]


def changed(event: FileEvent) -> None: ...


define_webhook(fine, id="a", path="/a")  # refused
define_webhook(fine, id="a", verifier="hmac-sha256")  # refused
define_webhook(fine, path="/a", verifier="hmac-sha256")  # refused
define_webhook(fine, id="a", path="/a", verifier="hmac-sha256", secret="x")  # refused
define_webhook(fine, id="a", path="/a", verifier="hmac-sha256", dispatch="later")  # refused
define_webhook(fine, id="a", path="/a", verifier=5)  # refused
define_webhook(numbers, id="a", path="/a", verifier="hmac-sha256")  # refused
webhook(id="a", path="/a", verifier="hmac-sha256", retry=3)  # refused
define_file_watch(changed, id="a")  # refused
define_file_watch(changed, paths=["/a"])  # refused
define_file_watch(changed, id="a", paths=["/a"], on=("moved",))  # refused
define_file_watch(changed, id="a", paths=["/a"], stability=3)  # refused
define_file_watch(changed, id="a", paths=["/a"], existing="skip")  # refused
file_watch(id="a", paths=["/a"], pattern="*.csv")  # refused
pay.topic = "other"  # refused
script = define_task(id="a", runtime="shell", entrypoint="a.sh", payload=Payment)
enqueue_job(script, Mail(to="a"))  # refused
define_task(id="a", runtime="perl", entrypoint="a.pl")  # refused
define_task(id="a", runtime="shell")  # refused
define_task(id="a", runtime="shell", entrypoint="a.sh", permissions="everything")  # refused
