"""`db`: the schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from netscript_triggers.cli.deeds import note
from netscript_triggers.cli.output import AsJson, ProjectDir, load_settings, print_json

app = typer.Typer(help="The database: its schema, and what is past its time.", no_args_is_help=True)


@app.command()
def upgrade(project: ProjectDir = Path(), as_json: AsJson = False) -> None:
    """Bring the database to the schema of this version; safe to run twice and at once."""
    from netscript_workers.store import migrations
    from netscript_workers.store.engine import masked

    settings = load_settings(project)
    migrations.upgrade(settings.url)
    if as_json:
        print_json({"database": masked(settings.url), "revision": migrations.head()})
    else:
        typer.echo(f"{masked(settings.url)} is at revision {migrations.head()}.")


@app.command()
def current(project: ProjectDir = Path(), as_json: AsJson = False) -> None:
    """Show the revision that the database has."""
    from netscript_workers.store import migrations
    from netscript_workers.store.engine import Store

    store = Store(load_settings(project).url)
    try:
        revision = migrations.current(store)
        if as_json:
            print_json({"revision": revision, "newest": migrations.head()})
        else:
            typer.echo(revision or "none")
    finally:
        store.dispose()


@app.command()
def check(project: ProjectDir = Path(), as_json: AsJson = False) -> None:
    """Exit 1 with a sentence unless the database has the schema of this version."""
    from netscript_workers.store import migrations
    from netscript_workers.store.engine import Store

    store = Store(load_settings(project).url)
    try:
        migrations.check(store)
        if as_json:
            print_json({"database": store.url, "revision": migrations.head()})
        else:
            typer.echo(f"{store.url} is up to date (revision {migrations.head()}).")
    finally:
        store.dispose()


_Days = Annotated[
    float | None, typer.Option(min=0, help="Instead of the setting's.", show_default=False)
]


@app.command()
def prune(
    completed_days: _Days = None,
    failed_days: _Days = None,
    project: ProjectDir = Path(),
    as_json: AsJson = False,
) -> None:
    """Forget now what is past NETSCRIPT_RETENTION_DAYS; workers and servers do it bit by bit."""
    from rich.console import Console

    from netscript_triggers.store import retention as events
    from netscript_workers.app import open_store
    from netscript_workers.store import retention

    settings = load_settings(project)
    completed, failed = settings.retention_days
    kept = retention.Retention(
        completed=completed if completed_days is None else completed_days,
        failed=failed if failed_days is None else failed_days,
    )
    store = open_store(settings)
    gone = 0
    try:
        with Console(stderr=True).status("") as status:
            while more := retention.prune(store, kept) + events.prune(store, kept):
                gone += more
                status.update(f"{gone:,} rows")
        note(store, "database.prune", f"{gone:,} rows")
    finally:
        store.dispose()
    if as_json:
        print_json({"rows": gone})
    else:
        typer.echo(f"{gone:,} rows past their time are gone.")
