"""What is left undone: counted no further than a person would read."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

MOST = 1_000


@dataclass(frozen=True, slots=True)
class Arrears:
    """How many there are of each, up to `MOST`.

    Attributes:
        lost: Executions held by workers whose lease has run out.
        dead_events: Events whose handler will not run again by itself.
        dead_letters: Executions that have failed for good.
    """

    lost: int
    dead_events: int
    dead_letters: int


def arrears(conn: Connection, now: int) -> Arrears:
    """Count what is left undone."""
    return Arrears(
        lost=int(conn.execute(_LOST, {"now": now, "most": MOST}).scalar_one()),
        dead_events=int(conn.execute(_DEAD_EVENTS, {"most": MOST}).scalar_one()),
        dead_letters=int(conn.execute(_DEAD_LETTERS, {"most": MOST}).scalar_one()),
    )


_LOST = text(
    """
    SELECT count(*) FROM (
        SELECT 1 FROM netscript_workers w
        JOIN netscript_executions e ON e.worker_id = w.id AND e.status = 'running'
        WHERE w.lease_until < :now LIMIT :most) x
    """
)
_DEAD_EVENTS = text(
    """
    SELECT count(*) FROM (
        SELECT 1 FROM netscript_trigger_events WHERE status = 'dead' LIMIT :most) x
    """
)
_DEAD_LETTERS = text(
    """
    SELECT count(*) FROM (
        SELECT 1 FROM netscript_execution_history WHERE status = 'failed' LIMIT :most) x
    """
)
