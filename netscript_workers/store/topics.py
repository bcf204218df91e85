"""Topics: pausing and resuming them, and how many of their executions may start in a time.

A pause and a rate are a row that every claim reads; what a pause means for concurrency keys happens
here, at once.
"""

from __future__ import annotations

from sqlalchemy import text

from netscript_workers.rates import check_rate
from netscript_workers.store import admissions, changes, entrance
from netscript_workers.store.engine import Store


def pause(store: Store, topic: str) -> None:
    """Have nothing more of a topic claimed.

    Its executions that were about to start wait again, without holding their keys and the places
    that others of their job may have.
    """
    with store.begin() as conn:
        conn.execute(_SET, {"topic": topic, "paused": True})
        now = store.now(conn)
        changed = entrance.let_pass(conn, store.dialect, topic, now).changed
        changes.record(conn, store.dialect, changed, now)


def resume(store: Store, topic: str) -> None:
    """Have a topic claimed again."""
    with store.begin() as conn:
        conn.execute(_SET, {"topic": topic, "paused": False})
        admissions.note_topic(conn, topic)


def set_rate(store: Store, topic: str, rate: str | None) -> None:
    """Limit how many attempts of a topic start in a time; None for no limit.

    Args:
        store: Where the topic is.
        topic: Its name.
        rate: Such as `10/s`, `100/m`, `1000/h` or `5/d`.

    Raises:
        ConfigurationError: The rate can't be read.
    """
    check_rate(f'topic "{topic}"', rate)
    with store.begin() as conn:
        conn.execute(_SET_RATE, {"topic": topic, "rate": rate, "no": False})


_SET_RATE = text(
    """
    INSERT INTO netscript_topics (name, paused, rate) VALUES (:topic, :no, :rate)
    ON CONFLICT (name) DO UPDATE SET rate = excluded.rate, rate_from = NULL
    WHERE coalesce(netscript_topics.rate, '') <> coalesce(excluded.rate, '')
    """
)
_SET = text(
    """
    INSERT INTO netscript_topics (name, paused) VALUES (:topic, :paused)
    ON CONFLICT (name) DO UPDATE SET paused = excluded.paused
    """
)
