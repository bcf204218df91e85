"""Triggers and events over HTTP: fire, replay, enable, disable; a server without the code, too."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from netscript_triggers import (
    FileEvent,
    ManualEvent,
    ScheduleEvent,
    WebhookEvent,
    define_file_watch,
    define_manual_trigger,
    define_schedule,
    enqueue_job,
)
from netscript_triggers.api import routes
from netscript_triggers.definitions import AnyTrigger
from netscript_triggers.handlers import Handlers
from netscript_triggers.processor import Processor
from netscript_triggers.states import TriggerStates
from netscript_triggers.store import triggers as stored
from netscript_triggers.store.verify import verify
from netscript_workers.api.app import create_app
from netscript_workers.api.services import Services
from netscript_workers.ids import new_id
from netscript_workers.store.definitions import StoredCatalog
from netscript_workers.store.engine import Store
from netscript_workers.store.writer import Writer
from netscript_workers.streaming.feed import Feed
from tests.edge import charge, trigger
from tests.integration.test_api import problem
from tests.integration.test_replays import dead
from tests.kit import rows, run, scalar
from tests.support import eventually_async

pytestmark = pytest.mark.fresh_database

URL = "/api/v1/triggers"
EVENTS = "/api/v1/events"


class Order(BaseModel):
    order: str
    cents: int = 5


def order(event: ManualEvent[Order]) -> Any:
    """Charge an order."""
    if event.payload.cents < 0:
        raise ValueError("no such amount")
    return enqueue_job(charge, {"n": event.payload.cents}, idempotency_key=event.payload.order)


BY_HAND = define_manual_trigger(order, id="by-hand", model=Order)


@contextlib.asynccontextmanager
async def serving(
    store: Store, *known: AnyTrigger, code: bool = True
) -> AsyncGenerator[httpx.AsyncClient]:
    """Serve the API, with a processor; without the code of any trigger if asked for."""
    triggers = {one.id: one for one in known} if code else {}
    stored.register(store, known)
    writer, handlers, catalog = Writer(store), Handlers(), StoredCatalog(store, {})
    processor = Processor(store, triggers, handlers, catalog, states=TriggerStates())
    services = Services(
        store=store,
        writer=writer,
        catalog=catalog,
        jobs={},
        version="1",
        ring=lambda: None,
        feed=Feed(store),
    )
    app = create_app(services, [routes(triggers, processor.nudge)])
    writer.start()
    processing = asyncio.create_task(processor.run())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8091") as client:
        try:
            yield client
        finally:
            processor.stop()
            await processing
            writer.close()
            handlers.close()
    found = verify(store)
    assert not found.findings, found


async def ended(api: httpx.AsyncClient, event_id: str, status: str = "completed") -> Any:
    async def look() -> Any:
        event = (await api.get(f"{EVENTS}/{event_id}")).json()
        return event if event["status"] == status and event["due_at"] is None else None

    return await eventually_async(look, what=f"event {event_id} being {status}")


async def test_a_manual_trigger_is_fired_with_a_payload_and_a_reason(store: Store) -> None:
    async with serving(store, BY_HAND) as api:
        answer = await api.post(
            f"{URL}/by-hand/fire", json={"order": "o", "cents": 7}, params={"reason": "a call"}
        )
        told = answer.json()
        assert answer.status_code == 202, told
        assert told == {
            "event_id": told["event_id"], "status": "pending", "duplicate": False, "executions": [],
        }  # fmt: skip
        event = await ended(api, told["event_id"])
        assert (event["kind"], event["note"], event["by_hand"]) == ("manual", "a call", True)
        assert event["payload"] == {"order": "o", "cents": 7}
        assert [one["job_id"] for one in event["actions"]] == ["charge"]
        sql = "SELECT triggered_by, payload FROM netscript_executions"
        assert rows(store, sql) == [("manual", '{"n":7}')]


async def test_what_the_model_refuses_is_refused_to_whoever_fires(store: Store) -> None:
    for code in (True, False):
        async with serving(store, BY_HAND, code=code) as api:
            fire = f"{URL}/by-hand/fire"
            told = problem(await api.post(fire, json={"cents": "geheim"}), 422, "payload-invalid")
            assert ["order"] in [one["loc"] for one in told["errors"]]
            assert "geheim" not in str(told)
            problem(await api.post(fire, content=b"{", headers=JSON), 400, "malformed")
            problem(await api.post(fire, json={}, params={"resaon": "x"}), 422, "payload-invalid")
            problem(
                await api.post(fire, json={"order": "o"}, params={"reason": "a\nb"}),
                422,
                "payload-invalid",
            )
            large = b'{"order":"' + b"x" * 1_048_576 + b'"}'
            problem(await api.post(fire, content=large, headers=JSON), 413, "payload-too-large")
            answer = await api.post(f"{URL}/by-hnd/fire", json={})
            assert 'Did you mean "by-hand"' in problem(answer, 404, "trigger-not-found")["detail"]
            assert (await api.get(EVENTS)).json()["events"] == []


JSON = {"Content-Type": "application/json"}


async def test_a_server_without_the_code_takes_it_for_one_that_has_it(store: Store) -> None:
    async with serving(store, BY_HAND, code=False) as bare:
        event_id = (await bare.post(f"{URL}/by-hand/fire", json={"order": "o"})).json()["event_id"]
        event = (await bare.get(f"{EVENTS}/{event_id}")).json()
        assert (event["status"], event["waits_for"]["code"]) == ("pending", "ready")
        async with serving(store, BY_HAND) as api:
            await ended(api, event_id)


async def test_a_key_makes_two_fires_one_and_another_payload_a_conflict(store: Store) -> None:
    async with serving(store, BY_HAND) as api:
        fire, key = f"{URL}/by-hand/fire", {"Idempotency-Key": "once"}
        both = await asyncio.gather(
            *(api.post(fire, json={"order": "o"}, headers=key) for _ in range(10))
        )
        told = [answer.json() for answer in both]
        assert len({one["event_id"] for one in told}) == 1
        assert sum(not one["duplicate"] for one in told) == 1
        answer = await api.post(fire, json={"order": "other"}, headers=key)
        assert told[0]["event_id"] in problem(answer, 409, "idempotency-conflict")["detail"]
        again = await api.post(fire, json={"order": "o"}, params={"idempotency_key": "two"})
        assert again.json()["duplicate"] is False


async def test_a_webhook_is_fired_without_a_signature_past_its_filter(store: Store) -> None:
    def sale(event: WebhookEvent) -> Any:
        return enqueue_job(charge, event.payload)

    webhook = trigger(sale, events=["sale"])
    async with serving(store, webhook) as api:
        told = (await api.post(f"{URL}/payment/fire", json={"cents": 3})).json()
        event = await ended(api, told["event_id"])
        assert (len(event["executions"]), event["reason"]) == (1, None)


def body_of(value: Any) -> Any:
    """Return a JSON body with escapes, which the client's own way of making one has not."""
    return {"content": json.dumps(value), "headers": {"Content-Type": "application/json"}}


