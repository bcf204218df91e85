"""Crashes: having it stored that an execution killed its own process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable

from netscript_workers.domain import ClaimedExecution, Death, Outcome
from netscript_workers.store import suspects
from netscript_workers.store.engine import Store
from netscript_workers.telemetry import working

logger = logging.getLogger(__name__)

_AGAIN_SECONDS = 0.5


class Crashes:
    """Records crashes, each on a thread of its own, until the database has taken it.

    Called on the loop's thread.
    """

    def __init__(
        self,
        store: Store,
        worker_id: str,
        *,
        on_end: Callable[[ClaimedExecution, Outcome | None], None],
    ) -> None:
        """Prepare.

        Args:
            store: Where to record them.
            worker_id: Whose children they killed.
            on_end: Called on the loop, without an outcome, when one is recorded.
        """
        self._store = store
        self._worker_id = worker_id
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._dropped = threading.Event()
        self.pending = 0

    def record(self, claim: ClaimedExecution, death: Death) -> None:
        """Have a crash recorded."""
        self.pending += 1
        self._start(claim, death)

    def drop(self) -> None:
        """Record nothing more: others have the executions."""
        self._dropped.set()

    def _start(self, claim: ClaimedExecution, death: Death) -> None:
        name = f"netscript-crash-{claim.id}"
        thread = threading.Thread(target=self._record, args=(claim, death), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system has no more of them
            logger.warning("a crash could not be recorded yet: %s", type(error).__name__)
            self._loop.call_later(_AGAIN_SECONDS, self._start, claim, death)

    def _record(self, claim: ClaimedExecution, death: Death) -> None:
        while not self._dropped.is_set():
            try:
                last = suspects.record_crash(self._store, claim, death, self._worker_id)
            except Exception as error:  # noqa: BLE001 - until it is recorded, nobody knows of it
                cause = getattr(error, "orig", None) or error
                logger.warning("a crash could not be recorded yet: %s", type(cause).__name__)
                self._dropped.wait(_AGAIN_SECONDS)
            else:
                working.crashed(claim, last)
                break
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._over, claim)

    def _over(self, claim: ClaimedExecution) -> None:
        self.pending -= 1
        self._on_end(claim, None)
