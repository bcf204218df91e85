"""Reading the files of a watch, where it may fail: what can't be read is told once."""

from __future__ import annotations

import logging
from collections.abc import Callable

from netscript_triggers.files.scanning import digest_of, stamp_at
from netscript_triggers.files.settling import Stamp

logger = logging.getLogger(__name__)

_MOST_TOLD = 1_000
_SOME = Stamp(-1, 0, 0)


class FileReader:
    """Looks at files and reads them; an error is no end."""

    def __init__(self, trigger_id: str, is_stopped: Callable[[], bool]) -> None:
        """Prepare.

        Args:
            trigger_id: For the log.
            is_stopped: Asked now and then whether to give up.
        """
        self._trigger_id = trigger_id
        self._is_stopped = is_stopped
        self._told: set[str] = set()

    def stamp(self, path: str, other: Stamp = _SOME) -> Stamp | None:
        """Return a file's stamp, None if there is none; of one that can't be looked at, another."""
        try:
            return stamp_at(path)
        except OSError as error:
            self.cannot_read(path, error)
            return other

    def digest(self, path: str, stamp: Stamp) -> str | None:
        """Return the SHA-256 of a file's content; None if it was touched or can't be read."""
        try:
            found = digest_of(path, stamp, self._is_stopped)
        except OSError as error:
            self.cannot_read(path, error)
            return None
        self._told.discard(path)
        return found

    def is_told_of(self, path: str) -> bool:
        """Tell whether a file could not be read when it was last tried."""
        return path in self._told

    def cannot_read(self, path: str, error: OSError) -> None:
        """Tell of what can't be read, once."""
        if path in self._told or len(self._told) >= _MOST_TOLD:
            return
        self._told.add(path)
        logger.warning(
            "file watch %s: %r can't be read: %s; it is tried again",
            self._trigger_id, path, error.strerror,
        )  # fmt: skip
