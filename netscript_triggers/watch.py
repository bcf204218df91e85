"""The watch over connections: who does not get on is ended, and who holds most gives way."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Protocol

from netscript_triggers.refusals import Refusals

logger = logging.getLogger(__name__)

_SWEEP_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a server puts up with.

    Attributes:
        seconds: Within which a request must have come, head and body; and within which a
            connection must send one, or take what it is sent.
        connections: How many are open at a time; for one more, the one that has been waited for
            the longest is closed.
        receiving: Bytes of bodies that have not come to their ends; past this, the body that has
            been coming for the longest is given up.
    """

    seconds: float = 15.0
    connections: int = 4000
    receiving: int = 8 * 1_048_576


class Watched(Protocol):
    """A connection that something is waited for."""

    @property
    def held(self) -> int:
        """Bytes of an unfinished body."""
        ...

    def expire(self, reason: str) -> None:
        """End it, with an answer if a request has begun."""
        ...


class Watch:
    """Knows the connections that are waited for, in the order since when.

    A timer for each would cost every request; one sweep a second over those that are late does not.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        """Watch with these limits."""
        self.limits = limits or Limits()
        self.refusals = Refusals(logger, "connections: %s refused: %s (%d so far)")
        self._waiting: dict[Watched, float] = {}
        self._receiving = 0
        self._sweeping = False

    def begin(self, one: Watched, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for this one from now on."""
        self._waiting[one] = loop.time()
        if not self._sweeping:
            self._sweep_soon(loop)

    def end(self, one: Watched, held: int) -> None:
        """It has got on, or is gone."""
        self._receiving -= held
        self._waiting.pop(one, None)

    def hold(self, more: int) -> None:
        """Count bytes that somebody who is waited for holds."""
        self._receiving += more
        while self._receiving > self.limits.receiving:
            first = next((one for one in self._waiting if one.held), None)
            if first is None:
                return
            first.expire("receiving-too-much")

    def make_room(self) -> bool:
        """End the one that has been waited for the longest; False where there is none."""
        first = next(iter(self._waiting), None)
        if first is not None:
            first.expire("too-many-connections")
        return first is not None

    def _sweep_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweeping = True
        loop.call_later(min(_SWEEP_SECONDS, self.limits.seconds / 4), self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        oldest = loop.time() - self.limits.seconds
        late = [one for one, since in self._waiting.items() if since <= oldest]
        for one in late:
            one.expire("slow")
        self._sweeping = False
        if self._waiting:
            self._sweep_soon(loop)
