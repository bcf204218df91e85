"""Triggers and events with the command, beside a server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import Process, free_port, netscript, wait_until_answers, write_project

JOBS = """
from netscript_workers import JobContext, job

@job(id="ship")
async def ship(ctx: JobContext[dict[str, str]]) -> None: ...
"""
TRIGGERS = """
from pydantic import BaseModel
from jobs.ship import ship
from netscript_triggers import enqueue_job, manual_trigger, webhook

class Order(BaseModel):
    order: str

@manual_trigger(id="by-hand", model=Order)
def by_hand(event):
    return enqueue_job(ship, {"order": event.payload.order})

@webhook(id="orders", path="/webhooks/orders", verifier="hmac-sha256", secret_env="WEBHOOK_SECRET")
def orders(event):
    return enqueue_job(ship if event.payload["order"] != "bad" else "nobody", event.payload)

def secret_of(request):
    return "SECRET_" + request.path_params["tenant"].upper()

@webhook(id="tenants", path="/webhooks/{tenant}/orders", verifier="stripe", secret_env=secret_of)
def tenants(event):
    return enqueue_job(ship, {"order": event.path_params["tenant"]})
"""

# Of a bulk change that has looked at everything.
ALL_SEEN = {"more": False, "next_cursor": None, "dry_run": False}


class Shop:
    def __init__(self, place: Path, url: str, port: int) -> None:
        self.place, self.port = place, port
        self.environment = {
            "NETSCRIPT_DATABASE_URL": url,
            "WEBHOOK_SECRET": "s3cret",
            "SECRET_ACME": "s3cret of acme",
        }

    def call(self, *command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment, "NETSCRIPT_PORT": str(self.port)}
        done = netscript(*command, cwd=self.place, env=environment)
        assert done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        assert "s3cret" not in done.stdout + done.stderr
        return done

    def json(self, *command: str, code: int = 0) -> Any:
        return json.loads(self.call(*command, "--json", code=code).stdout)


@pytest.fixture
def shop(tmp_path: Path, sqlite_url: str) -> Iterator[Shop]:
    place = write_project(tmp_path / "shop", {"jobs/ship.py": JOBS, "triggers/all.py": TRIGGERS})
    shop = Shop(place, sqlite_url, free_port())
    serve = ("-m", "netscript_triggers", "serve", "--port", str(shop.port))
    with Process(*serve, cwd=place, env=shop.environment) as server:
        wait_until_answers(f"http://127.0.0.1:{shop.port}")
        yield shop
        assert server.terminate() == 0, server.output
        assert "Traceback" not in server.output, server.output


def test_what_is_fired_tested_and_replayed_is_told(shop: Shop) -> None:
    listed = [one["id"] for one in shop.json("triggers", "list")["triggers"]]
    assert listed == ["by-hand", "orders", "tenants"]
    fired = shop.json(
        "triggers", "fire", "by-hand", "--payload", '{"order": "o"}', "--reason", "a call",
        "--wait", "10",
    )  # fmt: skip
    assert (fired["status"], fired["note"], len(fired["executions"])) == ("completed", "a call", 1)
    refused = shop.call("triggers", "fire", "by-hand", "--payload", "{}", code=1)
    assert "order: Field required" in refused.stderr

    tested = shop.json("triggers", "test", "orders", "--payload", '{"order": "p"}')
    assert (tested["status"], tested["event"]["status"]) == (202, "completed")
    bad = shop.call("triggers", "test", "orders", "--payload", '{"order": "bad"}', code=1)
    assert 'There is no job "nobody"' in bad.stdout

    tenant = ("triggers", "test", "tenants")
    tested_too = shop.json(*tenant, "--path", "/webhooks/acme/orders")
    assert (tested_too["status"], tested_too["event"]["status"]) == (202, "completed")
    assert "each parameter filled in" in shop.call(*tenant, code=2).stderr
    shop.call(*tenant, "--path", "/webhooks/acme", code=2)
    assert "no secret" in shop.call(*tenant, "--path", "/webhooks/other/orders", code=1).stderr

    (dead,) = shop.json("events", "list", "--status", "dead")["events"]
    again = shop.call("events", "replay", dead["id"])
    assert again.stdout.startswith(f"{dead['id']} runs again.\n")
    edited = shop.json("events", "replay", tested["event"]["id"], "--payload", '{"order": "q"}')
    (event,) = edited["events"]
    assert event["replayed_from"] == tested["event"]["id"]
    shown = shop.call("events", "show", tested["event"]["id"])
    assert f"replayed as       {event['id']}" in shown.stdout


def test_a_disabled_webhook_is_tested_in_vain_and_what_is_wrong_usage_is_told(shop: Shop) -> None:
    assert shop.call("triggers", "disable", "orders").stdout == "orders is disabled.\n"
    told = shop.json("triggers", "show", "orders")
    assert (told["enabled"], told["circuit"]["state"]) == (False, "closed")
    missing = shop.call("triggers", "enable", "ordres", code=1)
    assert 'Did you mean "orders"?' in missing.stderr
    refused = shop.call("triggers", "fire", "orders", code=1)
    assert "is disabled" in refused.stderr
    shop.call("events", "replay", code=2)
    told = shop.json("events", "replay", "--all", "--yes")
    assert told == {"count": 0, "skipped": 0, **ALL_SEEN}
    shop.call("events", "list", "--status", "nonsense", code=2)
    some = ("--status", "dead", "--status", "failed", "--until", "2020-01-01", "--type", "sale")
    assert shop.json("events", "list", *some) == {"events": [], "next_cursor": None}
    shop.call("events", "replay", "--status", "pending", "--yes", code=2)
    shop.call("triggers", "test", "by-hand", code=1)
    shop.call("triggers", "fire", "by-hand", "--payload", "{", code=2)
    gone = shop.call("triggers", "test", "orders", "--url", "http://127.0.0.1:1", code=1)
    assert "does not answer" in gone.stderr
