"""How much there is to do in each topic. Counts end where they would cost more than a glance."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cache

from sqlalchemy import Connection, TextClause, text

from netscript_workers.clock import MICROSECONDS
from netscript_workers.records import TopicRecord
from netscript_workers.store import pages
from netscript_workers.store.claims import ready_topics
from netscript_workers.store.dialects import Dialect

# So many are counted: of what is ready in each topic, and of each other status in all.
COUNTED = 10_000
MAX_LISTED = 1_000


@dataclass(frozen=True, slots=True)
class TopicPage:
    """Topics by name, whether there are more, and the cursor of those."""

    topics: tuple[TopicRecord, ...]
    more: bool
    next_cursor: str | None


def list_topics(
    conn: Connection,
    dialect: Dialect,
    now: int,
    *,
    limit: int = MAX_LISTED,
    cursor: str | None = None,
) -> TopicPage:
    """Return the topics of registered jobs, those that were paused or limited, and those in use.

    Read it from a snapshot: it is several statements.

    Raises:
        CursorError: The cursor is none of ours.
    """
    after = "" if cursor is None else pages.read_name(cursor)
    others = _others(conn)
    told = {row.name: row for row in conn.execute(_TOLD)}
    names = {topic for topic, _ in others.counts} | set(told) | set(ready_topics(conn))
    names.update(conn.execute(_OF_JOBS).scalars())
    wanted = sorted(name for name in names if name > after)
    listed = wanted[:limit]
    more = len(wanted) > len(listed)
    following = pages.write_name(listed[-1]) if more else None
    return TopicPage(_records(conn, dialect, listed, now, others), more, following)


def get_topic(conn: Connection, dialect: Dialect, topic: str, now: int) -> TopicRecord:
    """Return a topic, whether or not anybody has heard of it."""
    (record,) = _records(conn, dialect, [topic], now, _others(conn))
    return record


def _records(
    conn: Connection,
    dialect: Dialect,
    names: list[str],
    now: int,
    others: _Others,
) -> tuple[TopicRecord, ...]:
    bound = {"names": json.dumps(names), "limit": COUNTED + 1}
    told = {row.name: row for row in conn.execute(_TOLD)}
    ready = {row.name: row for row in conn.execute(_ready(dialect), bound)}
    records: list[TopicRecord] = []
    for name in names:
        row, said = ready[name], told.get(name)
        depth = row.ready + others.counts[name, "parked"]
        since = None if row.since is None else max(now - row.since, 0) / MICROSECONDS
        records.append(
            TopicRecord(
                name=name,
                depth=min(depth, COUNTED),
                depth_is_exact=depth <= COUNTED and others.exact,
                oldest_wait=since,
                running=others.counts[name, "running"],
                scheduled=others.counts[name, "scheduled"],
                blocked=others.counts[name, "blocked"],
                counts_are_exact=others.exact,
                paused=said is not None and bool(said.paused),
                rate=None if said is None else said.rate,
            )
        )
    return tuple(records)


@dataclass(frozen=True, slots=True)
class _Others:
    """What is not ready, by topic and kind, and whether all of it was counted."""

    counts: Counter[tuple[str, str]]
    exact: bool


def _others(conn: Connection) -> _Others:
    found: Counter[tuple[str, str]] = Counter()
    kinds: Counter[str] = Counter()
    for row in conn.execute(_OTHERS, {"limit": COUNTED + 1}):
        found[row.topic, row.kind] += row.count_
        kinds[row.kind] += row.count_
    return _Others(found, all(count <= COUNTED for count in kinds.values()))


def _some(kind: str, condition: str) -> str:
    return f"""
        SELECT '{kind}' AS kind, topic, count(*) AS count_ FROM (
            SELECT topic FROM netscript_executions WHERE {condition} LIMIT :limit) AS {kind}
        GROUP BY topic"""


# Each goes by the partial index of its condition.
_OTHERS = text(
    " UNION ALL ".join(
        (
            _some("running", "status = 'running'"),
            _some("scheduled", "status = 'scheduled'"),
            _some("blocked", "status = 'blocked'"),
            _some("parked", "parked AND status = 'queued'"),
        )
    )
)
_TOLD = text("SELECT name, paused, rate FROM netscript_topics")
_OF_JOBS = text("SELECT DISTINCT topic FROM netscript_job_definitions")


@cache
def _ready(dialect: Dialect) -> TextClause:
    # The oldest of the most urgent ones: of all, where no more are ready than are counted.
    head = """
        FROM (SELECT run_at FROM netscript_executions
              WHERE status = 'queued' AND NOT parked AND topic = n.value
              ORDER BY sort_at, id LIMIT :limit) AS head"""
    return text(
        f"""
        SELECT n.value AS name, (SELECT count(*) {head}) AS ready,
            (SELECT min(run_at) {head}) AS since
        FROM {dialect.members("names")} AS n
        """
    )
