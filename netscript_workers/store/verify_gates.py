"""Checks the gates of jobs: what they count, and whether somebody waits at one for nothing."""

from __future__ import annotations

from sqlalchemy import Connection, text

from netscript_workers.store.findings import Report, Terms, seconds


def check_gates(conn: Connection, terms: Terms, report: Report, now: int) -> None:
    """Each gate counts exactly those that have a place; nobody waits where there is room.

    Args:
        conn: One snapshot of the database.
        terms: What it is held to.
        report: Where findings go.
        now: The database's present.
    """
    gates = {row.job_id: row for row in conn.execute(_GATES)}
    held = {row.job_id: row.held for row in conn.execute(_HELD)}
    report.checked["gates"] += len(gates)
    for job_id in sorted(gates.keys() | held.keys()):
        used, holders = gates[job_id].used if job_id in gates else 0, held.get(job_id, 0)
        if used != holders:
            report.add("gate-drift", job_id, f"{used} places in use, {holders} executions have one")
    for row in conn.execute(_MISPLACED):
        report.add("place-misplaced", row.id, f"it is {row.status}, and has a place of its job")
    noted = set(conn.execute(_NOTED).scalars())
    for row in conn.execute(_WAITING):
        gate = gates.get(row.job_id)
        full = gate is not None and row.most is not None and gate.used >= row.most
        asleep = gate is None or gate.look_at is None or gate.look_at < now - terms.grace
        if row.since < now - terms.grace and asleep and not full and row.job_id not in noted:
            waits = seconds(now - row.since)
            report.add("gate-overlooked", row.job_id, f"there is room, and one waits for {waits}")


_GATES = text("SELECT job_id, used, look_at FROM netscript_job_gates")
_HELD = text(
    "SELECT job_id, count(*) AS held FROM netscript_executions WHERE holds_job GROUP BY job_id"
)
_MISPLACED = text(
    """
    SELECT id, status FROM netscript_executions
    WHERE holds_job AND status NOT IN ('queued', 'running')
    """
)
_NOTED = text("SELECT DISTINCT key FROM netscript_admissions WHERE kind = 'job'")
# Since when the oldest waits that is not paused; it may have come due long after it was made.
_WAITING = text(
    """
    SELECT e.job_id, min(CASE WHEN e.run_at > e.created_at THEN e.run_at ELSE e.created_at END)
        AS since, (SELECT d.max_concurrency FROM netscript_job_definitions d
                   WHERE d.id = e.job_id) AS most
    FROM netscript_executions e
    WHERE e.status = 'blocked' AND e.wants_job AND NOT EXISTS (
        SELECT 1 FROM netscript_topics t WHERE t.name = e.topic AND t.paused)
    GROUP BY e.job_id
    """
)
