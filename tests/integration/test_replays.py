"""Events that run again: as themselves, where keys hold, or as new ones, which enqueue anew."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from netscript_triggers import EventStatus, WebhookEvent, defer, enqueue_batch, enqueue_job
from netscript_triggers.store import inbox, queries, replays, retention
from netscript_triggers.store.replays import EventFilter
from netscript_triggers.store.verify import verify
from netscript_workers import Retry
from netscript_workers.clock import from_micros
from netscript_workers.errors import EventNotFoundError, PayloadInvalidError, StateError
from netscript_workers.ids import new_id
from netscript_workers.store import outbox
from netscript_workers.store import retention as work_retention
from netscript_workers.store.engine import Store
from netscript_workers.store.outbox import Submission
from netscript_workers.store.retention import Retention
from netscript_workers.testing import ManualClock
from tests.edge import Edge, charge, open_edge, trigger
from tests.kit import Hand, rows, run, scalar
from tests.support import eventually_async

HOUR = 3600.0


def three(event: WebhookEvent) -> list[Any]:
    """Two actions with implied keys and one with its own."""
    return [
        enqueue_job(charge, {"n": 1}),
        enqueue_job(charge, {"n": 2}, idempotency_key="order"),
        enqueue_job(charge, {"n": 3}),
    ]


async def ended(edge: Edge, event_id: str, status: str = "completed") -> Any:
    edge.processor.nudge()

    def look() -> Any:
        event = edge.event(event_id).event
        return event if event.status == status and event.due_at is None else None

    return await eventually_async(look, what=f"the event being {status}")


@pytest.mark.parametrize("dispatch", ["inline", "background"])
async def test_a_replay_runs_the_handler_and_enqueues_nothing_twice(
    store: Store, dispatch: Any
) -> None:
    seen: list[tuple[str, int]] = []

    def handler(event: WebhookEvent) -> Any:
        seen.append((event.id, event.attempt))
        return three(event)

    async with open_edge(store, trigger(handler, dispatch=dispatch), process=True) as edge:
        told = (await edge.post()).json()
        event_id = told["event_id"]
        before = (await ended(edge, event_id)).executions
        assert len(before) == 3
        assert replays.replay(store, event_id, note="look again") == event_id
        event = await ended(edge, event_id)
        assert seen == [(event_id, 1), (event_id, 1)]
        assert (event.executions, event.replays, event.note) == (before, 1, "look again")
        assert edge.count("executions") == 3
        assert (await edge.post()).json() == {
            **told, "status": "completed", "executions": list(before), "duplicate": True,
        }  # fmt: skip
    assert not verify(store).findings


async def test_keys_hold_past_their_window_as_long_as_the_event_is_there(
    timed_store: Store, clock: ManualClock
) -> None:
    async with open_edge(timed_store, trigger(three), process=True) as edge:
        event_id = (await edge.post()).json()["event_id"]
        before = edge.event(event_id).event.executions
        clock.advance(100 * HOUR)
        work_retention.prune(timed_store, Retention())
        assert edge.count("idempotency_keys") == 0
        replays.replay(timed_store, event_id)
        assert (await ended(edge, event_id)).executions == before
        # Also when what it led to is past retention.
        hand = Hand(timed_store, ["charge"])
        for claim in hand.claim():
            hand.end(claim)
        run(timed_store, "DELETE FROM netscript_execution_history")
        replays.replay(timed_store, event_id)
        event = await ended(edge, event_id)
        assert event.executions[0::2] == before[0::2]
        assert edge.count("executions") == 1  # its key's window is over, and its trace gone


async def test_a_replay_after_a_fix_enqueues_what_was_not_enqueued(store: Store) -> None:
    broken = True

    def handler(event: WebhookEvent) -> Any:
        if broken:
            return enqueue_job("nobody", {})
        return three(event)

    async with open_edge(store, trigger(handler), process=True) as edge:
        told = (await edge.post()).json()
        assert told["status"] == "dead"
        broken = False
        replays.replay(store, told["event_id"])
        event = await ended(edge, told["event_id"])
        assert (len(event.executions), event.error) == (3, None)
        (failed,) = edge.event(told["event_id"]).failures
        assert "nobody" in failed.error


async def test_what_a_changed_handler_asks_for_besides_is_new(store: Store) -> None:
    more = False

    def handler(event: WebhookEvent) -> Any:
        first = [enqueue_job(charge, {"n": 0}, idempotency_key="first")] if more else []
        return [*first, *three(event), *([enqueue_job(charge, {"n": 4})] if more else [])]

    async with open_edge(store, trigger(handler), process=True) as edge:
        event_id = (await edge.post()).json()["event_id"]
        before = edge.event(event_id).event.executions
        more = True
        replays.replay(store, event_id)
        after = (await ended(edge, event_id)).executions
        assert after[1:4] == before
        assert edge.count("executions") == len(set(after)) == 5
        more = False
        replays.replay(store, event_id)
        # It still names all that it has caused.
        assert sorted((await ended(edge, event_id)).executions) == sorted(after)
    assert not verify(store).findings


async def test_a_batch_is_not_made_twice(store: Store) -> None:
    def handler(event: WebhookEvent) -> Any:
        last = enqueue_job(charge, {"n": 9})
        return enqueue_batch([enqueue_job(charge, {"n": n}) for n in range(2)], on_complete=last)

    async with open_edge(store, trigger(handler), process=True) as edge:
        event_id = (await edge.post()).json()["event_id"]
        replays.replay(store, event_id)
        await ended(edge, event_id)
        assert (edge.count("batches"), edge.count("executions")) == (1, 2)


async def test_a_forced_replay_is_a_new_event_with_keys_of_its_own(store: Store) -> None:
    seen: list[WebhookEvent] = []

    def handler(event: WebhookEvent) -> Any:
        seen.append(event)
        return three(event)

    async with open_edge(store, trigger(handler), process=True) as edge:
        event_id = (await edge.post(headers={"X-Kind": "sale"})).json()["event_id"]
        before = edge.event(event_id)
        new = replays.replay_as_new(store, event_id, note="paid twice")
        again = replays.replay_as_new(store, new if (await ended(edge, new)) else "")
        await ended(edge, again)
        assert edge.event(event_id) == before
        assert edge.count("executions") == 9
        assert [event.replayed_from for event in seen] == [None, event_id, new]
        assert seen[1].note == "paid twice"
        assert (seen[1].payload, seen[1].headers) == (seen[0].payload, seen[0].headers)
        keys = {key for (key,) in rows(store, "SELECT idempotency_key FROM netscript_executions")}
        assert keys == {None, "order", f"order:{new}", f"order:{again}"}
        # It is replayed like any other, and then its keys hold.
        replays.replay(store, new)
        await ended(edge, new)
        assert edge.count("executions") == 9
        # The sender's next delivery is still that of the first one.
        assert (await edge.post(headers={"X-Kind": "sale"})).json()["event_id"] == event_id
        with store.snapshot() as conn:
            now = store.now(conn)
            whole = queries.get_whole_event(conn, store.dialect, event_id, now=now)
        assert whole.replayed_as == (new,)
        assert {one.job_id for one in whole.actions} == {"charge"}
    assert not verify(store).findings


async def test_another_payload_is_what_the_handler_sees(store: Store) -> None:
    webhook = trigger(events=["sale"])
    async with open_edge(store, webhook, process=True) as edge:
        event_id = (await edge.post({"type": "sale", "cents": 1})).json()["event_id"]
        new = replays.replay_as_new(store, event_id, body=b'{"cents":7}')
        event = await ended(edge, new)
        payload = scalar(store, "SELECT payload FROM netscript_executions WHERE id = :id",
                         id=event.executions[0])  # fmt: skip
        assert json.loads(payload) == {"cents": 7}
        assert event.by_hand
        assert edge.event(new).payload == {"cents": 7}


async def test_what_runs_or_is_about_to_is_not_replayed(store: Store) -> None:
    async with open_edge(store, trigger(dispatch="background")) as edge:
        event_id = (await edge.post()).json()["event_id"]
        for change in (replays.replay, replays.replay_as_new):
            with pytest.raises(StateError, match="is pending, so it can't be replayed"):
                change(store, event_id)
            for unknown in (new_id(), "nonsense", "\0"):
                with pytest.raises(EventNotFoundError):
                    change(store, unknown)
        assert edge.count("trigger_events") == 1


async def test_what_waits_for_its_retry_or_its_time_runs_at_once(store: Store) -> None:
    calls = 0

    def handler(event: WebhookEvent) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ValueError("later")
        return defer(until=9999) if calls == 2 else None

    slow = Retry(initial_delay=9999, max_delay=9999)
    async with open_edge(store, trigger(handler, retry=slow), process=True) as edge:
        told = (await edge.post()).json()
        assert told["status"] == "failed"
        replays.replay(store, told["event_id"])
        edge.processor.nudge()
        await eventually_async(lambda: edge.event(told["event_id"]).event.status == "deferred")
        replays.replay(store, told["event_id"])
        assert (await ended(edge, told["event_id"])).replays == 2


def dead(store: Store, count: int, **facts: Any) -> list[str]:
    """Store events that are dead."""
    given: list[WebhookEvent] = []
    disposition = inbox.Disposition(status=EventStatus.DEAD, error="no")
    with store.begin() as conn:
        now = store.now(conn)
        for _ in range(count):
            known: dict[str, Any] = {
                "id": new_id(),
                "trigger_id": "payment",
                "kind": "webhook",
                "status": EventStatus.DEAD,
                "payload": None,
                "headers": {},
                "body": b'{"cents":1}',
                "idempotency_key": None,
                "attempt": 1,
                "received_at": from_micros(now),
            }
            given.append(WebhookEvent(**{**known, **facts}))
        submissions = [
            Submission(companion=inbox.companion(event, disposition, now)) for event in given
        ]
        outbox.store(conn, store.dialect, submissions, now=now)
    return [event.id for event in given]


@pytest.mark.parametrize("force", [False, True])
async def test_many_are_replayed_by_a_filter_and_counted_exactly(store: Store, force: bool) -> None:
    mine = dead(store, 1001)
    other = dead(store, 3, trigger_id="other", event_type="sale")
    wanted = EventFilter(trigger_id="payment")
    changed = replays.replay_many(store, wanted, force=force)
    assert (changed.count, changed.skipped) == (1001, 0)
    count = "SELECT count(*) FROM netscript_trigger_events WHERE status = 'pending'"
    assert scalar(store, count) == 1001
    left = replays.replay_many(store, wanted, force=force)
    assert left.count == (1001 if force else 0)
    by_type = EventFilter(event_type="sale")
    assert replays.replay_many(store, by_type, [*other[:2], *mine[:2], new_id()]).count == 2
    assert replays.replay_many(store, EventFilter(trigger_id="\0")).count == 0
    told = replays.replay_many(store, EventFilter(), [other[2], other[2], new_id()])
    assert (told.count, told.skipped) == (1, 1)
    with pytest.raises(PayloadInvalidError, match="processing can't be replayed"):
        replays.replay_many(store, EventFilter(statuses=(EventStatus.PROCESSING,)))


async def test_two_bulk_replays_at_once_replay_each_event_once(store: Store) -> None:
    dead(store, 700)
    both = await asyncio.gather(
        *(asyncio.to_thread(replays.replay_many, store, EventFilter()) for _ in range(2))
    )
    assert sum(one.count for one in both) == 700
    assert scalar(store, "SELECT max(replays) FROM netscript_trigger_events") == 1


async def test_a_redelivery_after_pruning_is_known_within_the_window_and_new_after_it(
    timed_store: Store, clock: ManualClock
) -> None:
    async with open_edge(timed_store) as edge:
        first = (await edge.post()).json()
        clock.advance(8 * HOUR)
        assert retention.prune(timed_store, Retention(completed=0.25, failed=90)) == 1
        assert edge.count("trigger_events") == 0
        again = (await edge.post()).json()
        assert again == {**first, "executions": [], "duplicate": True}
        clock.advance(65 * HOUR)
        work_retention.prune(timed_store, Retention())
        fresh = (await edge.post()).json()
        assert not fresh["duplicate"]
        assert fresh["event_id"] != first["event_id"]
        assert edge.count("executions") == 2


async def test_events_are_kept_as_long_as_retention_says_and_forgotten_in_chunks(
    timed_store: Store, clock: ManualClock
) -> None:
    dead(timed_store, 501)
    async with open_edge(timed_store, trigger(dedupe=None), trigger(
        id="later", path="/later", dispatch="background"
    )) as edge:  # fmt: skip
        await edge.post()
        waiting = (await edge.post(path="/later")).json()["event_id"]
        clock.advance(6 * 24 * HOUR)
        assert retention.prune(timed_store, Retention()) == 0
        clock.advance(2 * 24 * HOUR)
        assert retention.prune(timed_store, Retention()) == 1
        clock.advance(83 * 24 * HOUR)
        assert [retention.prune(timed_store, Retention()) for _ in range(3)] == [500, 1, 0]
        assert edge.event(waiting).event.status == "pending"
