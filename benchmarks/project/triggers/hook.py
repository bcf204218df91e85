"""A webhook whose every event is one execution of the job that does nothing."""

from __future__ import annotations

from jobs.noop import noop

from netscript_triggers import EnqueueJob, WebhookEvent, enqueue_job, webhook


@webhook(id="hook", path="/hook", verifier="hmac-sha256", secret_env="BENCH_SECRET")
def hook(event: WebhookEvent) -> list[EnqueueJob[dict[str, object]]]:
    return [enqueue_job(noop, {"sent": event.payload["sent"]})]
