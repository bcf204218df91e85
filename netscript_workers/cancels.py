"""Cancels: hearing which of the executions that run here are to end, or all of the worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from netscript_workers.store import cancelling
from netscript_workers.store.engine import Store

# A cancel is heard within a second. Whoever cancels rings a bell, but most bells ring for new
# work, and each of them must not cost a busy worker a statement.
_QUIET_SECONDS = 0.9
_RUNG_SECONDS = 0.5


class Cancels:
    """Looks for executions that are to end, and tells of each once. Used by the tick's thread."""

    def __init__(self, store: Store, worker_id: str) -> None:
        """Prepare for a worker."""
        self._store = store
        self._worker_id = worker_id
        self._looked_at = float("-inf")
        self._rung = False
        self._told: dict[str, int] = {}
        self.on_drain: Callable[[], None] | None = None

    def rung(self) -> None:
        """Look sooner: somebody rang."""
        self._rung = True

    def next_in(self) -> float:
        """Return the seconds until the next look, for a worker that runs anything."""
        wait = _RUNG_SECONDS if self._rung else _QUIET_SECONDS
        return self._looked_at + wait - time.monotonic()

    def has_looked(self) -> None:
        """Hear that a look at the database has just found nothing to end."""
        self._looked_at, self._rung = time.monotonic(), False

    def look(self, running: Mapping[str, int]) -> list[str]:
        """Return the ids of those that are to end and have not been told so.

        Args:
            running: What runs here, with the token of each claim.
        """
        self.has_looked()
        with self._store.read() as conn:
            orders = cancelling.orders(conn, self._worker_id)
        if orders.leave and self.on_drain is not None:
            self.on_drain()
        wanted = {id_: token for id_, token in orders.ends.items() if running.get(id_) == token}
        # A handler that is cleaning up must not be cancelled again in the midst of it.
        fresh = [id_ for id_, token in wanted.items() if self._told.get(id_) != token]
        self._told = wanted
        return fresh
