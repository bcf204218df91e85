"""Schedules as triggers: each instant is one event, stored with what its handler returned."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from netscript_triggers import (
    Circuit,
    ScheduleDefinition,
    ScheduleEvent,
    define_schedule,
    enqueue_batch,
    enqueue_job,
    scheduling,
)
from netscript_triggers.events import EventStatus
from netscript_triggers.firing import DisabledError, new_event
from netscript_triggers.records import EventDetail
from netscript_triggers.scheduling import schedules_of
from netscript_triggers.store import queries, states, triggers
from netscript_triggers.store.schedules import preview
from netscript_triggers.store.verify import verify
from netscript_workers import Retry
from netscript_workers.clock import from_micros, to_micros
from netscript_workers.errors import StateError
from netscript_workers.scheduler import Scheduler
from netscript_workers.store import definitions, outbox
from netscript_workers.store.definitions import StoredCatalog
from netscript_workers.store.engine import Store
from netscript_workers.testing import ManualClock
from tests.edge import charge, open_edge
from tests.integration.scheduling import by_cronsim, look, set_clock, utc
from tests.kit import Hand, ended, rows, run, scalar
from tests.support import eventually, eventually_async

pytestmark = pytest.mark.fresh_database

START = utc("2026-01-01T10:00")
MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def at_start(clock: ManualClock) -> None:
    set_clock(clock, START)


def pay(event: ScheduleEvent) -> Any:
    return [enqueue_job(charge, {"cents": event.scheduled_for.minute})]


def every_minute(handler: Callable[..., Any] = pay, **options: Any) -> ScheduleDefinition[Any]:
    known: dict[str, Any] = {"id": "tick", "cron": "* * * * *"}
    return define_schedule(handler, **{**known, **options})


@contextmanager
def scheduler(store: Store, *given: ScheduleDefinition[Any]) -> Generator[Scheduler]:
    definitions.register(store, [charge])
    catalog = StoredCatalog(store, {charge.id: charge})
    more = schedules_of({one.id: one for one in given})(store, catalog)
    one = Scheduler(store, more.declared, more.targets)
    yield one
    assert one.stop(5.0)


def fires(store: Store) -> list[tuple[Any, str, str | None]]:
    sql = (
        "SELECT nominal_at, outcome, note FROM netscript_schedule_fires "
        "WHERE schedule_id = 'trigger:tick' ORDER BY nominal_at"
    )
    return [(from_micros(at), outcome, note) for at, outcome, note in rows(store, sql)]


def events(store: Store) -> list[EventDetail]:
    with store.read() as conn:
        found = queries.list_events(conn, limit=1000).events
        return [queries.get_event(conn, one.id) for one in reversed(found)]


def assert_sound(store: Store, instants: int) -> None:
    report = verify(store)
    assert not report.findings, str(report)
    assert report.checked["fires"] == instants


def test_an_instant_is_an_event_with_what_its_handler_returned(
    timed_store: Store, clock: ManualClock
) -> None:
    with scheduler(timed_store, every_minute(timezone="Europe/Paris")) as one:
        look(one)
        clock.advance(60)
        look(one)
    (event,) = events(timed_store)
    record = event.event
    assert (record.kind, record.status, record.trigger_id) == ("schedule", "completed", "tick")
    assert record.idempotency_key == "schedule:2026-01-01T10:01:00.000000Z"
    assert event.payload == {
        "scheduled_for": "2026-01-01T10:01:00.000000Z",
        "local_time": "2026-01-01T11:01:00+01:00",
        "timezone": "Europe/Paris",
        "note": None,
    }
    ((cause, id_, payload),) = rows(
        timed_store, "SELECT triggered_by, trigger_event_id, payload FROM netscript_executions"
    )
    assert (cause, str(id_), payload) == ("schedule", record.id, '{"cents":1}')
    assert fires(timed_store) == [(START + MINUTE, "fired", None)]
    assert_sound(timed_store, 1)


def test_five_schedulers_that_look_at_once_make_one_event_of_each_minute(
    database_url: str, timed_store: Store, clock: ManualClock
) -> None:
    stores = [Store(database_url, clock=clock) for _ in range(5)]
    called: list[str] = []

    def counted(event: ScheduleEvent) -> Any:
        called.append(event.payload["scheduled_for"])
        return pay(event)

    with ThreadPoolExecutor(5) as pool:
        opened = [scheduler(one, every_minute(counted)) for one in stores]
        five = [one.__enter__() for one in opened]
        list(pool.map(look, five))
        for _ in range(10):
            clock.advance(60)
            list(pool.map(look, five))
        for one in opened:
            one.__exit__(None, None, None)
    expected = by_cronsim("* * * * *", START, START + 10 * MINUTE)
    assert [at for at, _, _ in fires(timed_store)] == expected
    assert len(set(called)) == 10
    assert scalar(timed_store, "SELECT count(*) FROM netscript_trigger_events") == 10
    assert scalar(timed_store, "SELECT count(*) FROM netscript_executions") == 10
    assert_sound(timed_store, 10)
    for store in stores:
        store.dispose()


async def test_what_a_handler_fails_at_is_tried_again_by_a_server(
    timed_store: Store, clock: ManualClock
) -> None:
    def flaky(event: ScheduleEvent) -> Any:
        if event.attempt == 1:
            raise ValueError("not yet")
        return pay(event)

    tick = every_minute(flaky, retry=Retry(initial_delay=0.01, jitter=False))
    with scheduler(timed_store, tick) as one:
        await asyncio.to_thread(look, one)
        clock.advance(60)
        await asyncio.to_thread(look, one)
    (event,) = events(timed_store)
    assert (event.event.status, event.event.error) == ("failed", "ValueError: not yet")
    clock.advance(1)
    async with open_edge(timed_store, tick, process=True, jobs=[charge]) as edge:
        await eventually_async(
            lambda: edge.event(event.event.id).event.status is EventStatus.COMPLETED
        )
    payload = scalar(timed_store, "SELECT payload FROM netscript_executions")
    assert payload == '{"cents":1}'
    assert_sound(timed_store, 1)


@pytest.mark.parametrize("kind", ["def", "async", "blocking"])
def test_a_handler_that_takes_too_long_holds_nobody_up(
    timed_store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(scheduling, "HANDLER_SECONDS", 0.2)
    monkeypatch.setattr(scheduling, "_LEEWAY", 0.1)

    def slow(event: ScheduleEvent) -> None:
        time.sleep(1.0)

    async def slow_too(event: ScheduleEvent) -> None:
        await asyncio.sleep(30)

    async def blocking(event: ScheduleEvent) -> None:
        time.sleep(1.0)

    handlers: dict[str, Any] = {"def": slow, "async": slow_too, "blocking": blocking}
    two = every_minute(handlers[kind]), every_minute(id="quick")
    with scheduler(timed_store, *two) as one:
        look(one)
        clock.advance(60)
        began = time.monotonic()
        one.turn()
        assert time.monotonic() - began < 0.2
        look(one)
    found = {event.event.trigger_id: event.event for event in events(timed_store)}
    assert found["quick"].status == "completed"
    assert found["tick"].status == "failed"
    assert "The handler took longer than 0.2 s." in (found["tick"].error or "")
    assert len(fires(timed_store)) == 1


def test_who_leaves_waits_for_the_handlers_that_run_and_for_no_others(
    timed_store: Store, clock: ManualClock
) -> None:
    def slow(event: ScheduleEvent) -> None:
        time.sleep(0.3)

    many = [every_minute(slow, id=f"tick-{number}") for number in range(12)]
    with scheduler(timed_store, *many) as one:
        look(one)
        clock.advance(60)
        one.turn()
        began = time.monotonic()
        assert one.stop(5.0)
        assert time.monotonic() - began < 2.0
    assert {event.event.status for event in events(timed_store)} == {"completed"}
    with scheduler(timed_store, *many) as again:  # the rest is still due
        look(again)
    assert len(events(timed_store)) == 12


def test_who_is_out_of_patience_blames_no_handler(timed_store: Store, clock: ManualClock) -> None:
    async def slow(event: ScheduleEvent) -> None:
        await asyncio.sleep(30)

    one_open = scheduler(timed_store, every_minute(slow))
    one = one_open.__enter__()
    look(one)
    clock.advance(60)
    one.turn()
    eventually(lambda: one._preparing, 5)
    assert not one.stop(0.1)
    eventually(lambda: not one._preparing, 5)
    assert fires(timed_store) == []
    with timed_store.read() as conn:
        assert states.get(conn, "tick").failures == 0


def test_what_no_retry_can_mend_is_dead_at_once_and_the_next_instant_comes(
    timed_store: Store, clock: ManualClock
) -> None:
    def unknown(event: ScheduleEvent) -> Any:
        return enqueue_job("charges", {"cents": 1})

    with scheduler(timed_store, every_minute(unknown)) as one:
        look(one)
        for _ in range(2):
            clock.advance(60)
            look(one)
    found = [event.event for event in events(timed_store)]
    assert [event.status for event in found] == ["dead", "dead"]
    assert '"charges"' in (found[0].error or "") and '"charge"' in (found[0].error or "")
    with timed_store.read() as conn:  # it says nothing of the handler
        assert states.get(conn, "tick").failures == 0
    assert_sound(timed_store, 2)


def test_what_the_database_cannot_hold_is_dead_and_the_next_instant_comes(
    timed_store: Store, clock: ManualClock
) -> None:
    def odd(event: ScheduleEvent) -> Any:
        action = enqueue_job(charge, {"cents": event.scheduled_for.minute})
        if event.scheduled_for.minute == 1:
            topic = "\0" if not timed_store.is_sqlite else object()
            object.__setattr__(action, "topic", topic)
        return action

    with scheduler(timed_store, every_minute(odd)) as one:
        look(one)
        for _ in range(2):
            clock.advance(60)
            look(one)
    dead, fine = (event.event for event in events(timed_store))
    assert (dead.status, dead.error) == ("dead", "The database can't hold one of its actions.")
    assert fine.status == "completed"
    assert_sound(timed_store, 2)


def test_a_disabled_schedule_passes_its_instants_over_and_goes_on_when_enabled(
    timed_store: Store, clock: ManualClock
) -> None:
    with scheduler(timed_store, every_minute()) as one:
        look(one)
        triggers.set_enabled(timed_store, "tick", enabled=False)
        clock.advance(60)
        look(one)
        with pytest.raises(DisabledError):
            by_hand(timed_store)
        triggers.set_enabled(timed_store, "tick", enabled=True)
        clock.advance(60)
        look(one)
    assert fires(timed_store) == [
        (START + MINUTE, "skipped", "refused: disabled"),
        (START + 2 * MINUTE, "fired", None),
    ]
    assert len(events(timed_store)) == 1


async def test_an_open_circuit_keeps_the_events_until_it_closes(
    timed_store: Store, clock: ManualClock
) -> None:
    down = [True]

    def handler(event: ScheduleEvent) -> Any:
        if down[0]:
            raise ConnectionError("no")
        return pay(event)

    retry = Retry(initial_delay=1.0, backoff="constant", jitter=False, max_attempts=50)
    tick = every_minute(handler, retry=retry, circuit=Circuit(failures=2, reset=1.0))
    with scheduler(timed_store, tick) as one:
        await asyncio.to_thread(look, one)
        for _ in range(4):
            clock.advance(60)
            await asyncio.to_thread(look, one)
    assert [event.event.status for event in events(timed_store)] == [
        "failed",
        "failed",
        "pending",
        "pending",
    ]
    down[0] = False
    clock.advance(5)
    async with open_edge(timed_store, tick, process=True, jobs=[charge]) as edge:
        await eventually_async(lambda: edge.count("executions") == 4, 20)
    assert_sound(timed_store, 4)


def test_overlap_skip_waits_for_the_event_and_for_what_it_led_to(
    timed_store: Store, clock: ManualClock
) -> None:
    called: list[str] = []

    def counted(event: ScheduleEvent) -> Any:
        called.append(event.payload["scheduled_for"][14:16])
        return pay(event)

    with scheduler(timed_store, every_minute(counted, overlap="skip")) as one:
        look(one)
        for _ in range(2):
            clock.advance(60)
            look(one)
        hand = Hand(timed_store, ["charge"])
        hand.tick(*(ended(claim) for claim in hand.claim(10)))
        clock.advance(60)
        look(one)
        run(timed_store, "UPDATE netscript_trigger_events SET status = 'failed', due_at = 1")
        hand.tick(*(ended(claim) for claim in hand.claim(10)))
        clock.advance(60)
        look(one)
    passed = "the one before is unfinished; overlap=skip"
    assert [(outcome, note) for _, outcome, note in fires(timed_store)] == [
        ("fired", None),
        ("skipped", passed),
        ("fired", None),
        ("skipped", passed),
    ]
    assert called == ["01", "03"]


@pytest.mark.trap("D-76")
@pytest.mark.parametrize(("policy", "made"), [("latest", 1), ("skip", 0), ("all", 14)])
def test_two_weeks_without_a_scheduler_are_made_up_for_as_the_policy_says(
    timed_store: Store, clock: ManualClock, policy: str, made: int
) -> None:
    daily = every_minute(cron="0 12 * * *", catch_up=policy)
    with scheduler(timed_store, daily) as one:
        look(one)
    clock.advance(14 * 86_400)
    with scheduler(timed_store, daily) as one:
        look(one)
    found = events(timed_store)
    assert len(found) == made
    assert [outcome for _, outcome, _ in fires(timed_store)].count("skipped") == 14 - made
    assert all("late" in event.payload["note"] for event in found)
    assert_sound(timed_store, made)


def test_jitter_moves_the_executions_and_not_the_event(
    timed_store: Store, clock: ManualClock
) -> None:
    def several(event: ScheduleEvent) -> Any:
        part = enqueue_job(charge, {"cents": 1})
        late = enqueue_job(charge, {"cents": 2}, delay=3600)
        return [part, late, enqueue_batch([enqueue_job(charge, {"cents": 3})])]

    with scheduler(timed_store, every_minute(several, jitter=30.0)) as one:
        look(one)
        clock.advance(60)
        look(one)
    soon, late, batched = (
        from_micros(at) - START - MINUTE
        for (at,) in rows(timed_store, "SELECT run_at FROM netscript_executions ORDER BY payload")
    )
    assert timedelta(0) < soon == batched < timedelta(seconds=30)
    assert late >= timedelta(hours=1)


def by_hand(store: Store, instant: Any = None, payload: Any = None) -> outbox.Receipt:
    with store.read() as conn:
        record = triggers.get_trigger(conn, "tick", now=store.now(conn))
    id_, submission = new_event(store, record, {}, payload or {}, instant=instant)
    if submission is None:
        return outbox.Receipt(duplicate_of=id_)
    with store.begin() as conn:
        (receipt,) = outbox.store(conn, store.dialect, [submission], now=store.now(conn))
        return receipt


def test_a_missed_instant_is_run_by_hand_once(timed_store: Store, clock: ManualClock) -> None:
    with scheduler(timed_store, every_minute(catch_up="skip")) as one:
        look(one)
        clock.advance(600)
        look(one)
        for bad, said in (
            (START + timedelta(minutes=3, seconds=1), "is no instant"),
            (START + timedelta(minutes=30), "2026-01-01T10:30:00Z has not come yet"),
            (utc("2026-01-01T10:30").astimezone(ZoneInfo("Asia/Tokyo")), "10:30:00Z has not come"),
            (datetime.min.replace(tzinfo=UTC), "is no instant"),
            (datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), "is no instant"),
            (datetime.max.replace(tzinfo=timezone(timedelta(hours=-14))), "has not come yet"),
        ):
            with pytest.raises(StateError, match=said):
                by_hand(timed_store, bad)
        missed = START + 3 * MINUTE
        assert by_hand(timed_store, missed).duplicate_of is None
        (event,) = events(timed_store)
        again = by_hand(timed_store, missed)
        assert (again.duplicate_of, again.conflict) == (event.event.id, False)
        assert event.payload["scheduled_for"] == "2026-01-01T10:03:00.000000Z"
        assert event.event.status == "pending"


def test_what_has_fired_is_known_for_longer_than_its_key(
    timed_store: Store, clock: ManualClock
) -> None:
    with scheduler(timed_store, every_minute(cron="0 12 * * *")) as one:
        look(one)
        clock.advance(3 * 3600)
        look(one)
    ((event,), fired_at) = events(timed_store), utc("2026-01-01T12:00")
    clock.advance(100 * 3600)
    run(timed_store, "DELETE FROM netscript_idempotency_keys")
    assert by_hand(timed_store, fired_at).duplicate_of == event.event.id
    assert len(events(timed_store)) == 1


def test_an_instant_that_was_run_by_hand_first_is_not_run_again(
    timed_store: Store, clock: ManualClock
) -> None:
    with scheduler(timed_store, every_minute(catch_up="all")) as one:
        look(one)
        clock.advance(120)
        by_hand(timed_store, START + MINUTE)
        look(one)
    found = events(timed_store)
    assert [event.payload["scheduled_for"][11:16] for event in found] == ["10:01", "10:02"]
    refs = rows(timed_store, "SELECT ref FROM netscript_schedule_fires ORDER BY nominal_at")
    assert [str(ref) for (ref,) in refs] == [event.event.id for event in found]
    assert_sound(timed_store, 2)


def test_a_schedule_is_fired_by_whoever_has_its_code(
    timed_store: Store, clock: ManualClock
) -> None:
    with scheduler(timed_store, every_minute()) as with_code:
        look(with_code)
        catalog = StoredCatalog(timed_store, {})
        more = schedules_of({})(timed_store, catalog)
        without = Scheduler(timed_store, more.declared, more.targets)
        clock.advance(60)
        look(without)
        assert fires(timed_store) == []
        look(with_code)
        assert len(fires(timed_store)) == 1
        without.stop(5.0)


def test_what_was_pruned_or_lost_is_told_apart(timed_store: Store, clock: ManualClock) -> None:
    with scheduler(timed_store, every_minute()) as one:
        look(one)
        for _ in range(2):
            clock.advance(60)
            look(one)
    assert_sound(timed_store, 2)
    first, second = events(timed_store)
    swap = "UPDATE netscript_schedule_fires SET ref = :ref WHERE nominal_at = :at"
    run(timed_store, swap, ref=second.event.id, at=to_micros(START + MINUTE))
    (finding,) = verify(timed_store).findings
    assert finding.code == "fire-astray"
    run(timed_store, swap, ref=first.event.id, at=to_micros(START + MINUTE))
    gone = "DELETE FROM netscript_trigger_events WHERE id = :id"
    run(timed_store, gone, id=first.event.id)
    assert "fire-lost" in {one.code for one in verify(timed_store).findings}


def test_a_preview_tells_what_comes_and_what_came(timed_store: Store, clock: ManualClock) -> None:
    tick = every_minute(every=90.0, cron=None)
    triggers.register(timed_store, [tick])

    def told() -> Any:
        with timed_store.read() as conn:
            now = timed_store.now(conn)
            record = triggers.get_trigger(conn, "tick", now=now)
            return preview(conn, record, 2, from_micros(now))

    assert told().words == "Every 90 seconds"
    assert [one.scheduled_for for one in told().next] == [
        START + timedelta(seconds=90),
        START + timedelta(seconds=180),
    ]
    with scheduler(timed_store, tick) as one:
        look(one)
        clock.advance(100)
        look(one)
    found = told()
    assert found.next[0].scheduled_for == START + timedelta(seconds=180)
    ((event,), (came,)) = events(timed_store), found.recent
    assert (came.outcome, came.event_id) == ("fired", event.event.id)


def test_a_scheduler_on_its_own_clock_fires_triggers_by_itself(store: Store) -> None:
    with scheduler(store, every_minute(cron=None, every=1.0)) as one:
        one.start()
        eventually(lambda: len(fires(store)) >= 3, 20)
    assert len(events(store)) == len(fires(store))
    assert_sound(store, len(fires(store)))
