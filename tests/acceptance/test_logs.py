"""What server, worker and children log as JSON: it joins on ids, and shows no secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.observed import SECRET, open_shop
from tests.support import Process

ROTATED = "geheim-alt-fedcba9876543210"
TOKEN = "geheim-eins-AAAAAAAAAAAA"


def lines_of(process: Process) -> list[dict[str, Any]]:
    """Return what a process logged; whatever else it prints is no JSON."""
    return [json.loads(line) for line in process.output.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("runtime", ["in-process", "worker-process", "subprocess"])
def test_lines_of_server_and_worker_join_on_the_execution(
    tmp_path: Path, sqlite_url: str, runtime: str
) -> None:
    flags = ("--log-format", "json")
    with open_shop(tmp_path, sqlite_url, *flags, NETSCRIPT_RUNTIME=runtime) as shop:
        told = shop.deliver(order="o_1").json()
        doomed = shop.deliver(order="o_2", doomed=True).json()
        (id_,), (other,) = told["executions"], doomed["executions"]
        assert shop.ended(id_)["status"] == "completed"
        assert shop.ended(other)["status"] == "failed"
    server, worker = lines_of(shop.server), lines_of(shop.worker)
    # Nothing but JSON comes out of a worker.
    assert len(worker) == len(shop.worker.output.splitlines())
    for line in server + worker:
        assert line.keys() >= {"time", "level", "logger", "message"}
        assert line["time"].endswith("Z")
    (came, _) = [line for line in server if line["message"] == "an order came"]
    assert came["event_id"] == told["event_id"]
    assert came["trigger_id"] == "orders"
    packed = [line for line in worker if line["message"] == "packing o_1"]
    assert [line["attempt"] for line in packed] == [1, 2]
    for line in packed:
        assert line["execution_id"] == id_
        assert line["job_id"] == "flaky"
        assert line["event_id"] == told["event_id"]
        assert line["logger"] == "shop.jobs"
    (hopeless,) = [line for line in worker if line["message"] == "nothing helps"]
    assert hopeless["execution_id"] == other
    assert hopeless["event_id"] == doomed["event_id"]
    assert {line["logger"] for line in server} >= {"uvicorn.error", "netscript_triggers.app"}


@pytest.mark.parametrize("runtime", ["in-process", "worker-process"])
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_secrets_that_handlers_log_are_masked(
    tmp_path: Path, sqlite_url: str, runtime: str, log_format: str
) -> None:
    env = {
        "NETSCRIPT_RUNTIME": runtime,
        "NETSCRIPT_LOG_FORMAT": log_format,
        "SHOP_SECRET": f"{SECRET} {ROTATED}",
    }
    with open_shop(tmp_path, sqlite_url, **env) as shop:
        assert shop.deliver(order="o_1").status_code == 202
        id_ = shop.trigger("indiscreet")
        record = shop.ended(id_)
        assert record["status"] == "completed"
        output = shop.worker.output + shop.server.output
    assert "secret *** *** at URL" in output
    assert "wrong secret *** ***" in output
    assert "ValueError" in output
    assert "Authorization: Bearer ***" in output
    kept = json.dumps(record)
    assert "kept ***" in kept
    for secret in (SECRET, ROTATED, "abcdefgh12345678"):
        assert secret not in output
        assert secret not in kept


def test_people_see_the_ends_of_ids(tmp_path: Path, sqlite_url: str) -> None:
    with open_shop(tmp_path, sqlite_url) as shop:
        told = shop.deliver(order="o_1").json()
        (id_,) = told["executions"]
        shop.ended(id_)
    assert f"shop.jobs: [flaky …{id_[-8:]} #2] packing o_1" in shop.worker.output
    assert f"[orders …{told['event_id'][-8:]}] an order came" in shop.server.output
