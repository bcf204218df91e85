"""Low-water marks: where a worker's claims begin to look while dead rows can't be cleaned up.

On PostgreSQL a transaction that keeps an old snapshot keeps all that was deleted since, and a scan
for ready executions steps over it first: a minute of work makes it ten times slower. Meanwhile each
topic is looked at only from a little before its first ready execution on. What commits late, is
backdated or more urgent may lie below; a sweep of all finds it within a second.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import cache

from sqlalchemy import Connection, TextClause, text

from netscript_workers.store.dialects import Dialect
from netscript_workers.store.rations import has_rate

# Below whatever `sort_at` there can be.
FROM_THE_START = -(2**63)
# By so much may what commits only now be earlier than what was found.
_LAG_MICROSECONDS = 1_000_000
# A sweep steps over all that is dead: it may take a twentieth of the time, within these limits.
_SWEEP_SHARE = 20
_LEAST_SECONDS, _MOST_SECONDS = 0.25, 0.8


class Marks:
    """One worker's marks. The tick's thread uses them, any other may want them."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without marks.

        Args:
            clock: Seconds that only grow; tests only.
        """
        # Somebody keeps an old snapshot; else there is no mark, and all is looked at each time.
        self.wanted = False
        self._clock = clock
        self._low: dict[str, int] = {}
        # Where those began that were claimed since the last sweep.
        self._claimed: dict[str, int] = {}
        self._sweep_at = float("-inf")

    @property
    def due_in(self) -> float:
        """Seconds until all is to be looked at again; infinite without marks."""
        return self._sweep_at - self._clock() if self.wanted else float("inf")

    def refresh(self, conn: Connection) -> bool:
        """Look at all if it is time for it; tell whether there are marks."""
        if not self.wanted:
            self._low.clear()
            self._sweep_at = float("-inf")
            return False
        if self.due_in <= 0:
            self._sweep(conn)
        return True

    def low(self, topic: str) -> int:
        """Return the `sort_at` from which on a topic is looked at."""
        return self._low.get(topic, FROM_THE_START)

    def claimed(self, topic: str, first: int) -> None:
        """Note where the executions began that were claimed of a topic just now."""
        if self.wanted:
            self._claimed[topic] = min(first, self._claimed.get(topic, first))

    def ready_topics(self, conn: Connection, dialect: Dialect) -> dict[str, bool]:
        """Return the topics that have ready executions above their marks, and if it has a rate."""
        rows = conn.execute(_ready_topics(dialect), {"rows": self.rows})
        return {row.topic: bool(row.rated) for row in rows}

    @property
    def rows(self) -> str:
        """The marks as a JSON array of objects with `topic` and `low`."""
        return json.dumps([{"topic": topic, "low": low} for topic, low in self._low.items()])

    def _sweep(self, conn: Connection) -> None:
        began = self._clock()
        first = {row.topic: row.sort_at for row in conn.execute(_FIRST_READY)}
        ended = self._clock()
        # Where nothing waits, the mark follows what was claimed meanwhile.
        for topic, sort_at in {**self._claimed, **first}.items():
            self._low[topic] = sort_at - _LAG_MICROSECONDS
        self._claimed.clear()
        pause = min(max(_SWEEP_SHARE * (ended - began), _LEAST_SECONDS), _MOST_SECONDS)
        self._sweep_at = ended + pause


# A condition on a mark `r`: something of its topic is ready above it. EXISTS would be a join, for
# which the index may be read from its beginning.
HAS_READY = """(
    SELECT 1 FROM netscript_executions e
    WHERE e.status = 'queued' AND NOT e.parked AND e.topic = r.topic AND e.sort_at >= r.low
    ORDER BY e.sort_at LIMIT 1) IS NOT NULL"""


@cache
def _ready_topics(dialect: Dialect) -> TextClause:
    source = dialect.records(topic="text", low="bigint")
    return text(
        f"""
        SELECT r.topic, {has_rate("r.topic")} AS rated FROM {source}
        WHERE {HAS_READY} ORDER BY r.topic
        """
    )


# A loose index scan: one step per topic, and over what is dead before its first.
_FIRST_READY = text(
    """
    WITH RECURSIVE t(topic, sort_at) AS (
        (SELECT topic, sort_at FROM netscript_executions WHERE status = 'queued' AND NOT parked
         ORDER BY topic, sort_at LIMIT 1)
        UNION ALL
        SELECT n.topic, n.sort_at FROM t CROSS JOIN LATERAL (
            SELECT e.topic, e.sort_at FROM netscript_executions e
            WHERE e.status = 'queued' AND NOT e.parked AND e.topic > t.topic
            ORDER BY e.topic, e.sort_at LIMIT 1) n)
    SELECT topic, sort_at FROM t
    """
)
