"""`db`: the schema."""

from __future__ import annotations

from pathlib import Path

import typer

from netscript_triggers.cli.output import ProjectDir, load_settings

app = typer.Typer(help="The database's schema.", no_args_is_help=True)


@app.command()
def upgrade(project: ProjectDir = Path()) -> None:
    """Bring the database to the schema of this version; safe to run twice and at once."""
    from netscript_workers.store import migrations
    from netscript_workers.store.engine import masked

    settings = load_settings(project)
    migrations.upgrade(settings.url)
    typer.echo(f"{masked(settings.url)} is at revision {migrations.head()}.")


@app.command()
def current(project: ProjectDir = Path()) -> None:
    """Show the revision that the database has."""
    from netscript_workers.store import migrations
    from netscript_workers.store.engine import Store

    store = Store(load_settings(project).url)
    try:
        typer.echo(migrations.current(store) or "none")
    finally:
        store.dispose()


@app.command()
def check(project: ProjectDir = Path()) -> None:
    """Exit 1 with a sentence unless the database has the schema of this version."""
    from netscript_workers.store import migrations
    from netscript_workers.store.engine import Store

    store = Store(load_settings(project).url)
    try:
        migrations.check(store)
        typer.echo(f"{store.url} is up to date (revision {migrations.head()}).")
    finally:
        store.dispose()
