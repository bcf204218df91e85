"""Topics: pausing and resuming them.

A pause is a row that every claim reads; what it means for concurrency keys happens here, at once.
"""

from __future__ import annotations

from sqlalchemy import text

from netscript_workers.store import admissions, changes
from netscript_workers.store.engine import Store


def pause(store: Store, topic: str) -> None:
    """Have nothing more of a topic claimed.

    Its keyed executions that were about to start wait again, without holding their keys.
    """
    with store.begin() as conn:
        conn.execute(_SET, {"topic": topic, "paused": True})
        changed = admissions.let_pass(conn, store.dialect, topic)
        changes.record(conn, store.dialect, changed, store.now(conn))


def resume(store: Store, topic: str) -> None:
    """Have a topic claimed again."""
    with store.begin() as conn:
        conn.execute(_SET, {"topic": topic, "paused": False})
        admissions.note_topic(conn, topic)


_SET = text(
    """
    INSERT INTO netscript_topics (name, paused) VALUES (:topic, :paused)
    ON CONFLICT (name) DO UPDATE SET paused = excluded.paused
    """
)
