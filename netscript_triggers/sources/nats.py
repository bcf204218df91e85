"""NATS JetStream: a durable pull consumer with explicit acknowledgements.

<https://docs.nats.io/nats-concepts/jetstream/consumers>
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from netscript_triggers.sources import Message, SourceError, SourceOptions, texts

_ANSWER_SECONDS = 10.0
_WAIT_SECONDS = 1.0
# What is not acknowledged after so long, and not kept either, is delivered again.
_ACK_SECONDS = 60.0
_ID = "Nats-Msg-Id"


class NatsSource:
    """One puller of a durable consumer."""

    def __init__(self, options: SourceOptions) -> None:
        """Prepare; nothing is connected yet."""
        self._options = options
        # A durable name takes neither dots nor blanks.
        self._durable = re.sub(r"[^A-Za-z0-9_-]", "_", options.group)
        self._client: Client | None = None
        self._subscription: Any = None

    async def open(self) -> None:
        """Connect, and make the durable consumer unless it is there.

        Raises:
            SourceError: No stream keeps what is published under the subject.
        """
        connect: Any = nats.connect  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - of any options
        client: Client = await connect(
            self._options.url,
            connect_timeout=int(_ANSWER_SECONDS),
            allow_reconnect=False,
            error_cb=_ignore,
        )
        self._client = client
        streams: Any = client.jetstream  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - as above
        stream: JetStreamContext = streams(timeout=_ANSWER_SECONDS)
        try:
            name = await stream.find_stream_name_by_subject(self._options.queue)
        except NotFoundError as error:
            raise SourceError(
                f'No JetStream stream keeps the subject "{self._options.queue}".',
                hint="Make one, as in: nats stream add orders --subjects 'orders.>'",
            ) from error
        self._subscription = await stream.pull_subscribe(
            self._options.queue,
            durable=self._durable,
            stream=name,
            config=ConsumerConfig(
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=_ACK_SECONDS,
                deliver_policy=DeliverPolicy.ALL,
                max_deliver=-1,
                # Of all servers together: each holds `prefetch` at most.
                max_ack_pending=max(1000, 10 * self._options.prefetch),
            ),
        )

    async def messages(self) -> AsyncIterator[Message]:
        """Yield messages as they are pulled."""
        client = self._client
        assert client is not None
        while True:
            try:
                found: list[Msg] = await self._subscription.fetch(
                    self._options.prefetch, timeout=_WAIT_SECONDS
                )
            except (NatsTimeoutError, TimeoutError):
                if not client.is_connected:
                    raise ConnectionError("the broker is gone") from None
                continue
            for one in found:
                yield _message(one)

    async def acknowledge(self, message: Message) -> None:
        """Acknowledge a message, and wait until the broker has it."""
        received: Msg = message.receipt
        await received.ack_sync(timeout=_ANSWER_SECONDS)

    async def keep(self, messages: list[Message]) -> None:
        """Ask for more time."""
        for message in messages:
            received: Msg = message.receipt
            await received.in_progress()

    async def close(self) -> None:
        """Disconnect; what was not acknowledged is delivered again after a minute."""
        if self._client is not None:
            await self._client.close()


async def _ignore(_error: Exception) -> None:
    """Say nothing: whoever waits for an answer hears of it too."""


def _message(received: Msg) -> Message:
    about = received.metadata
    given = (received.headers or {}).get(_ID)
    # A stream that was made anew counts from one again: its time tells its messages apart.
    place = f"{about.stream}:{about.sequence.stream}:{about.timestamp.isoformat()}"
    return Message(
        body=received.data,
        id=given or place,
        address=received.subject,
        headers=texts(received.headers),
        receipt=received,
    )


def make(options: SourceOptions) -> NatsSource:
    """Make a source."""
    return NatsSource(options)
