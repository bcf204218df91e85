"""A project as a user would make it by hand, and netscript as it comes out of the wheel."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT, Process, free_port, wait_until_answers, write_project

SECRET = "whsec_test"

JOB = """
from pydantic import BaseModel, PositiveInt
from netscript_workers import JobContext, JobResult, Retry, create_failure_result
from netscript_workers import create_success_result, define_job_handler, job

class Payment(BaseModel):
    order_id: str
    amount_cents: PositiveInt

class Charge(BaseModel):
    id: str
    ok: bool

async def charge_customer(order_id: str, amount_cents: int) -> Charge:
    return Charge(id=f"ch_{order_id}", ok=amount_cents < 1_000_000)

@job(id="process-payment", topic="payments", retry=Retry(max_attempts=5), timeout=30.0)
async def process_payment(ctx: JobContext[Payment]) -> JobResult:
    await ctx.report_progress(10, "charging customer")
    charge = await ctx.step("charge", charge_customer, ctx.payload.order_id, ctx.payload.amount_cents)
    if not charge.ok:
        return create_failure_result("charge declined", retry=False)
    return create_success_result({"order_id": ctx.payload.order_id, "charge_id": charge.id})

async def refund(ctx: JobContext[Payment]):
    return {"refunded": ctx.payload.amount_cents}

refund_payment = define_job_handler(refund, id="refund-payment")
"""

TRIGGER = """
from jobs.payments import process_payment, refund_payment
from netscript_triggers import WebhookEvent, define_webhook, enqueue_job, webhook

@webhook(id="payment-webhook", path="/webhooks/payment", verifier="hmac-sha256", secret_env="WEBHOOK_SECRET")
def payment_webhook(event: WebhookEvent):
    return [
        enqueue_job(
            process_payment,
            payload={"order_id": event.payload["orderId"], "amount_cents": event.payload["amountCents"]},
            idempotency_key=event.payload["orderId"],
        )
    ]

def on_refund(event: WebhookEvent):
    return [
        enqueue_job(
            refund_payment,
            payload={"order_id": event.payload["orderId"], "amount_cents": event.payload["amountCents"]},
            idempotency_key=event.payload["orderId"],
        )
    ]

refund_webhook = define_webhook(
    on_refund, id="refund-webhook", path="/webhooks/refund", verifier="hmac-sha256",
    secret_env="WEBHOOK_SECRET", max_body=1000,
)
unset_webhook = define_webhook(
    on_refund, id="unset-webhook", path="/webhooks/unset", verifier="hmac-sha256", secret_env="NOT_SET"
)
"""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(place)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment in which netscript comes from the wheel, not from the checkout."""
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--no-index"]
    subprocess.run([*command, "--target", str(place), str(wheel)], check=True)
    return {"PYTHONPATH": str(place)}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_project(
        tmp_path / "shop", {"jobs/payments.py": JOB, "triggers/payments.py": TRIGGER}
    )


@pytest.fixture
def environment(installed: dict[str, str], database_url: str) -> dict[str, str]:
    return {
        **installed,
        "NETSCRIPT_DATABASE_URL": database_url,
        "WEBHOOK_SECRET": SECRET,
    }


@pytest.fixture
def served(project: Path, environment: dict[str, str]) -> Iterator[str]:
    """A server and a worker as two processes; yields the server's URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    serve = ("-m", "netscript_triggers", "serve", "--port", str(port))
    worker = ("-m", "netscript_triggers", "worker")
    with (
        Process(*serve, cwd=project, env=environment) as server,
        Process(*worker, cwd=project, env=environment) as working,
    ):
        wait_until_answers(url, "/health/ready")
        yield url
        assert server.terminate() == 0, server.output
        assert working.terminate() == 0, working.output
        for process in (server, working):
            assert SECRET not in process.output
            assert "Traceback" not in process.output, process.output
