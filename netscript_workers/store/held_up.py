"""Ends that wait for somebody else's transaction, so that nothing else waits with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from netscript_workers.store.outcomes import Settled

# How long a tick waits for a row that a user's open transaction holds: all that ended with it, and
# all that could be claimed, waits too.
PATIENCE = 0.05
# A round meets so few of those that still wait, and comes so seldom, that ticks hardly notice.
_MET_AT_A_TIME = 2
_AGAIN_SECONDS = 0.5


def needs_key(end: Settled) -> bool:
    """Tell whether an end stores an action with an idempotency key, which a user may hold."""
    return any(new.idempotency_key is not None for new in end.outcome.actions)


class HeldUp:
    """The ends of one worker whose keys a transaction held; each is tried again by itself."""

    def __init__(self) -> None:
        """Begin with none."""
        self._ends: dict[str, Settled] = {}
        self._next_at = 0.0

    def __len__(self) -> int:
        """How many there are."""
        return len(self._ends)

    @property
    def ids(self) -> set[str]:
        """The executions that they end, which are running on record."""
        return set(self._ends)

    def add(self, ends: Sequence[Settled]) -> None:
        """Keep these until they are stored; they are tried before long."""
        self._ends.update((end.claim.id, end) for end in ends)
        self._next_at = max(self._next_at, time.monotonic() + PATIENCE)

    def due_in(self) -> float:
        """Return the seconds until the next round; for ever if there are none."""
        return max(self._next_at - time.monotonic(), 0.0) if self._ends else float("inf")

    def go_round(self, store: Callable[[Settled], bool]) -> None:
        """Try each, oldest first; stop when a few still have to wait: they go to the end.

        Args:
            store: Stores an end; returns False if it has to wait on.
        """
        self._next_at = time.monotonic() + _AGAIN_SECONDS
        met = 0
        for id_, end in list(self._ends.items()):
            if met == _MET_AT_A_TIME:
                break
            # It stays here until its commit is known to have happened.
            done = store(end)
            del self._ends[id_]
            if not done:
                self._ends[id_] = end
                met += 1
