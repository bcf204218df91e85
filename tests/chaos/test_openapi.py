"""Schemathesis at the served OpenAPI document: all checks, on a real server, on each database.

What is sent is made of the document: valid and invalid, at the edges of every schema. No answer is
a 5xx, each has a status and a shape that the document tells of, and what does not fit is refused.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from netscript_workers.store.engine import Store
from tests.kit import Hand, ended, new, put
from tests.support import Process, clean_environment, free_port, wait_until_answers, write_project

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
# A cursor is what a page before has given (else 400), and no schema says which options go together
# (else 422). Readiness is told by its status.
CONFIG = """
[output.sanitization]
enabled = false
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "3xx", 400, 401, 403, 404, 409, 429]
[[operations]]
include-operation-id = "get_readiness"
[operations.checks]
not_a_server_error.expected-statuses = ["2xx", "4xx", 503]
positive_data_acceptance.expected-statuses = ["2xx", 503]
[[operations]]
include-operation-id-regex = "trigger_job|trigger_task|fire_trigger|replay_event|retry_execution"
[operations.checks]
positive_data_acceptance.expected-statuses = ["2xx", "3xx", 400, 401, 403, 404, 409, 422, 429]
"""
SECONDS = float(os.environ.get("NETSCRIPT_TEST_FUZZ_SECONDS", "60"))

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(not SCHEMATHESIS.exists(), reason="pip install -e '.[fuzz]'"),
]

FILES = {
    "jobs/shop.py": """
from netscript_workers import JobContext, job

@job(id="process-payment", topic="payments")
async def process_payment(ctx: JobContext[dict]) -> None: ...
""",
    "triggers/shop.py": """
from jobs.shop import process_payment
from netscript_triggers import enqueue_job, manual_trigger, schedule

@manual_trigger(id="payment-webhook")
def by_hand(event):
    return enqueue_job(process_payment, payload={})

@schedule(id="nightly", cron="@daily")
def nightly(event):
    return None
""",
}


def test_the_server_keeps_to_its_document(store: Store, database_url: str, tmp_path: Path) -> None:
    project = write_project(tmp_path / "shop", FILES)
    put(store, *(new("process-payment", topic="payments") for _ in range(30)))
    hand = Hand(store, ["process-payment"])
    hand.register()
    hand.tick(*map(ended, hand.claim(20)))
    environment = {"NETSCRIPT_DATABASE_URL": database_url}
    port = free_port()
    command = ("-m", "netscript_triggers", "serve", "--port", str(port))
    with Process(*command, cwd=project, env=environment) as server:
        (tmp_path / "schemathesis.toml").write_text(CONFIG)
        url = f"http://127.0.0.1:{port}"
        wait_until_answers(url)
        done = subprocess.run(
            [
                *(SCHEMATHESIS, "run", f"{url}/api/openapi.json", "--checks", "all"),
                *("--max-time", str(round(SECONDS)), "--no-color", "--continue-on-failure"),
                *("--exclude-path", "/api/v1/workers/subscribe"),  # it has no end
                *("--suppress-health-check", "all", "--warnings", "off"),
            ],
            cwd=tmp_path,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=SECONDS * 2 + 120,
            check=False,
        )
        told = "\n".join(line[:600] for line in done.stdout.splitlines())
        assert done.returncode == 0, told + done.stderr
        assert "Traceback" not in server.output
