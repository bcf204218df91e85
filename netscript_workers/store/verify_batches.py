"""Checks batches: each runs its callback once, when its set is full, and not before."""

from __future__ import annotations

import json
from collections.abc import Callable

from sqlalchemy import Connection, text

from netscript_workers.store.batches import COUNTED, NOTED
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.engine import Store
from netscript_workers.store.findings import Report, Terms, seconds

# A batch's set is counted, so fewer are read in one snapshot.
_AT_A_TIME = 50


def check_batches(
    store: Store,
    terms: Terms,
    report: Report,
    existing: Callable[[Connection, Dialect, set[str]], set[str]],
) -> None:
    """Check all batches that are not forgotten.

    Args:
        store: The database.
        terms: What it is held to.
        report: Where findings go.
        existing: Returns which of these executions there are.
    """
    after = "00000000-0000-0000-0000-000000000000"
    while True:
        with store.snapshot() as conn:
            now = store.now(conn)
            rows = conn.execute(_BATCHES, {"after": after, "limit": _AT_A_TIME}).all()
            callbacks = {
                str(row.id): json.loads(row.callback)["id"] for row in rows if row.callback
            }
            known = existing(conn, store.dialect, set(callbacks.values()))
            alive = conn.execute(_WORKERS, {"now": now, "then": now - terms.grace}).first()
        report.checked["batches"] += len(rows)
        for row in rows:
            callback = callbacks.get(str(row.id))
            if row.completed_at is None:
                if callback in known:
                    report.add("batch-early", row.id, f"{callback} runs, and it is not complete")
                if row.size != row.done + row.noted:
                    told = f"{row.size} are final, {row.done} counted, {row.noted} noted"
                    report.add("batch-drift", row.id, told)
                elif row.size >= row.expected and not row.notes and alive is not None:
                    waits = seconds(now - row.created_at)
                    report.add("batch-stuck", row.id, f"all are final; it was made {waits} ago")
            elif row.callback_id is not None and str(row.callback_id) != callback:
                report.add("batch-callback", row.id, f"it ran {row.callback_id}, not {callback}")
            elif callback is not None and row.callback_id is None:
                report.add("batch-callback", row.id, "it is complete, and its callback never ran")
            elif callback is not None and callback not in known:
                if terms.may_be_pruned(callback, now):
                    report.pruned += 1
                else:
                    report.add("batch-callback", row.id, f"its callback {callback} is nowhere")
        if len(rows) < _AT_A_TIME:
            return
        after = str(rows[-1].id)


_BATCHES = text(
    f"""
    SELECT b.*, {COUNTED}
    FROM (SELECT id, expected, done, callback, callback_id, created_at, completed_at
          FROM netscript_batches WHERE id > :after ORDER BY id LIMIT :limit) b {NOTED}
    ORDER BY b.id
    """
)
_WORKERS = text(
    "SELECT 1 FROM netscript_workers WHERE started_at < :then AND lease_until > :now LIMIT 1"
)
