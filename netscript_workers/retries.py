"""When a failed execution is tried again: the retry policy, as pure functions."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from netscript_workers.errors import ConfigurationError

BackoffName: TypeAlias = Literal["exponential", "linear", "constant"]
Backoff: TypeAlias = BackoffName | Callable[[int, BaseException], float]

_MAX_DELAY = 366 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how soon a failed execution is tried again.

    Args:
        max_attempts: Attempts in all, the first one counted; 1 means no retry.
        backoff: `"exponential"` (initial_delay * multiplier**n), `"linear"` (initial_delay * n),
            `"constant"`, or a callable `(attempt, error) -> seconds`.
        initial_delay: Seconds before the second attempt.
        max_delay: No wait is longer than this many seconds.
        multiplier: The growth of the exponential backoff.
        jitter: Spread each wait between half of it and all of it, so that executions that failed
            together don't come back together. A callable backoff is left as it is.
        on: If given, only these errors are retried.
        give_up_on: These errors are never retried.

    Raises:
        ConfigurationError: A value makes no sense.
    """

    max_attempts: int = 3
    backoff: Backoff = "exponential"
    initial_delay: float = 1.0
    max_delay: float = 300.0
    multiplier: float = 2.0
    jitter: bool = True
    on: tuple[type[BaseException], ...] | type[BaseException] | None = None
    give_up_on: tuple[type[BaseException], ...] | type[BaseException] = ()

    def __post_init__(self) -> None:
        """Refuse values that make no sense, and accept one error class for a tuple of one."""
        object.__setattr__(self, "on", _classes("on", self.on))
        object.__setattr__(self, "give_up_on", _classes("give_up_on", self.give_up_on) or ())
        if type(self.max_attempts) is not int or self.max_attempts < 1:
            raise ConfigurationError(
                f"Retry(max_attempts={self.max_attempts!r}) must be a whole number, 1 or more."
            )
        if not callable(self.backoff) and self.backoff not in ("exponential", "linear", "constant"):
            raise ConfigurationError(
                f"Retry(backoff={self.backoff!r}) is not known.",
                hint='Use "exponential", "linear", "constant" or a callable (attempt, error).',
            )
        for name in ("initial_delay", "max_delay", "multiplier"):
            value: Any = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value < 0:
                raise ConfigurationError(f"Retry({name}={value!r}) must be a number, zero or more.")

    def allows(
        self, error: BaseException | None, failures: int, max_attempts: int | None = None
    ) -> bool:
        """Tell whether there is another attempt after `failures` failed ones.

        Args:
            error: What was raised; None where the handler returned a failure.
            failures: Failed attempts so far, this one counted.
            max_attempts: The execution's own limit, where a manual retry has raised it.
        """
        if failures >= (self.max_attempts if max_attempts is None else max_attempts):
            return False
        if error is None:
            return True
        if self.give_up_on and isinstance(error, self.give_up_on):
            return False
        return self.on is None or isinstance(error, self.on)

    def delay(self, failures: int, error: BaseException) -> float:
        """Return the seconds to wait after the `failures`-th failed attempt (1 or more)."""
        if callable(self.backoff):
            wait = float(self.backoff(failures, error))
            return min(max(wait, 0.0), _MAX_DELAY) if math.isfinite(wait) else self.max_delay
        match self.backoff:
            case "exponential":
                wait = self._exponential(failures)
            case "linear":
                wait = self.initial_delay * failures
            case "constant":
                wait = self.initial_delay
        wait = min(wait, self.max_delay)
        return wait * (0.5 + random.random() / 2) if self.jitter else wait  # noqa: S311 - spread, not secrecy

    def _exponential(self, failures: int) -> float:
        try:
            return self.initial_delay * float(self.multiplier) ** (failures - 1)
        except OverflowError:
            return self.max_delay if self.initial_delay else 0.0


def _classes(name: str, given: Any) -> tuple[type[BaseException], ...] | None:
    """Take one class for a tuple of one, and any collection of them.

    Raises:
        ConfigurationError: It holds something else, which would only show when a job fails.
    """
    if given is None:
        return None
    classes: tuple[Any, ...] = (given,)
    if isinstance(given, Iterable) and not isinstance(given, type):
        classes = tuple(given)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - checked below
    if not all(isinstance(one, type) and issubclass(one, BaseException) for one in classes):
        raise ConfigurationError(
            f"Retry({name}={given!r}) must be error classes.",
            hint=f"Write it as {name}=(ConnectionError, TimeoutError).",
        )
    return classes
