"""Whole or not at all, and once: what triggers enqueue where keys, bodies and users interfere."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from pydantic import BaseModel, Field
from sqlalchemy import create_engine, make_url

from netscript_triggers import EnqueueJob, WebhookEvent, enqueue_job
from netscript_workers import JobContext, define_job_handler, enqueue
from netscript_workers.errors import ExecutionNotFoundError
from netscript_workers.store.engine import Store
from netscript_workers.store.retention import Retention, prune
from netscript_workers.testing import ManualClock
from tests.edge import charge, open_edge, trigger
from tests.kit import Hand, detail, ended, new, put, rows, run, scalar, waiting_for_locks
from tests.support import eventually_async

pytestmark = pytest.mark.fresh_database

DAY = 24 * 3600
JOB_KEYS = "SELECT count(*) FROM netscript_idempotency_keys WHERE scope LIKE 'job:%'"


def keyed(event: WebhookEvent) -> EnqueueJob[Any]:
    return enqueue_job(charge, {"n": 1}, idempotency_key=str(event.payload["order"]))


@pytest.mark.trap("D-41")
async def test_one_action_that_breaks_a_constraint_takes_its_siblings_and_their_keys_along(
    store: Store,
) -> None:
    run(store, "CREATE UNIQUE INDEX one_only ON netscript_executions (topic) WHERE topic = 'one'")

    def three(event: WebhookEvent) -> list[EnqueueJob[Any]]:
        return [
            enqueue_job(charge, {"n": 1}, idempotency_key="first"),
            enqueue_job(charge, {"n": 2}, concurrency_key="second"),
            enqueue_job(charge, {"n": 3}, idempotency_key="third", topic="one"),
        ]

    async with open_edge(store, trigger(three)) as edge:
        put(store, new("charge", topic="one"))
        answer = await edge.post({"order": 1})
        assert (answer.status_code, answer.json()["status"]) == (202, "dead")
        assert answer.json()["executions"] == []
        event = edge.event(answer.json()["event_id"]).event
        assert event.status == "dead"
        assert event.error == "The database can't hold this data."
        assert edge.count("executions") == 1
        assert edge.count("admissions") == 0
        assert scalar(store, JOB_KEYS) == 0
        # Nothing was consumed: where the constraint is gone, the same actions are taken.
        run(store, "DROP INDEX one_only")
        again = (await edge.post({"order": 2})).json()
        assert (again["status"], len(set(again["executions"]))) == ("completed", 3)


@pytest.mark.trap("D-46")
async def test_a_pruned_execution_is_a_duplicate_inside_its_window_and_new_after_it(
    timed_store: Store, clock: ManualClock
) -> None:
    clock.advance(DAY)  # ids carry the machine's time, and bound what is pruned
    async with open_edge(timed_store, trigger(keyed, dedupe=None)) as edge:
        (first,) = (await edge.post({"order": 7})).json()["executions"]
        hand = Hand(timed_store, ["charge"])
        hand.tick(ended(hand.claim_one(), result='"old"'))
        clock.advance(2 * DAY)
        assert prune(timed_store, Retention(completed=1.0)) > 0
        with pytest.raises(ExecutionNotFoundError):
            detail(timed_store, first)

        inside = (await edge.post({"order": 7})).json()
        assert inside["executions"] == [first]
        assert edge.count("executions") == 0

        clock.advance(DAY + 1)
        (after,) = (await edge.post({"order": 7})).json()["executions"]
        assert after != first
        told = detail(timed_store, after).execution
        assert (told.status, told.result) == ("queued", None)


@pytest.mark.trap("D-46")
async def test_a_delivery_is_a_duplicate_inside_its_window_and_new_after_it(
    timed_store: Store, clock: ManualClock
) -> None:
    async with open_edge(timed_store) as edge:
        first = (await edge.post()).json()
        clock.advance(3 * DAY - 1)
        assert (await edge.post()).json() == {**first, "duplicate": True}
        clock.advance(2)
        after = (await edge.post()).json()
        assert not after["duplicate"]
        assert after["event_id"] != first["event_id"]
        assert after["executions"] != first["executions"]


@pytest.mark.postgres
@pytest.mark.trap("D-91")
@pytest.mark.parametrize("end", ["commit", "rollback", "never"])
async def test_a_users_open_transaction_holds_up_its_own_key_and_no_other(
    postgres_url: str, end: str
) -> None:
    store = Store(postgres_url)
    engine = create_engine(make_url(postgres_url).set(drivername="postgresql+psycopg"))
    async with open_edge(store, trigger(keyed)) as edge:
        with engine.connect() as users:
            (theirs,) = enqueue(users, enqueue_job(charge, {"n": 1}, idempotency_key="held"))
            waiting = asyncio.create_task(edge.post({"order": "held"}))
            started = time.monotonic()
            others = await asyncio.gather(*(edge.post({"order": n}) for n in range(51)))
            took = time.monotonic() - started
            assert {answer.json()["status"] for answer in others} == {"completed"}
            # Whoever had to wait for the key would have waited as long as it is held: 2 s and more.
            assert took < 2.0
            assert not waiting.done()
            await eventually_async(lambda: waiting_for_locks(store), what="the one to wait")
            if end == "never":
                answer = await waiting
                assert answer.status_code == 503
                assert answer.headers["retry-after"] == "5"
                assert edge.count("trigger_events") == 51
            elif end == "commit":
                users.commit()
            else:
                users.rollback()
        answer = await waiting if end != "never" else await edge.post({"order": "held"})
        assert answer.status_code == 202
        (found,) = answer.json()["executions"]
        assert (found == theirs.execution_id) is (end == "commit")
        assert edge.count("executions") == edge.count("trigger_events") == 52
    engine.dispose()
    store.dispose()


class Order(BaseModel):
    order: int
    trace: str = Field(default_factory=lambda: uuid4().hex)
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))


class OrderAfterTheDeploy(Order):
    channel: str = "web"


async def fulfil(ctx: JobContext[Order]) -> None: ...


async def fulfil_since(ctx: JobContext[OrderAfterTheDeploy]) -> None: ...


BEFORE = define_job_handler(fulfil, id="fulfil")
SINCE = define_job_handler(fulfil_since, id="fulfil")


@pytest.mark.trap("D-94")
@pytest.mark.parametrize("as_model", [True, False], ids=["model", "mapping"])
async def test_defaults_that_are_made_anew_or_came_with_a_deploy_are_no_conflict(
    store: Store, as_model: bool
) -> None:
    def before(event: WebhookEvent) -> Any:
        given: Any = {"order": event.payload["order"]}
        return enqueue_job(BEFORE, Order(**given) if as_model else given, idempotency_key="o")

    def since(event: WebhookEvent) -> Any:
        given: Any = {"order": event.payload["order"]}
        payload = OrderAfterTheDeploy(**given) if as_model else given
        return enqueue_job(SINCE, payload, idempotency_key="o")

    async with open_edge(store, trigger(before, dedupe=None)) as edge:
        first = (await edge.post({"order": 1})).json()
        again = (await edge.post({"order": 1})).json()
        assert edge.coordinator.conflicts == 0
    async with open_edge(store, trigger(since, dedupe=None)) as edge:
        deployed = (await edge.post({"order": 1})).json()
        assert edge.coordinator.conflicts == 0
        other = (await edge.post({"order": 2})).json()
        assert edge.coordinator.conflicts == 1
        told = [first, again, deployed, other]
        assert len({one["executions"][0] for one in told}) == 1
        conflicts = [edge.event(one["event_id"]).event.conflict for one in told]
        assert conflicts == [False, False, False, True]
    assert len(rows(store, "SELECT id FROM netscript_executions")) == 1
