"""Queue triggers on real brokers and databases: each message is one event, then acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from pydantic import BaseModel

from netscript_triggers import QueueDefinition, QueueEvent, define_queue_trigger, enqueue_job
from netscript_triggers.circuits import TriggerState
from netscript_triggers.consumer import Consumer
from netscript_triggers.sources import Message, SourceOptions, find_factory
from netscript_triggers.states import TriggerStates
from netscript_workers.errors import ConfigurationError
from netscript_workers.store.engine import Store
from tests.brokers import BROKERS, KINDS, WITH_IDS, Broker
from tests.edge import Edge, charge, open_edge
from tests.kit import rows, scalar
from tests.servers import variable

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(params=[pytest.param(kind, marks=getattr(pytest.mark, kind)) for kind in KINDS])
async def broker(request: pytest.FixtureRequest) -> AsyncGenerator[Broker]:
    made = BROKERS[request.param](os.environ[variable(request.param)])
    await made.open()
    yield made
    await made.close()


def pay(event: QueueEvent) -> Any:
    return enqueue_job(charge, {"cents": event.payload["cents"]})


def taking(
    broker: Broker, handler: Callable[..., Any] = pay, **options: Any
) -> QueueDefinition[Any]:
    known: dict[str, Any] = {
        "id": broker.queue,
        "source": broker.kind,
        "url_env": "BROKER_URL",
        "queue": broker.queue,
    }
    return define_queue_trigger(handler, **{**known, **options})


@contextlib.asynccontextmanager
async def consuming(
    edge: Edge, broker: Broker, trigger: QueueDefinition[Any], states: TriggerStates | None = None
) -> AsyncGenerator[None]:
    consumer = Consumer(
        edge.coordinator,
        [trigger],
        states=states or TriggerStates(),
        environment={"BROKER_URL": broker.url},
    )
    consumer.start()
    try:
        if broker.kind == "mqtt":  # what is published before anybody subscribes is nobody's
            await asyncio.sleep(0.5)
        yield
    finally:
        await consumer.close()


async def until(check: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not check():
            await asyncio.sleep(0.02)


async def until_acknowledged(broker: Broker, group: str) -> None:
    async with asyncio.timeout(20):
        while await broker.left(group) > 0:
            await asyncio.sleep(0.05)


async def test_each_message_is_one_event_and_its_jobs(store: Store, broker: Broker) -> None:
    trigger = taking(broker)
    async with open_edge(store, trigger) as edge, consuming(edge, broker, trigger):
        for number in range(50):
            await broker.publish(b'{"cents":%d}' % number)
        await until(lambda: edge.count("executions") == 50)
        await until_acknowledged(broker, trigger.group)
    payloads = rows(store, "SELECT payload FROM netscript_executions")
    assert sorted(json.loads(one)["cents"] for (one,) in payloads) == list(range(50))
    assert rows(store, "SELECT DISTINCT status, kind FROM netscript_trigger_events") == [
        ("completed", "queue")
    ]
    told = "SELECT DISTINCT triggered_by FROM netscript_executions"
    assert rows(store, told) == [("queue",)]


async def test_what_is_delivered_again_is_known(
    store: Store, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Acknowledgements are lost; the messages come again over the next connection."""
    source: Any = type(find_factory(broker.kind)(_options(broker)))
    acknowledge = source.acknowledge
    lost: list[bytes] = []

    async def lose_some(self: Any, message: Message) -> None:
        if len(lost) < 3:
            lost.append(message.body)
            raise ConnectionError("cut")
        await acknowledge(self, message)

    monkeypatch.setattr(source, "acknowledge", lose_some)
    if broker.kind == "redis":
        monkeypatch.setattr("netscript_triggers.sources.redis.IDLE_MILLISECONDS", 200)
    if broker.kind == "nats":
        monkeypatch.setattr("netscript_triggers.sources.nats._ACK_SECONDS", 1.0)
    trigger = taking(broker)
    async with open_edge(store, trigger) as edge, consuming(edge, broker, trigger):
        for number in range(20):
            await broker.publish(b'{"cents":%d}' % number)
        await until(lambda: edge.count("executions") == 20, 30)
        await until_acknowledged(broker, trigger.group)
        await until(lambda: len(lost) == 3)
    assert scalar(store, "SELECT count(*) FROM netscript_trigger_events") == 20


def _options(broker: Broker) -> Any:
    return SourceOptions(url=broker.url, queue="none", group="none", prefetch=1)


class Order(BaseModel):
    cents: int


def one_cent(event: QueueEvent[Order]) -> Any:
    return enqueue_job(charge, {"cents": 1})


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"cents":', "The message is not JSON"),
        (b'\xff\x00"', "The message is not"),
        (b'{"cents":"many"}', "cents"),
        (b'{"cents":1,"padding":"' + b"x" * 3000 + b'"}', "longer than 2,000 bytes"),
    ],
)
async def test_what_nobody_can_read_is_a_dead_event_with_its_bytes(
    store: Store, broker: Broker, body: bytes, why: str
) -> None:
    trigger = taking(broker, one_cent, model=Order, max_body=2000)
    async with open_edge(store, trigger) as edge, consuming(edge, broker, trigger):
        await broker.publish(body)
        await broker.publish(b'{"cents":7}')
        await until(lambda: edge.count("trigger_events") == 2 and edge.count("executions") == 1)
        await until_acknowledged(broker, trigger.group)
    dead = "SELECT body, error, executions FROM netscript_trigger_events WHERE status = 'dead'"
    ((kept, error, executions),) = rows(store, dead)
    assert bytes(kept) == body[:2000]
    assert why in error
    assert executions == "[]"


