"""`executions`: what runs, what ran. Works on the database; no server is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from netscript_triggers.cli import following, operating
from netscript_triggers.cli.completing import execution_ids, job_ids, topic_names
from netscript_triggers.cli.opening import opened
from netscript_triggers.cli.output import AsJson, ProjectDir, print_json, print_table

if TYPE_CHECKING:
    from netscript_workers.records import ExecutionDetail

app = typer.Typer(
    help="Executions: list and follow them, show, explain, retry or cancel some.",
    no_args_is_help=True,
)
operating.add_to(app)
app.command()(following.tail)


@app.command("list")
def list_(
    project: ProjectDir = Path(),
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    cursor: Annotated[
        str | None, typer.Option(help="Go on after a page.", show_default=False)
    ] = None,
    status: operating.Statuses = None,
    job: Annotated[
        str | None,
        typer.Option(help="Of this job only.", show_default=False, autocompletion=job_ids),
    ] = None,
    topic: Annotated[
        str | None, typer.Option(show_default=False, autocompletion=topic_names)
    ] = None,
    reason: Annotated[str | None, typer.Option(show_default=False)] = None,
    correlation_id: operating.Correlation = None,
    since: operating.When = None,
    until: operating.When = None,
    as_json: AsJson = False,
) -> None:
    """List executions, newest first."""
    from netscript_workers.store import queries

    wanted = operating.wanted_from(status, reason, job, topic, correlation_id, since, until)
    with opened(project) as store, store.read() as conn:
        page = queries.list_executions(
            conn, wanted, limit=limit, cursor=cursor, now=store.now(conn)
        )
    if as_json:
        print_json(page)
        return
    print_table(
        ("ID", "JOB", "STATUS", "ATTEMPT", "CREATED", "TOOK MS", "REASON", "ERROR"),
        [
            (
                one.id,
                one.job_id,
                one.status.value,
                f"{one.attempt}/{one.max_attempts}",
                f"{one.created_at:%Y-%m-%d %H:%M:%S}Z",
                None if one.duration_ms is None else round(one.duration_ms),
                one.reason,
                one.error,
            )
            for one in page.executions
        ],
        empty="There are no executions yet. Start one with: netscript jobs trigger JOB",
    )
    if page.next_cursor is not None:
        typer.echo(f"More: --cursor {page.next_cursor}", err=True)


@app.command()
def show(
    execution_id: Annotated[str, typer.Argument(show_default=False, autocompletion=execution_ids)],
    project: ProjectDir = Path(),
    as_json: AsJson = False,
) -> None:
    """Show an execution with its attempts, steps and log lines, and what it waits for."""
    from netscript_workers.records import plain
    from netscript_workers.store import queries

    with opened(project) as store:
        with store.read() as conn:
            detail = queries.get_execution(conn, execution_id, now=store.now(conn))
        told = operating.explanation_of(store, execution_id)
    if as_json:
        print_json({**plain(detail), "explanation": told})
    else:
        _show(detail)
        typer.echo(f"{told.code}: {told.sentence}")


def _show(detail: ExecutionDetail) -> None:
    from netscript_workers.records import plain

    facts = plain(detail.execution)
    for name, value in facts.items():
        if value is not None:
            typer.echo(f"{name:<18}{value if isinstance(value, str) else json.dumps(value)}")
    for step in detail.steps:
        typer.echo(f"step              {step.name}: {json.dumps(step.result)}")
    for one in detail.attempts:
        typer.echo(f"attempt {one.attempt:<10}{one.outcome}: {one.error or ''}")
    for line in detail.logs:
        typer.echo(f"{line.at:%H:%M:%S.%f} {line.level:<8}{line.message}")
