"""The consumer: brokers' messages become events, and are acknowledged when those are committed."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from netscript_triggers.coordinator import Coordinator, Delivery
from netscript_triggers.definitions import AnyTrigger, QueueDefinition
from netscript_triggers.messages import event_from, read_message
from netscript_triggers.sources import (
    Message,
    Source,
    SourceError,
    SourceOptions,
    find_factory,
    place_of,
)
from netscript_triggers.states import TriggerStates
from netscript_workers.clock import SYSTEM_CLOCK
from netscript_workers.errors import NetscriptError, PayloadInvalidError, StoreUnavailableError

logger = logging.getLogger(__name__)

_FIRST_BACKOFF = 0.5
_LAST_BACKOFF = 15.0
# A connection that held so long was well; what ended it later is a new story.
_WELL_AFTER_SECONDS = 30.0
# How often a broker hears that what is not acknowledged is still being worked on.
_KEEP_SECONDS = 10.0
_LOOK_SECONDS = 1.0
_CLOSE_SECONDS = 5.0


class Consumer:
    """Runs the queue triggers of a server; any number of servers may share their queues."""

    def __init__(
        self,
        coordinator: Coordinator,
        triggers: Iterable[AnyTrigger],
        *,
        states: TriggerStates,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """Prepare; `start()` starts it.

        Args:
            coordinator: Takes what the messages say.
            triggers: Those of them that are queue triggers are run.
            states: Tells which are enabled.
            environment: Where the brokers' URLs are, read at each connection.
        """
        self._queues = [
            _Queue(coordinator, trigger, states, environment)
            for trigger in triggers
            if isinstance(trigger, QueueDefinition)
        ]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start to consume, on the running loop."""
        self._tasks = [asyncio.create_task(one.run()) for one in self._queues]

    async def close(self) -> None:
        """Take no more, let what was taken be committed, and disconnect."""
        for one in self._queues:
            one.stop()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Queue:
    """One queue trigger: a connection after the other, and the messages that are under way."""

    def __init__(
        self,
        coordinator: Coordinator,
        trigger: QueueDefinition[Any],
        states: TriggerStates,
        environment: Mapping[str, str],
    ) -> None:
        self._coordinator = coordinator
        self._trigger = trigger
        self._states = states
        self._environment = environment
        self._stopped = asyncio.Event()
        self._backoff = 0.0
        self._is_told = False  # that the database is away

    def stop(self) -> None:
        """Take no more."""
        self._stopped.set()

    async def run(self) -> None:
        """Consume until stopped."""
        while not self._stopped.is_set():
            if not self._states.is_enabled(self._trigger.id):
                await self._sleep(_LOOK_SECONDS)
                continue
            loop = asyncio.get_running_loop()
            began = loop.time()
            try:
                await self._connection()
            except Exception as error:  # noqa: BLE001 - whatever a broker's client thinks of
                if loop.time() - began > _WELL_AFTER_SECONDS:
                    self._backoff = 0.0
                self._tell(error)
                await self._sleep(self._backoff * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            else:
                self._backoff = 0.0

    async def _connection(self) -> None:
        """Consume over one connection, until it breaks, or is not wanted any more."""
        url = self._environment.get(self._trigger.url_env, "")
        if not url:
            raise SourceError(
                f"{self._trigger.url_env} is not set.", hint="It holds the broker's URL."
            )
        options = SourceOptions(
            url=url,
            queue=self._trigger.queue,
            group=self._trigger.group,
            prefetch=self._trigger.prefetch,
        )
        source = find_factory(self._trigger.broker)(options)
        try:
            await source.open()
            logger.info(
                "queue trigger %s takes messages from %s of %s",
                self._trigger.id, self._trigger.queue, place_of(url),
            )  # fmt: skip
            await _Taking(source, self._trigger, self._take, self._is_wanted).run()
        finally:
            with suppress(Exception):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await source.close()

    def _is_wanted(self) -> bool:
        return not self._stopped.is_set() and self._states.is_enabled(self._trigger.id)

    async def _take(self, message: Message) -> bool:
        """Store what a message says; tell whether it may be acknowledged.

        While the database is away it is tried again and again: the broker keeps the message, and
        sends no more than `prefetch` of them.
        """
        backoff = _FIRST_BACKOFF
        while True:
            try:
                await self._accept(message)
            except StoreUnavailableError:
                if not self._is_told:
                    self._is_told = True
                    logger.warning(
                        "queue trigger %s waits for the database; nothing is acknowledged",
                        self._trigger.id,
                    )
                if await self._sleep(backoff * random.uniform(0.5, 1.0)):  # noqa: S311 - no secret
                    return False
                backoff = min(backoff * 2, _LAST_BACKOFF / 3)
            else:
                if self._is_told:
                    self._is_told = False
                    logger.warning("queue trigger %s goes on", self._trigger.id)
                return True

    async def _accept(self, message: Message) -> None:
        trigger = self._trigger
        received_at = SYSTEM_CLOCK.now()
        payload, fault = None, ""
        try:
            payload = read_message(trigger, message.body)
        except PayloadInvalidError as error:
            fault = str(error)
        event = event_from(trigger, message, payload, received_at=received_at)
        delivery = Delivery(
            trigger, event, fingerprint=_fingerprint(message), received_at=received_at
        )
        if fault:
            logger.warning("queue trigger %s: event %s can't be read", trigger.id, event.id)
            await self._coordinator.bury(delivery, fault)
        else:
            await self._coordinator.accept(delivery)

    async def _sleep(self, seconds: float) -> bool:
        """Wait; tell whether it was stopped."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)
        return self._stopped.is_set()

    def _tell(self, error: Exception) -> None:
        if not self._backoff:
            # A client's own words may hold the URL and with it a password.
            told = str(error) if isinstance(error, NetscriptError) else type(error).__name__
            logger.warning(
                "queue trigger %s is cut off from its broker, and tries again: %s",
                self._trigger.id, told,
            )  # fmt: skip
        self._backoff = min(max(self._backoff * 2, _FIRST_BACKOFF), _LAST_BACKOFF)


class _Taking:
    """The messages of one connection that are under way, `prefetch` of them at most."""

    def __init__(
        self,
        source: Source,
        trigger: QueueDefinition[Any],
        take: Callable[[Message], Any],
        is_wanted: Callable[[], bool],
    ) -> None:
        self._source = source
        self._take = take
        self._is_wanted = is_wanted
        self._slots = asyncio.Semaphore(trigger.prefetch)
        self._held: dict[asyncio.Task[None], Message] = {}
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Take messages until nobody wants more, then end what was begun.

        Raises:
            Exception: The connection broke.
        """
        reading = asyncio.create_task(self._read())
        keeping = asyncio.create_task(self._keep())
        try:
            while self._is_wanted():
                done, _ = await asyncio.wait(
                    {reading, keeping, self._broken},
                    timeout=_LOOK_SECONDS / 4,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for one in done:
                    one.result()
                    raise ConnectionError("the source has ended")
            reading.cancel()
            if self._held:
                await asyncio.wait(self._held, timeout=_CLOSE_SECONDS)
        finally:
            if not self._broken.done():
                self._broken.cancel()
            tasks: list[asyncio.Task[None]] = [reading, keeping, *self._held]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self) -> None:
        async for message in self._source.messages():
            await self._slots.acquire()
            task = asyncio.create_task(self._one(message))
            self._held[task] = message
            task.add_done_callback(self._over)

    async def _one(self, message: Message) -> None:
        if await self._take(message):
            await self._source.acknowledge(message)

    def _over(self, task: asyncio.Task[None]) -> None:
        del self._held[task]
        self._slots.release()
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not self._broken.done():
            self._broken.set_exception(error)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_KEEP_SECONDS)
            if held := list(self._held.values()):
                await self._source.keep(held)


def _fingerprint(message: Message) -> str:
    return hashlib.sha256(message.body).hexdigest()
