"""Redis Streams: a consumer group, whose pending entries are taken over from consumers that died.

<https://redis.io/docs/latest/develop/data-types/streams/>
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from netscript_triggers.sources import Message, SourceOptions, texts
from netscript_workers.ids import new_id

# What a consumer holds for so long without a word, others take over.
IDLE_MILLISECONDS = 30_000
_BLOCK_MILLISECONDS = 1_000
_ANSWER_SECONDS = 10.0
# The field that holds a message's body, if an entry has several.
_BODIES = (b"payload", b"data", b"body", b"message")


class RedisSource:
    """One consumer of a stream's group."""

    def __init__(self, options: SourceOptions) -> None:
        """Prepare; nothing is connected yet."""
        self._options = options
        self._stream, self._group = options.queue, options.group
        self._name = new_id()
        from_url: Any = Redis.from_url  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - of any options
        self._redis: Redis = from_url(
            options.url,
            socket_connect_timeout=_ANSWER_SECONDS,
            socket_timeout=_ANSWER_SECONDS,
            health_check_interval=10,
            protocol=2,
        )
        self._held = 0

    async def open(self) -> None:
        """Make the group, from the stream's beginning on, unless it is there."""
        await self._make_group()

    async def messages(self) -> AsyncIterator[Message]:
        """Yield entries: first what nobody has acknowledged for long, then new ones."""
        loop = asyncio.get_running_loop()
        look_at = loop.time()
        while True:
            if loop.time() >= look_at:
                async for message in self._abandoned():
                    yield message
                look_at = loop.time() + IDLE_MILLISECONDS / 2000
            room = self._options.prefetch - self._held
            for id_, fields in await self._read(max(room, 1)):
                self._held += 1
                yield _message(id_, fields)

    async def acknowledge(self, message: Message) -> None:
        """Take an entry off the group's list."""
        await self._redis.xack(self._stream, self._group, message.receipt)
        self._held = max(self._held - 1, 0)

    async def keep(self, messages: list[Message]) -> None:
        """Claim entries anew, so that they don't look abandoned."""
        ids = [message.receipt for message in messages]
        await self._redis.xclaim(
            self._stream, self._group, self._name, min_idle_time=0, message_ids=ids, justid=True
        )

    async def close(self) -> None:
        """Leave the group, if nothing is held, and disconnect."""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS / 5):
                pending = await self._redis.xpending_range(
                    self._stream, self._group, "-", "+", 1, consumername=self._name
                )
                if not pending:
                    await self._redis.xgroup_delconsumer(self._stream, self._group, self._name)
        except Exception:  # noqa: BLE001, S110 - others take over what it held; nothing depends on it
            pass
        finally:
            await self._redis.aclose()

    async def _make_group(self) -> None:
        try:
            await self._redis.xgroup_create(self._stream, self._group, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def _read(self, count: int) -> list[tuple[bytes, Mapping[bytes, bytes]]]:
        try:
            found: Any = await self._redis.xreadgroup(
                self._group,
                self._name,
                {self._stream: ">"},
                count=count,
                block=_BLOCK_MILLISECONDS,
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self._make_group()  # the stream was deleted, or everything flushed
            return []
        # RESP2 gives pairs of a stream and its entries; we have asked for one stream.
        return found[0][1] if found else []

    async def _abandoned(self) -> AsyncIterator[Message]:
        """Take over what consumers hold that have said nothing for long: they are dead."""
        start: Any = b"0-0"
        while True:
            start, entries, *_ = await self._redis.xautoclaim(
                self._stream,
                self._group,
                self._name,
                min_idle_time=IDLE_MILLISECONDS,
                start_id=start,
                count=self._options.prefetch,
            )
            for id_, fields in entries:
                if not fields:  # it was deleted from the stream: there is nothing to be had
                    await self._redis.xack(self._stream, self._group, id_)
                    continue
                self._held += 1
                yield _message(id_, fields)
            if start in (b"0-0", "0-0"):
                return


def _message(id_: bytes, fields: Mapping[bytes, bytes]) -> Message:
    """Read an entry: one field is its body, or all are a JSON object."""
    name = next((one for one in _BODIES if one in fields), None)
    if name is None and len(fields) == 1:
        (name,) = fields
    if name is None:
        body, headers = json.dumps(texts(fields, most=len(fields))).encode(), {}
    else:
        body = fields[name]
        headers = texts({key: value for key, value in fields.items() if key != name})
    return Message(body=body, id=id_.decode(), headers=headers, receipt=id_)


def make(options: SourceOptions) -> RedisSource:
    """Make a source."""
    return RedisSource(options)
