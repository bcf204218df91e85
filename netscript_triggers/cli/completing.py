"""What the shell offers when Tab is pressed: the ids that this project and its database know."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import typer

if TYPE_CHECKING:
    from netscript_workers.settings import Settings
    from netscript_workers.store.engine import Store

Completion: TypeAlias = Callable[[typer.Context, str], list[str]]

_OFFERED = 50


def job_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the project's jobs."""
    return _offered(_jobs, ctx, incomplete)


def task_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the project's tasks."""
    return _offered(_tasks, ctx, incomplete)


def job_ids_or_task_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer jobs below the command `jobs`, and tasks below `tasks`."""
    is_tasks = ctx.parent is not None and ctx.parent.info_name == "tasks"
    return _offered(_tasks if is_tasks else _jobs, ctx, incomplete)


def trigger_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the project's triggers."""
    return _offered(_triggers, ctx, incomplete)


def topic_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the topics in use."""
    return _offered(_topics, ctx, incomplete)


def execution_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the newest executions."""
    return _offered(_executions, ctx, incomplete)


def event_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the newest events."""
    return _offered(_events, ctx, incomplete)


def worker_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the workers."""
    return _offered(_workers, ctx, incomplete)


def words(*known: str) -> Completion:
    """Return what offers some of these words."""

    def offer(ctx: typer.Context, incomplete: str) -> list[str]:
        return [word for word in known if word.startswith(incomplete)]

    return offer


def _offered(
    known: Callable[[Settings], Iterable[str]], ctx: typer.Context, incomplete: str
) -> list[str]:
    from netscript_triggers.cli.environment import load_environment
    from netscript_workers.settings import Settings

    place = Path(ctx.params.get("project") or ".")
    try:
        load_environment(place)
        found = [one for one in known(Settings.load(place)) if one.startswith(incomplete)]
    except Exception:  # noqa: BLE001 - a half-typed line is no place for what is wrong elsewhere
        return []
    return sorted(found)[:_OFFERED]


def _jobs(settings: Settings) -> Iterable[str]:
    from netscript_workers.registry import discover_jobs

    found = discover_jobs(settings.project_dir, *settings.folders)
    return [id_ for id_, one in found.items() if one.kind == "job"]


def _tasks(settings: Settings) -> Iterable[str]:
    from netscript_workers.registry import discover_jobs

    found = discover_jobs(settings.project_dir, *settings.folders)
    return [id_ for id_, one in found.items() if one.kind == "task"]


def _triggers(settings: Settings) -> Iterable[str]:
    from netscript_triggers.registry import discover_triggers

    return discover_triggers(settings.project_dir, settings.triggers_dir, dev=True)


def _topics(settings: Settings) -> Iterable[str]:
    from netscript_workers.store import depths

    def read(store: Store, conn: Any) -> list[str]:
        return [one.name for one in depths.list_topics(conn, store.dialect, store.now(conn)).topics]

    return _read(settings, read)


def _executions(settings: Settings) -> Iterable[str]:
    from netscript_workers.store import queries

    def read(store: Store, conn: Any) -> list[str]:
        wanted = queries.ExecutionFilter()
        page = queries.list_executions(conn, wanted, limit=_OFFERED, now=store.now(conn))
        return [one.id for one in page.executions]

    return _read(settings, read)


def _events(settings: Settings) -> Iterable[str]:
    from netscript_triggers.store import queries
    from netscript_triggers.store.replays import EventFilter

    def read(store: Store, conn: Any) -> list[str]:
        page = queries.list_events(conn, EventFilter(), limit=_OFFERED)
        return [one.id for one in page.events]

    return _read(settings, read)


def _workers(settings: Settings) -> Iterable[str]:
    from netscript_workers.store import presence

    def read(store: Store, conn: Any) -> list[str]:
        return [one.id for one in presence.list_workers(conn, store.now(conn)).workers]

    return _read(settings, read)


def _read(settings: Settings, read: Callable[[Store, Any], list[str]]) -> list[str]:
    from netscript_workers.app import open_store

    store = open_store(settings)
    try:
        with store.snapshot() as conn:
            return read(store, conn)
    finally:
        store.dispose()
