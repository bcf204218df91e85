"""Turns a payment provider's webhook into a job."""

from __future__ import annotations

from jobs.process_payment import Payment, process_payment
from netscript_triggers import EnqueueJob, WebhookEvent, enqueue_job, webhook


@webhook(
    id="payment-webhook",
    path="/webhooks/payment",
    verifier="hmac-sha256",
    secret_env="WEBHOOK_SECRET",
)
def payment_webhook(event: WebhookEvent) -> list[EnqueueJob[Payment]]:
    """Enqueue the order's payment; a second event of the same order changes nothing."""
    return [
        enqueue_job(
            process_payment,
            payload={
                "order_id": event.payload["orderId"],
                "amount_cents": event.payload["amountCents"],
            },
            idempotency_key=event.payload["orderId"],
        )
    ]
