"""Reading files whose file system may fail: what can't be read is told once, and tried again."""

from __future__ import annotations

import logging
from collections.abc import Callable

from netscript_triggers.scanning import digest_of, stamp_at
from netscript_triggers.settling import Stamp

logger = logging.getLogger(__name__)

_MOST_TOLD = 1_000
_UNKNOWN = Stamp(-1, 0, 0)


class Reader:
    """Reads the files of one file watch."""

    def __init__(self, trigger_id: str, is_stopped: Callable[[], bool]) -> None:
        """Know of no fault yet.

        Args:
            trigger_id: Whose files, for the log.
            is_stopped: Asked now and then whether to give up what is read.
        """
        self._trigger_id = trigger_id
        self._is_stopped = is_stopped
        self._told: set[str] = set()

    def stamp(self, path: str, other: Stamp = _UNKNOWN) -> Stamp | None:
        """Return a file's stamp, None if there is none; of one that can't be told, another one."""
        try:
            return stamp_at(path)
        except OSError as error:
            self.cannot_read(path, error)
            return other

    def digest(self, path: str, stamp: Stamp) -> str | None:
        """Return the SHA-256 of a file that still has this stamp, None of any other."""
        try:
            found = digest_of(path, stamp, self._is_stopped)
        except OSError as error:
            self.cannot_read(path, error)
            return None
        self._told.discard(path)
        return found

    def cannot_read(self, path: str, error: OSError) -> None:
        """Tell of a path that can't be read, unless that was told before."""
        if path in self._told or len(self._told) >= _MOST_TOLD:
            return
        self._told.add(path)
        logger.warning(
            "file watch %s: %r can't be read: %s; it is tried again",
            self._trigger_id, path, error.strerror,
        )  # fmt: skip

    def has_told(self, path: str) -> bool:
        """Tell whether a path could not be read the last time."""
        return path in self._told
