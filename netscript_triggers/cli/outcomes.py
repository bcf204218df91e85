"""What became of an event: read it, wait for it, tell it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from netscript_triggers.cli.output import clean, load_settings

if TYPE_CHECKING:
    from netscript_triggers.definitions import AnyTrigger
    from netscript_triggers.records import EventDetail
    from netscript_workers.store.engine import Store

_LOOK_SECONDS = 0.1
_ENDED = ("completed", "dead", "deferred")


def tell(detail: EventDetail) -> None:
    """Print what became of an event, for people."""
    event = detail.event
    reason = f" ({event.reason})" if event.reason else ""
    typer.echo(f"{event.id} is {event.status.value}{reason}.")
    if event.error is not None:
        typer.echo(clean(event.error))
    for one in detail.actions:
        typer.echo(f"execution {one.execution_id} of {one.job_id} is {one.status}.")
    if detail.waits_for is not None:
        typer.echo(detail.waits_for.sentence)


def event_detail(store: Store, event_id: str) -> EventDetail:
    """Read an event with all that belongs to it.

    Raises:
        EventNotFoundError: There is none with this id.
    """
    from netscript_triggers.store import queries

    with store.snapshot() as conn:
        return queries.get_whole_event(conn, store.dialect, event_id, now=store.now(conn))


def discovered(project: Path) -> dict[str, AnyTrigger]:
    """Return the project's triggers, without a server."""
    from netscript_triggers.registry import discover_triggers

    settings = load_settings(project)
    # What `memory` accepts is the server's to say.
    return dict(discover_triggers(settings.project_dir, settings.triggers_dir, dev=True))


def follow(store: Store, event_id: str, seconds: float) -> EventDetail:
    """Wait until an event has ended, waits for a time of its own, or the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        detail = event_detail(store, event_id)
        if detail.event.status.value in _ENDED or time.monotonic() >= deadline:
            return detail
        time.sleep(_LOOK_SECONDS)
