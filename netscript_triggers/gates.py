"""Who may come in at all, how often and how many at a time: asked before a body is read."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from netscript_triggers.answers import Refusal, later
from netscript_triggers.definitions import WebhookDefinition
from netscript_workers.addresses import Clients
from netscript_workers.clock import MICROSECONDS

RETRY_AFTER_SECONDS = 5
MAX_IN_FLIGHT = 1000
# A few of the largest bodies beside many of the usual ones.
MAX_BYTES_IN_FLIGHT = 64 * 1_048_576
# So many times this size is read and handled at a time of large bodies: what they hold takes up to
# fifty times as much.
LARGE_BODY = 65_536
_LARGE_AT_A_TIME = 16
# Shorter than the time after which any sender takes its delivery for lost.
ROOM_SECONDS = 3.0


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
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare.

        Args:
            clients: Finds out who sent a request.
            max_in_flight: Deliveries that may be in flight.
            now: Seconds on a clock that is never set.
        """
        self._clients = clients or Clients()
        self._most = max_in_flight
        self._now = now
        self._used: dict[str, int] = {}
        self._bytes = 0
        self._turn = asyncio.Lock()
        self._places = asyncio.Semaphore(_LARGE_AT_A_TIME)
        self.in_flight = 0

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
        if trigger.rate is not None:
            self._take(trigger)

    def enter(self, size: int) -> None:
        """Count a verified delivery of so many bytes; `leave` ends it.

        Raises:
            Refusal: There is too much in flight.
        """
        full = self.in_flight >= self._most
        if full or (self.in_flight and self._bytes + size > MAX_BYTES_IN_FLIGHT):
            raise _overloaded()
        self.in_flight += 1
        self._bytes += size

    def leave(self, size: int) -> None:
        """Count it no more."""
        self.in_flight -= 1
        self._bytes -= size

    @asynccontextmanager
    async def room(self, size: int) -> AsyncGenerator[None]:
        """Wait until there is memory for what a large body holds; large ones have their turns.

        Raises:
            Refusal: It takes too long, for handlers of others are slow.
        """
        places = min(size // LARGE_BODY, _LARGE_AT_A_TIME)
        taken = 0
        try:
            try:
                async with asyncio.timeout(ROOM_SECONDS), self._turn:
                    while taken < places:
                        await self._places.acquire()
                        taken += 1
            except TimeoutError:
                raise _overloaded() from None
            yield
        finally:
            for _ in range(taken):
                self._places.release()

    def _take(self, trigger: WebhookDefinition[Any]) -> None:
        rate = trigger.rate
        assert rate is not None
        now = int(self._now() * MICROSECONDS)
        used = self._used.get(trigger.id)
        taken, self._used[trigger.id] = rate.take(used, now, 1)
        if not taken:
            wait = rate.next_at(used, now) - now
            seconds = max(math.ceil(wait / MICROSECONDS), 1)
            told = f"There are too many deliveries; come back in {seconds} s."
            raise Refusal(429, "rate", told, later(seconds))


def _overloaded() -> Refusal:
    return Refusal(
        503,
        "overloaded",
        "Nothing was stored; send it again.",
        later(RETRY_AFTER_SECONDS),
        code="overloaded",
    )