async def test_a_file_watch_is_fired_with_the_path_of_a_file(store: Store, tmp_path: Path) -> None:
    seen: list[FileEvent] = []

    def took(event: FileEvent) -> Any:
        seen.append(event)
        return enqueue_job(charge, {"n": event.size})

    name = os.fsdecode(b"a\xff.csv")
    (tmp_path / name).write_text("12")
    made = define_file_watch(took, id="inbox", paths=[tmp_path], patterns=["*.csv"])
    async with serving(store, made) as api:
        shown = (await api.get(f"{URL}/inbox")).json()
        assert (shown["paths"], shown["patterns"]) == ([str(tmp_path)], ["*.csv"])
        answer = await api.post(f"{URL}/inbox/fire", **body_of({"path": name}))
        assert answer.status_code == 202, answer.text
        event = await ended(api, answer.json()["event_id"])
        assert (event["payload"]["size"], len(event["executions"])) == (2, 1)
        refused = await api.post(f"{URL}/inbox/fire", json={"path": "../other"})
        assert (
            "in no directory that the trigger watches"
            in problem(refused, 422, "payload-invalid")["detail"]
        )
        edited = {"payload": {**event["payload"], "size": 7}}
        answer = await api.post(f"{EVENTS}/{event['id']}/replay", **body_of(edited))
        await ended(api, answer.json()["id"])
    assert [(one.name, one.size, one.change) for one in seen] == [
        (name, 2, "create"),
        (name, 7, "create"),
    ]
    assert Path(seen[0].path).read_text() == "12"


