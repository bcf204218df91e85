"""Circuits: a trigger whose handler keeps failing is left alone for a while, its events wait."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from netscript_workers.clock import MICROSECONDS
from netscript_workers.errors import ConfigurationError

# An open circuit is tried at least this often, however often it has been in vain.
LONGEST_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Circuit:
    """When a trigger's handler is left alone.

    Args:
        failures: So many failed attempts in a row, of whatever events and in whatever process, open
            the circuit: events wait, and use up no attempts.
        reset: Seconds after which one event is tried. If its handler succeeds, the circuit is
            closed; if it fails, the next try comes after twice the time, 300 s at most.

    Raises:
        ConfigurationError: A value makes no sense.
    """

    failures: int = 10
    reset: float = 30.0

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if type(self.failures) is not int or self.failures < 1:
            raise ConfigurationError(
                f"Circuit(failures={self.failures!r}) must be a whole number, 1 or more."
            )
        value: Any = self.reset
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(self.reset) or self.reset <= 0:
            raise ConfigurationError(
                f"Circuit(reset={self.reset!r}) must be a number of seconds, more than zero."
            )

    def wait(self, opened: int) -> int:
        """Return the microseconds until the next try after `opened` times in vain (1 or more)."""
        longest = max(LONGEST_SECONDS, self.reset)
        return round(min(self.reset * 2.0 ** min(opened - 1, 30), longest) * MICROSECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerState:
    """What the database says of a trigger; times in microseconds since the epoch.

    Attributes:
        enabled: Whether anything of it is taken and run.
        is_open: Whether its circuit is open.
        failures: Failed attempts in a row.
        opened: How often in a row it was opened, tries in vain counted.
        opened_at: Since when it is open.
        probe_at: When one event is tried.
        error: Of the last failed attempt.
    """

    enabled: bool = True
    is_open: bool = False
    failures: int = 0
    opened: int = 0
    opened_at: int | None = None
    probe_at: int | None = None
    error: str | None = None


UNTOUCHED = TriggerState()


@dataclass(frozen=True, slots=True)
class Note:
    """How one handler run went.

    Attributes:
        trigger_id: Whose handler.
        circuit: The trigger's; None if it has none.
        error: Why it failed; None if it did not.
        probe: It was the one event that an open circuit lets through.
    """

    trigger_id: str
    circuit: Circuit | None
    error: str | None = None
    probe: bool = False


def after(state: TriggerState, note: Note, now: int) -> TriggerState:
    """Return a trigger's state after one more handler run."""
    if note.error is None or note.circuit is None:
        return TriggerState(enabled=state.enabled)
    failed = replace(state, failures=state.failures + 1, error=note.error)
    opens = not state.is_open and failed.failures >= note.circuit.failures
    if not opens and not (state.is_open and note.probe):
        return failed
    opened = state.opened + 1
    return replace(
        failed,
        is_open=True,
        opened=opened,
        opened_at=state.opened_at if state.is_open else now,
        probe_at=now + note.circuit.wait(opened),
    )