async def test_ids_headers_and_traces_come_with_the_event(store: Store, broker: Broker) -> None:
    seen: list[QueueEvent] = []
    trigger = taking(broker, seen.append)
    async with open_edge(store, trigger) as edge, consuming(edge, broker, trigger):
        given = {"traceparent": TRACE, "x-tenant": "acme", "authorization": "Bearer hush"}
        id_ = None if broker.kind == "redis" else "m-1"
        await broker.publish(b'{"cents":1}', message_id=id_, headers=given)
        await until(lambda: len(seen) == 1)
        await until(lambda: edge.count("trigger_events") == 1)
        (event,) = seen
        assert event.traceparent == TRACE
        assert event.headers["x-tenant"] == "acme"
        assert "authorization" not in event.headers
        assert event.queue == broker.queue
        if broker.kind != "redis":
            assert event.message_id == "m-1"
            await broker.publish(b'{"cents":2}', message_id="m-1")
            await broker.publish(b'{"cents":3}', message_id="m-2")
            await until(lambda: len(seen) == 2)
            assert [one.payload["cents"] for one in seen] == [1, 3]
    stored = json.loads(str(scalar(store, "SELECT max(headers) FROM netscript_trigger_events")))
    assert "hush" not in json.dumps(stored)


@pytest.mark.mqtt
@pytest.mark.parametrize(("dedupe", "count"), [("auto", 1), ("id", 3), (None, 3)])
async def test_messages_without_ids_are_known_by_what_they_say(
    store: Store, dedupe: Any, count: int
) -> None:
    broker = BROKERS["mqtt"](os.environ[variable("mqtt")])
    await broker.open()
    trigger = taking(broker, dedupe=dedupe)
    async with open_edge(store, trigger) as edge, consuming(edge, broker, trigger):
        for _ in range(3):
            await broker.publish(b'{"cents":1}')
        await broker.publish(b'{"cents":2}')
        await until(lambda: edge.count("trigger_events") == count + 1)
        await until_acknowledged(broker, trigger.group)
    await broker.close()
    assert scalar(store, "SELECT count(*) FROM netscript_trigger_events") == count + 1


async def test_a_disabled_trigger_leaves_its_messages_to_the_broker(
    store: Store, broker: Broker
) -> None:
    trigger = taking(broker)
    states = TriggerStates()
    async with open_edge(store, trigger) as edge, consuming(edge, broker, trigger, states):
        await broker.publish(b'{"cents":1}')
        await until(lambda: edge.count("executions") == 1)
        states.learn({trigger.id: TriggerState(enabled=False)})
        await asyncio.sleep(1.0)
        await broker.publish(b'{"cents":2}')
        await asyncio.sleep(0.5)
        assert edge.count("trigger_events") == 1
        states.learn({trigger.id: TriggerState()})
        await until(lambda: edge.count("executions") == 2)


async def test_two_servers_share_a_queue(store: Store, broker: Broker) -> None:
    trigger = taking(broker)
    async with (
        open_edge(store, trigger) as one,
        open_edge(store, trigger) as two,
        consuming(one, broker, trigger),
        consuming(two, broker, trigger),
    ):
        for number in range(60):
            await broker.publish(b'{"cents":%d}' % number)
        await until(lambda: one.count("executions") == 60)
        await until_acknowledged(broker, trigger.group)
    assert scalar(store, "SELECT count(*) FROM netscript_trigger_events") == 60


def test_what_cannot_be_meant_is_refused() -> None:
    known: dict[str, Any] = {"id": "a", "source": "redis", "url_env": "U", "queue": "q"}
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"source": "reddis"}, 'Did you mean "redis"?'),
        ({"source": "pigeon"}, 'There is no source "pigeon"'),
        ({"queue": ""}, "queue="),
        ({"prefetch": 0}, "prefetch=0 must be from 1 to 1,000"),
        ({"parse": "xml"}, "parse='xml' must be one of"),
        ({"dedupe": "always"}, "dedupe='always' must be one of"),
        ({"parse": "raw", "model": Order}, "bytes, which no model fits"),
        ({"prefetsch": 3}, 'Did you mean "prefetch"?'),
    ]
    for wrong, told in mistakes:
        options: dict[str, Any] = {**known, **wrong}
        with pytest.raises(ConfigurationError, match=r".") as refused:
            define_queue_trigger(pay, **options)
        assert told in str(refused.value)


def test_ids_come_with_all_but_mqtt() -> None:
    assert set(KINDS) - set(WITH_IDS) == {"mqtt"}
