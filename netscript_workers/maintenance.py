"""Maintenance: rescuing what dead workers left, repairing slots, forgetting old work.

Every worker does it; each piece is safe when several do it at once.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

from netscript_workers.store import batches, leases, lifelines, parking, sweeping
from netscript_workers.store.engine import Store
from netscript_workers.store.retention import CHUNK, Retention, prune
from netscript_workers.store.wal import Wal
from netscript_workers.store.watchdog import Watchdog
from netscript_workers.telemetry import working
from netscript_workers.telemetry.metering import EXECUTIONS_RESCUED, METERING

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.25
_RESCUE_SECONDS = 5.0
_SWEEP_SECONDS = 15.0
_PRUNE_SECONDS = 60.0
_PARK_SECONDS = 15.0
_WAL_SECONDS = 5.0
_WATCH_SECONDS = 10.0
# A claim that found nothing where something was ready asks for a look; not more often than this.
_PARK_AT_ONCE_SECONDS = 1.0


class Maintenance:
    """One thread that keeps the database in order."""

    def __init__(
        self,
        store: Store,
        worker_id: str,
        *,
        lifeline: Path,
        retention: Retention,
        strangers: threading.Event,
        on_rescued: Callable[[], None],
        find_suspects: Callable[[], bool] = lambda: False,
        on_kept: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """Prepare; `start()` starts the thread.

        Args:
            store: What to keep in order.
            worker_id: Who does it.
            lifeline: The worker's own lifeline; its folder shows who of this host has died.
            retention: How long finished work is kept.
            strangers: Is set by a claim that left ready executions: perhaps nobody knows
                their jobs.
            on_rescued: Called when there is work again.
            find_suspects: Looks for executions that must run alone, and has them claimed.
            on_kept: Called with whether somebody keeps an old snapshot, after each look.
        """
        self._store = store
        self._worker_id = worker_id
        self._lifeline = lifeline
        self._retention = retention
        self._on_rescued = on_rescued
        self._find_suspects = find_suspects
        self._stopped = threading.Event()
        self._strangers = strangers
        self._swept_to = self._counted_to = ""
        self._on_kept = on_kept
        self._wal = Wal(store) if store.is_sqlite else None
        self._watchdog = None if store.is_sqlite else Watchdog(store)
        self._thread = threading.Thread(target=self._run, name="netscript-maintenance", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, patience: float | None = None) -> bool:
        """Finish what is being done, then stop; tell whether it has ended in so many seconds."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(patience)
        if self._wal is not None:
            self._wal.close()
        return not self._thread.is_alive()

    def _run(self) -> None:
        now = time.monotonic()
        rescue_at = now
        parked_at = now - _PARK_SECONDS  # what this worker knows comes back at once
        sweep_at = now + _spread(_SWEEP_SECONDS)
        prune_at = now + _spread(_PRUNE_SECONDS)
        tend_at = now + _spread(_WAL_SECONDS)
        watch_at = now + _spread(_WATCH_SECONDS)
        while True:
            now = time.monotonic()
            if now >= rescue_at or self._somebody_died():
                self._safely(self.rescue)
                rescue_at = now + _spread(_RESCUE_SECONDS)
            wait = _PARK_AT_ONCE_SECONDS if self._strangers.is_set() else _PARK_SECONDS
            if now >= parked_at + wait:
                self._strangers.clear()
                self._safely(self.park)
                self._safely(self._find_suspects)
                parked_at = now
            if now >= sweep_at:
                self._safely(self.sweep)
                sweep_at = now + _spread(_SWEEP_SECONDS)
            if now >= prune_at:
                more = self._safely(self.prune)
                prune_at = now + (0.1 if more else _spread(_PRUNE_SECONDS))
            if now >= tend_at:
                self._safely(self.tend)
                tend_at = now + _spread(_WAL_SECONDS)
            if now >= watch_at:
                self._safely(self.watch)
                watch_at = now + _spread(_WATCH_SECONDS)
            if self._stopped.wait(_LOOK_SECONDS):
                return

    def _somebody_died(self) -> bool:
        return lifelines.any_dead(self._lifeline.parent, self._lifeline)

    def _safely(self, work: Callable[[], bool]) -> bool:
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - the next look may do better
            cause = getattr(error, "orig", None) or error
            logger.warning("maintenance was put off: %s", type(cause).__name__)
            return False

    def rescue(self) -> bool:
        """Give the executions of dead workers to others; tell whether there were any."""
        rescued = leases.rescue(self._store, self._worker_id, self._lifeline.parent)
        if rescued:
            logger.warning("rescued %d executions of dead workers", len(rescued))
            METERING.add(EXECUTIONS_RESCUED, len(rescued))
            self._on_rescued()
            self._find_suspects()
        return bool(rescued)

    def sweep(self) -> bool:
        """Repair a stretch of keys and batches, and the gates; tell whether there was a need."""
        with self._store.begin() as conn:
            if not self._store.dialect.try_lock(conn, "sweep"):
                return False
            now = self._store.now(conn)
            found = sweeping.sweep_keys(conn, self._store.dialect, self._swept_to, now)
            repaired, self._swept_to = found
        drifted = self._sweep_batches()
        # By itself: gates are locked before slots.
        with self._store.begin() as conn:
            gates = sweeping.sweep_gates(conn, self._store.dialect, self._store.now(conn))
        if repaired:
            logger.warning("repaired %d concurrency slots that had drifted", repaired)
        if drifted:
            logger.warning("had %d batches counted again that had drifted", drifted)
        if gates:
            logger.warning("repaired %d places of jobs with a limit that had drifted", gates)
        working.drifted({"keys": repaired, "batches": drifted, "jobs": gates})
        if repaired or drifted or gates:
            self._on_rescued()
        return bool(repaired or drifted or gates)

    def _sweep_batches(self) -> int:
        # By itself: counting takes its time, and nobody is to wait for a slot meanwhile.
        with self._store.begin() as conn:
            if not self._store.dialect.try_lock(conn, "sweep"):
                return 0
            found = batches.sweep(conn, self._store.dialect, self._counted_to)
            drifted, self._counted_to = found
        return drifted

    def park(self) -> bool:
        """Put aside executions of jobs that no worker knows, bring back those that one knows."""
        parked = parking.park(self._store)
        if parked:
            logger.warning("no live worker knows the jobs of %d executions", parked)
        if parking.unpark(self._store):
            self._on_rescued()
        return bool(parked)

    def tend(self) -> bool:
        """Keep SQLite's WAL short; tell whether somebody keeps it long."""
        return self._wal is not None and self._wal.tend()

    def watch(self) -> bool:
        """See who keeps PostgreSQL from cleaning up; tell whether somebody does for too long."""
        if self._watchdog is None:
            return False
        is_wrong = self._watchdog.look()
        self._on_kept(self._watchdog.is_kept)
        return is_wrong

    def prune(self) -> bool:
        """Forget a chunk of old work; tell whether there is likely more."""
        return prune(self._store, self._retention) >= CHUNK


def _spread(seconds: float) -> float:
    """Keep many workers from doing the same at the same moment."""
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311 - spread, not secrecy
