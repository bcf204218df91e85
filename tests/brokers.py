"""Brokers, as publishers use them: what tests publish, and what is left unacknowledged."""

from __future__ import annotations

import asyncio
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import aiomqtt
import nats
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from redis.asyncio import Redis

KINDS = ("redis", "amqp", "nats", "mqtt")
# What sends an id of the publisher's, or is given one by the broker.
WITH_IDS = ("redis", "amqp", "nats")


class Broker(ABC):
    """A queue of its own on a real broker."""

    kind: str

    def __init__(self, url: str) -> None:
        self.url = url
        self.queue = f"test-{uuid.uuid4().hex[:12]}"

    @abstractmethod
    async def open(self) -> None:
        """Connect, and make what must be there before anybody consumes."""

    @abstractmethod
    async def publish(
        self,
        body: bytes,
        *,
        message_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Publish a message, and wait until the broker has it."""

    @abstractmethod
    async def left(self, group: str) -> int:
        """Return how many messages the group has not acknowledged; -1 where nobody can tell."""

    @abstractmethod
    async def close(self) -> None:
        """Remove the queue, and disconnect."""


class RedisBroker(Broker):
    kind = "redis"

    async def open(self) -> None:
        from_url: Any = Redis.from_url  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        self._redis: Any = from_url(self.url, protocol=2)

    async def publish(
        self,
        body: bytes,
        *,
        message_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        await self._redis.xadd(
            self.queue, {"payload": body, **(headers or {})}, id=message_id or "*"
        )

    async def left(self, group: str) -> int:
        found = await self._redis.xinfo_groups(self.queue)
        (one,) = [one for one in found if one["name"] == group.encode()]
        return int(one["pending"]) + int(one["lag"] or 0)

    async def close(self) -> None:
        await self._redis.delete(self.queue)
        await self._redis.aclose()


class AmqpBroker(Broker):
    kind = "amqp"

    async def open(self) -> None:
        self._connection = await aio_pika.connect(self.url)
        self._channel = await self._connection.channel()
        await self._channel.declare_queue(
            self.queue, durable=True, arguments={"x-queue-type": "quorum"}
        )

    async def publish(
        self,
        body: bytes,
        *,
        message_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        message = aio_pika.Message(
            body,
            message_id=message_id,  # its client makes one up where there is none
            headers=dict(headers or {}),
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        await self._channel.default_exchange.publish(message, self.queue)

    async def left(self, group: str) -> int:
        # Only ready ones are counted; who has the others gives them back when it leaves.
        queue = await self._channel.declare_queue(self.queue, passive=True)
        return int(queue.declaration_result.message_count or 0)

    async def close(self) -> None:
        await self._channel.queue_delete(self.queue)
        await self._connection.close()


class NatsBroker(Broker):
    kind = "nats"

    async def open(self) -> None:
        connect: Any = nats.connect  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        self._client: Any = await connect(self.url)
        self._stream: Any = self._client.jetstream()
        await self._stream.add_stream(name=self.queue, subjects=[self.queue])

    async def publish(
        self,
        body: bytes,
        *,
        message_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        given = {**(headers or {}), **({"Nats-Msg-Id": message_id} if message_id else {})}
        await self._stream.publish(self.queue, body, headers=given or None)

    async def left(self, group: str) -> int:
        found = await self._stream.consumer_info(self.queue, group)
        return int(found.num_ack_pending) + int(found.num_pending)

    async def close(self) -> None:
        await self._stream.delete_stream(self.queue)
        await self._client.close()


class MqttBroker(Broker):
    kind = "mqtt"

    async def open(self) -> None:
        parts = urlsplit(self.url)
        self._client = aiomqtt.Client(
            parts.hostname or "", parts.port or 1883, protocol=aiomqtt.ProtocolVersion.V5
        )
        await self._client.__aenter__()

    async def publish(
        self,
        body: bytes,
        *,
        message_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        about = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        pairs = {**(headers or {}), **({"message-id": message_id} if message_id else {})}
        if pairs:
            about.UserProperty = list(pairs.items())
        await self._client.publish(self.queue, body, qos=1, properties=about)

    async def left(self, group: str) -> int:
        await asyncio.sleep(0)
        return -1

    async def close(self) -> None:
        await self._client.__aexit__(None, None, None)


BROKERS: Mapping[str, type[Broker]] = {
    one.kind: one for one in (RedisBroker, AmqpBroker, NatsBroker, MqttBroker)
}
