"""Who keeps an old snapshot on PostgreSQL, so that nothing deleted since can be cleaned up.

Every execution leaves dead rows behind, and whoever looks for ready ones steps over those that
can't be removed. Whose transaction that is is not ours to end, so it is told.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Row, text

from netscript_workers.store.engine import Store

logger = logging.getLogger(__name__)

# Two looks of maintenance see it and a third one is sure: told of within a minute.
OLD_SECONDS = 30.0
# Claims step over dead rows from here on, which is before it hurts.
_NOTICED_SECONDS = 5.0
# A table that nobody vacuums, though it is little but dead rows.
_STARVED_SECONDS = 300.0
_MANY_DEAD = 100_000
_DEAD_PER_LIVE = 10
# A snapshot of the cluster's other members is old only if much has happened since.
_FAR_BEHIND = 10_000
_SHOWN = 5

_Key = tuple[str, str]


@dataclass(slots=True)
class _Sight:
    """What was seen in several looks.

    Attributes:
        mark: What changes when whoever it is goes on.
        since: When this mark was seen first, by the monotonic clock.
        seconds: For how long it has been so, as far as anybody knows.
        told: It was told of.
    """

    mark: str
    since: float
    seconds: float = 0.0
    told: bool = False


class Watchdog:
    """Looks who holds up the cleaning of our tables, from one thread."""

    def __init__(
        self,
        store: Store,
        *,
        old: float = OLD_SECONDS,
        noticed: float = _NOTICED_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare.

        Args:
            store: A PostgreSQL database.
            old: Seconds after which a snapshot is told of.
            noticed: Seconds after which it counts for `is_kept`.
            clock: Seconds that only grow; tests only.
        """
        self._store = store
        self._old = old
        self._noticed = noticed
        self._clock = clock
        self._sights: dict[_Key, _Sight] = {}
        # Whether somebody keeps dead rows from being removed.
        self.is_kept = False

    def look(self) -> bool:
        """Look once, tell of what is new and of what is over; return whether anything is wrong."""
        with self._store.read() as conn:
            asked = {"behind": _FAR_BEHIND, "dead": _MANY_DEAD, "factor": _DEAD_PER_LIVE}
            found = conn.execute(_LOOK, asked).all()
        now = self._clock()
        seen: dict[_Key, _Sight] = {}
        for row in found:
            key = (row.kind, row.name)
            sight = self._sights.get(key)
            if sight is None or sight.mark != row.mark:
                # Who is asked twice and has gone on meanwhile holds nothing for long.
                if sight is not None and sight.told:
                    _all_clear(key)
                sight = _Sight(row.mark, now)
            elif row.kind == _STARVED:
                sight.seconds = now - sight.since
            else:
                sight.seconds = max(now - sight.since, float(row.seconds or 0.0))
            seen[key] = sight
            self._tell(row, sight)
        for key, sight in self._sights.items():
            if sight.told and key not in seen:
                _all_clear(key)
        self._sights = seen
        self.is_kept = any(
            sight.seconds >= self._noticed for (kind, _), sight in seen.items() if kind != _STARVED
        )
        return any(sight.told for sight in seen.values())

    def _tell(self, row: Row[tuple[str, str, str, str, str, float]], sight: _Sight) -> None:
        limit = _STARVED_SECONDS if row.kind == _STARVED else self._old
        if sight.told or sight.seconds < limit:
            return
        sight.told = True
        if row.kind == _STARVED:
            logger.warning(
                "%s dead rows of netscript_executions were not vacuumed for %.0f s: claims slow "
                "down; see that autovacuum runs",
                row.detail,
                sight.seconds,
            )
            return
        logger.warning(
            "%s %s (%s) has kept an old snapshot for %.0f s: nothing deleted since can be cleaned "
            "up, and claims slow down; end it, or read in shorter transactions",
            row.kind,
            row.name,
            row.detail,
            sight.seconds,
        )


def _all_clear(key: _Key) -> None:
    kind, name = key
    if kind == _STARVED:
        logger.info("dead rows of netscript_executions are vacuumed again")
    else:
        logger.info("%s %s no longer keeps an old snapshot", kind, name)


_STARVED = "table"

# Of others' sessions everybody may see the number, the name and the snapshot; the state and the
# transaction's begin only who may read all statistics. A vacuum's own snapshot holds up nobody,
# and neither does one of another database, unless it stands for other servers.
_LOOK = text(
    f"""
    (SELECT 'session' AS kind, CAST(a.pid AS text) AS name,
        concat(coalesce(a.backend_xid, a.backend_xmin), ' ', a.xact_start) AS mark,
        concat('application "', a.application_name, '", ',
               coalesce(a.state, 'its state is not ours to see')) AS detail,
        CAST(extract(epoch FROM clock_timestamp() - a.xact_start) AS double precision) AS seconds
     FROM pg_stat_activity a
     WHERE a.pid <> pg_backend_pid()
       AND coalesce(a.backend_xid, a.backend_xmin) IS NOT NULL
       AND (a.datname = current_database()
            OR a.datname IS NULL AND age(coalesce(a.backend_xid, a.backend_xmin)) >= :behind)
       AND NOT EXISTS (SELECT 1 FROM pg_stat_progress_vacuum v WHERE v.pid = a.pid)
     ORDER BY age(coalesce(a.backend_xid, a.backend_xmin)) DESC LIMIT {_SHOWN})
    UNION ALL
    (SELECT 'replication slot', CAST(slot_name AS text), CAST(xmin AS text),
        CASE WHEN active THEN 'in use' ELSE 'not in use' END, NULL
     FROM pg_replication_slots WHERE xmin IS NOT NULL AND age(xmin) >= :behind
     ORDER BY age(xmin) DESC LIMIT {_SHOWN})
    UNION ALL
    (SELECT 'prepared transaction', gid, CAST(transaction AS text), 'prepared',
        CAST(extract(epoch FROM clock_timestamp() - prepared) AS double precision)
     FROM pg_prepared_xacts WHERE database = current_database()
     ORDER BY age(transaction) DESC LIMIT {_SHOWN})
    UNION ALL
    SELECT '{_STARVED}', CAST(relname AS text),
        CAST(vacuum_count + autovacuum_count AS text), CAST(n_dead_tup AS text), NULL
    FROM pg_stat_user_tables
    WHERE relid = to_regclass('netscript_executions') AND n_dead_tup > :dead
      AND n_dead_tup > :factor * n_live_tup
    """
)
