"""A shop whose server and worker are watched: what it is made of, and what they tell."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import shutil
import subprocess
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from netscript_workers.store import migrations
from tests.support import Process, eventually, free_port, wait_until_answers, write_project

SECRET = "geheim-0123456789abcdef"
PASSWORD_URL = "postgresql://shop:hunter2hunter2@db/shop"

JOBS = """
import logging
from netscript_workers import JobContext, Retry, job

log = logging.getLogger("shop.jobs")

@job(id="flaky", topic="orders", retry=Retry(max_attempts=3, initial_delay=0.05, jitter=False))
def flaky(ctx: JobContext):
    log.info("packing %s", ctx.payload["order"])
    if ctx.attempt == 1:
        raise RuntimeError("the printer is out of paper")

@job(id="doomed", topic="orders", retry=Retry(max_attempts=1))
async def doomed(ctx: JobContext):
    ctx.log.warning("nothing helps")
    raise RuntimeError("no such customer")

@job(id="indiscreet", retry=Retry(max_attempts=1))
def indiscreet(ctx: JobContext):
    import os
    log.info("secret %s at %s", os.environ["SHOP_SECRET"], "URL")
    log.info("Authorization: Bearer abcdefgh12345678")
    ctx.log.info("kept %s", os.environ["SHOP_SECRET"].split()[-1])
    try:
        raise ValueError("wrong secret " + os.environ["SHOP_SECRET"])
    except ValueError:
        log.exception("it failed")
"""
TRIGGERS = """
import logging
from jobs.shop import doomed, flaky
from netscript_triggers import WebhookEvent, enqueue_job, webhook

log = logging.getLogger("shop.triggers")

@webhook(id="orders", path="/webhooks/orders", verifier="hmac-sha256", secret_env="SHOP_SECRET")
def orders(event: WebhookEvent):
    log.info("an order came")
    job = doomed if event.payload.get("doomed") else flaky
    return enqueue_job(job, payload={"order": event.payload["order"]})
"""
FILES = {"jobs/shop.py": JOBS, "triggers/shop.py": TRIGGERS}


@dataclass(frozen=True)
class Shop:
    """The addresses of its server and of its worker's metrics, and their processes."""

    url: str
    worker_url: str
    server: Process
    worker: Process

    def deliver(self, secret: str = SECRET, **order: Any) -> httpx.Response:
        body = json.dumps(order).encode()
        signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        headers = {"X-NetScript-Signature": signature, "Content-Type": "application/json"}
        return httpx.post(
            f"{self.url}/webhooks/orders", content=body, headers=headers, trust_env=False
        )

    def trigger(self, job: str) -> str:
        path = f"/api/v1/workers/jobs/{job}/trigger"
        answer = httpx.post(f"{self.url}{path}", json={}, trust_env=False)
        assert answer.status_code == 202, answer.text
        told: str = answer.json()["execution_id"]
        return told

    def execution(self, id_: str) -> dict[str, Any]:
        path = f"/api/v1/workers/executions/{id_}"
        told: dict[str, Any] = httpx.get(f"{self.url}{path}", trust_env=False).json()
        return told

    def ended(self, id_: str) -> dict[str, Any]:
        """Wait for an execution's end; return its record."""

        def look() -> dict[str, Any] | None:
            told = self.execution(id_)
            return told if told["status"] in ("completed", "failed", "cancelled") else None

        return eventually(look, 30.0, f"the end of {id_}") or {}


@contextlib.contextmanager
def open_shop(place: Path, database_url: str, *flags: str, **env: str) -> Generator[Shop]:
    project = write_project(place / "shop", FILES)
    migrations.upgrade(database_url)
    port, metrics_port = free_port(), free_port()
    environment = {"NETSCRIPT_DATABASE_URL": database_url, "SHOP_SECRET": SECRET, **env}
    module = ("-m", "netscript_triggers")
    serve = (*module, "serve", "--port", str(port), *flags)
    worker = (*module, "worker", "--metrics-port", str(metrics_port), *flags)
    url = f"http://127.0.0.1:{port}"
    with (
        Process(*serve, cwd=project, env=environment) as serving,
        Process(*worker, cwd=project, env=environment) as working,
    ):
        wait_until_answers(url, "/health/ready")
        yield Shop(url, f"http://127.0.0.1:{metrics_port}", serving, working)
        assert serving.terminate() == 0, serving.output
        assert working.terminate() == 0, working.output


def scraped(url: str, **headers: str) -> str:
    answer = httpx.get(f"{url}/metrics", headers=headers, trust_env=False)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return answer.text


Samples = dict[tuple[str, frozenset[str]], float]


def samples(text: str) -> Samples:
    """Return the values by name and by the values of the labels."""
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Samples, name: str, *labels: str) -> float | None:
    return found.get((name, frozenset(labels)))


def check_with_promtool(text: str) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
