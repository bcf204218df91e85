"""`init`, `add`, `secrets`: beginning a project, and going on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from netscript_triggers.cli.completing import words
from netscript_triggers.cli.output import AsJson, ProjectDir, load_settings, print_json

secrets = typer.Typer(help="Secrets for senders and for the API.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add the commands to the root."""
    app.command()(init)
    app.command()(add)
    app.add_typer(secrets, name="secrets")


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where; by default here.", show_default=False)
    ] = Path(),
    bare: Annotated[
        bool, typer.Option("--bare", help="Without tests, samples and what deploys it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a project that runs; what is in the folder already is kept."""
    from netscript_triggers.scaffold import write_project

    try:
        written = write_project(folder, bare=bare)
    except OSError as error:
        typer.echo(f"netscript: {folder} can't be written: {error.strerror}.", err=True)
        raise typer.Exit(1) from None
    if as_json:
        print_json({"project": str(folder.absolute()), "made": written.made, "kept": written.kept})
        return
    for path in written.made:
        typer.echo(f"  made  {path}")
    for path in written.kept:
        typer.echo(f"  kept  {path}")
    typer.echo("\nNext:")
    if folder.absolute() != Path.cwd():
        typer.echo(f"  cd {folder}")
    typer.echo("  netscript dev")
    typer.echo(
        "  netscript triggers test payment-webhook "
        """--payload '{"orderId": "o-1", "amountCents": 1200}'"""
    )


def add(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            autocompletion=words("job", "webhook", "schedule", "queue", "file-watch", "manual"),
            help="job, webhook, schedule, queue, file-watch or manual.",
            show_default=False,
        ),
    ],
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="As in send-receipt.", show_default=False)
    ],
    project: ProjectDir = Path(),
    as_json: AsJson = False,
) -> None:
    """Write a job or a trigger to go on from, and tell what sets it off."""
    from netscript_triggers.scaffold import PARTS, write_part

    settings = load_settings(project)
    part = PARTS.get(kind)
    folder = project / (getattr(settings, part.folder) if part else "")
    path, made = write_part(kind, name, folder)
    fired = PARTS[kind].fired.format(id=made)
    if as_json:
        print_json({"id": made, "path": str(path), "fire": fired})
        return
    typer.echo(f"made {path}")
    if kind == "webhook":
        variable = f"{path.stem.upper()}_SECRET"
        typer.echo(f'its secret:  echo "{variable}=$(netscript secrets new)" >> .env')
    typer.echo(f"set it off:  {fired}")


@secrets.command("new")
def new_secret(
    standard: Annotated[
        bool,
        typer.Option("--standard", help="As Standard Webhooks and Svix write it: whsec_…"),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print a strong secret of 256 bits."""
    from netscript_triggers.scaffold import SECRET_BYTES, new_secret

    secret = new_secret()
    if standard:
        import base64
        import secrets as source

        secret = f"whsec_{base64.b64encode(source.token_bytes(SECRET_BYTES)).decode()}"
    if as_json:
        print_json({"secret": secret})
    else:
        typer.echo(secret)
