"""`audit`: who did what over the API. Works on the database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from netscript_triggers.cli.opening import opened
from netscript_triggers.cli.output import AsJson, ProjectDir, print_json, print_table

app = typer.Typer(help="The audit: who did what over the API, and why.", no_args_is_help=True)


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many at most.")] = 50,
    cursor: Annotated[
        str | None,
        typer.Option(help="Go on behind the page that told this one.", show_default=False),
    ] = None,
    project: ProjectDir = Path(),
    as_json: AsJson = False,
) -> None:
    """List who did what, newest first."""
    from netscript_workers.store import audit

    with opened(project) as store, store.read() as conn:
        page = audit.list_audit(conn, limit=limit, cursor=cursor)
    if as_json:
        print_json(page)
        return
    print_table(
        ("AT", "WHO", "ACTION", "SUBJECT", "REASON", "FROM"),
        [
            (
                f"{one.at:%Y-%m-%d %H:%M:%S}Z",
                one.who,
                one.action,
                one.subject,
                one.reason,
                one.address,
            )
            for one in page.entries
        ],
        empty="Nobody has done anything over the API yet.",
    )
    if page.next_cursor:
        typer.echo(f"There are more: --cursor {page.next_cursor}", err=True)
