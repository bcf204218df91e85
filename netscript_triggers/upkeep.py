"""What a server does for events besides running handlers: circuits are kept, old ones forgotten."""

from __future__ import annotations

import logging
import random
import time

from sqlalchemy.exc import SQLAlchemyError

from netscript_triggers.circuits import TriggerState
from netscript_triggers.states import TriggerStates
from netscript_triggers.store import retention as forgetting
from netscript_triggers.store import states as stored
from netscript_workers.clock import from_micros
from netscript_workers.store.engine import Store
from netscript_workers.store.retention import CHUNK, Retention

logger = logging.getLogger(__name__)

_PRUNE_SECONDS = 60.0
_PRUNE_AGAIN_SECONDS = 1.0


class Upkeep:
    """Called by the processor about once a second, in a thread."""

    def __init__(self, store: Store, states: TriggerStates, retention: Retention | None) -> None:
        """Prepare.

        Args:
            store: What to keep in order.
            states: Where handler runs are noted.
            retention: How long ended events are kept; None keeps them.
        """
        self._store = store
        self._states = states
        self._retention = retention
        self._prune_at = time.monotonic() + _spread(_PRUNE_SECONDS)

    def store_notes(self) -> None:
        """Store how handler runs went, and tell whose circuit opens or closes."""
        notes = self._states.take_notes()
        if not notes:
            return
        try:
            with self._store.begin() as conn:
                now = self._store.now(conn)
                changed = stored.apply(conn, self._store.dialect, notes, now)
        except SQLAlchemyError:
            self._states.give_back(notes)
            raise
        for trigger_id, (before, after) in changed.items():
            _tell(trigger_id, before, after)

    def prune(self) -> None:
        """Forget a chunk of old events, when it is time."""
        if self._retention is None or time.monotonic() < self._prune_at:
            return
        gone = forgetting.prune(self._store, self._retention)
        wait = _PRUNE_AGAIN_SECONDS if gone >= CHUNK else _PRUNE_SECONDS
        self._prune_at = time.monotonic() + _spread(wait)


def _tell(trigger_id: str, before: TriggerState, after: TriggerState) -> None:
    if after.is_open and after.probe_at != before.probe_at and after.probe_at is not None:
        logger.warning(
            "the circuit of trigger %s is open after %d failures in a row: its events wait, "
            "and one is tried at %s",
            trigger_id, after.failures, f"{from_micros(after.probe_at):%H:%M:%S}Z",
        )  # fmt: skip
    elif before.is_open and not after.is_open:
        logger.warning("the circuit of trigger %s is closed: its events run again", trigger_id)


def _spread(seconds: float) -> float:
    """Keep many servers from doing the same at the same moment."""
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311 - spread, not secrecy
