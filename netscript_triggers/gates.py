"""Who may come in at all, how often and how many at a time: asked before a body is read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

from netscript_triggers.answers import Refusal, later
from netscript_triggers.definitions import WebhookDefinition
from netscript_workers.addresses import Clients
from netscript_workers.limits import Limiter

RETRY_AFTER_SECONDS = 5
MAX_IN_FLIGHT = 1000
# A few of the largest bodies beside many of the usual ones.
MAX_BYTES_IN_FLIGHT = 16 * 1_048_576
# What large bodies may take at a time once they are read, and how long one waits for its part.
ROOM_BYTES = 16 * 1_048_576
ROOM_SECONDS = 5.0

_NO_WAIT = nullcontext()


class Gates:
    """The limits of a server's webhooks.

    Attributes:
        in_flight: Verified deliveries that are not answered yet.
    """

    def __init__(
        self,
        *,
        clients: Clients | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        max_bytes: int = MAX_BYTES_IN_FLIGHT,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare.

        Args:
            clients: Finds out who sent a request.
            max_in_flight: Deliveries that may be in flight.
            max_bytes: Of their bodies together, as they came.
            now: Seconds on a clock that is never set.
        """
        self._clients = clients or Clients()
        self._most = max_in_flight
        self._most_bytes = max_bytes
        self._now = now
        self._rates: dict[str, Limiter] = {}
        self._bytes = 0
        self.in_flight = 0
        self._room = ROOM_BYTES
        self._room_given_back = asyncio.Condition()

    def check(self, trigger: WebhookDefinition[Any], scope: Mapping[str, Any]) -> None:
        """Let a request come in.

        Raises:
            Refusal: 403 for a sender that is not on the list, 429 for one too many in its time,
                503 when there is too much in flight.
        """
        allowed = trigger.allow_ips
        if allowed and self._clients.address(scope) not in allowed:
            raise Refusal(403, "address", "This address may not deliver here.")
        if self.in_flight >= self._most:
            raise _overloaded()
        limiter = self._limiter(trigger)
        if limiter is not None and (wait := limiter.wait(trigger.id)):
            raise _too_many(wait)

    def enter(self, trigger: WebhookDefinition[Any], size: int) -> None:
        """Count a verified delivery of so many bytes; `leave` ends it.

        Only here does it take from its trigger's rate: what is forged leaves that to others.

        Raises:
            Refusal: 429 for one too many in its time, 503 when there is too much in flight.
        """
        full = self.in_flight >= self._most
        if full or (self.in_flight and self._bytes + size > self._most_bytes):
            raise _overloaded()
        limiter = self._limiter(trigger)
        if limiter is not None and (wait := limiter.take(trigger.id)):
            raise _too_many(wait)
        self.in_flight += 1
        self._bytes += size

    def leave(self, size: int) -> None:
        """Count it no more."""
        self.in_flight -= 1
        self._bytes -= size

    def room(self, weight: int) -> AbstractAsyncContextManager[None]:
        """Wait for memory that a large body may take while it is worked on.

        Args:
            weight: Bytes that it takes; one that takes more than there is has it all. For none,
                nobody waits.

        Raises:
            Refusal: There was none within five seconds.
        """
        return self._room_for(weight) if weight else _NO_WAIT

    @asynccontextmanager
    async def _room_for(self, weight: int) -> AsyncGenerator[None]:
        weight = min(weight, ROOM_BYTES)
        try:
            async with asyncio.timeout(ROOM_SECONDS), self._room_given_back:
                await self._room_given_back.wait_for(lambda: self._room >= weight)
                self._room -= weight
        except TimeoutError:
            raise _overloaded() from None
        try:
            yield
        finally:
            self._room += weight
            async with self._room_given_back:
                self._room_given_back.notify_all()

    def _limiter(self, trigger: WebhookDefinition[Any]) -> Limiter | None:
        if trigger.rate is None:
            return None
        limiter = self._rates.get(trigger.id)
        if limiter is None:
            limiter = self._rates[trigger.id] = Limiter(trigger.rate, self._now)
        return limiter


def _too_many(seconds: int) -> Refusal:
    told = f"There are too many deliveries; come back in {seconds} s."
    return Refusal(429, "rate", told, later(seconds))


def _overloaded() -> Refusal:
    return Refusal(
        503,
        "overloaded",
        "Nothing was stored; send it again.",
        later(RETRY_AFTER_SECONDS),
        code="overloaded",
    )
