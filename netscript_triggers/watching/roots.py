"""The directories that a file watch is over: which of them are there, and are what they were."""

from __future__ import annotations

import logging
import math
import os
import stat
from collections.abc import Mapping, Sequence
from typing import NamedTuple

logger = logging.getLogger(__name__)

# Intervals in which every server must have looked at everything, and seen the same directory.
_QUIET_INTERVALS = 3


class Identity(NamedTuple):
    """What tells a directory from another one at the same path, such as that below a mount."""

    device: int
    inode: int


class Roots:
    """Directories that may come and go.

    What is missing in one counts as deleted only where the directory is known to be the one that it
    was, or has files: an empty one in its place is what a share leaves that is not mounted. Where
    another server sees another one, its files would be missing for ever.
    """

    def __init__(self, trigger_id: str, paths: Sequence[str], interval: float) -> None:
        """Know of none yet.

        Args:
            trigger_id: For the log.
            paths: The directories.
            interval: Seconds between two looks at everything, in each server.
        """
        self.paths = tuple(paths)
        self._trigger_id = trigger_id
        self._quiet = _QUIET_INTERVALS * interval
        # The inodes that this server has noted, and when it last found another one noted.
        self._noted: dict[str, int] = {}
        self._other_at: dict[str, float] = {}
        self._there: dict[str, Identity] = {}
        self._believed: set[str] = set()
        self._told: dict[str, str] = {}

    @property
    def there(self) -> Mapping[str, Identity]:
        """Those that are there."""
        return self._there

    def look(self) -> bool:
        """Look for each; tell whether one has come, is gone or is another one now."""
        found: dict[str, Identity] = {}
        for path in self.paths:
            try:
                told = os.stat(path)  # noqa: PTH116 - a path may be no UTF-8
            except OSError as error:
                self._warn(path, f"can't be watched: {error.strerror}; it is looked for")
                continue
            if not stat.S_ISDIR(told.st_mode):
                self._warn(path, "is no directory; name the one it is in, and a pattern")
                continue
            found[path] = Identity(told.st_dev, told.st_ino)
            if path in self._told and path not in self._there:
                logger.info("file watch %s: %r is there", self._trigger_id, path)
                del self._told[path]
        changed = found != self._there
        self._believed -= {path for path, one in self._there.items() if found.get(path) != one}
        self._there = found
        return changed

    def judge(self, root: str, noted: int | None, now: float, *, empty: bool) -> bool:
        """Decide, after a whole look, whether what is missing in a root is deleted.

        Args:
            root: One that is there.
            noted: The inode that it had in any server's last whole look; None before the first.
            now: When the look began.
            empty: Nothing was found in it.

        Returns:
            Whether its inode is to be noted.
        """
        inode = self._there[root].inode
        if noted in {None, inode}:
            if now - self._other_at.get(root, -math.inf) >= self._quiet:
                self._believed.add(root)
                self._told.pop(root, None)
        else:
            self._believed.discard(root)
            if empty:
                self._warn(root, _EMPTY)
                return False
            if self._noted.get(root) == inode:
                self._warn(root, _SHARED)
            self._other_at[root] = now
        self._noted[root] = inode
        return noted != inode

    def is_believed(self, root: str) -> bool:
        """Tell whether what is missing in it is deleted."""
        return root in self._believed

    def _warn(self, path: str, sentence: str) -> None:
        if self._told.get(path) != sentence:
            self._told[path] = sentence
            logger.warning("file watch %s: %r %s", self._trigger_id, path, sentence)


_EMPTY = "is empty and not the directory that it was: its files don't count as deleted"
_SHARED = (
    "is another directory for other servers: its files don't count as deleted; "
    "file watches need one directory that all servers share"
)


def is_left(root: str, inode: int) -> bool:
    """Tell whether an empty directory stands where another one was looked at before."""
    try:
        with os.scandir(root) as entries:
            return os.stat(root).st_ino != inode and next(entries, None) is None  # noqa: PTH116
    except OSError:
        return False
