"""Lifelines: a locked file per worker, free only when the worker and all its children are dead.

The kernel lets go of the lock at the very death of the last process that inherited it, so whoever
finds it free on the same host knows at once, without waiting for a lease to run out.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from enum import StrEnum
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from pathlib import Path

from sqlalchemy import URL


class Life(StrEnum):
    """What a lifeline tells."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"


def folder(url: URL) -> Path:
    """Return where the lifelines of a database's workers are kept on this host.

    Beside a SQLite file; for a server's database with the temporary files.
    """
    if url.get_backend_name() == "sqlite":
        file = Path(str(url.database)).absolute()
        return file.with_name(f"{file.name}-workers")
    owner = os.getuid()
    server = f"{url.host}:{url.port}/{url.database}"
    digest = hashlib.sha256(server.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"netscript-{owner}" / digest


class Lifeline:
    """This worker's own lifeline."""

    def __init__(self, place: Path, worker_id: str) -> None:
        """Make the file and lock it; do so before the worker is registered."""
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = place / f"{worker_id}.lock"
        self._descriptor = self._hold()
        # Somebody who cleans up may have seen the file before it was locked.
        while not self.path.exists():
            os.close(self._descriptor)
            self._descriptor = self._hold()

    def _hold(self) -> int:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        flock(descriptor, LOCK_EX)
        return descriptor

    def fileno(self) -> int:
        """Return the descriptor, to be inherited by children that run executions."""
        return self._descriptor

    def cut(self) -> None:
        """Let go; do so after the worker has given everything back."""
        remove(self.path)
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


def look(path: Path) -> Life:
    """Tell whether the worker that holds this lifeline lives."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # another host, another container, another user
        return Life.UNKNOWN
    try:
        flock(descriptor, LOCK_SH | LOCK_NB)  # two that look at once are not in the way
    except OSError:
        return Life.ALIVE
    else:
        return Life.DEAD
    finally:
        os.close(descriptor)


def any_dead(place: Path, own: Path) -> bool:
    """Tell whether a worker of this host has died, without asking the database."""
    try:
        others = [path for path in place.iterdir() if path.suffix == ".lock" and path != own]
    except OSError:
        return False
    return any(look(path) is Life.DEAD for path in others)


def remove(path: Path) -> None:
    """Remove the lifeline of a worker that is gone."""
    with contextlib.suppress(OSError):
        path.unlink()
