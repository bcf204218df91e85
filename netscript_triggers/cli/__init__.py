"""The `netscript` command. Commands import what they need when they run: help must be quick."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from netscript_triggers.cli import (
    audit,
    database,
    doctor,
    events,
    executions,
    jobs,
    operating,
    project,
    run,
    tasks,
    topics,
    triggers,
    verify,
    workers,
)
from netscript_triggers.cli.given import check_text
from netscript_triggers.cli.output import complain
from netscript_triggers.complaints import hand_over
from netscript_workers.errors import NetscriptError, StoreUnavailableError

app = typer.Typer(
    name="netscript",
    help="Webhooks, schedules and messages become durable Python jobs.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
project.add_to(app)
run.add_to(app)
app.add_typer(database.app, name="db")
app.add_typer(jobs.app, name="jobs")
app.add_typer(tasks.app, name="tasks")
app.add_typer(executions.app, name="executions")
app.add_typer(triggers.app, name="triggers")
app.add_typer(events.app, name="events")
app.add_typer(topics.app, name="topics")
app.add_typer(workers.app, name="workers")
app.add_typer(audit.app, name="audit")
app.command()(doctor.doctor)
app.command()(operating.explain)
app.command()(verify.verify)


def _show_version(wanted: bool) -> None:
    if wanted:
        from netscript_workers import __version__

        typer.echo(f"netscript {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Take the options that come before the command."""
    check_text(sys.argv[1:])


def main() -> None:
    """Run the command; what goes wrong is a sentence and an exit code, never a traceback."""
    try:
        app()
    except NetscriptError as error:
        if not hand_over(error):
            complain(error)
        sys.exit(1)
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not type(error).__module__.startswith("sqlalchemy."):
            raise
        # The class alone: a driver's message may carry a statement's values.
        cause = type(getattr(error, "orig", None) or error).__name__
        complain(StoreUnavailableError(f"The database does not answer ({cause})."))
        sys.exit(1)
