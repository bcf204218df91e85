"""Measures: what the database tells of events."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, text

from netscript_triggers.events import EventStatus
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.measures import MOST_COUNTED, Measure
from netscript_workers.telemetry import metering

_TOLD = (EventStatus.PENDING, EventStatus.DEFERRED, EventStatus.FAILED, EventStatus.DEAD)


def read_inbox(conn: Connection, _dialect: Dialect, _now: int) -> Iterable[Measure]:
    """Read how many events wait, and how many are dead."""
    for status in _TOLD:
        bound = {"status": status.value, "limit": MOST_COUNTED}
        yield metering.EVENTS_KEPT, conn.execute(_COUNT, bound).scalar_one(), (status.value,)


_COUNT = text(
    """
    SELECT count(*) FROM (
        SELECT 1 FROM netscript_trigger_events WHERE status = :status LIMIT :limit) AS counted
    """
)
