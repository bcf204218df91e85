"""What holds for all routes: methods, conditional requests, pages, bounds, and the document."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from netscript_triggers.store import triggers as stored_triggers
from netscript_workers.ids import new_id
from netscript_workers.store import definitions
from netscript_workers.store.engine import Store
from netscript_workers.store.schema import job_definitions
from tests.edge import trigger
from tests.integration.test_api import BASE, PAYLOAD, elsewhere, problem, process_payment, serving
from tests.integration.test_operating_api import failed
from tests.kit import Hand, new, put, run, scalar, status

URL = f"{BASE}/executions"
_SAME = ", ".join(
    one.name for one in job_definitions.columns if one.name not in {"id", "kind", "name"}
)
TASK = f"""
    INSERT INTO netscript_job_definitions (id, kind, name, {_SAME})
    SELECT 'report', 'task', 'Report', {_SAME}
    FROM netscript_job_definitions WHERE id = 'elsewhere'"""


@pytest.fixture
async def api(store: Store) -> AsyncIterator[httpx.AsyncClient]:
    definitions.register(store, [process_payment, elsewhere])
    stored_triggers.register(store, [trigger()])
    async with serving(store, process_payment) as client:
        yield client


async def document(api: httpx.AsyncClient) -> dict[str, Any]:
    told: dict[str, Any] = (await api.get("/api/openapi.json")).json()
    return told


async def test_the_document_is_valid_and_every_example_in_it_too(api: httpx.AsyncClient) -> None:
    told = await document(api)
    OpenAPIV31SpecValidator(told).validate()
    seen = 0
    for item in told["paths"].values():
        for operation in item.values():
            assert operation["summary"] and operation["description"] and operation["tags"]
            bodies = [*operation["responses"].values(), operation.get("requestBody", {})]
            for content in (one for body in bodies for one in body.get("content", {}).values()):
                if "example" in content:
                    schema = {**content["schema"], "components": told["components"]}
                    jsonschema.validate(content["example"], schema)
                    seen += 1
    assert seen >= 40


async def test_every_route_tells_of_its_problems_and_has_a_name_of_its_own(
    api: httpx.AsyncClient,
) -> None:
    names: list[str] = []
    for path, item in (await document(api))["paths"].items():
        for method, operation in item.items():
            names.append(operation["operationId"])
            told = set(operation["responses"])
            assert {"400", "403"} <= told
            if path.startswith("/api/"):
                assert {"401", "422", "429", "503"} <= told
                assert ({"413", "415"} <= told) == (method == "post")
                assert ("404" in told) == ("{" in path), path
            for code, response in operation["responses"].items():
                if int(code) >= 400:
                    assert list(response["content"]) == ["application/problem+json"]
    assert len(set(names)) == len(names)


async def test_an_answer_fits_what_the_document_says_of_it(
    store: Store, api: httpx.AsyncClient
) -> None:
    (dead,) = failed(store)
    Hand(store).register()
    told = await document(api)
    for path, name in (
        (URL, URL),
        (f"{URL}/{dead}", f"{URL}/{{execution_id}}"),
        (f"{URL}/{dead}/explain", f"{URL}/{{execution_id}}/explain"),
        (f"{BASE}/jobs", f"{BASE}/jobs"),
        (f"{BASE}/topics", f"{BASE}/topics"),
        (f"{BASE}/workers", f"{BASE}/workers"),
        ("/api/v1/triggers", "/api/v1/triggers"),
        ("/health", "/health"),
    ):
        answer = await api.get(path)
        content = told["paths"][name]["get"]["responses"]["200"]["content"]
        schema = {**content["application/json"]["schema"], "components": told["components"]}
        jsonschema.validate(answer.json(), schema)


async def test_head_options_and_methods_that_a_path_lacks(api: httpx.AsyncClient) -> None:
    head = await api.head(f"{BASE}/jobs")
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 0
    for path, allow in (
        (f"{BASE}/jobs", "GET, HEAD, OPTIONS"),
        (f"{BASE}/topics/a%2Fb/pause", "OPTIONS, POST"),
        # No execution has such an id.
        (f"{URL}/retry", "OPTIONS, POST"),
        ("/api/v1/events/replay", "OPTIONS, POST"),
        ("/api/openapi.json", "GET, HEAD, OPTIONS"),
    ):
        options = await api.options(path)
        assert (options.status_code, options.headers["allow"]) == (204, allow)
        wrong = await api.put(path, json={})
        problem(wrong, 405, "method")
        assert wrong.headers["allow"] == allow
    problem(await api.get(f"{URL}/retry"), 405, "method")
    problem(await api.options("/nope"), 404, "not-found")


async def test_what_the_caller_has_is_not_sent_again(store: Store, api: httpx.AsyncClient) -> None:
    (dead,) = failed(store)
    for path in (
        f"{BASE}/jobs",
        f"{BASE}/jobs/elsewhere",
        f"{BASE}/tasks",
        "/api/v1/triggers",
        "/api/v1/triggers/payment",
        f"{URL}/{dead}",
    ):
        tag = (await api.get(path)).headers["etag"]
        assert tag.startswith('W/"')
        again = await api.get(path, headers={"If-None-Match": f'"x", {tag}'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        other = await api.get(path, headers={"If-None-Match": '"x"'})
        assert other.status_code == 200
    before = (await api.get(f"{BASE}/jobs")).headers["etag"]
    run(store, "UPDATE netscript_job_definitions SET topic = 'other'")
    changed = await api.get(f"{BASE}/jobs", headers={"If-None-Match": before})
    assert changed.status_code == 200
    put(store, live := new())
    assert "etag" not in (await api.get(f"{URL}/{live.id}")).headers


async def test_tasks_are_answered_from_the_database(store: Store, api: httpx.AsyncClient) -> None:
    told = (await api.get(f"{BASE}/tasks")).json()
    assert told == {"tasks": [], "total": 0, "limit": 50, "offset": 0}
    problem(await api.get(f"{BASE}/tasks/elsewhere"), 404, "task-not-found")
    problem(await api.post(f"{BASE}/tasks/report/trigger", json={}), 404, "task-not-found")
    run(store, TASK)
    told = (await api.get(f"{BASE}/tasks")).json()
    assert [(one["id"], one["kind"]) for one in told["tasks"]] == [("report", "task")]
    assert (await api.get(f"{BASE}/jobs")).json()["total"] == 2
    problem(await api.get(f"{BASE}/jobs/report"), 404, "job-not-found")
    problem(await api.post(f"{BASE}/jobs/report/trigger", json=PAYLOAD), 404, "job-not-found")
    near = problem(await api.get(f"{BASE}/tasks/reprot"), 404, "task-not-found")
    assert 'Did you mean "report"?' in near["detail"]
    refused = await api.post(f"{BASE}/tasks/report/trigger", json={"order_id": "o"})
    problem(refused, 422, "payload-invalid")
    done = await api.post(f"{BASE}/tasks/report/trigger", json=PAYLOAD)
    assert done.status_code == 202
    record = (await api.get(f"{URL}/{done.json()['execution_id']}")).json()
    assert (record["job_id"], record["kind"]) == ("report", "task")


@pytest.mark.parametrize(
    ("key", "code"), [("k" * 255, 202), ("k" * 256, 422), ("", 422), ("a\tb", 422), ("ä", 422)]
)
async def test_a_key_in_a_header_is_short_and_printable(
    api: httpx.AsyncClient, key: str, code: int
) -> None:
    for name in ("Idempotency-Key", "X-Idempotency-Key"):
        headers = [(name.encode(), key.encode())]
        for path in (f"{BASE}/jobs/elsewhere/trigger", "/api/v1/triggers/payment/fire"):
            answer = await api.post(path, json=PAYLOAD, headers=headers)
            assert answer.status_code == code, answer.text


async def test_filters_are_repeated_or_separated_by_commas_and_bounded_in_time(
    store: Store, api: httpx.AsyncClient
) -> None:
    (dead,) = failed(store)
    put(store, waits := new(), later := new(delay=60_000_000))
    run(store, "UPDATE netscript_executions SET created_at = created_at - 7200000000 "
        "WHERE id = :id", id=waits.id)  # fmt: skip

    async def ids(*params: tuple[str, str]) -> list[str]:
        answer = await api.get(URL, params=list(params))
        assert answer.status_code == 200, answer.text
        return [one["id"] for one in answer.json()["executions"]]

    assert await ids(("status", "failed,scheduled")) == [later.id, dead]
    assert await ids(("status", "failed"), ("status", "queued")) == [waits.id, dead]
    assert await ids(("status", "failed,completed,cancelled"), ("job_id", "a")) == [dead]
    made = (await api.get(f"{URL}/{later.id}")).json()["created_at"]
    assert await ids(("created_before", made)) == [waits.id, dead]
    assert await ids(("created_after", made)) == [later.id]
    for name, value in (
        ("status", "failed,"),
        ("status", ""),
        ("created_after", "1700000000"),
        ("created_before", "2026-01-02"),
        ("topic", "a\0b"),
        ("job_id", "x" * 513),
    ):
        problem(await api.get(URL, params={name: value}), 422, "invalid")


@pytest.mark.parametrize("path", [URL, "/api/v1/events", f"{BASE}/topics", f"{BASE}/workers"])
async def test_a_cursor_of_another_list_or_of_nobody_is_refused(
    store: Store, api: httpx.AsyncClient, path: str
) -> None:
    put(store, new(), new())
    run(store, "UPDATE netscript_executions SET topic = 'x'")
    cursors = [(await api.get(one, params={"limit": 1})).json()["next_cursor"] for one in (URL,)]
    for cursor in ("0", "AAAA", new_id(), "ä", "=" * 24, *(cursors if path != URL else ())):
        problem(await api.get(path, params={"cursor": cursor}), 400, "cursor")


async def test_topics_and_workers_come_in_pages(store: Store, api: httpx.AsyncClient) -> None:
    put(store, *(new(topic=f"t{n}") for n in range(5)))
    hands = [Hand(store) for _ in range(5)]
    for hand in hands:
        hand.register()
    for name, key, wanted in (
        ("topics", "name", ["default", "payments", *(f"t{n}" for n in range(5))]),
        ("workers", "id", sorted((hand.id for hand in hands), reverse=True)),
    ):
        found: list[str] = []
        params: dict[str, str | int] = {"limit": 2}
        while True:
            page = (await api.get(f"{BASE}/{name}", params=params)).json()
            found += [one[key] for one in page[name]]
            if page["next_cursor"] is None:
                break
            params["cursor"] = page["next_cursor"]
        assert found == wanted


async def test_a_bulk_change_goes_so_far_and_goes_on_from_there(
    store: Store, api: httpx.AsyncClient
) -> None:
    dead = failed(store, 7)
    body: dict[str, Any] = {"status": ["failed"], "limit": 3}
    dry = (await api.post(f"{URL}/retry", json={**body, "dry_run": True})).json()
    assert (dry["count"], dry["more"], dry["dry_run"]) == (3, True, True)
    assert {status(store, one) for one in dead} == {"failed"}
    seen: list[tuple[int, bool]] = []
    while True:
        told = (await api.post(f"{URL}/retry", json=body)).json()
        seen.append((told["count"], told["more"]))
        if not told["more"]:
            break
        body["cursor"] = told["next_cursor"]
    assert seen == [(3, True), (3, True), (1, False)]
    assert {status(store, one) for one in dead} == {"queued"}
    some = {"ids": dead, "limit": 4}
    first = (await api.post(f"{URL}/cancel", json=some)).json()
    assert (first["count"], first["more"]) == (4, True)
    rest = await api.post(f"{URL}/cancel", json={**some, "cursor": first["next_cursor"]})
    assert (rest.json()["count"], rest.json()["more"]) == (3, False)
    assert {status(store, one) for one in dead} == {"cancelled"}
    whims: tuple[dict[str, Any], ...] = (
        {"limit": 0},
        {"limit": 100_001},
        {"dry_run": "no"},
        {"status": []},
    )
    for wrong in whims:
        refused = await api.post(f"{URL}/retry", json={"all": True, **wrong})
        problem(refused, 422, "payload-invalid")
    problem(await api.post(f"{URL}/retry", json={"all": True, "cursor": "0"}), 400, "cursor")


@pytest.mark.parametrize(
    ("query", "code"), [("job_id=%ff", 400), ("%c0%80", 400), ("limit=" + "9" * 5000, 422)]
)
async def test_a_query_that_is_no_text_or_beyond_all_reason_is_refused(
    api: httpx.AsyncClient, query: str, code: int
) -> None:
    for path in (URL, "/api/v1/events"):
        assert (await api.get(f"{path}?{query}")).status_code == code
    assert (await api.get(f"{BASE}/jobs/%ff")).status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        '{"job_id":"\\ud800"}',
        '{"job_id":"a\\u0000b"}',
        '{"ids":["\\ud800"]}',
        '{"limit":' + "9" * 400 + ',"all":true}',
        '{"created_after":"0001-01-01T00:00:00+24:00"}',
        '{"status":"\\ud800"}',
        '{"created_after":1700000000,"all":true}',
        '{"received_before":1700000000,"all":true}',
        '{"all":true,"cursor":"\\ud800"}',
        '{"all":' + "[" * 300 + "]" * 300 + "}",
    ],
)
async def test_hard_values_in_a_body_are_a_clear_4xx(
    store: Store, api: httpx.AsyncClient, body: str
) -> None:
    (dead,) = failed(store)
    headers = {"content-type": "application/json"}
    for path in (f"{URL}/retry", f"{URL}/cancel", "/api/v1/events/replay"):
        answer = await api.post(path, content=body, headers=headers)
        assert answer.status_code in {400, 422}, (path, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
    assert status(store, dead) == "failed"
    # A payload may hold what JSON allows.
    odd = json.dumps({"order_id": "\ud800\0", "amount_cents": 5})
    path = f"{BASE}/jobs/elsewhere/trigger"
    assert (await api.post(path, content=odd, headers=headers)).status_code == 202
    assert scalar(store, "SELECT count(*) FROM netscript_executions") == 1


async def test_metrics_are_text_and_stand_in_the_document(api: httpx.AsyncClient) -> None:
    answer = await api.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "# TYPE process_cpu_seconds_total counter" in answer.text
    told: dict[str, Any] = (await api.get("/api/openapi.json")).json()
    operation = told["paths"]["/metrics"]["get"]
    assert list(operation["responses"]["200"]["content"]) == ["text/plain"]
    assert operation["security"] == [{"token": []}, {}]
    assert operation["responses"].keys() >= {"200", "401", "421", "429"}
