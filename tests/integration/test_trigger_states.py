"""Triggers that are disabled, whose circuits open, whose handlers have a bound; deferred events."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any, cast

import pytest

from netscript_triggers import Circuit, WebhookEvent, defer, enqueue_job, processor
from netscript_triggers.circuits import UNTOUCHED, Note
from netscript_triggers.store import queries, replays, runs, states, triggers
from netscript_triggers.store.verify import verify
from netscript_workers import Retry
from netscript_workers.clock import from_micros
from netscript_workers.errors import TriggerNotFoundError
from netscript_workers.store.engine import Store
from netscript_workers.testing import ManualClock
from tests.edge import Edge, charge, open_edge, trigger
from tests.integration.store.scenes import statements_of
from tests.kit import scalar
from tests.support import eventually_async

QUICK = Retry(max_attempts=50, initial_delay=0.01, jitter=False, backoff="constant")
SLOW = Retry(max_attempts=50, initial_delay=9999, max_delay=9999)


async def status(edge: Edge, event_id: str, wanted: str) -> None:
    def look() -> bool:
        edge.processor.nudge()
        return edge.event(event_id).event.status == wanted

    await eventually_async(look, what=f"the event being {wanted}")


def waits_for(store: Store, event_id: str) -> str | None:
    with store.snapshot() as conn:
        detail = queries.get_whole_event(conn, store.dialect, event_id, now=store.now(conn))
    return None if detail.waits_for is None else detail.waits_for.code


async def test_a_disabled_webhook_is_as_if_it_was_not_there_and_its_events_wait(
    store: Store,
) -> None:
    webhook = trigger(dispatch="background", dedupe=None)
    triggers.register(store, [webhook])
    async with open_edge(store, webhook) as edge:
        waiting = (await edge.post()).json()["event_id"]
        triggers.set_enabled(store, "payment", enabled=False)
    # Another process, and later: it is in the database.
    async with open_edge(store, webhook, process=True) as edge:
        await eventually_async(lambda: edge.ingress._states.of("payment").enabled is False)
        for method in ("POST", "GET"):
            assert (await edge.post(method=method)).status_code == 404
        assert (await edge.post(secret="wrong")).status_code == 404
        assert edge.count("trigger_events") == 1
        assert edge.event(waiting).event.status == "pending"
        assert waits_for(store, waiting) == "trigger-disabled"
        assert not verify(store).findings
        switched = time.monotonic()
        triggers.set_enabled(store, "payment", enabled=True)
        await eventually_async(lambda: edge.event(waiting).event.status == "completed")
        assert time.monotonic() - switched < 2
        assert (await edge.post()).status_code == 202


async def test_a_process_that_does_not_know_yet_claims_nothing_of_a_disabled_one(
    store: Store,
) -> None:
    webhook = trigger(dispatch="background")
    triggers.register(store, [webhook])
    async with open_edge(store, webhook) as edge:
        event_id = (await edge.post()).json()["event_id"]
        triggers.set_enabled(store, "payment", enabled=False)
        assert edge.processor._claim("payment", 5) == []
        triggers.set_enabled(store, "payment", enabled=True)
        assert [one.id for one in edge.processor._claim("payment", 5)] == [event_id]
        with pytest.raises(TriggerNotFoundError, match='Did you mean "payment"'):
            triggers.set_enabled(store, "paymnt", enabled=True)


@pytest.mark.parametrize("dispatch", ["inline", "background"])
async def test_a_handler_that_keeps_failing_is_left_alone_until_one_event_succeeds(
    store: Store, dispatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0
    healed = False

    async def handler(event: WebhookEvent) -> Any:
        nonlocal calls
        calls += 1
        if not healed:
            raise ValueError("the other side is down")
        return enqueue_job(charge, {})

    webhook = trigger(
        handler, dispatch=dispatch, retry=SLOW, circuit=Circuit(failures=3, reset=0.2), dedupe=None
    )
    async with open_edge(store, webhook, process=True) as edge:
        ids = [(await edge.post()).json()["event_id"] for _ in range(3)]
        await eventually_async(lambda: edge.ingress._states.is_open("payment"))
        assert calls == 3
        opened = time.monotonic()
        told = [(await edge.post()).json() for _ in range(5)]
        assert {one["status"] for one in told} == {"pending"}
        assert waits_for(store, told[-1]["event_id"]) == "circuit-open"
        # One is tried, and then, later than the first time, one more.
        await eventually_async(lambda: calls == 5)
        assert time.monotonic() - opened > 0.4

        def tried() -> bool:
            return sum(edge.event(one["event_id"]).event.attempt == 2 for one in told) == 2

        await eventually_async(tried, what="the attempts of both being stored")
        healed = True
        await eventually_async(lambda: edge.count("executions") == 3, 20)
        for one in told[2:]:
            assert edge.event(one["event_id"]).event.attempt == 1
        with store.read() as conn:
            assert states.get(conn, "payment") == UNTOUCHED
        assert edge.event(ids[0]).event.status == "failed"
        assert (await edge.post()).status_code == 202
    lines = [line for line in caplog.messages if "circuit" in line]
    assert "is open after 3 failures in a row" in lines[0]
    assert lines[-1].endswith("is closed: its events run again")
    assert "down" not in "".join(lines)


async def test_an_open_circuit_survives_a_restart_and_enabling_closes_it(store: Store) -> None:
    webhook = trigger(dispatch="background", circuit=Circuit(failures=1, reset=9999))
    triggers.register(store, [webhook])
    with store.begin() as conn:
        note = Note("payment", webhook.circuit, "no")
        states.apply(conn, store.dialect, [note], store.now(conn))
    async with open_edge(store, webhook, process=True) as edge:
        event_id = (await edge.post()).json()["event_id"]
        await eventually_async(lambda: edge.ingress._states.is_open("payment"))
        edge.processor.nudge()
        await asyncio.sleep(0.05)
        assert edge.event(event_id).event.status == "pending"
        with store.read() as conn:
            record = triggers.get_trigger(conn, "payment", now=store.now(conn))
        assert (record.circuit.state, record.circuit.error) == ("open", "no")
        assert not verify(store).findings
        closed = triggers.set_enabled(store, "payment", enabled=True)
        assert closed.circuit.state == "closed"
        await status(edge, event_id, "completed")


async def test_one_try_at_a_time_whatever_the_number_of_processes(
    timed_store: Store, clock: ManualClock
) -> None:
    webhook = trigger(dispatch="background", circuit=Circuit(failures=1), dedupe=None)
    async with open_edge(timed_store, webhook) as one, open_edge(timed_store, webhook) as two:
        for _ in range(4):
            await one.post()
        with timed_store.begin() as conn:
            note = Note("payment", webhook.circuit, "no")
            states.apply(conn, timed_store.dialect, [note], timed_store.now(conn))
        claimed, wait = one.processor._look(5)
        assert (claimed, round(wait)) == ([], 30)
        assert two.processor._look(5)[0] == []
        clock.advance(31)
        (tried,) = one.processor._look(5)[0]
        assert tried.probe
        assert two.processor._look(5)[0] == []
        # Whoever tried has died; nobody waits for it for ever.
        clock.advance(processor.LEASE_SECONDS + 1)
        assert len(two.processor._look(5)[0]) == 1
        assert one.processor._look(5)[0] == []


async def test_what_no_retry_can_mend_opens_nothing(store: Store) -> None:
    def handler(event: WebhookEvent) -> Any:
        return enqueue_job("nobody", {})

    webhook = trigger(handler, circuit=Circuit(failures=1), dedupe=None)
    async with open_edge(store, webhook, process=True) as edge:
        for _ in range(3):
            assert (await edge.post()).json()["status"] == "dead"
        edge.processor.nudge()
        await asyncio.sleep(0.05)
        assert scalar(store, "SELECT count(*) FROM netscript_trigger_state") == 0


async def test_no_more_events_are_handled_at_a_time_than_the_bound_in_all_processes(
    store: Store,
) -> None:
    now, most, done = 0, 0, 0

    async def handler(event: WebhookEvent) -> None:
        nonlocal now, most, done
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        done += 1

    bound = trigger(handler, dispatch="background", concurrency=2, dedupe=None)
    async with (
        open_edge(store, bound, process=True) as edge,
        open_edge(store, bound, process=True),
    ):
        await asyncio.gather(*(edge.post() for _ in range(20)))
        await eventually_async(lambda: done == 20, 20)
        assert most == 2
        assert not verify(store).findings


async def test_one_trigger_with_much_to_do_leaves_something_to_the_others(store: Store) -> None:
    release = asyncio.Event()

    async def slow(event: WebhookEvent) -> None:
        await release.wait()

    flood = trigger(slow, id="flood", path="/flood", dispatch="background", dedupe=None)
    quick = trigger(id="quick", path="/quick", dispatch="background")
    async with open_edge(store, flood, quick) as edge:
        for _ in range(processor.CONCURRENCY + 5):
            await edge.post(path="/flood")
        event_id = (await edge.post(path="/quick")).json()["event_id"]
        task = asyncio.create_task(edge.processor.run())
        await status(edge, event_id, "completed")
        release.set()
        edge.processor.stop()
        await task


async def test_what_waits_of_one_trigger_costs_the_others_nothing(store: Store) -> None:
    """Due events are found by their trigger's index, in its order."""
    async with open_edge(store, trigger(dispatch="background", dedupe=None)) as edge:
        await edge.post()
        with statements_of(store) as seen, store.begin() as conn:
            assert list(runs.waiting(conn, store.dialect, ["nobody", "payment"])) == ["payment"]
        waiting, parameters = next(one for one in seen if "AS due_at" in one[0])
        with store.engine.connect() as conn:
            if not store.is_sqlite:
                conn.exec_driver_sql("SET LOCAL enable_seqscan = off")
                conn.exec_driver_sql("SET LOCAL enable_sort = off")
            explain = "EXPLAIN QUERY PLAN " if store.is_sqlite else "EXPLAIN "
            plan = "\n".join(
                str(row[-1])
                for row in conn.exec_driver_sql(explain + waiting, cast("Any", parameters))
            )
        assert "netscript_events_waiting" in plan
        assert "TEMP B-TREE" not in plan and "Sort" not in plan


