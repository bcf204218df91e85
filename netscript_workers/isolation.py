"""Isolation: executions that must run alone, each in a process of its own.

A process that ran one execution and died is proof against it.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Collection

from netscript_workers.domain import ClaimedExecution, Outcome
from netscript_workers.execution.outcome import not_begun
from netscript_workers.execution.runners.protocol import Runner
from netscript_workers.store import suspects
from netscript_workers.store.engine import Store
from netscript_workers.topics import Places, Served

logger = logging.getLogger(__name__)


class Isolation:
    """Claims suspects, one after the other, and has each run in a process of its own.

    `look` is called by maintenance, `claim` by the tick, everything else on the loop's thread.
    """

    runner: Runner | None = None

    def __init__(
        self,
        store: Store,
        worker_id: str,
        *,
        jobs: Collection[str],
        topics: Served,
        on_end: Callable[[ClaimedExecution, Outcome | None], None],
        on_wanted: Callable[[], None],
    ) -> None:
        """Prepare; set `runner`, without which suspects are left to those who have one.

        Args:
            store: Where suspects wait.
            worker_id: Who has them run.
            jobs: The ids of the jobs it knows.
            topics: The topics it serves.
            on_end: Called on the loop with every end; without an outcome where it is stored.
            on_wanted: Called from any thread when there may be a suspect to claim.
        """
        self._store = store
        self._worker_id = worker_id
        self._jobs = json.dumps(sorted(jobs))
        self._topics = topics
        self._on_end = on_end
        self._on_wanted = on_wanted
        self._wanted = threading.Event()
        # Where a suspect may wait although none is found: in topics that had no place left.
        self._left_out: frozenset[str | None] = frozenset()
        self._leaving = False
        # By id, the token of the claim: the same one may be claimed again before its end is heard.
        self._mine: dict[str, int] = {}

    def look(self) -> bool:
        """Look for suspects that wait; tell whether there are any."""
        # Without a project a child would not find the jobs: then they are left to who has one.
        if self.runner is None:
            return False
        found = suspects.any_waiting(self._store, self._jobs, self._topics)
        if found:
            self.want()
        return found

    def want(self) -> None:
        """Look for suspects with the next tick; may be called from any thread."""
        if self.runner is not None:
            self._wanted.set()
            self._on_wanted()

    def claim(self, places: Places | None = None) -> ClaimedExecution | None:
        """Claim a suspect, if one is known to wait and there is a processor for it.

        Args:
            places: How many of each topic may be claimed, where that is bounded.
        """
        if len(self._mine) >= (os.cpu_count() or 1):
            return None
        full = _full(places)
        is_wanted = self._wanted.is_set()
        # Each look is a transaction: there is none before one of the topics left out has a place.
        if not is_wanted and self._left_out <= full:
            return None
        topics = self._topics if places is None else places.narrow(self._topics)
        self._wanted.clear()  # first, so that a wish that comes meanwhile is not lost
        try:
            found = suspects.claim(self._store, self._worker_id, self._jobs, topics)
        except BaseException:
            self._wanted.set()
            raise
        if found is None:
            self._left_out = full if is_wanted else self._left_out & full
        else:
            self._wanted.set()  # there may be more
            self._mine[found.id] = found.token
        return found

    def start(self, claim: ClaimedExecution) -> None:
        """Run a claimed suspect; one that comes when the worker stops goes back at once."""
        if self._leaving or self.runner is None:
            self.ended(claim, not_begun(claim))
            return
        logger.warning("execution %s runs alone, for processes have died of it", claim.id)
        self.runner.start(claim)

    def leave(self) -> None:
        """Start nothing more."""
        self._leaving = True

    def ended(self, claim: ClaimedExecution, outcome: Outcome | None) -> None:
        """Hear of a suspect's end; without an outcome where it is stored."""
        if self._mine.get(claim.id) == claim.token:
            del self._mine[claim.id]
        self._on_end(claim, outcome)
        self.want()  # it may be to run again, or others wait


def _full(places: Places | None) -> frozenset[str | None]:
    """Return the topics without a place left; None stands for all that have no bound."""
    if places is None:
        return frozenset()
    return places.full if places.shared > 0 else places.full | {None}
