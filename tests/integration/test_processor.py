"""Handlers that run later: background dispatch, retries, dead events."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from netscript_triggers import WebhookEvent, enqueue_job, processor
from netscript_triggers.events import EventStatus
from netscript_triggers.store import inbox, queries, runs
from netscript_triggers.store.replays import EventFilter
from netscript_workers import Retry
from netscript_workers.domain import NewWork
from netscript_workers.errors import CursorError, EventNotFoundError
from netscript_workers.store.engine import Store
from tests.edge import charge, open_edge, trigger
from tests.kit import new, run
from tests.support import eventually_async

QUICK = Retry(max_attempts=3, initial_delay=0.01, jitter=False)


async def status_of(edge: Any, event_id: str, *wanted: str) -> str:
    def look() -> str:
        found: str = edge.event(event_id).event.status.value
        return found if found in wanted else ""

    return await eventually_async(look, what=f"event being {wanted}")


async def test_background_dispatch_answers_first_and_runs_soon(store: Store) -> None:
    async with open_edge(store, trigger(dispatch="background"), process=True) as edge:
        answer = (await edge.post(headers={"X-Kind": "sale"})).json()
        assert (answer["status"], answer["executions"]) == ("pending", [])
        await status_of(edge, answer["event_id"], "completed")
        event = edge.event(answer["event_id"]).event
        assert len(event.executions) == 1
        assert event.due_at is None
        assert edge.count("executions") == 1


async def test_a_failed_event_is_tried_again_until_it_works(store: Store) -> None:
    attempts: list[int] = []

    def flaky(event: WebhookEvent) -> Any:
        attempts.append(event.attempt)
        if len(attempts) < 3:
            raise ValueError("not yet")
        return enqueue_job(charge, {"cents": event.payload["cents"]})

    async with open_edge(store, trigger(flaky, retry=QUICK), process=True) as edge:
        answer = (await edge.post()).json()
        assert answer["status"] == "failed"
        await status_of(edge, answer["event_id"], "completed")
        assert attempts == [1, 2, 3]
        event = edge.event(answer["event_id"]).event
        assert event.error is None
        assert len(event.executions) == 1


async def test_an_event_out_of_attempts_is_dead(store: Store) -> None:
    def never(event: WebhookEvent) -> Any:
        raise ValueError(f"attempt {event.attempt}")

    async with open_edge(store, trigger(never, retry=QUICK), process=True) as edge:
        answer = (await edge.post()).json()
        await status_of(edge, answer["event_id"], "dead")
        event = edge.event(answer["event_id"]).event
        assert (event.attempt, event.error) == (3, "ValueError: attempt 3")
        assert event.finished_at is not None


async def test_what_cannot_be_stored_is_dead_and_its_neighbours_are_not(store: Store) -> None:
    def handler(event: WebhookEvent) -> Any:
        action = enqueue_job(charge, {})
        if event.payload["cents"] == 3:
            object.__setattr__(action, "topic", "\0" if not store.is_sqlite else object())
        return action

    webhook = trigger(handler, dispatch="background")
    async with open_edge(store, webhook) as edge:
        ids = [(await edge.post({"cents": n})).json()["event_id"] for n in range(6)]
        task = asyncio.create_task(edge.processor.run())
        told = [await status_of(edge, id_, "completed", "dead") for id_ in ids]
        edge.processor.stop()
        await task
        assert told == ["completed"] * 3 + ["dead"] + ["completed"] * 2
        assert edge.count("executions") == 5


async def test_two_processors_run_each_event_once(store: Store) -> None:
    seen: list[str] = []

    async def handler(event: WebhookEvent) -> Any:
        seen.append(event.id)
        await asyncio.sleep(0.001)
        return enqueue_job(charge, {})

    webhook = trigger(handler, dispatch="background", dedupe=None)
    async with (
        open_edge(store, webhook, process=True) as one,
        open_edge(store, webhook, process=True),
    ):
        await asyncio.gather(*(one.post() for _ in range(60)))
        sql = "SELECT count(*) FROM netscript_trigger_events WHERE status <> 'completed'"
        await eventually_async(lambda: one.count("executions") == 60, what=sql)
        assert len(seen) == len(set(seen)) == 60


async def test_a_claim_that_ran_out_counts_as_an_attempt_and_the_last_as_dead(
    store: Store,
) -> None:
    webhook = trigger(dispatch="background", retry=Retry(max_attempts=2))
    async with open_edge(store, webhook) as edge:
        event_id = (await edge.post()).json()["event_id"]
        claimed = claim(store)
        assert (claimed[0].id, claimed[0].attempt) == (event_id, 1)
        assert claim(store) == []
        expire(store)
        (again,) = claim(store)
        assert again.attempt == 2
        expire(store)
        task = asyncio.create_task(edge.processor.run())
        await status_of(edge, event_id, "dead")
        edge.processor.stop()
        await task
        assert edge.event(event_id).event.error == "Every process that ran its handler died."


async def test_an_end_under_a_lost_claim_is_refused(store: Store) -> None:
    async with open_edge(store, trigger(dispatch="background")) as edge:
        event_id = (await edge.post()).json()["event_id"]
        (stale,) = claim(store)
        expire(store)
        (current,) = claim(store)
        done = inbox.Disposition(status=EventStatus.COMPLETED)
        with store.begin() as conn:
            now = store.now(conn)
            ends = [runs.Finish(stale, done, NewWork(executions=(new("charge"),)))]
            assert runs.finish(conn, store.dialect, ends, now=now, window=10**9) == [False]
            ends = [runs.Finish(current, done, NewWork(executions=(new("charge"),)))]
            assert runs.finish(conn, store.dialect, ends, now=now, window=10**9) == [True]
        assert edge.count("executions") == 1
        assert len(edge.event(event_id).event.executions) == 1


async def test_events_of_triggers_without_code_are_left_alone(store: Store) -> None:
    async with open_edge(store, trigger(dispatch="background")) as edge:
        event_id = (await edge.post()).json()["event_id"]
    async with open_edge(store, trigger(id="other", path="/webhooks/o"), process=True) as edge:
        await asyncio.sleep(0.2)
        assert edge.event(event_id).event.status == "pending"


async def test_a_processor_that_stops_gives_back_what_it_runs(store: Store) -> None:
    started = asyncio.Event()

    async def endless(event: WebhookEvent) -> None:
        started.set()
        await asyncio.sleep(60)

    async with open_edge(store, trigger(endless, dispatch="background"), process=True) as edge:
        event_id = (await edge.post()).json()["event_id"]
        await started.wait()
        assert edge.event(event_id).event.status == "processing"
    async with open_edge(store) as edge:
        event = edge.event(event_id).event
        assert (event.status, event.attempt) == ("pending", 1)


async def test_a_handler_of_the_processor_has_its_limit(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "HANDLER_SECONDS", 0.02)

    async def endless(event: WebhookEvent) -> None:
        await asyncio.sleep(60)

    webhook = trigger(endless, dispatch="background", retry=Retry(max_attempts=1))
    async with open_edge(store, webhook, process=True) as edge:
        event_id = (await edge.post()).json()["event_id"]
        await status_of(edge, event_id, "dead")


async def test_a_database_that_fails_is_tried_again(store: Store) -> None:
    async with open_edge(store, trigger(dispatch="background"), process=True) as edge:
        run(store, "ALTER TABLE netscript_trigger_events RENAME TO netscript_hidden")
        await asyncio.sleep(0.05)
        edge.processor.nudge()
        await asyncio.sleep(0.1)
        run(store, "ALTER TABLE netscript_hidden RENAME TO netscript_trigger_events")
        event_id = (await edge.post()).json()["event_id"]
        await status_of(edge, event_id, "completed")


async def test_events_are_listed_newest_first_in_pages(store: Store) -> None:
    two = trigger(id="two", path="/webhooks/two", dispatch="background")
    async with open_edge(store, trigger(dedupe=None), two) as edge:
        ids = [(await edge.post()).json()["event_id"] for _ in range(5)]
        ids.append((await edge.post(path="/webhooks/two")).json()["event_id"])
    with store.read() as conn:
        first = queries.list_events(conn, limit=4)
        assert [event.id for event in first.events] == ids[:1:-1]
        rest = queries.list_events(conn, limit=4, cursor=first.next_cursor)
        assert [event.id for event in rest.events] == ids[1::-1]
        assert rest.next_cursor is None
        mine = queries.list_events(
            conn, EventFilter(trigger_id="two", statuses=(EventStatus.PENDING,)), limit=9
        )
        assert [event.id for event in mine.events] == ids[5:]
        assert queries.list_events(conn, EventFilter(trigger_id="\0"), limit=9).events == ()
        with pytest.raises(CursorError):
            queries.list_events(conn, limit=4, cursor="nonsense")
        for bad in ("nonsense", new().id, "\0"):
            with pytest.raises(EventNotFoundError):
                queries.get_event(conn, bad)


def claim(store: Store) -> list[runs.StoredEvent]:
    with store.begin() as conn:
        return runs.claim(
            conn,
            store.dialect,
            trigger="payment",
            token=new().id,
            limit=5,
            lease=60,
            now=store.now(conn),
        )


def expire(store: Store) -> None:
    run(store, "UPDATE netscript_trigger_events SET due_at = 0 WHERE due_at IS NOT NULL")
