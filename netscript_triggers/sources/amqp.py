"""RabbitMQ: a durable queue, whose messages are acknowledged one by one.

<https://www.rabbitmq.com/docs/confirms>
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, AbstractQueue
from aio_pika.exceptions import ChannelNotFoundEntity

from netscript_triggers.sources import Message, SourceOptions, texts

_ANSWER_SECONDS = 10.0


class AmqpSource:
    """One consumer of a queue. The group has no meaning: who consumes a queue shares it."""

    def __init__(self, options: SourceOptions) -> None:
        """Prepare; nothing is connected yet."""
        self._options = options
        self._connection: AbstractConnection | None = None
        self._queue: AbstractQueue | None = None

    async def open(self) -> None:
        """Connect, and make the queue, as a quorum queue, unless it is there."""
        self._connection = await aio_pika.connect(
            self._options.url, timeout=_ANSWER_SECONDS, heartbeat=10
        )
        channel = await self._channel()
        try:
            self._queue = await channel.get_queue(self._options.queue, ensure=True)
        except ChannelNotFoundEntity:  # which has closed the channel
            channel = await self._channel()
            self._queue = await channel.declare_queue(
                self._options.queue, durable=True, arguments={"x-queue-type": "quorum"}
            )

    async def messages(self) -> AsyncIterator[Message]:
        """Yield messages as the broker pushes them, no more than `prefetch` unacknowledged."""
        assert self._queue is not None
        async with self._queue.iterator() as arriving:
            async for message in arriving:
                yield _message(message)
        raise ConnectionError("the broker has closed the channel")

    async def acknowledge(self, message: Message) -> None:
        """Acknowledge a message."""
        incoming: AbstractIncomingMessage = message.receipt
        await incoming.ack()

    async def keep(self, messages: list[Message]) -> None:
        """Do nothing: the connection's heartbeat says enough."""

    async def close(self) -> None:
        """Disconnect; the broker gives others what was not acknowledged."""
        if self._connection is not None:
            await self._connection.close()

    async def _channel(self) -> AbstractChannel:
        assert self._connection is not None
        channel = await self._connection.channel(publisher_confirms=False)
        await channel.set_qos(prefetch_count=self._options.prefetch)
        return channel


def _message(incoming: AbstractIncomingMessage) -> Message:
    properties: dict[str, Any] = {
        "content-type": incoming.content_type,
        "correlation-id": incoming.correlation_id,
        "type": incoming.type,
    }
    given = {name: value for name, value in properties.items() if value}
    headers = {**texts(incoming.headers), **texts(given)}
    if deaths := incoming.headers.get("x-death"):
        headers["x-death"] = str(deaths)[:1000]
    return Message(
        body=incoming.body,
        id=incoming.message_id or None,
        address=incoming.routing_key or "",
        headers=headers,
        receipt=incoming,
    )


def make(options: SourceOptions) -> AmqpSource:
    """Make a source."""
    return AmqpSource(options)
