"""From a verified delivery to one transaction: handlers, failures, duplicates."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from netscript_triggers import EnqueueJob, WebhookEvent, coordinator, enqueue_job
from netscript_triggers.dispatch import after_failure
from netscript_triggers.handlers import HandlerError
from netscript_triggers.verifiers import MemoryVerifier, Verified
from netscript_workers import JobContext, Retry, job
from netscript_workers.errors import NetscriptError, PayloadInvalidError
from netscript_workers.store import definitions
from netscript_workers.store.engine import Store
from tests.edge import charge, open_edge, trigger
from tests.kit import rows, scalar


@job
async def strict(ctx: JobContext[dict[str, int]]) -> None: ...


@pytest.mark.trap("D-45")
async def test_executions_are_told_in_the_order_of_the_actions(store: Store) -> None:
    def three(event: WebhookEvent) -> list[EnqueueJob[Any]]:
        return [
            enqueue_job(charge, {"n": 1}, idempotency_key="x"),
            enqueue_job(charge, {"n": 2}),
            enqueue_job(charge, {"n": 1}, idempotency_key="x"),
        ]

    async with open_edge(store, trigger(three)) as edge:
        ids = (await edge.post()).json()["executions"]
        assert ids[0] == ids[2] != ids[1]
        payloads = dict(rows(store, "SELECT CAST(id AS text), payload FROM netscript_executions"))
        assert [payloads[id_] for id_ in ids] == ['{"n":1}', '{"n":2}', '{"n":1}']


async def test_an_execution_knows_its_event(store: Store) -> None:
    async with open_edge(store) as edge:
        told = (await edge.post()).json()
        columns = "CAST(trigger_event_id AS text), correlation_id, triggered_by"
        found = rows(store, f"SELECT {columns} FROM netscript_executions")
        assert found == [(told["event_id"], told["event_id"], "webhook")]


@pytest.mark.trap("D-44")
async def test_another_payload_under_a_jobs_key_is_one_execution_and_a_conflict(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    def same_key(event: WebhookEvent) -> Any:
        return enqueue_job(charge, {"cents": event.payload["cents"]}, idempotency_key="order-1")

    async with open_edge(store, trigger(same_key)) as edge:
        first = (await edge.post({"cents": 1})).json()
        second = (await edge.post({"cents": 2})).json()
        assert second["executions"] == first["executions"]
        assert not second["duplicate"]
        assert edge.event(second["event_id"]).event.conflict
        assert not edge.event(first["event_id"]).event.conflict
        assert edge.coordinator.conflicts == 1
    (told,) = [line for line in caplog.messages if "with another payload" in line]
    assert second["event_id"] in told
    assert first["executions"][0] in told


def raises(error: BaseException) -> Any:
    def handler(event: WebhookEvent) -> Any:
        raise error

    return handler


class Rude(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "told", "is_async"),
    [
        (ValueError("no"), "ValueError: no", False),
        (ValueError("no"), "ValueError: no", True),
        (SystemExit(3), "SystemExit: 3", False),
        (SystemExit(3), "SystemExit: 3", True),
        (KeyboardInterrupt(), "KeyboardInterrupt", False),
        (Rude(), "Rude", False),
        (TimeoutError("mine"), "TimeoutError: mine", True),
    ],
)
async def test_a_handler_that_raises_leaves_a_failed_event_and_none_of_its_actions(
    store: Store, error: BaseException, told: str, is_async: bool
) -> None:
    handler = raises(error)
    if is_async:

        async def handler(event: WebhookEvent) -> Any:
            raise error

    async with open_edge(store, trigger(handler)) as edge:
        answer = await edge.post()
        assert answer.status_code == 202
        assert answer.json()["status"] == "failed"
        assert answer.json()["executions"] == []
        event = edge.event(answer.json()["event_id"]).event
        assert (event.status, event.error, event.attempt) == ("failed", told, 2)
        assert event.due_at is not None
        assert edge.count("executions") == 0


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_handler_that_takes_too_long_is_left_for_later(
    store: Store, monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    monkeypatch.setattr(coordinator, "INLINE_SECONDS", 0.05)
    release = threading.Event()

    def blocks(event: WebhookEvent) -> Any:
        release.wait(5)
        return enqueue_job(charge, {})

    async def waits(event: WebhookEvent) -> Any:
        await asyncio.sleep(5)
        return enqueue_job(charge, {})

    async with open_edge(store, trigger(waits if is_async else blocks)) as edge:
        answer = (await edge.post()).json()
        release.set()
        assert (answer["status"], answer["executions"]) == ("failed", [])
        assert "longer than 0.05 s" in str(edge.event(answer["event_id"]).event.error)
        assert edge.count("executions") == 0


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (lambda: enqueue_job("nobody", {}), 'There is no job "nobody"'),
        (lambda: enqueue_job(strict, {"a": "x"}), "does not fit"),
        (lambda: enqueue_job(charge, {}, priority=500), "priority=500"),
        (lambda: [enqueue_job(charge, {}), 5], "returned a int"),
        (lambda: "text", "returned a str"),
    ],
)
async def test_what_no_retry_can_mend_is_dead_at_once(
    store: Store, returned: Any, told: str
) -> None:
    def handler(event: WebhookEvent) -> Any:
        return returned()

    async with open_edge(store, trigger(handler)) as edge:
        answer = await edge.post()
        assert (answer.status_code, answer.json()["status"]) == (202, "dead")
        event = edge.event(answer.json()["event_id"]).event
        assert told in str(event.error)
        assert event.finished_at is not None
        assert event.due_at is None
        assert edge.count("executions") == 0


@pytest.mark.trap("D-41")
async def test_an_action_that_the_database_refuses_takes_its_siblings_along(store: Store) -> None:
    def three(event: WebhookEvent) -> Any:
        good = enqueue_job(charge, {}, idempotency_key="good")
        # No check of ours knows what a topic may be in every database; a NUL is in none.
        bad = enqueue_job(charge, {})
        object.__setattr__(bad, "topic", "\0" if not store.is_sqlite else object())
        return [good, enqueue_job(charge, {}), bad]

    async with open_edge(store, trigger(three)) as edge:
        answer = await edge.post()
        assert (answer.status_code, answer.json()["status"]) == (202, "dead")
        assert edge.count("executions") == 0
        scope = "SELECT count(*) FROM netscript_idempotency_keys WHERE scope LIKE 'job:%'"
        assert scalar(store, scope) == 0


@pytest.mark.trap("D-43")
async def test_fifty_identical_deliveries_at_once_are_one_event(store: Store) -> None:
    async with open_edge(store) as edge, open_edge(store) as other:
        answers = await asyncio.gather(
            *(edge.post() for _ in range(25)), *(other.post() for _ in range(25))
        )
        told = [answer.json() for answer in answers]
        assert {answer.status_code for answer in answers} == {202}
        assert sum(not one["duplicate"] for one in told) == 1
        assert len({(one["event_id"], *one["executions"]) for one in told}) == 1
        assert edge.count("executions") == edge.count("trigger_events") == 1


async def test_an_unsigned_id_counts_together_with_the_body(store: Store) -> None:
    headers = {"X-Idempotency-Key": "delivery-1"}
    async with open_edge(store) as edge:
        first = (await edge.post({"cents": 1}, headers=headers)).json()
        again = (await edge.post({"cents": 1}, headers=headers)).json()
        other = (await edge.post({"cents": 2}, headers=headers)).json()
        assert (again["duplicate"], other["duplicate"]) == (True, False)
        key = edge.event(first["event_id"]).event.idempotency_key
        assert key is not None
        assert key.startswith("delivery-1:")
        long = {"X-Idempotency-Key": "x" * 4000}
        assert (await edge.post({"cents": 1}, headers=long)).status_code == 202


class SignedId(MemoryVerifier):
    def verify(self, request: Any, secrets: Any, now: float) -> Verified:
        return Verified(signed=request.body, delivery_id="d1", id_signed=True)


async def test_a_signed_id_counts_alone(store: Store) -> None:
    async with open_edge(store, trigger(verifier=SignedId(), secret_env=None)) as edge:
        first = (await edge.post({"cents": 1})).json()
        second = (await edge.post({"cents": 2})).json()
        assert second == {**first, "duplicate": True}
        assert edge.event(first["event_id"]).body == '{"cents": 1}'
        assert edge.coordinator.conflicts == 1
        both = await asyncio.gather(edge.post({"cents": 3}), edge.post({"cents": 4}))
        assert {answer.json()["event_id"] for answer in both} == {first["event_id"]}
        assert edge.coordinator.conflicts == 3


@pytest.mark.parametrize(("dedupe", "events"), [("auto", 1), ("id", 2), (None, 2)])
async def test_dedupe_says_what_makes_a_redelivery(store: Store, dedupe: Any, events: int) -> None:
    async with open_edge(store, trigger(dedupe=dedupe)) as edge:
        await edge.post()
        await edge.post()
        assert edge.count("trigger_events") == events


async def test_keys_are_per_trigger(store: Store) -> None:
    one, two = trigger(), trigger(id="other", path="/webhooks/other")
    async with open_edge(store, one, two) as edge:
        await edge.post()
        assert not (await edge.post(path="/webhooks/other")).json()["duplicate"]


async def test_a_redelivery_of_a_failed_event_runs_nothing(store: Store) -> None:
    async with open_edge(store, trigger(raises(ValueError()))) as edge:
        first, second = (await edge.post()).json(), (await edge.post()).json()
        assert second == {**first, "duplicate": True}
        assert second["status"] == "failed"


async def test_a_blocking_handler_stalls_nobody_else(store: Store) -> None:
    release = threading.Event()

    def blocks(event: WebhookEvent) -> None:
        if event.payload["cents"] == 0:
            release.wait(4)

    async with open_edge(store, trigger(blocks)) as edge:
        slow = asyncio.create_task(edge.post({"cents": 0}))
        started = time.monotonic()
        for cents in range(1, 6):
            assert (await edge.post({"cents": cents})).json()["status"] == "completed"
        assert time.monotonic() - started < 2
        assert not slow.done()
        release.set()
        assert (await slow).json()["status"] == "completed"


async def test_a_job_named_by_its_id_is_found_in_the_database(store: Store) -> None:
    definitions.register(store, [strict])

    async def handler(event: WebhookEvent) -> Any:
        return enqueue_job("strict", event.payload)

    async with open_edge(store, trigger(handler)) as edge:
        assert (await edge.post({"a": 1})).json()["status"] == "completed"
        dead = (await edge.post({"a": "x"})).json()
        assert dead["status"] == "dead"
        assert "a: must meet type" in str(edge.event(dead["event_id"]).event.error)


def test_a_policy_that_gives_up_or_breaks_ends_the_event() -> None:
    def failed(error: Exception) -> NetscriptError:
        raised = HandlerError("x")
        raised.__cause__ = error
        return raised

    def broken(attempt: int, error: BaseException) -> float:
        raise RuntimeError("geheim")

    strict_one = trigger(retry=Retry(give_up_on=ValueError))
    assert after_failure(strict_one, failed(ValueError()), attempt=1).status == "dead"
    assert after_failure(strict_one, failed(KeyError()), attempt=1).status == "failed"
    assert after_failure(strict_one, failed(KeyError()), attempt=3).status == "dead"
    told = after_failure(trigger(retry=Retry(backoff=broken)), failed(KeyError()), attempt=1)
    assert told.status == "dead"
    assert after_failure(trigger(), PayloadInvalidError("x"), attempt=1).status == "dead"
