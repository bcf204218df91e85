"""Checks what schedules promise: each instant that fired is one event, and its own."""

from __future__ import annotations

from netscript_triggers.schedules import instant_name, schedule_id
from netscript_triggers.store import inbox
from netscript_workers.clock import from_micros
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
        found = inbox.read_keys(conn, store.dialect, {one.ref for one in some})
        for one in some:
            instant = instant_name(from_micros(one.nominal_at))
            event, name = found.get(one.ref), f"{one.schedule_id} {instant}"
            if event is None:
                tell_lost(report, terms, one.ref, name, now)
            elif (schedule_id(event[0]), event[1]) != (one.schedule_id, instant):
                report.add("fire-astray", name, f"it led to {one.ref}, which is not of it")