async def test_triggers_are_listed_from_the_database_and_switched(store: Store) -> None:
    async with serving(store, trigger(), BY_HAND, code=False) as api:
        told = (await api.get(URL)).json()
        assert (told["total"], [one["id"] for one in told["triggers"]]) == (
            2,
            ["by-hand", "payment"],
        )
        one = (await api.get(f"{URL}/payment")).json()
        assert one["path"] == "/webhooks/payment"
        assert (one["secret_env"], one["verifier"]) == (["WEBHOOK_SECRET"], "hmac-sha256")
        assert (one["enabled"], one["circuit"]["state"], one["opens_after"]) == (True, "closed", 10)
        assert "order" in told["triggers"][0]["payload_schema"]["properties"]
        for action, enabled in (("disable", False), ("disable", False), ("enable", True)):
            answer = await api.post(f"{URL}/payment/{action}")
            assert (answer.status_code, answer.json()["enabled"]) == (200, enabled)
        await api.post(f"{URL}/by-hand/disable")
        answer = await api.post(f"{URL}/by-hand/fire", json={"order": "o"})
        assert "netscript triggers enable by-hand" in problem(answer, 409, "disabled")["detail"]
        for action in ("enable", "disable", "fire"):
            answer = await api.post(f"{URL}/paymnt/{action}", json={})
            assert problem(answer, 404, "trigger-not-found")["detail"].endswith('"payment"?')
        for odd in ("%00", "x" * 300, "a%2Fb"):
            assert (await api.get(f"{URL}/{odd}")).status_code == 404


async def test_an_event_is_replayed_as_itself_or_as_a_new_one(store: Store) -> None:
    async with serving(store, BY_HAND) as api:
        told = (await api.post(f"{URL}/by-hand/fire", json={"order": "o"})).json()
        event_id = told["event_id"]
        before = await ended(api, event_id)
        replay = f"{EVENTS}/{event_id}/replay"
        same = (await api.post(replay, json={"reason": "again"})).json()
        assert (same["id"], same["replays"], same["note"]) == (event_id, 1, "again")
        assert (await ended(api, event_id))["executions"] == before["executions"]
        forced = (await api.post(replay, json={"force": True})).json()
        assert forced["replayed_from"] == event_id
        edited = (await api.post(replay, json={"payload": {"order": "p", "cents": 9}})).json()
        done = [await ended(api, one["id"]) for one in (forced, edited)]
        assert done[1]["payload"] == {"order": "p", "cents": 9}
        keys = {key for (key,) in rows(store, "SELECT idempotency_key FROM netscript_executions")}
        assert keys == {"o", f"o:{forced['id']}", f"p:{edited['id']}"}
        shown = (await api.get(f"{EVENTS}/{event_id}")).json()
        assert shown["replayed_as"] == [forced["id"], edited["id"]]


async def test_a_replay_that_cannot_be_meant_changes_nothing(store: Store) -> None:
    (event_id,) = dead(store, 1, trigger_id="by-hand", kind="manual")
    async with serving(store, BY_HAND) as api:
        replay = f"{EVENTS}/{event_id}/replay"
        bodies: tuple[dict[str, Any], ...] = (
            {"payload": None},
            {"payload": {"cents": 1}},
            {"payload": 5},
            {"force": "yes"},
            {"froce": True},
            {"reason": ""},
        )
        for body in bodies:
            problem(await api.post(replay, json=body), 422, "payload-invalid")
        for unknown in (new_id(), "nonsense"):
            answer = await api.post(f"{EVENTS}/{unknown}/replay", json={})
            problem(answer, 404, "event-not-found")
        assert (await api.get(f"{EVENTS}/{event_id}")).json()["status"] == "dead"
        run(store, "UPDATE netscript_trigger_events SET trigger_id = 'gone'")
        answer = await api.post(replay, json={"payload": {"order": "o"}})
        problem(answer, 404, "trigger-not-found")
        assert (await api.post(replay, json={})).json()["status"] == "pending"
        told = problem(await api.post(replay, json={}), 409, "state")
        assert "is pending, so it can't be replayed" in told["detail"]