async def test_a_deferred_event_is_handled_again_at_its_time(
    timed_store: Store, clock: ManualClock
) -> None:
    at = from_micros(clock.now()) + timedelta(hours=5)
    seen: list[tuple[int, str]] = []

    def handler(event: WebhookEvent) -> Any:
        seen.append((event.attempt, event.id))
        first = enqueue_job(charge, {"n": 1})
        if len(seen) == 1:
            return [first, defer(until=at)]
        return [first, enqueue_job(charge, {"n": 2})]

    async with open_edge(timed_store, trigger(handler), process=True) as edge:
        told = (await edge.post()).json()
        event_id = told["event_id"]
        assert (told["status"], len(told["executions"])) == ("deferred", 1)
        event = edge.event(event_id).event
        assert (event.status, event.reason, event.due_at) == ("deferred", "deferred", at)
        assert waits_for(timed_store, event_id) == "due"
        assert (await edge.post()).json() == {**told, "duplicate": True}
        clock.advance(4 * 3600)
        edge.processor.nudge()
        await asyncio.sleep(0.05)
        assert len(seen) == 1
        clock.advance(3600)
        await status(edge, event_id, "completed")
        # A deferral is no failure, and what the first call enqueued is enqueued once.
        assert seen == [(1, event_id), (1, event_id)]
        done = edge.event(event_id).event
        assert done.executions[0] == told["executions"][0]
        assert (len(done.executions), edge.count("executions")) == (2, 2)
        assert done.reason is None
    assert not verify(timed_store).findings


