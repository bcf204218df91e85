"""Short words that several of the store's tests share."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, event

from netscript_workers import enqueue
from netscript_workers.actions import EnqueueJob
from netscript_workers.store.engine import Store


def no_folder() -> Path:
    """Return where no lifelines are."""
    return Path("/nonexistent")


@contextmanager
def statements_of(store: Store) -> Generator[list[tuple[str, object]]]:
    """Collect the statements that the store sends, with what is bound to them."""
    seen: list[tuple[str, object]] = []

    def note(
        _conn: object, _cursor: object, statement: str, parameters: object, *_: object
    ) -> None:
        seen.append((statement, parameters))

    event.listen(store.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(store.engine, "before_cursor_execute", note)


@contextmanager
def users_transaction(store: Store, *actions: EnqueueJob[Any]) -> Generator[None]:
    """Enqueue as a user does, on a connection of the user's; roll back at the end."""
    engine = create_engine(store.parsed_url)
    try:
        with engine.connect() as conn:
            for action in actions:
                enqueue(conn, action)
            yield
            conn.rollback()
    finally:
        engine.dispose()
