"""The directories that a file watch is over: which of them are there, and are what they were."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Mapping, Sequence
from typing import NamedTuple

logger = logging.getLogger(__name__)


class Identity(NamedTuple):
    """What tells a directory from another one at the same path, such as that below a mount."""

    device: int
    inode: int


class Roots:
    """Directories that may come and go.

    What is missing in one counts as deleted only where the directory is known to be the one that it
    was, or has files: an empty one in its place is what a share leaves that is not mounted.
    """

    def __init__(self, trigger_id: str, paths: Sequence[str]) -> None:
        """Know of none yet."""
        self.paths = tuple(paths)
        self._trigger_id = trigger_id
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

    def believe(self, root: str) -> None:
        """Take what is missing in it for deleted."""
        self._believed.add(root)
        if root in self._told:
            del self._told[root]

    def doubt(self, root: str) -> None:
        """Take what is missing in it for out of reach."""
        self._believed.discard(root)
        self._warn(
            root, "is empty and not the directory that it was: its files don't count as deleted"
        )

    def is_believed(self, root: str) -> bool:
        """Tell whether what is missing in it is deleted."""
        return root in self._believed

    def _warn(self, path: str, sentence: str) -> None:
        if self._told.get(path) != sentence:
            self._told[path] = sentence
            logger.warning("file watch %s: %r %s", self._trigger_id, path, sentence)


def is_left(root: str, inode: int) -> bool:
    """Tell whether an empty directory stands where another one was looked at before."""
    try:
        with os.scandir(root) as entries:
            return os.stat(root).st_ino != inode and next(entries, None) is None  # noqa: PTH116
    except OSError:
        return False
