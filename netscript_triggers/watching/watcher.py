"""The file watcher: a server's file watches, each in a thread, for a share may hang."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from netscript_triggers.definitions import AnyTrigger, FileWatchDefinition
from netscript_triggers.states import TriggerStates
from netscript_triggers.watching.notices import Notices
from netscript_triggers.watching.roots import Identity
from netscript_triggers.watching.watch import FileWatch
from netscript_workers.errors import StoreUnavailableError
from netscript_workers.store.engine import Store
from netscript_workers.store.idempotency import DEFAULT_WINDOW

logger = logging.getLogger(__name__)

# Between two looks at whether a directory has come or gone, and a trigger was disabled.
_LONGEST_SECONDS = 1.0
# Notices that keep coming are looked after together.
_SHORTEST_SECONDS = 0.05
_FIRST_BACKOFF = 0.5
_LAST_BACKOFF = 10.0
_PATIENCE_SECONDS = 0.5
# Notices that have failed are asked for again.
_LISTEN_AGAIN_SECONDS = 60.0


class FileWatcher:
    """Runs the file watches of a server; any number of servers may watch the same files."""

    def __init__(
        self,
        store: Store,
        triggers: Iterable[AnyTrigger],
        *,
        states: TriggerStates,
        window: int = DEFAULT_WINDOW,
    ) -> None:
        """Prepare; `start()` starts it.

        Args:
            store: Where files and events are stored.
            triggers: Those of them that are file watches are run.
            states: Tells which are enabled.
            window: How long idempotency keys are kept, in microseconds.
        """
        self._triggers = [one for one in triggers if isinstance(one, FileWatchDefinition)]
        self._store = store
        self._states = states
        self._window = window
        self._threads: list[_Thread] = []

    def start(self, on_events: Callable[[], None] = lambda: None) -> None:
        """Start to watch.

        Args:
            on_events: Called, on any thread, after each commit that has stored events.
        """
        if not self._triggers:
            return
        self._apart = self._store.apart()
        for trigger in self._triggers:
            thread = _Thread(self._apart, trigger, self._states, self._window, on_events)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Stop; what hangs in the file system is left to itself."""
        for thread in self._threads:
            thread.stop()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        if self._threads:
            self._apart.dispose()


class _Thread(threading.Thread):
    """One file watch: its turns, when they are due or something is noticed."""

    def __init__(
        self,
        store: Store,
        trigger: FileWatchDefinition[Any],
        states: TriggerStates,
        window: int,
        on_events: Callable[[], None],
    ) -> None:
        super().__init__(name=f"netscript-files-{trigger.id}", daemon=True)
        self._trigger = trigger
        self._states = states
        self._stopped = threading.Event()
        self._woken = threading.Event()
        self._notices: dict[str, tuple[Identity, Notices]] = {}
        self._listen_at = 0.0
        self._backoff = 0.0
        self._watch = FileWatch(
            store,
            trigger,
            window=window,
            on_events=on_events,
            is_stopped=self._stopped.is_set,
        )

    def stop(self) -> None:
        """Ask it to end."""
        self._stopped.set()
        self._woken.set()

    def run(self) -> None:
        try:
            while not self._stopped.is_set():
                wait = self._go_on()
                self._stopped.wait(_SHORTEST_SECONDS)
                self._woken.wait(min(wait, _LONGEST_SECONDS))
        finally:
            for _, notices in self._notices.values():
                notices.stop()

    def _go_on(self) -> float:
        """Take a turn; return how long the next one has time."""
        self._woken.clear()
        if not self._states.is_enabled(self._trigger.id):
            self._watch.rest()
            return _LONGEST_SECONDS
        try:
            wait = self._watch.turn(time.monotonic())
        except (SQLAlchemyError, StoreUnavailableError) as error:
            cause = getattr(error, "orig", None) or error
            self._fail(f"the database did not answer ({type(cause).__name__})")
            return 0.0
        except Exception:
            logger.exception("file watch %s failed", self._trigger.id)
            self._fail("see above")
            return 0.0
        if self._backoff:
            logger.warning("file watch %s goes on", self._trigger.id)
            self._backoff = 0.0
        if not self._trigger.polling:
            self._listen()
        return wait

    def _fail(self, why: str) -> None:
        if not self._backoff:
            logger.warning("file watch %s waits: %s; nothing is lost", self._trigger.id, why)
        self._backoff = min(max(self._backoff * 2, _FIRST_BACKOFF), _LAST_BACKOFF)
        self._stopped.wait(self._backoff)

    def _listen(self) -> None:
        """Listen at the directories that are there, anew where another one is there now."""
        there = self._watch.roots.there
        now = time.monotonic()
        for root, (identity, notices) in list(self._notices.items()):
            over = notices.is_over and now >= self._listen_at
            if there.get(root) != identity or over:
                notices.stop()
                del self._notices[root]
        for root in there.keys() - self._notices.keys():
            notices = Notices(
                root, recursive=self._trigger.selection.recursive, tell=self._hear, lost=self._lose
            )
            self._notices[root] = (there[root], notices)
            self._listen_at = now + _LISTEN_AGAIN_SECONDS

    def _lose(self) -> None:
        self._watch.look_soon()
        self._woken.set()

    def _hear(self, paths: set[str]) -> None:
        self._watch.notice(paths)
        self._woken.set()
