"""What was refused and why: counted exactly, logged once a second, told to nobody outside."""

from __future__ import annotations

import logging
import time
from collections import Counter

from netscript_workers.telemetry.metering import DELIVERIES_REFUSED, METERING

# One line a second for each origin and reason, however much is refused.
_LOG_EVERY_SECONDS = 1.0


class Refusals:
    """Counts and logs refusals; both names are ours, so nothing of a sender gets into the log.

    Attributes:
        counts: How many there were, by origin and reason.
    """

    def __init__(self, logger: logging.Logger, sentence: str) -> None:
        """Prepare.

        Args:
            logger: Where they are told.
            sentence: With places for origin, reason and count.
        """
        self._logger = logger
        self._sentence = sentence
        self._logged: dict[tuple[str, str], float] = {}
        self.counts: Counter[tuple[str, str]] = Counter()

    def note(self, origin: str, reason: str) -> None:
        """Count a refusal."""
        counted = (origin, reason)
        self.counts[counted] += 1
        METERING.add(DELIVERIES_REFUSED, 1, origin, reason)
        now = time.monotonic()
        if now - self._logged.get(counted, float("-inf")) >= _LOG_EVERY_SECONDS:
            self._logged[counted] = now
            self._logger.warning(self._sentence, origin, reason, self.counts[counted])
