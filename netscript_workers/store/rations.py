"""Rations: how much a claim may take of topics that have a rate.

Topics without one are not looked at. The row of a topic with one is locked until the claim is
committed, so that what several workers start together is never more than the rate.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cache

from sqlalchemy import Connection, TextClause, text

from netscript_workers.clock import MICROSECONDS
from netscript_workers.domain import ClaimedExecution
from netscript_workers.rates import Rate, parse_rate
from netscript_workers.store.dialects import Dialect

# Somebody claims from it at this instant.
_AGAIN = MICROSECONDS // 20


def has_rate(topic: str) -> str:
    """Write whether the topic in this column has a rate."""
    return f"""EXISTS (SELECT 1 FROM netscript_topics n
                    WHERE n.name = {topic} AND n.rate IS NOT NULL)"""


@dataclass(slots=True)
class _Ration:
    rate: Rate
    used_until: int | None
    left: int


@dataclass(slots=True)
class Rations:
    """What may be claimed of some topics now.

    Attributes:
        now: The present.
        missed: Topics that may have a rate, and that another transaction has locked.
    """

    now: int
    missed: set[str] = field(default_factory=set[str])
    _of: dict[str, _Ration] = field(default_factory=dict[str, _Ration])

    def most(self, topic: str, wanted: int) -> int:
        """Return how many of a topic may be claimed of those that are wanted."""
        if topic in self.missed:
            return 0
        ration = self._of.get(topic)
        return wanted if ration is None else min(ration.left, wanted)

    def next_at(self) -> int | None:
        """Return when more may be claimed of any topic of which nothing is left."""
        waits = [
            ration.rate.next_at(ration.used_until, self.now)
            for ration in self._of.values()
            if ration.left <= 0
        ]
        if self.missed:
            waits.append(self.now + _AGAIN)
        return min(waits, default=None)

    def add(self, topic: str, rate: str, used_until: int | None) -> None:
        """Reckon what is left of a topic."""
        ration = _Ration(parse_rate(rate), used_until, 0)
        ration.left, _ = ration.rate.take(used_until, self.now, ration.rate.burst)
        self._of[topic] = ration

    def spend(
        self, conn: Connection, dialect: Dialect, claimed: Iterable[ClaimedExecution]
    ) -> None:
        """Take what was claimed off the rations."""
        rows: list[dict[str, object]] = []
        for topic, count in Counter(claim.topic for claim in claimed).items():
            ration = self._of.get(topic)
            if ration is not None:
                ration.left -= count
                _, ration.used_until = ration.rate.take(ration.used_until, self.now, count)
                rows.append({"name": topic, "rate_from": ration.used_until})
        if rows:
            conn.execute(_spend(dialect), {"rows": json.dumps(rows)})


def ration(conn: Connection, dialect: Dialect, topics: Collection[str], now: int) -> Rations:
    """Lock those of these topics that have a rate, and say what may be claimed of each."""
    found = Rations(now, set(topics))
    for row in conn.execute(_lock(dialect), {"topics": json.dumps(sorted(topics))}):
        found.missed.discard(row.name)
        if row.rate is not None:
            found.add(row.name, row.rate, row.rate_from)
    return found


@cache
def _lock(dialect: Dialect) -> TextClause:
    # Not waited for: whoever pauses a topic has its row, and waits for slots that a tick has.
    return text(
        f"""
        SELECT name, rate, rate_from FROM netscript_topics
        WHERE name IN {dialect.members("topics")} ORDER BY name {dialect.skip_locked}
        """
    )


@cache
def _spend(dialect: Dialect) -> TextClause:
    source = dialect.records(name="text", rate_from="bigint")
    return text(
        f"""
        UPDATE netscript_topics SET rate_from = r.rate_from FROM {source}
        WHERE netscript_topics.name = r.name
        """
    )
