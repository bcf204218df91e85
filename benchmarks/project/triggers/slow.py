"""A webhook whose handler blocks its thread, as one does that asks another service."""

from __future__ import annotations

import time

from jobs.noop import noop

from netscript_triggers import EnqueueJob, WebhookEvent, enqueue_job, webhook

SECONDS = 0.2


@webhook(id="slow", path="/slow", verifier="hmac-sha256", secret_env="BENCH_SECRET")
def slow(event: WebhookEvent) -> list[EnqueueJob[dict[str, object]]]:
    time.sleep(SECONDS)
    return [enqueue_job(noop, {"sent": event.payload["sent"]})]
