"""Checks what schedules promise: each instant that fired is one event, and its own."""

from __future__ import annotations

import json
from functools import cache

from sqlalchemy import TextClause, text

from netscript_triggers.schedules import instant_name, schedule_id
from netscript_workers.clock import from_micros
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.engine import Store
from netscript_workers.store.findings import Report, Terms
from netscript_workers.store.verify_fires import chunks_of_fires, tell_lost


def check_fires(store: Store, terms: Terms, report: Report) -> None:
    """Look at all instants of triggers that are on record.

    Args:
        store: The database.
        terms: What it is held to.
        report: Where findings go.
    """
    for conn, some, now in chunks_of_fires(store, "trigger"):
        report.checked["fires"] += len(some)
        asked = json.dumps([one.ref for one in some])
        found = {str(row.id): row for row in conn.execute(_events(store.dialect), {"ids": asked})}
        for one in some:
            instant = instant_name(from_micros(one.nominal_at))
            event, name = found.get(one.ref), f"{one.schedule_id} {instant}"
            if event is None:
                tell_lost(report, terms, one.ref, name, now)
            elif (schedule_id(event.trigger_id), event.idempotency_key) != (
                one.schedule_id,
                instant,
            ):
                report.add("fire-astray", name, f"it led to {one.ref}, which is not of it")


@cache
def _events(dialect: Dialect) -> TextClause:
    return text(
        f"""
        SELECT id, trigger_id, idempotency_key FROM netscript_trigger_events
        WHERE id IN {dialect.members("ids", "id")}
        """
    )
