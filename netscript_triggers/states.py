"""What the database says of triggers, as this process last read it: no request asks for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from netscript_triggers.circuits import UNTOUCHED, Note, TriggerState
from netscript_triggers.definitions import AnyTrigger

# Without a database to tell, the oldest are forgotten.
_MOST_NOTES = 10_000


class TriggerStates:
    """Which triggers are disabled, whose circuits are open; read and noted from any thread.

    The processor reads it anew about once a second, and stores what was noted.
    """

    def __init__(self) -> None:
        """Know of nothing yet: every trigger is enabled, every circuit closed."""
        self._known: Mapping[str, TriggerState] = {}
        self._notes: deque[Note] = deque(maxlen=_MOST_NOTES)

    def learn(self, known: Mapping[str, TriggerState]) -> None:
        """Take what was read from the database."""
        self._known = known

    def of(self, trigger_id: str) -> TriggerState:
        """Return a trigger's state."""
        return self._known.get(trigger_id, UNTOUCHED)

    def is_enabled(self, trigger_id: str) -> bool:
        """Tell whether a trigger takes anything."""
        return not self._known or self.of(trigger_id).enabled

    def is_open(self, trigger_id: str) -> bool:
        """Tell whether a trigger's circuit is open, so that its events wait."""
        return bool(self._known) and self.of(trigger_id).is_open

    def note_failure(self, trigger: AnyTrigger, error: str, *, probe: bool = False) -> None:
        """Note that a handler failed."""
        if trigger.circuit is not None:
            self._notes.append(Note(trigger.id, trigger.circuit, error, probe))

    def note_success(self, trigger: AnyTrigger, *, probe: bool = False) -> None:
        """Note that a handler succeeded, which matters only where one has failed before."""
        if self._known or self._notes:
            failing = self.of(trigger.id).failures or any(
                note.trigger_id == trigger.id for note in list(self._notes)
            )
            if failing or probe:
                self._notes.append(Note(trigger.id, trigger.circuit, None, probe))

    def take_notes(self) -> list[Note]:
        """Return what was noted since the last time, oldest first."""
        taken: list[Note] = []
        while self._notes:
            taken.append(self._notes.popleft())
        return taken

    def give_back(self, notes: list[Note]) -> None:
        """Take notes again that could not be stored."""
        self._notes.extendleft(reversed(notes))
