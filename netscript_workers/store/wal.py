"""The WAL of a SQLite file: checkpointed while nobody writes, cut when it has grown long.

SQLite checkpoints by itself as it commits, but never shortens the file, and can't drop a page that
a reader's old snapshot may still need. Who reads for so long is not ours to end, so it is told.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from pathlib import Path

from netscript_workers.store.engine import Store

logger = logging.getLogger(__name__)

CUT_BYTES = 64 * 1024 * 1024
_WARN_SECONDS = 60.0


class Wal:
    """Looks after the WAL of one file, from one thread."""

    def __init__(self, store: Store) -> None:
        """Prepare; nothing connects before there is something to do."""
        self._path = Path(f"{store.parsed_url.database}-wal")
        self._engine = store.dedicated()
        self._seen = self._checkpointed = (0, 0)
        self._kept = False
        self._warned_at = float("-inf")

    def close(self) -> None:
        """Close the connection."""
        self._engine.dispose()

    def tend(self) -> bool:
        """Checkpoint if nobody has written since the last look, cut if the WAL is too long.

        Nobody waits for it: where somebody reads or writes, as much is done as can be done now.

        Returns:
            Whether a reader has kept it too long since the last look.
        """
        looks = self._look()
        idle, self._seen = looks == self._seen, looks
        size = looks[0]
        if size <= CUT_BYTES:
            self._kept = False
            if size and idle and looks != self._checkpointed:
                self._checkpoint("PASSIVE")
                self._checkpointed = looks
            return False
        # First without keeping writers out, so that what is left to do while they wait is little.
        whole = self._checkpoint("PASSIVE")
        kept_before, self._kept = self._kept, not whole
        if whole and self._checkpoint("TRUNCATE"):
            self._seen = self._look()
        if not (self._kept and kept_before):  # a reader that is gone by the next look is no matter
            return False
        self._warn(size)
        return True

    def _look(self) -> tuple[int, int]:
        try:
            found = self._path.stat()
        except OSError:  # whoever closes the database last removes it
            return (0, 0)
        return found.st_size, found.st_mtime_ns

    def _checkpoint(self, mode: str) -> bool:
        """Checkpoint; tell whether nothing was left to be done."""
        try:
            connection = self._engine.raw_connection()
            try:
                cursor = connection.cursor()
                # Waiting would keep every writer out for as long.
                cursor.execute("PRAGMA busy_timeout = 0")
                cursor.execute(f"PRAGMA wal_checkpoint({mode})")
                ((busy, frames, checkpointed),) = cursor.fetchall()
            finally:
                connection.close()
        except sqlite3.Error:  # a disk that is full, say: the next look may do better
            return False
        return not busy and frames == checkpointed

    def _warn(self, size: int) -> None:
        now = time.monotonic()
        if now - self._warned_at >= _WARN_SECONDS:
            self._warned_at = now
            logger.warning(
                "%s has grown to %.0f MB: somebody reads in a transaction that does not end, so "
                "nothing of it can be dropped; end that transaction, or read in shorter ones",
                self._path.name,
                size / 1e6,
            )
