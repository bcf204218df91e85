"""Looking at files: which there are, whether they were touched, and what is in them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256

from netscript_triggers.files.globs import Globs
from netscript_triggers.files.settling import Stamp

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which files below a directory are meant."""

    patterns: Globs
    ignored: Globs
    recursive: bool = True

    def takes(self, relative: str) -> bool:
        """Tell whether a file is meant, by its path below the directory."""
        folders = relative.split("/")[:-1]
        if folders and not self.recursive:
            return False
        passed = any(
            self.ignored.match("/".join(folders[: depth + 1])) for depth in range(len(folders))
        )
        return not passed and self._takes_name(relative)

    def enters(self, relative: str) -> bool:
        """Tell whether a directory is looked into."""
        return self.recursive and not self.ignored.match(relative)

    def _takes_name(self, relative: str) -> bool:
        return self.patterns.match(relative) and not self.ignored.match(relative)

    def walk(
        self, root: str, start: str, on_error: Callable[[str, OSError], None]
    ) -> Iterator[tuple[str, Stamp] | None]:
        """Yield the files that are meant, without following links.

        Args:
            root: The directory that patterns are about.
            start: Where to begin, at it or below.
            on_error: Told of what can't be read.

        Yields:
            A path and its stamp; None for each directory, so that the caller can stop.
        """
        left = [start]
        below = len(root.rstrip("/")) + 1
        while left:
            place = left.pop()
            yield None
            try:
                with os.scandir(place) as entries:
                    for entry in entries:
                        stamp = self._meet(entry, entry.path[below:], left, on_error)
                        if stamp is not None:
                            yield entry.path, stamp
            except FileNotFoundError:
                continue
            except OSError as error:
                on_error(place, error)

    def _meet(
        self,
        entry: os.DirEntry[str],
        relative: str,
        left: list[str],
        on_error: Callable[[str, OSError], None],
    ) -> Stamp | None:
        """Return the stamp of a file that is meant; keep a directory for later."""
        try:
            if not entry.is_dir(follow_symlinks=False):
                return _stamp_of(entry) if self._takes_name(relative) else None
        except OSError as error:
            on_error(entry.path, error)
            return None
        if self.enters(relative):
            left.append(entry.path)
        return None


def _stamp_of(entry: os.DirEntry[str]) -> Stamp | None:
    try:
        told = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    return stamp_of(told)


def stamp_of(told: os.stat_result) -> Stamp | None:
    """Return the stamp of a regular file, None of anything else."""
    if not stat.S_ISREG(told.st_mode):
        return None
    return Stamp(told.st_size, _signed(told.st_mtime_ns), _signed(told.st_ino))


def _signed(number: int) -> int:
    """Fit a number of 64 bits into the databases' integers, which have a sign."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def stamp_at(path: str) -> Stamp | None:
    """Return the stamp of the regular file at a path, None if there is none.

    Raises:
        OSError: It can't be told.
    """
    try:
        return stamp_of(os.lstat(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def digest_of(
    path: str, stamp: Stamp, is_stopped: Callable[[], bool] = lambda: False
) -> str | None:
    """Return the SHA-256 of a file's content, in hex.

    Args:
        path: The file.
        stamp: What it is known by.
        is_stopped: Asked now and then whether to give up.

    Returns:
        None if it is gone, was touched since or meanwhile, or it was given up.

    Raises:
        OSError: It can't be read.
    """
    # A name may become that of a pipe, which would be waited for, or of a link.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        if stamp_of(os.fstat(descriptor)) != stamp:
            return None
        content = sha256()
        while chunk := os.read(descriptor, _CHUNK):
            content.update(chunk)
            if is_stopped():
                return None
        same = stamp_of(os.fstat(descriptor)) == stamp == stamp_at(path)
    finally:
        os.close(descriptor)
    return content.hexdigest() if same else None
