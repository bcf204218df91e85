"""Measures: what the database tells of all processes, read at most once in a while.

However much has happened, a look costs the same: counts end where they would cost more.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import TypeAlias

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from netscript_workers.domain import Reason
from netscript_workers.store import depths, presence
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.engine import Store
from netscript_workers.telemetry import metering
from netscript_workers.telemetry.metering import METERING, Instrument
from netscript_workers.telemetry.tallies import Key

logger = logging.getLogger(__name__)

# Whoever asks more often is told the same again.
FRESH_SECONDS = 2.0
# Topics beyond these, by name, are left out.
MOST_TOPICS = 200
MOST_COUNTED = 10_000

Measure: TypeAlias = tuple[Instrument, float, Key]
# Reads some, at an instant in microseconds since the epoch.
Reader: TypeAlias = Callable[[Connection, Dialect, int], Iterable[Measure]]


class Measures:
    """Reads them for the gauges of this process."""

    def __init__(self, store: Store, readers: Sequence[Reader]) -> None:
        """Prepare; `watched()` has them read."""
        self._store = store
        self._readers = readers
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._found: list[Measure] = []

    def watched(self) -> AbstractContextManager[object]:
        """Tell the gauges, as long as this lasts."""
        stack = ExitStack()
        for one in metering.INSTRUMENTS:
            if one.where == "database":
                stack.callback(METERING.watch(one, self._source(one)))
        return stack

    def read(self) -> list[Measure]:
        """Return what the database tells, or has told just now."""
        with self._lock:
            if time.monotonic() - self._read_at > FRESH_SECONDS:
                self._found = self._look()
                self._read_at = time.monotonic()
            return self._found

    def _source(self, instrument: Instrument) -> Callable[[], list[tuple[Key, float]]]:
        def source() -> list[tuple[Key, float]]:
            return [(key, value) for one, value, key in self.read() if one is instrument]

        return source

    def _look(self) -> list[Measure]:
        try:
            with self._store.snapshot() as conn:
                now = self._store.now(conn)
                found = [
                    one for read in self._readers for one in read(conn, self._store.dialect, now)
                ]
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            logger.warning("the database told no measures: %s", type(cause).__name__)
            return [(metering.DATABASE_UP, 0, ())]
        return [(metering.DATABASE_UP, 1, ()), *found]


def read_outbox(conn: Connection, dialect: Dialect, now: int) -> Iterable[Measure]:
    """Read what is said of topics, workers and executions."""
    for topic in depths.list_topics(conn, dialect, now, limit=MOST_TOPICS).topics:
        key = (topic.name,)
        yield metering.TOPIC_DEPTH, topic.depth, key
        yield metering.TOPIC_WAIT, topic.oldest_wait or 0.0, key
        yield metering.TOPIC_RUNNING, topic.running, key
        yield metering.TOPIC_SCHEDULED, topic.scheduled, key
        yield metering.TOPIC_BLOCKED, topic.blocked, key
        yield metering.TOPIC_PAUSED, int(topic.paused), key
    alive, stalled = presence.live_workers(conn, now)
    yield metering.WORKERS_LIVE, alive, ()
    yield metering.WORKERS_STALLED, len(stalled), ()
    yield metering.WORKERS_SLOTS, presence.slots(conn, now), ()
    bound = {"reason": Reason.NO_WORKER.value, "limit": MOST_COUNTED}
    for row in conn.execute(_UNSERVED, bound):
        yield metering.JOBS_UNSERVED, row.count_, (row.job_id,)
    yield metering.DEAD_LETTERS, conn.execute(_DEAD, {"limit": MOST_COUNTED}).scalar_one(), ()


_UNSERVED = text(
    """
    SELECT job_id, count(*) AS count_ FROM (
        SELECT job_id FROM netscript_executions
        WHERE parked AND status = 'queued' AND reason = :reason LIMIT :limit) AS parked
    GROUP BY job_id ORDER BY job_id
    """
)
_DEAD = text(
    """
    SELECT count(*) FROM (
        SELECT 1 FROM netscript_execution_history WHERE status = 'failed' LIMIT :limit) AS dead
    """
)
