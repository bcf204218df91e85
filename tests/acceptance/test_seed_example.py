"""The first example of the documentation, both forms, from the wheel, on both databases."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import httpx

from netscript_workers.store.engine import Store
from tests.acceptance.conftest import SECRET
from tests.kit import scalar
from tests.support import eventually

PAYMENT = {"orderId": "o-1", "amountCents": 1200}
EXECUTIONS = "/api/v1/workers/executions"


def deliver(
    url: str,
    path: str,
    payload: Any = None,
    *,
    body: bytes | None = None,
    signed: str | None = None,
    method: str = "POST",
) -> httpx.Response:
    content = body if body is not None else json.dumps(payload or PAYMENT).encode()
    proof = hmac.new(SECRET.encode(), content, hashlib.sha256).hexdigest()
    headers = {"Content-Type": "application/json"}
    if signed != "":
        headers["X-NetScript-Signature"] = signed or f"sha256={proof}"
    return httpx.request(method, f"{url}{path}", content=content, headers=headers, trust_env=False)


def ended(url: str, execution_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        record: dict[str, Any] = httpx.get(f"{url}{EXECUTIONS}/{execution_id}").json()
        return record if record["status"] in ("completed", "failed") else None

    found = eventually(look, what="the execution's end")
    assert found is not None
    return found


def test_a_signed_payment_is_accepted_once_and_runs(served: str) -> None:
    for path, result in (
        ("/webhooks/payment", {"order_id": "o-1", "charge_id": "ch_o-1"}),
        ("/webhooks/refund", {"refunded": 1200}),
    ):
        first = deliver(served, path)
        assert first.status_code == 202
        told = first.json()
        assert (told["status"], told["duplicate"]) == ("completed", False)
        (execution_id,) = told["executions"]
        record = ended(served, execution_id)
        assert (record["status"], record["result"]) == ("completed", result)
        assert record["trigger_event_id"] == told["event_id"]
        again = deliver(served, path)
        assert again.status_code == 202
        assert again.json() == {**told, "duplicate": True}
        event = httpx.get(f"{served}/api/v1/events/{told['event_id']}").json()
        assert (event["status"], event["executions"]) == ("completed", [execution_id])


def test_what_is_refused_leaves_nothing(served: str, database_url: str) -> None:
    wrong = "sha256=" + "0" * 64
    statuses = {
        "wrong": deliver(served, "/webhooks/payment", signed=wrong),
        "missing": deliver(served, "/webhooks/payment", signed=""),
        "unset secret": deliver(served, "/webhooks/unset"),
        "too large": deliver(served, "/webhooks/refund", {"orderId": "x" * 1000}),
        "no JSON": deliver(served, "/webhooks/payment", body=b"{"),
        "method": deliver(served, "/webhooks/payment", method="GET"),
    }
    empty = httpx.post(f"{served}/webhooks/payment", headers={"X-NetScript-Signature": ""})
    statuses["empty"] = empty
    told = {name: answer.status_code for name, answer in statuses.items()}
    assert told == {
        "wrong": 401,
        "missing": 401,
        "unset secret": 401,
        "too large": 413,
        "no JSON": 400,
        "method": 405,
        "empty": 401,
    }
    store = Store(database_url)
    for table in ("trigger_events", "executions", "execution_history", "idempotency_keys"):
        assert scalar(store, f"SELECT count(*) FROM netscript_{table}") == 0
    store.dispose()


def test_a_job_is_triggered_over_the_api(served: str) -> None:
    path = f"{served}/api/v1/workers/jobs/process-payment/trigger"
    good = {"order_id": "o-2", "amount_cents": 5}
    told = httpx.post(path, json=good, headers={"Idempotency-Key": "k"}).json()
    assert told["triggered"]
    record = ended(served, told["execution_id"])
    assert record["result"] == {"order_id": "o-2", "charge_id": "ch_o-2"}
    assert [step["name"] for step in record["steps"]] == ["charge"]
    refused = httpx.post(path, json={**good, "amount_cents": 0})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["loc"] == ["amount_cents"]
    unknown = httpx.post(path.replace("process-payment", "process-paymant"), json=good)
    assert unknown.status_code == 404
    assert "process-payment" in unknown.json()["detail"]
    other = httpx.post(path, json={**good, "amount_cents": 6}, headers={"Idempotency-Key": "k"})
    assert other.status_code == 409
    declined = httpx.post(path, json={**good, "amount_cents": 2_000_000}).json()
    assert ended(served, declined["execution_id"])["error"] == "charge declined"
