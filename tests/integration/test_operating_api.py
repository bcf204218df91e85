"""Operating on executions over HTTP: cancel, retry, discard, explain, singly and in bulk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from netscript_triggers.store.verify import verify
from netscript_workers.clock import to_micros, to_rfc3339
from netscript_workers.domain import Reason, Verdict
from netscript_workers.ids import new_id
from netscript_workers.store import definitions
from netscript_workers.store.engine import Store
from tests.integration.test_api import BASE, PAYLOAD, elsewhere, problem, process_payment, serving
from tests.kit import Hand, detail, ended, new, put, run, scalar, status

URL = f"{BASE}/executions"
JOB = "process-payment"
EARLIER = """
    UPDATE netscript_execution_history SET created_at = created_at - 7200000000 WHERE id = :id"""


@pytest.fixture
async def api(store: Store) -> AsyncIterator[httpx.AsyncClient]:
    definitions.register(store, [process_payment, elsewhere])
    async with serving(store, process_payment) as client:
        yield client
    report = verify(store)
    assert not report.findings, report


def failed(store: Store, count: int = 1, **facts: Any) -> list[str]:
    """Store executions that fail; return their ids."""
    given = [new(**facts) for _ in range(count)]
    put(store, *given)
    hand = Hand(store, ["a", "b", JOB])
    facts = {"reason": Reason.ERROR, "failure": Reason.ERROR, "error": "no"}
    while claims := hand.claim(1000):
        hand.tick(*(ended(claim, Verdict.FAIL, **facts) for claim in claims))
    return [one.id for one in given]


def counts(answer: httpx.Response) -> tuple[int, int]:
    """Return how many a bulk change has changed and skipped; it has looked at all of them."""
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["more"], told["next_cursor"], told["dry_run"]) == (False, None, False)
    return told["count"], told["skipped"]


async def test_what_waits_is_cancelled_at_once_and_what_runs_is_asked_to_end(
    store: Store, api: httpx.AsyncClient
) -> None:
    runs, waits = new(), new(delay=60_000_000)
    put(store, runs, waits)
    Hand(store).claim_one()
    told = await api.post(f"{URL}/{waits.id}/cancel")
    assert (told.status_code, told.json()["status"]) == (200, "cancelled")
    told = await api.post(f"{URL}/{runs.id}/cancel")
    record = told.json()
    assert (told.status_code, record["status"]) == (200, "running")
    assert record["cancel_requested"] is True
    assert (await api.get(f"{URL}/{waits.id}")).json()["cancel_requested"] is False
    problem(await api.post(f"{URL}/{waits.id}/cancel"), 409, "state")


@pytest.mark.parametrize("action", ["cancel", "retry", "discard"])
@pytest.mark.parametrize("id_", ["nonsense", "01900000-0000-7000-8000-000000000000"])
async def test_unknown_ones_are_404(api: httpx.AsyncClient, action: str, id_: str) -> None:
    problem(await api.post(f"{URL}/{id_}/{action}"), 404, "execution-not-found")
    problem(await api.get(f"{URL}/{id_}/explain"), 404, "execution-not-found")


@pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.CANCEL])
async def test_a_retry_with_another_payload_is_a_new_execution(
    store: Store, api: httpx.AsyncClient, verdict: Verdict
) -> None:
    old = new(
        JOB,
        '{"order_id":"o1","amount_cents":5}',
        topic="money",
        priority=70,
        idempotency_key="i",
        concurrency_key="k",
        correlation_id="c",
    )
    put(store, old)
    hand = Hand(store, [JOB])
    hand.end(hand.claim_one(), verdict, reason=Reason.ERROR, failure=Reason.ERROR)
    before = detail(store, old.id)
    answer = await api.post(f"{URL}/{old.id}/retry", json={"payload": {**PAYLOAD, "order_id": "x"}})
    assert answer.status_code == 200
    record = answer.json()
    assert record["id"] != old.id
    assert record["retried_from"] == old.id
    assert record["payload"] == {**PAYLOAD, "order_id": "x"}
    kept = ("job_id", "topic", "priority", "concurrency_key", "correlation_id")
    assert {name: record[name] for name in kept} == {name: getattr(old, name) for name in kept}
    assert (record["attempt"], record["idempotency_key"]) == (1, None)
    assert detail(store, old.id) == before
    assert hand.claim_one().id == record["id"]


async def test_an_edited_payload_is_held_to_the_model_and_the_state_to_what_can_be_retried(
    store: Store, api: httpx.AsyncClient
) -> None:
    (old,), (stranger,) = failed(store, job=JOB), failed(store, job="a")
    bad = await api.post(f"{URL}/{old}/retry", json={"payload": {"order_id": "geheim"}})
    told = problem(bad, 422, "payload-invalid")
    assert [one["loc"] for one in told["errors"]] == [["amount_cents"]]
    assert "geheim" not in bad.text
    bodies: tuple[dict[str, Any], ...] = ({"payload": []}, {"payload": "x"}, {"paylaod": {}})
    for body in bodies:
        problem(await api.post(f"{URL}/{old}/retry", json=body), 422, "payload-invalid")
    live = new(JOB)
    put(store, live)
    answer = await api.post(f"{URL}/{live.id}/retry", json={"payload": PAYLOAD})
    problem(answer, 409, "state")
    answer = await api.post(f"{URL}/{stranger}/retry", json={"payload": {}})
    problem(answer, 404, "job-not-found")
    assert scalar(store, "SELECT count(*) FROM netscript_executions") == 1


async def test_a_dead_letter_is_put_away_with_its_error(
    store: Store, api: httpx.AsyncClient
) -> None:
    one, other = failed(store, 2)
    before = detail(store, one)
    answer = await api.post(f"{URL}/{one}/discard")
    assert answer.status_code == 200
    record = answer.json()
    assert (record["status"], record["reason"], record["error"]) == ("cancelled", "discarded", "no")
    after = detail(store, one)
    assert after.attempts == before.attempts
    assert after.execution.finished_at == before.execution.finished_at
    dead = (await api.get(URL, params={"status": "failed"})).json()["executions"]
    assert [letter["id"] for letter in dead] == [other]
    away = (await api.get(URL, params={"reason": "discarded"})).json()["executions"]
    assert [letter["id"] for letter in away] == [one]
    problem(await api.post(f"{URL}/{one}/discard"), 409, "state")
    put(store, live := new())
    problem(await api.post(f"{URL}/{live.id}/discard"), 409, "state")


async def test_the_list_is_filtered_by_reason(store: Store, api: httpx.AsyncClient) -> None:
    (dead,) = failed(store)
    later = new(delay=60_000_000)
    put(store, later)

    async def ids(**params: str) -> list[str]:
        told = await api.get(URL, params=params)
        return [one["id"] for one in told.json()["executions"]]

    assert await ids(status="failed", reason="error") == [dead]
    assert await ids(reason="error") == [dead]
    assert await ids(reason="delay") == [later.id]
    assert await ids(reason="timeout") == []
    problem(await api.get(URL, params={"reason": "whim"}), 422, "invalid")


async def test_retry_in_bulk_counts_exactly_what_it_has_moved(
    store: Store, api: httpx.AsyncClient
) -> None:
    wanted = failed(store, 1203, topic="x")
    failed(store, 3, topic="y")
    answer = await api.post(f"{URL}/retry", json={"topic": "x", "status": "failed"})
    assert counts(answer) == (1203, 0)
    found = scalar(store, "SELECT count(*) FROM netscript_executions WHERE status = 'queued'")
    assert found == len(wanted)
    again = await api.post(f"{URL}/retry", params={"topic": "x"})
    assert counts(again) == (0, 0)


async def test_cancel_in_bulk_counts_exactly_what_it_has_changed(
    store: Store, api: httpx.AsyncClient
) -> None:
    keyed = [new(topic="x", concurrency_key=f"k{n % 7}") for n in range(40)]
    free = [new(topic="x") for _ in range(600)]
    spared = [new(topic="y", concurrency_key=f"k{n}") for n in range(7)]
    put(store, *keyed, *free, *spared)
    hand = Hand(store)
    running = hand.claim(20)
    answer = await api.post(f"{URL}/cancel", json={"topic": "x"})
    assert counts(answer) == (640, 0)
    # Those that run are marked; a second call has nothing to add.
    answer = await api.post(f"{URL}/cancel", json={"topic": "x"})
    marked = sum(claim.topic == "x" for claim in running)
    assert counts(answer) == (0, marked)
    hand.tick(*(ended(claim, Verdict.RELEASE, reason=Reason.DRAINED) for claim in running))
    gone = "SELECT count(*) FROM netscript_execution_history WHERE status = 'cancelled'"
    assert scalar(store, gone) == 640
    ran: set[str] = set()
    while claims := hand.claim(100):
        ran |= {claim.id for claim in claims}
        hand.tick(*map(ended, claims))
    assert ran == {one.id for one in spared}


async def test_ids_that_can_not_be_changed_are_skipped(
    store: Store, api: httpx.AsyncClient
) -> None:
    dead = failed(store, 2)
    put(store, live := new())
    ids = [*dead, dead[0], live.id, new_id()]
    assert counts(await api.post(f"{URL}/retry", json={"ids": ids})) == (2, 2)
    Hand(store).end(Hand(store).claim_one())
    told = await api.post(f"{URL}/cancel", json={"ids": ids})
    assert counts(told) == (2, 2)
    assert sorted(status(store, one) for one in [*dead, live.id]).count("cancelled") == 2
    told = await api.post(f"{URL}/retry", params=[("ids", dead[0]), ("ids", dead[1])])
    assert told.json()["count"] + told.json()["skipped"] == 2
    assert counts(await api.post(f"{URL}/retry", json={"ids": []})) == (0, 0)


async def test_filters_in_bulk(store: Store, api: httpx.AsyncClient) -> None:
    one, two, three = failed(store, 3, correlation_id="c")
    run(store, EARLIER, id=one)
    hour = timedelta(hours=1)
    when = to_rfc3339(to_micros(detail(store, two).execution.created_at - hour))
    body = {"created_before": when, "correlation_id": "c"}
    assert (await api.post(f"{URL}/retry", json=body)).json()["count"] == 1
    assert status(store, one) == "queued"
    body = {"created_after": when, "reason": "error", "job_id": "a"}
    assert (await api.post(f"{URL}/retry", json=body)).json()["count"] == 2
    assert {status(store, two), status(store, three)} == {"queued"}
    told = await api.post(f"{URL}/cancel", json={"correlation_id": "other"})
    assert counts(told) == (0, 0)
    told = await api.post(f"{URL}/cancel", json={"all": True})
    assert counts(told) == (3, 0)
    # Without a status only what has failed is retried.
    assert (await api.post(f"{URL}/retry", json={"all": True})).json()["count"] == 0
    told = await api.post(f"{URL}/retry", json={"status": "cancelled"})
    assert counts(told) == (3, 0)


async def test_a_retry_with_null_for_a_payload_is_refused(
    store: Store, api: httpx.AsyncClient
) -> None:
    (dead,) = failed(store)
    wrong: list[Any] = [None, [], "x"]
    for payload in wrong:
        told = await api.post(f"{URL}/{dead}/retry", json={"payload": payload})
        problem(told, 422, "payload-invalid")
    assert status(store, dead) == "failed"


@pytest.mark.parametrize("action", ["retry", "cancel"])
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"all": False},
        {"all": 1},
        {"all": "yes"},
        {"whim": 1},
        {"ids": ["nonsense"]},
        {"status": "nonsense"},
        {"created_after": "yesterday"},
        {"status": "completed"},
        {"topic": ""},
    ],
)
async def test_what_names_nothing_or_can_not_be_meant_is_refused(
    store: Store, api: httpx.AsyncClient, action: str, body: dict[str, Any]
) -> None:
    (dead,) = failed(store)
    put(store, live := new())
    problem(await api.post(f"{URL}/{action}", json=body), 422, "payload-invalid")
    twice = await api.post(f"{URL}/{action}", json={"topic": "x"}, params={"topic": "y"})
    problem(twice, 422, "payload-invalid")
    assert (status(store, dead), status(store, live.id)) == ("failed", "queued")


async def test_an_explanation_has_a_code_a_sentence_and_facts(
    store: Store, api: httpx.AsyncClient
) -> None:
    put(store, later := new(delay=40_000_000))
    told = (await api.get(f"{URL}/{later.id}/explain")).json()
    assert (told["execution_id"], told["status"], told["code"]) == (later.id, "scheduled", "due")
    assert told["sentence"].startswith("It is due in ")
    assert 0 < told["facts"]["due_in"] <= 40
    assert told["facts"]["due_at"].endswith("Z")
