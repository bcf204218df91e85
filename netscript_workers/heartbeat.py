"""The heartbeat: a thread that renews the worker's lease, whatever the handlers do."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from netscript_workers.store import leases
from netscript_workers.store.engine import Store

logger = logging.getLogger(__name__)


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
    ) -> None:
        """Prepare; `start()` starts the thread.

        Args:
            store: Where the lease is.
            worker_id: Whose.
            interval: Seconds between renewals.
            lease: Seconds that each renewal is good for.
            on_fenced: Called once, from the thread, with the reason why the worker must not go on.
        """
        self._store = store
        self._worker_id = worker_id
        self._interval = interval
        self._lease = lease
        self._on_fenced = on_fenced
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

    def stop(self, patience: float | None = None) -> None:
        """Stop renewing; wait so many seconds at most for a renewal that does not end."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(patience)
        if not self._thread.is_alive():
            self._engine.dispose()

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
        wait = self._interval
        while not self._stopped.wait(wait):
            asked = time.monotonic()
            try:
                renewed = self._renew()
            except SQLAlchemyError as error:
                cause = getattr(error, "orig", None) or error
                logger.warning("the lease could not be renewed: %s", type(cause).__name__)
                wait = min(1.0, self._interval)
                continue
            if not renewed:
                self._end("the executions of this worker were given to others")
                return
            self._valid_until, wait = asked + self._lease, self._interval

    def _renew(self) -> bool:
        with self._engine.begin() as conn:
            return leases.renew(self._store, conn, self._worker_id, self._lease)
