"""Death at a chosen point: SIGKILL before the n-th thing that the accept path does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.pool import Pool

# Threads whose work belongs to no delivery.
_OTHERS = ("netscript-bell", "asyncio_", "AnyIO")


class Points:
    """Counts the points of a delivery, and ends the process at one of them.

    A point is every statement before it is sent, every commit before and after it happens, and
    whatever else is passed. The number is thus known only afterwards: try them one by one until
    a process lives.
    """

    def __init__(
        self, die_at: int, told: Callable[[str], object], others: tuple[str, ...] = _OTHERS
    ) -> None:
        """Die at point `die_at`, counted from 1; its name is told just before.

        What threads do whose names begin like one of `others` is no point.
        """
        self._die_at = die_at
        self._others = others
        self._told = told
        self._count = 0
        self._lock = threading.Lock()
        event.listen(Engine, "before_cursor_execute", self._statement)
        event.listen(Engine, "commit", self._commit)
        event.listen(Pool, "checkin", self._checkin)

    def passed(self, name: str) -> None:
        """Count a point."""
        if threading.current_thread().name.startswith(self._others):
            return
        with self._lock:
            self._count += 1
            if self._count == self._die_at:
                self._told(name)
                os.kill(os.getpid(), signal.SIGKILL)

    def _statement(self, _conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        self.passed(" ".join(statement.split())[:60])

    def _commit(self, _conn: Any) -> None:
        self.passed("COMMIT")

    def _checkin(self, *_: Any) -> None:
        self.passed("given back")
