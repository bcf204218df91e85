"""What a trigger's handler may return besides jobs: `defer`, which has the event handled later."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from netscript_workers.batches import Action
from netscript_workers.clock import MAX_MICROS, MICROSECONDS, SYSTEM_CLOCK, to_micros
from netscript_workers.errors import ConfigurationError

# A handler that defers to the past, over and over, must not keep a processor busy.
SOONEST_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Defer:
    """Handle the event again at an instant. Pure data: nothing happens until it is stored.

    Attributes:
        until: Microseconds since the epoch.
    """

    until: int


# What a trigger's handler may return.
TriggerAction: TypeAlias = Action | Defer


def defer(until: datetime | timedelta | float) -> Defer:
    """Keep the event, and call its handler again at that time, by whatever process.

    A deferral is no failure and uses up no attempt. What is returned beside it is enqueued now; an
    action without a key that a later call returns again enqueues nothing more.

    Args:
        until: The instant, a naive one is taken as UTC; or a time from now, a number in seconds. It
            is never sooner than a second from now.

    Raises:
        ConfigurationError: It can't be meant.
    """
    if isinstance(until, datetime):
        return Defer(until=to_micros(until))
    seconds = until.total_seconds() if isinstance(until, timedelta) else until
    given: Any = seconds
    number = isinstance(given, (int, float)) and not isinstance(given, bool)
    if not number or not math.isfinite(seconds) or not 0 <= seconds < MAX_MICROS / 2e6:
        raise ConfigurationError(
            f"defer(until={until!r}) can't be meant.",
            hint="Give a datetime, a timedelta, or zero or more seconds from now.",
        )
    return Defer(until=SYSTEM_CLOCK.now() + round(seconds * MICROSECONDS))