async def test_a_handler_that_defers_to_the_past_keeps_nobody_busy(
    timed_store: Store, clock: ManualClock
) -> None:
    calls = 0

    def handler(event: WebhookEvent) -> Any:
        nonlocal calls
        calls += 1
        return defer(until=from_micros(0))

    async with open_edge(timed_store, trigger(handler, dispatch="background"), process=True) as e:
        event_id = (await e.post()).json()["event_id"]
        await status(e, event_id, "deferred")
        await asyncio.sleep(0.05)
        assert calls == 1
        clock.advance(1.1)
        e.processor.nudge()
        await eventually_async(lambda: calls == 2)


async def test_events_of_other_types_are_kept_and_not_handled(store: Store) -> None:
    seen: list[str | None] = []

    def handler(event: WebhookEvent) -> None:
        seen.append(event.event_type)

    webhook = trigger(handler, events=["payment.*"])
    async with open_edge(store, webhook, process=True) as edge:
        wanted = (await edge.post({"type": "payment.done"})).json()
        other = (await edge.post({"type": "order.done"})).json()
        typeless = (await edge.post({"cents": 1})).json()
        assert {one["status"] for one in (wanted, other, typeless)} == {"completed"}
        assert seen == ["payment.done"]
        event = edge.event(other["event_id"]).event
        assert (event.reason, event.event_type, event.executions) == ("filtered", "order.done", ())
        assert edge.event(wanted["event_id"]).event.reason is None
        replays.replay(store, other["event_id"])
        await eventually_async(lambda: edge.event(other["event_id"]).event.reason == "filtered")
        assert len(seen) == 1
        # Whoever insists gets it.
        new = replays.replay_as_new(store, other["event_id"])
        await status(edge, new, "completed")
        assert seen == ["payment.done", "order.done"]


async def test_an_event_tells_how_its_handler_has_failed(store: Store) -> None:
    def handler(event: WebhookEvent) -> None:
        raise ValueError(f"attempt {event.attempt}")

    short = Retry(max_attempts=3, initial_delay=0.01, jitter=False)
    async with open_edge(store, trigger(handler, retry=short), process=True) as edge:
        event_id = (await edge.post()).json()["event_id"]
        await status(edge, event_id, "dead")
        failures = edge.event(event_id).failures
        assert [(one.attempt, one.error) for one in failures] == [
            (n, f"ValueError: attempt {n}") for n in (1, 2, 3)
        ]
