"""The heartbeat: a thread that renews the worker's lease, whatever the handlers do.

It also sees what the worker's own tick can't tell: that it has not come round for too long.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from netscript_workers.store import leases
from netscript_workers.store.engine import Store

logger = logging.getLogger(__name__)

# How often it looks whether the worker makes progress, without asking the database.
_LOOK_SECONDS = 0.25
# A renewal that failed is tried again this soon.
_AGAIN_SECONDS = 1.0


class Heartbeat:
    """Renews a lease on a connection of its own, and tells when it is lost."""

    def __init__(
        self,
        store: Store,
        worker_id: str,
        *,
        interval: float,
        lease: float,
        on_fenced: Callable[[str], None],
        is_stalled: Callable[[], bool] = lambda: False,
        on_drain: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; `start()` starts the thread.

        Args:
            store: Where the lease is.
            worker_id: Whose.
            interval: Seconds between renewals.
            lease: Seconds that each renewal is good for.
            on_fenced: Called once, from the thread, with the reason why the worker must not go on.
            is_stalled: Tells whether the worker makes no progress; a change is stored at once.
            on_drain: Called from the thread when a renewal tells that the worker is to leave.
        """
        self._store = store
        self._worker_id = worker_id
        self._interval = interval
        self._lease = lease
        self._on_fenced = on_fenced
        self._is_stalled, self._on_drain = is_stalled, on_drain
        self._stalled = False  # as it is stored
        self._stopped = threading.Event()
        self._over = threading.Lock()  # taken by whoever says first that it is over
        self._valid_until = float("inf")
        self._engine = store.dedicated(autocommit=True)
        self._thread = threading.Thread(target=self._run, name="netscript-heartbeat", daemon=True)
        self._watch = threading.Thread(target=self._look, name="netscript-lease", daemon=True)

    def start(self) -> None:
        """Start the thread; the worker was registered just now."""
        self._valid_until = time.monotonic() + self._lease
        self._thread.start()
        # Being busy fences nobody on SQLite: the lifeline shows that we live.
        if not self._store.is_sqlite:
            self._watch.start()

    def stop(self, patience: float | None = None) -> bool:
        """Stop renewing; wait so many seconds at most, and tell whether it has ended."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(patience)
        if self._thread.is_alive():  # a renewal does not end
            return False
        self._engine.dispose()
        return True

    def _look(self) -> None:
        """Tell in time that the lease runs out: a renewal may be waiting for a network."""
        while (left := self._valid_until - self._interval - time.monotonic()) > 0:
            if self._stopped.wait(left):
                return
        self._end("the lease ran out while the database could not be reached")

    def _end(self, reason: str) -> None:
        if self._over.acquire(blocking=False):
            self._stopped.set()
            self._on_fenced(reason)

    def _run(self) -> None:
        renew_at = time.monotonic() + self._interval
        failed_at = float("-inf")
        while not self._stopped.wait(min(max(renew_at - time.monotonic(), 0.0), _LOOK_SECONDS)):
            stalled = self._is_stalled()
            news = stalled is not self._stalled and time.monotonic() - failed_at > _AGAIN_SECONDS
            if time.monotonic() < renew_at and not news:
                continue
            asked = time.monotonic()
            try:
                renewed = self._renew(stalled=stalled)
            except SQLAlchemyError as error:
                cause = getattr(error, "orig", None) or error
                logger.warning("the lease could not be renewed: %s", type(cause).__name__)
                failed_at = time.monotonic()
                renew_at = failed_at + min(_AGAIN_SECONDS, self._interval)
                continue
            if renewed is None:
                self._end("the executions of this worker were given to others")
                return
            if stalled is not self._stalled:
                self._tell(stalled=stalled)
            if renewed.drain_requested:
                self._on_drain()
            self._valid_until = asked + self._lease
            renew_at = time.monotonic() + self._interval

    def _tell(self, *, stalled: bool) -> None:
        self._stalled = stalled
        if stalled:
            logger.warning("worker %s makes no progress: its tick does not end", self._worker_id)
        else:
            logger.warning("worker %s makes progress again", self._worker_id)

    def _renew(self, *, stalled: bool) -> leases.Renewal | None:
        with self._engine.begin() as conn:
            return leases.renew(self._store, conn, self._worker_id, self._lease, stalled=stalled)