async def test_many_are_replayed_by_a_filter(store: Store) -> None:
    mine, other = dead(store, 5, trigger_id="gone"), dead(store, 2, trigger_id="other")
    async with serving(store, BY_HAND) as api:
        url = f"{EVENTS}/replay"
        for body in ({}, {"force": True}, {"all": "false"}, {"ids": ["x"]}, {"status": "pending"}):
            problem(await api.post(url, json=body), 422, "payload-invalid")
        told = (await api.post(url, json={"trigger_id": "other", "force": True})).json()
        assert (told["count"], told["skipped"]) == (2, 0)
        told = (await api.post(url, json={"ids": [*mine[:2], new_id()]})).json()
        assert (told["count"], told["skipped"]) == (2, 1)
        told = (await api.post(url, json={"received_before": "2020-01-01T00:00:00Z"})).json()
        assert (told["count"], told["skipped"]) == (0, 0)
        assert (await api.post(url, json={"all": True})).json()["count"] == len(mine + other) - 2


async def test_no_page_and_no_log_shows_a_signature(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    dead(store, 1, headers={"x-kind": "sale"})
    async with serving(store, trigger()) as api:
        (event,) = (await api.get(EVENTS, params={"status": "dead"})).json()["events"]
        whole = (await api.get(f"{EVENTS}/{event['id']}")).json()
        assert whole["headers"] == {"x-kind": "sale"}
        assert [one["error"] for one in whole["failures"]] == ["no"]
        assert "s3cret" not in caplog.text


async def test_a_schedule_is_previewed_and_its_missed_instants_are_run_once(store: Store) -> None:
    def tick(event: ScheduleEvent) -> Any:
        return enqueue_job(charge, {"n": event.scheduled_for.hour})

    hourly = define_schedule(tick, id="hourly", cron="@hourly", timezone="Asia/Tokyo")
    async with serving(store, hourly, BY_HAND) as api:
        told = (await api.get(f"{URL}/hourly/preview", params={"count": 2})).json()
        assert (told["words"], told["recent"]) == ("At the start of every hour, Asia/Tokyo", [])
        first, second = told["next"]
        assert first["scheduled_for"].endswith(":00:00.000000Z")
        assert second["local_time"].endswith(":00:00+09:00")
        problem(await api.get(f"{URL}/by-hand/preview"), 409, "state")
        problem(await api.get(f"{URL}/hourly/preview", params={"count": 0}), 422, "invalid")
        problem(await api.get(f"{URL}/nobody/preview"), 404, "trigger-not-found")

        async def run(**asked: str) -> httpx.Response:
            return await api.post(f"{URL}/hourly/fire", params=asked, json={})

        made = await run(scheduled_for="2026-01-01T09:00:00+09:00")
        assert (made.status_code, made.json()["duplicate"]) == (202, False)
        again = await run(scheduled_for="2026-01-01T00:00:00Z")
        assert again.json() | {"status": "", "executions": []} == {
            **made.json(), "duplicate": True, "status": "", "executions": [],
        }  # fmt: skip
        problem(await run(scheduled_for="2026-01-01T00:00:01Z"), 409, "state")
        problem(await run(scheduled_for=first["scheduled_for"]), 409, "state")
        problem(await run(scheduled_for="yesterday"), 422, "payload-invalid")
        both = {"scheduled_for": "2026-01-01T00:00:00Z", "idempotency_key": "k"}
        problem(await run(**both), 422, "payload-invalid")
        now = await run()
        assert now.json()["event_id"] != made.json()["event_id"]
        by_hand = await api.post(
            f"{URL}/by-hand/fire", params={"scheduled_for": "2026-01-01T00:00:00Z"}, json={}
        )
        problem(by_hand, 409, "state")
        refused: tuple[Any, ...] = ([], {"day": 1}, {"scheduled_for": "soon"})
        for payload in refused:
            answer = await api.post(f"{URL}/hourly/fire", json=payload)
            problem(answer, 422, "payload-invalid")
        done = "SELECT count(*) FROM netscript_trigger_events WHERE status = 'completed'"
        await eventually_async(lambda: scalar(store, done) == 2)
        payloads = rows(store, "SELECT payload FROM netscript_executions ORDER BY id")
        assert ('{"n":0}',) in payloads
