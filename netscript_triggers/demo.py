"""The demo: starts netscript on a fresh SQLite file, posts a signed payment, shows what happens."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from netscript_triggers.app import url_of
from netscript_triggers.exposure import bind
from netscript_triggers.registry import discover_triggers, webhook_named
from netscript_triggers.testing import signed_request
from netscript_workers.errors import ConfigurationError

PORT = 8091
_START_SECONDS = 30.0
_RUN_SECONDS = 15.0


def main() -> int:
    """Run the demo in the current folder; return the exit code.

    `DEMO_ONCE=1` ends it after the showing; otherwise it serves until Ctrl-C.
    """
    project = Path.cwd()
    place = project / ".demo"
    place.mkdir(exist_ok=True)
    port = _free_port()
    address = f"http://127.0.0.1:{port}"
    environment = {
        **os.environ,
        "NETSCRIPT_DATABASE_URL": f"sqlite:///{place / 'netscript.db'}",
        "WEBHOOK_SECRET": os.environ.get("WEBHOOK_SECRET") or secrets.token_hex(16),
    }
    command = [sys.executable, "-m", "netscript_triggers", "dev", "--no-reload"]
    command += ["--port", str(port), "--log-level", "warning"]
    print(f"$ netscript dev --port {port}")
    with subprocess.Popen(command, env=environment) as server:
        try:
            _show(project, address, environment["WEBHOOK_SECRET"], server)
            if os.environ.get("DEMO_ONCE"):
                return 0
            print(f"\nIt goes on serving at {address} until Ctrl-C.", flush=True)
            return server.wait()
        except KeyboardInterrupt:
            return 0
        except DemoError as error:
            print(f"demo: {error}", file=sys.stderr)
            return 1
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


class DemoError(Exception):
    """Something did not happen in time."""


def _show(project: Path, address: str, secret: str, server: subprocess.Popen[bytes]) -> None:
    with httpx.Client(base_url=address, trust_env=False) as client:
        _until("netscript did not start", _START_SECONDS, server, lambda: _is_ready(client))
        trigger = webhook_named(discover_triggers(project), "payment-webhook")
        payment = {"orderId": f"order-{secrets.token_hex(3)}", "amountCents": 4200}
        request = signed_request(trigger, payment, secret=secret)
        print(f"\n$ POST {address}{request.path}   {request.body.decode()}")
        for name, value in request.headers.items():
            print(f"  {name}: {value[:32]}{'…' if len(value) > 32 else ''}")
        answer = client.request(
            request.method, request.path, content=request.body, headers=dict(request.headers)
        )
        print(f"{answer.status_code} {json.dumps(answer.json(), indent=2)}")
        if answer.status_code != 202:
            raise DemoError("the webhook was not accepted")
        (execution_id,) = answer.json()["executions"]
        path = f"/api/v1/workers/executions/{execution_id}"
        print(f"\n$ GET {address}{path}")
        record: Any = _until(
            "the execution did not end", _RUN_SECONDS, server, lambda: _ended(client, path)
        )
        shown = ("id", "job_id", "status", "attempt", "duration_ms", "progress", "result")
        print(json.dumps({name: record[name] for name in shown}, indent=2), flush=True)
        if record["status"] != "completed":
            raise DemoError(f"the execution is {record['status']}: {record['error']}")


def _until(
    complaint: str, seconds: float, server: subprocess.Popen[bytes], look: Callable[[], Any]
) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if server.poll() is not None:
            raise DemoError(f"{complaint}: it ended with {server.returncode}")
        if time.monotonic() > deadline:
            raise DemoError(f"{complaint} within {seconds:g} s")
        time.sleep(0.05)
    return found


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def _ended(client: httpx.Client, path: str) -> dict[str, Any] | None:
    record: dict[str, Any] = client.get(path).json()
    return record if record["status"] in ("completed", "failed", "cancelled") else None


def _free_port() -> int:
    """Return the usual port, or any that is free if somebody has that one."""
    for wanted in (PORT, 0):
        try:
            listener = bind("127.0.0.1", wanted)
        except ConfigurationError:
            continue
        with listener:
            return int(url_of(listener).rpartition(":")[2])
    raise DemoError("no port of 127.0.0.1 is free")


if __name__ == "__main__":
    sys.exit(main())
