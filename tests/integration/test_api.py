"""The workers API, on both databases, without a socket."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, PositiveInt

from netscript_triggers.api import routes
from netscript_triggers.store import triggers as stored_triggers
from netscript_workers import JobContext, JobDefinition, job
from netscript_workers.api.app import Doors, create_app
from netscript_workers.api.services import Services
from netscript_workers.domain import Reason, Verdict
from netscript_workers.store import definitions
from netscript_workers.store.definitions import StoredCatalog
from netscript_workers.store.engine import Store
from netscript_workers.store.steps import FinishedStep, LogLine
from netscript_workers.store.tick import Work
from netscript_workers.store.writer import Writer
from netscript_workers.streaming.feed import Feed
from tests.edge import trigger
from tests.kit import Hand, new, put, run, scalar

pytestmark = pytest.mark.fresh_database

BASE = "/api/v1/workers"


class Payment(BaseModel):
    order_id: str
    amount_cents: PositiveInt


@job(id="process-payment", topic="payments", tags=["money"], metadata={"owner": "shop"})
async def process_payment(ctx: JobContext[Payment]) -> None:
    """Charge somebody."""


@job(id="elsewhere", priority=70)
async def elsewhere(ctx: JobContext[Payment]) -> None: ...


TRACE = f"00-{'a' * 32}-{'b' * 16}-01"
PAYLOAD = {"order_id": "o1", "amount_cents": 5}


@contextlib.asynccontextmanager
async def serving(
    store: Store,
    *jobs: JobDefinition[Any, Any],
    host: str = "localhost:8091",
    doors: Doors | None = None,
) -> AsyncGenerator[httpx.AsyncClient]:
    known = {one.id: one for one in jobs}
    writer = Writer(store)
    writer.start()
    services = Services(
        store=store,
        writer=writer,
        catalog=StoredCatalog(store, known),
        jobs=known,
        version="1.2.3",
        ring=lambda: None,
        feed=Feed(store),
    )
    app = create_app(services, [routes({"payment": trigger()})], doors=doors)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
        yield client
    writer.close()


@pytest.fixture
async def api(store: Store) -> AsyncIterator[httpx.AsyncClient]:
    definitions.register(store, [process_payment, elsewhere])
    async with serving(store, process_payment) as client:
        yield client


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    assert (told["status"], told["type"]) == (status, f"urn:netscript:problem:{code}")
    return told


async def test_a_triggered_job_is_accepted_with_its_execution(
    store: Store, api: httpx.AsyncClient
) -> None:
    answer = await api.post(f"{BASE}/jobs/process-payment/trigger", json=PAYLOAD)
    assert answer.status_code == 202
    told = answer.json()
    assert (told["job_id"], told["triggered"]) == ("process-payment", True)
    (claim,) = Hand(store, ["process-payment"]).claim()
    assert (claim.id, claim.topic) == (told["execution_id"], "payments")


async def test_a_refused_payload_is_422_with_its_field_and_stores_nothing(
    store: Store, api: httpx.AsyncClient
) -> None:
    for name in ("process-payment", "elsewhere"):
        bad = {"order_id": "geheim", "amount_cents": -1}
        answer = await api.post(f"{BASE}/jobs/{name}/trigger", json=bad)
        told = problem(answer, 422, "payload-invalid")
        assert [error["loc"] for error in told["errors"]] == [["amount_cents"]]
        assert "amount_cents" in told["detail"]
        assert "geheim" not in answer.text
        missing = await api.post(f"{BASE}/jobs/{name}/trigger", json={"amount_cents": 1})
        assert problem(missing, 422, "payload-invalid")["errors"][0]["loc"] == ["order_id"]
    assert scalar(store, "SELECT count(*) FROM netscript_executions") == 0


async def test_an_unknown_job_is_404_with_the_nearest_name(api: httpx.AsyncClient) -> None:
    answer = await api.post(f"{BASE}/jobs/proces-payment/trigger", json=PAYLOAD)
    told = problem(answer, 404, "job-not-found")
    assert 'Did you mean "process-payment"?' in told["detail"]
    problem(await api.get(f"{BASE}/jobs/nope"), 404, "job-not-found")
    problem(await api.get(f"{BASE}/jobs/%00"), 404, "job-not-found")


async def test_a_job_of_another_process_is_checked_by_its_schema(
    store: Store, api: httpx.AsyncClient
) -> None:
    answer = await api.post(f"{BASE}/jobs/elsewhere/trigger", json=PAYLOAD)
    assert answer.status_code == 202
    assert scalar(store, "SELECT priority FROM netscript_executions") == 70


@pytest.mark.trap("D-44")
async def test_an_idempotency_key_yields_the_first_execution_or_409(
    api: httpx.AsyncClient,
) -> None:
    path, headers = f"{BASE}/jobs/process-payment/trigger", {"Idempotency-Key": "k"}
    first = (await api.post(path, json=PAYLOAD, headers=headers)).json()
    second = (await api.post(path, json=PAYLOAD, headers=headers)).json()
    assert second == {**first, "triggered": False}
    other = await api.post(path, json={**PAYLOAD, "amount_cents": 6}, headers=headers)
    told = problem(other, 409, "idempotency-conflict")
    assert told["execution_id"] == first["execution_id"]
    assert first["execution_id"] in told["detail"]


async def test_the_mode_of_a_key_is_an_option_too(store: Store, api: httpx.AsyncClient) -> None:
    path, headers = f"{BASE}/jobs/process-payment/trigger", {"Idempotency-Key": "k"}
    given: dict[str, str | int] = {"idempotency": "replace", "max_wait": 600, "delay": 60}
    first = (await api.post(path, json=PAYLOAD, headers=headers, params=given)).json()
    other = {**PAYLOAD, "amount_cents": 6}
    second = (await api.post(path, json=other, headers=headers, params=given)).json()
    assert second == {**first, "triggered": False}
    record = (await api.get(f"{BASE}/executions/{first['execution_id']}")).json()
    assert record["payload"]["amount_cents"] == 6
    for params in ({"idempotency": "twice"}, {"max_wait": "5"}, {**given, "max_wait": "0"}):
        answer = await api.post(path, json=other, headers=headers, params=params)
        assert answer.status_code == 422, answer.text
    without = await api.post(path, json=other, params={"idempotency": "while_pending"})
    assert without.status_code == 422
    assert "idempotency_key" in without.json()["detail"]


async def test_options_are_query_parameters_or_headers(
    store: Store, api: httpx.AsyncClient
) -> None:
    path = f"{BASE}/jobs/process-payment/trigger"
    options: dict[str, str | int] = {
        "priority": 90,
        "correlation_id": "c",
        "concurrency_key": "k",
        "delay": 60,
    }
    one = (await api.post(path, json=PAYLOAD, params=options)).json()["execution_id"]
    record = (await api.get(f"{BASE}/executions/{one}")).json()
    assert (record["priority"], record["correlation_id"]) == (90, "c")
    assert (record["concurrency_key"], record["status"]) == ("k", "scheduled")
    headers = {"Priority": "10", "X-Correlation-Id": "d", "traceparent": TRACE}
    two = (await api.post(path, json=PAYLOAD, headers=headers)).json()["execution_id"]
    record = (await api.get(f"{BASE}/executions/{two}")).json()
    assert (record["priority"], record["correlation_id"]) == (10, "d")
    assert record["traceparent"] == TRACE
    late = {"run_at": "2999-01-01T00:00:00Z"}
    three = (await api.post(path, json=PAYLOAD, params=late)).json()["execution_id"]
    record = (await api.get(f"{BASE}/executions/{three}")).json()
    assert record["run_at"] == "2999-01-01T00:00:00.000000Z"


@pytest.mark.parametrize(
    "params",
    [
        {"priority": "101"},
        {"priority": "x"},
        {"delay": "-1"},
        {"delay": "nan"},
        {"run_at": "tomorrow"},
        {"run_at": "2030-01-01T00:00:00"},
        {"delay": "1", "run_at": "2030-01-01T00:00:00Z"},
        {"priorty": "1"},
        {"idempotency_key": ""},
        {"idempotency_key": "x" * 513},
        {"concurrency_key": "a\0b"},
    ],
)
async def test_options_that_cannot_be_meant_are_422(
    store: Store, api: httpx.AsyncClient, params: dict[str, str]
) -> None:
    answer = await api.post(f"{BASE}/jobs/process-payment/trigger", json=PAYLOAD, params=params)
    assert answer.status_code == 422, answer.text
    assert scalar(store, "SELECT count(*) FROM netscript_executions") == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b'{"a":1,"a":2}', 400),
        (b"\xff", 400),
        (b"[1]", 422),
        (b'"text"', 422),
        (b'{"x":"' + b"y" * 1_100_000 + b'"}', 413),
        (b"", 422),
    ],
)
async def test_a_body_that_is_no_object_is_a_clear_4xx(
    api: httpx.AsyncClient, body: bytes, status: int
) -> None:
    headers = {"content-type": "application/json"}
    path = f"{BASE}/jobs/process-payment/trigger"
    answer = await api.post(path, content=body, headers=headers)
    assert answer.status_code == status
    assert answer.json()["status"] == status


async def test_only_json_bodies_are_taken(api: httpx.AsyncClient) -> None:
    path = f"{BASE}/jobs/process-payment/trigger"
    problem(await api.post(path, data={"order_id": "x"}), 415, "content-type")
    headers = {"content-type": "text/plain"}
    problem(await api.post(path, content=b"{}", headers=headers), 415, "content-type")
    problem(await api.post(path, content=b"{}"), 415, "content-type")


async def test_without_tokens_only_loopback_names_and_own_origins_reach_the_api(
    store: Store,
) -> None:
    for host, status in (
        ("localhost:8091", 200),
        ("127.0.0.1", 200),
        ("[::1]:8091", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
    ):
        async with serving(store, host=host) as api:
            assert (await api.get(f"{BASE}/jobs")).status_code == status, host
    async with serving(store) as api:
        for origin, status in (
            ("http://localhost:8091", 200),
            ("http://evil.example", 403),
            ("http://localhost:9999", 403),
            ("null", 403),
        ):
            answer = await api.get(f"{BASE}/jobs", headers={"Origin": origin})
            assert answer.status_code == status, origin
        answer = await api.get(f"{BASE}/jobs", headers={"Host": "[broken"})
        problem(answer, 421, "host")


async def test_jobs_are_listed_from_the_database(api: httpx.AsyncClient) -> None:
    told = (await api.get(f"{BASE}/jobs", params={"limit": 1})).json()
    assert (told["total"], told["limit"], told["offset"]) == (2, 1, 0)
    assert [one["id"] for one in told["jobs"]] == ["elsewhere"]
    record = (await api.get(f"{BASE}/jobs/process-payment")).json()
    assert (record["name"], record["topic"]) == ("Process payment", "payments")
    assert record["description"] == "Charge somebody."
    assert (record["tags"], record["metadata"]) == (["money"], {"owner": "shop"})
    assert record["payload_schema"]["required"] == ["order_id", "amount_cents"]


async def test_seed_registers_what_is_new_or_has_changed(store: Store) -> None:
    async with serving(store, process_payment) as api:
        told = (await api.post(f"{BASE}/seed")).json()
        assert (told["jobs_created"], told["tasks_created"]) == (1, 0)
        assert (await api.post(f"{BASE}/seed")).json()["jobs_created"] == 0
        run(store, "UPDATE netscript_job_definitions SET topic = 'old'")
        assert (await api.post(f"{BASE}/seed")).json()["jobs_created"] == 0
        assert scalar(store, "SELECT topic FROM netscript_job_definitions") == "payments"


async def test_executions_are_listed_newest_first_over_both_tables(
    store: Store, api: httpx.AsyncClient
) -> None:
    given = [new(topic="x" if n % 2 else "y", correlation_id="c") for n in range(8)]
    put(store, *given)
    hand = Hand(store)
    for claim in hand.claim(4):
        hand.end(claim)
    ids: list[str] = []
    cursor: str | None = None
    while True:
        params: dict[str, str | int] = {"limit": 3}
        if cursor is not None:
            params["cursor"] = cursor
        page = (await api.get(f"{BASE}/executions", params=params)).json()
        ids += [one["id"] for one in page["executions"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert ids == [one.id for one in reversed(given)]

    async def count(**params: str) -> int:
        answer = await api.get(f"{BASE}/executions", params=params)
        return len(answer.json()["executions"])

    assert await count(status="completed") == 4
    assert await count(status="queued") == 4
    assert await count(topic="x") == 4
    assert await count(job_id="a", correlation_id="c") == 8
    assert await count(job_id="nobody") == 0
    assert await count(status="completed,queued") == 8
    problem(await api.get(f"{BASE}/executions", params={"correlation_id": "\0"}), 422, "invalid")


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({"limit": "0"}, 422),
        ({"limit": "201"}, 422),
        ({"limit": "x"}, 422),
        ({"status": "done"}, 422),
        ({"cursor": "nonsense"}, 400),
    ],
)
async def test_a_list_that_cannot_be_meant_is_a_clear_4xx(
    api: httpx.AsyncClient, params: dict[str, str], status: int
) -> None:
    for path in (f"{BASE}/executions", "/api/v1/events"):
        answer = await api.get(path, params=params)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"


async def test_an_offset_beyond_all_reason_is_422(api: httpx.AsyncClient) -> None:
    for path in (f"{BASE}/jobs", "/api/v1/triggers"):
        for offset in ("-1", "9" * 30):
            problem(await api.get(path, params={"offset": offset}), 422, "invalid")


async def test_the_whole_record_has_attempts_steps_and_logs(
    store: Store, api: httpx.AsyncClient
) -> None:
    given = new(payload='{"lone":"\\ud800"}', idempotency_key="k")
    put(store, given)
    hand = Hand(store)
    claim = hand.claim_one()
    work = Work(
        steps=[FinishedStep(claim.id, claim.token, "s", "[1]", 1)],
        logs=[LogLine(claim.id, 1, 1_700_000_000_000_000, "INFO", "hello")],
    )
    hand.ticker.run(work)
    hand.end(claim, Verdict.FAIL, reason=Reason.ERROR, failure=Reason.ERROR, error="no")
    record = (await api.get(f"{BASE}/executions/{given.id}")).json()
    expected = (
        "id job_id kind topic status triggered_by trigger_event_id payload result error attempt "
        "max_attempts priority idempotency_key concurrency_key correlation_id traceparent "
        "created_at run_at started_at finished_at duration_ms worker_id progress reason "
        "retried_from cancel_requested attempts steps logs"
    )
    assert list(record) == expected.split()
    assert record["payload"] == {"lone": "\ud800"}
    assert [(one["name"], one["result"]) for one in record["steps"]] == [("s", [1])]
    assert [one["message"] for one in record["logs"]] == ["hello"]
    assert record["attempts"][0]["outcome"] == "error"


@pytest.mark.parametrize("id_", ["nonsense", "01900000-0000-7000-8000-000000000000", "%00"])
async def test_unknown_executions_and_events_are_404(api: httpx.AsyncClient, id_: str) -> None:
    problem(await api.get(f"{BASE}/executions/{id_}"), 404, "execution-not-found")
    problem(await api.get(f"/api/v1/events/{id_}"), 404, "event-not-found")
    problem(await api.post(f"{BASE}/executions/{id_}/retry"), 404, "execution-not-found")


async def test_a_failed_execution_is_retried_and_a_live_one_is_409(
    store: Store, api: httpx.AsyncClient
) -> None:
    given = new()
    put(store, given)
    problem(await api.post(f"{BASE}/executions/{given.id}/retry"), 409, "state")
    hand = Hand(store)
    hand.end(hand.claim_one(), Verdict.FAIL, reason=Reason.ERROR, failure=Reason.ERROR)
    answer = await api.post(f"{BASE}/executions/{given.id}/retry")
    assert (answer.status_code, answer.json()["status"]) == (200, "queued")


async def test_triggers_are_listed_and_an_unknown_one_is_404(
    store: Store, api: httpx.AsyncClient
) -> None:
    stored_triggers.register(store, [trigger()])
    told = (await api.get("/api/v1/triggers")).json()
    assert (told["total"], told["triggers"][0]["path"]) == (1, "/webhooks/payment")
    assert (await api.get("/api/v1/triggers/payment")).json()["verifier"] == "hmac-sha256"
    told = problem(await api.get("/api/v1/triggers/paymnt"), 404, "trigger-not-found")
    assert 'Did you mean "payment"' in told["detail"]


async def test_health_is_about_the_process_and_readiness_about_the_work(
    store: Store, api: httpx.AsyncClient
) -> None:
    assert (await api.get("/health")).json() == {"status": "ok", "version": "1.2.3"}
    told = problem(await api.get("/health/ready"), 503, "not-ready")
    assert told["checks"]["workers"].startswith("none is alive")
    Hand(store).register()
    assert (await api.get("/health/ready")).json()["status"] == "ready"
    run(store, "UPDATE netscript_alembic_version SET version_num = '0000'")
    told = problem(await api.get("/health/ready"), 503, "not-ready")
    assert "newer netscript" in told["checks"]["migrations"]


async def test_a_database_that_is_gone_is_503() -> None:
    store = Store("postgresql://u:geheim@127.0.0.1:1/none")
    async with serving(store, process_payment) as api:
        answer = await api.get(f"{BASE}/executions")
        problem(answer, 503, "store-unavailable")
        assert answer.headers["retry-after"] == "5"
        told = problem(await api.get("/health/ready"), 503, "not-ready")
        assert told["checks"]["database"] == "it does not answer"
        answer = await api.post(f"{BASE}/jobs/process-payment/trigger", json=PAYLOAD)
        problem(answer, 503, "store-unavailable")
        answer = await api.post(f"{BASE}/jobs/elsewhere/trigger", json=PAYLOAD)
        problem(answer, 503, "store-unavailable")
    store.dispose()


async def test_other_paths_and_methods_are_problems_too(api: httpx.AsyncClient) -> None:
    problem(await api.get("/nope"), 404, "not-found")
    answer = await api.delete(f"{BASE}/jobs")
    problem(answer, 405, "method")
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS"


async def test_a_fault_of_ours_is_a_500_that_tells_nothing(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("geheim")

    monkeypatch.setattr(definitions, "list_jobs", broken)
    answer = await api.get(f"{BASE}/jobs")
    problem(answer, 500, "internal")
    assert "geheim" not in answer.text


async def test_the_openapi_document_names_every_route_and_option(api: httpx.AsyncClient) -> None:
    told = (await api.get("/api/openapi.json")).json()
    options = told["paths"][f"{BASE}/jobs/{{job_id}}/trigger"]["post"]["parameters"]
    assert {"priority", "delay", "run_at", "Idempotency-Key"} <= {one["name"] for one in options}
    assert "/api/v1/events/{event_id}" in told["paths"]


async def test_topics_are_listed_paused_and_resumed(store: Store, api: httpx.AsyncClient) -> None:
    put(store, new(topic="payments"), new(topic="a/b"))
    told = (await api.get(f"{BASE}/topics")).json()
    by_name = {one["name"]: one for one in told["topics"]}
    assert set(by_name) == {"payments", "a/b", "default"}
    shown = by_name["payments"]
    assert (shown["depth"], shown["running"], shown["paused"]) == (1, 0, False)
    assert (shown["rate"], told["more"]) == (None, False)
    assert 0 <= shown["oldest_wait"] < 60
    for topic in ("payments", "a%2Fb"):
        paused = await api.post(f"{BASE}/topics/{topic}/pause")
        assert paused.status_code == 200
        assert paused.json()["paused"] is True
    assert Hand(store).claim() == []
    resumed = (await api.post(f"{BASE}/topics/payments/resume")).json()
    assert (resumed["name"], resumed["paused"]) == ("payments", False)
    assert [claim.topic for claim in Hand(store).claim()] == ["payments"]
    shown = {one["name"]: one for one in (await api.get(f"{BASE}/topics")).json()["topics"]}
    assert (shown["payments"]["running"], shown["a/b"]["paused"]) == (1, True)
    problem(await api.post(f"{BASE}/topics/x%00y/pause"), 422, "payload-invalid")
    limited = await api.post(f"{BASE}/topics/payments/limit", json={"rate": "10/s"})
    assert (limited.status_code, limited.json()["rate"]) == (200, "10/s")
    refused = await api.post(f"{BASE}/topics/payments/limit", json={"rate": "often"})
    problem(refused, 422, "configuration")
    plain = {"Content-Type": "application/json"}
    broken = await api.post(f"{BASE}/topics/payments/limit", content="{", headers=plain)
    problem(broken, 400, "malformed")
    for body in ({}, {"rate": 1}, {"rate": None, "whim": 1}):
        refused = await api.post(f"{BASE}/topics/payments/limit", json=body)
        problem(refused, 422, "payload-invalid")
    freed = await api.post(f"{BASE}/topics/payments/limit", json={"rate": None})
    assert freed.json()["rate"] is None


async def test_workers_are_listed_and_told_to_leave(store: Store, api: httpx.AsyncClient) -> None:
    assert (await api.get(f"{BASE}/workers")).json() == {
        "workers": [],
        "total": 0,
        "next_cursor": None,
    }
    hand = Hand(store)
    hand.register()
    put(store, new())
    claim = hand.claim_one()
    (shown,) = (await api.get(f"{BASE}/workers")).json()["workers"]
    assert (shown["id"], shown["running"], shown["executions"]) == (hand.id, 1, [claim.id])
    assert (shown["fresh"], shown["stalled"], shown["state"]) == (True, False, "running")
    told = await api.post(f"{BASE}/workers/{hand.id}/drain")
    assert (told.status_code, told.json()["state"]) == (200, "draining")
    assert (await api.get(f"{BASE}/workers/{hand.id}")).json()["drain_requested"] is True
    problem(await api.post(f"{BASE}/workers/nobody/drain"), 404, "worker-not-found")
    run(store, "UPDATE netscript_workers SET lease_until = 0")
    problem(await api.post(f"{BASE}/workers/{hand.id}/drain"), 409, "state")


async def test_readiness_is_red_when_every_worker_is_stuck_and_says_which(
    store: Store, api: httpx.AsyncClient
) -> None:
    stuck, free = Hand(store), Hand(store)
    stuck.register()
    free.register()
    run(store, "UPDATE netscript_workers SET stalled_at = 1 WHERE id = :id", id=stuck.id)
    told = await api.get("/health/ready")
    assert told.status_code == 200
    assert [stuck.id in name for name in told.json()["stalled_workers"]] == [True]
    run(store, "UPDATE netscript_workers SET stalled_at = 1")
    red = problem(await api.get("/health/ready"), 503, "not-ready")
    assert "make no progress" in red["checks"]["workers"]
    assert len(red["stalled_workers"]) == 2
