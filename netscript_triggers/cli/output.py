"""What the commands print: tables for people, JSON for programs, sentences for errors."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netscript_workers.errors import ConfigurationError, NetscriptError

if TYPE_CHECKING:
    from netscript_workers.settings import Settings

ProjectDir = Annotated[
    Path, typer.Option("--project", "-C", help="The project's folder.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def complain(error: NetscriptError) -> None:
    """Print an error as a sentence."""
    typer.echo(f"netscript: {error}", err=True)


def load_settings(project: Path, **flags: Any) -> Settings:
    """Read the project's `.env` and settings; a bad one is wrong usage, exit code 2."""
    from netscript_triggers.cli.environment import load_environment
    from netscript_workers.settings import Settings

    if not project.is_dir():
        typer.echo(f"netscript: there is no folder {project}.", err=True)
        raise typer.Exit(2)
    try:
        load_environment(project)
        with warnings.catch_warnings(record=True) as doubts:
            warnings.simplefilter("always")
            settings = Settings.load(project, **flags)
    except ConfigurationError as error:
        complain(error)
        raise typer.Exit(2) from None
    for doubt in doubts:
        typer.echo(f"netscript: {doubt.message}", err=True)
    return settings


def print_json(value: Any) -> None:
    """Print records as JSON."""
    import json

    from netscript_workers.records import plain

    typer.echo(json.dumps(plain(value), indent=2))


def print_table(titles: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """Print rows in columns, or the sentence for none."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*titles, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*("" if cell is None else clean(cell) for cell in row))
    if not table.row_count:
        typer.echo(empty)
        return
    # A pipe has no width: nothing is cut or wrapped there.
    width = None if sys.stdout.isatty() else 10_000
    console = Console(width=width, markup=False, highlight=False)
    console.print(table)


def clean(cell: Any) -> str:
    """Show control characters as what they are: a terminal must not obey a payload."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(cell))
