"""What keeps a supervised process from starting: told to its supervisor, which says it once."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from netscript_workers.errors import ConfigurationError

_VARIABLE = "_NETSCRIPT_COMPLAINT"


def hand_over(error: Exception) -> bool:
    """Leave an error with the supervisor, if there is one and the project is to be corrected.

    Returns:
        Whether it was left; else the process says it.
    """
    place = os.environ.get(_VARIABLE)
    if place is None or not isinstance(error, ConfigurationError):
        return False
    with contextlib.suppress(OSError):
        Path(place).write_text(str(error), encoding="utf-8")
        return True
    return False


class Complaint:
    """Where one process leaves what keeps it from starting."""

    def __init__(self, place: Path) -> None:
        """Have it left in a file of this name."""
        self._place = place
        self.environment = {_VARIABLE: str(place)}

    def take(self) -> str | None:
        """Return what was left, once."""
        try:
            told = self._place.read_text(encoding="utf-8")
            self._place.unlink()
        except FileNotFoundError:
            return None
        return told
