"""`jobs`: what can be run, and running it. Works on the database; no server is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from netscript_triggers.cli.output import AsJson, ProjectDir, load_settings, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netscript_workers.domain import IdempotencyMode
    from netscript_workers.jobs import JobDefinition
    from netscript_workers.records import ExecutionRecord
    from netscript_workers.store.engine import Store

app = typer.Typer(help="Jobs: list them, trigger one.", no_args_is_help=True)

_POLL_SECONDS = 0.05


@app.command("list")
def list_(project: ProjectDir = Path(), as_json: AsJson = False) -> None:
    """List the project's jobs."""
    from netscript_workers.registry import discover_jobs

    settings = load_settings(project)
    found = discover_jobs(settings.project_dir, settings.jobs_dir).values()
    shown = [
        {
            "id": job.id,
            "name": job.name,
            "topic": job.topic,
            "priority": job.priority,
            "max_attempts": job.retry.max_attempts,
            "timeout": job.timeout,
            "enabled": job.enabled,
            **_timing(job),
            "source": job.source,
        }
        for job in found
    ]
    if as_json:
        print_json({"jobs": shown, "total": len(shown)})
        return
    print_table(
        ("ID", "TOPIC", "PRIORITY", "ATTEMPTS", "TIMEOUT", "CRON", "NEXT", "SOURCE"),
        [
            (
                *(j["id"], j["topic"], j["priority"], j["max_attempts"], j["timeout"]),
                *(_cron(j), j["next_at"], j["source"]),
            )
            for j in shown
        ],
        empty=f"There are no jobs in {settings.project_dir / settings.jobs_dir}.",
    )


def _timing(job: JobDefinition[Any, Any]) -> dict[str, Any]:
    """Tell when a job runs by itself; a disabled one does not."""
    if job.schedule is None:
        return {"cron": None, "timezone": None, "next_at": None}
    from netscript_workers.clock import to_micros, to_rfc3339
    from netscript_workers.schedules import preview

    upcoming = preview(job.schedule, 1) if job.enabled else []
    next_at = [to_rfc3339(to_micros(one.at)) for one in upcoming]
    times = {"cron": job.schedule.cron, "timezone": job.schedule.timezone}
    return {**times, "next_at": next_at[0] if next_at else None}


def _cron(shown: dict[str, Any]) -> str | None:
    cron, zone = shown["cron"], shown["timezone"]
    return cron if cron is None or zone == "UTC" else f"{cron} {zone}"


@app.command()
def trigger(
    job_id: Annotated[str, typer.Argument(help="The job.", show_default=False)],
    payload: Annotated[str, typer.Option(help="Its payload, as JSON.")] = "{}",
    idempotency_key: Annotated[str | None, typer.Option(show_default=False)] = None,
    concurrency_key: Annotated[str | None, typer.Option(show_default=False)] = None,
    priority: Annotated[int | None, typer.Option(show_default=False)] = None,
    delay: Annotated[float | None, typer.Option(help="Seconds.", show_default=False)] = None,
    idempotency: Annotated[
        str,
        typer.Option(
            help="What becomes of a second one with the same key: once, while_pending, replace or "
            "rerun_if_running."
        ),
    ] = "once",
    max_wait: Annotated[
        float | None,
        typer.Option(help="Seconds that replacing can put it off, at most.", show_default=False),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the result; exit 1 if it failed.")
    ] = False,
    project: ProjectDir = Path(),
    as_json: AsJson = False,
) -> None:
    """Enqueue a job."""
    from netscript_workers.actions import Cause, enqueue_job, resolve
    from netscript_workers.app import HOUR, open_store
    from netscript_workers.domain import TriggeredBy
    from netscript_workers.registry import discover_jobs
    from netscript_workers.store import outbox
    from netscript_workers.store.definitions import StoredCatalog
    from netscript_workers.store.outbox import Submission
    from netscript_workers.store.wake import make_bell

    settings = load_settings(project)
    action = enqueue_job(
        job_id,
        _payload(payload),
        idempotency_key=idempotency_key,
        concurrency_key=concurrency_key,
        priority=priority,
        delay=delay,
        idempotency=cast("IdempotencyMode", idempotency),  # it is checked like any value
        max_wait=max_wait,
    )
    jobs = discover_jobs(settings.project_dir, settings.jobs_dir)
    store = open_store(settings)
    bell = make_bell(store.parsed_url)
    try:
        new = resolve(action, StoredCatalog(store, jobs), Cause(triggered_by=TriggeredBy.API))
        window = round(settings.idempotency_hours * HOUR)
        with store.begin() as conn:
            submission = Submission(executions=(new,))
            (receipt,) = outbox.store(
                conn, store.dialect, [submission], now=store.now(conn), window=window
            )
        bell.ring()
        (enqueued,) = receipt.enqueued
        if enqueued.conflict:
            from netscript_workers.errors import IdempotencyConflictError

            raise IdempotencyConflictError(job_id, idempotency_key or "", enqueued.execution_id)
        if not wait:
            _say(job_id, enqueued.execution_id, duplicate=enqueued.duplicate, as_json=as_json)
            return
        record = _show_until_ended(store, enqueued.execution_id)
        _show_result(record, as_json=as_json)
        raise typer.Exit(0 if record.status == "completed" else 1)
    finally:
        bell.close()
        store.dispose()


def _payload(given: str) -> Any:
    try:
        return json.loads(given)
    except ValueError as error:
        raise typer.BadParameter(f"it is not JSON: {error}", param_hint="--payload") from None


def _say(job_id: str, execution_id: str, *, duplicate: bool, as_json: bool) -> None:
    if as_json:
        print_json({"job_id": job_id, "execution_id": execution_id, "triggered": not duplicate})
    elif duplicate:
        typer.echo(f"{execution_id} was enqueued before, under the same key.")
    else:
        typer.echo(f"{execution_id} is enqueued.")


def _show_until_ended(store: Store, execution_id: str) -> ExecutionRecord:
    """Show how far the execution is, on standard error, until it has ended."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("waits", total=100.0)
        record: ExecutionRecord | None = None
        for record in _until_ended(store, execution_id):
            if record.progress is not None:
                bar.update(task, completed=record.progress.percent)
            message = record.progress.message if record.progress else None
            bar.update(task, description=_escape(message or record.status.value))
    assert record is not None
    return record


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape("".join(char if char.isprintable() else "?" for char in text))


def _until_ended(store: Store, execution_id: str) -> Iterator[ExecutionRecord]:
    import time

    from netscript_workers.domain import FINAL_STATUSES
    from netscript_workers.store import queries

    while True:
        with store.read() as conn:
            record = queries.get_execution_record(conn, execution_id, now=store.now(conn))
        yield record
        if record.status in FINAL_STATUSES:
            return
        time.sleep(_POLL_SECONDS)


def _show_result(record: ExecutionRecord, *, as_json: bool) -> None:
    if as_json:
        print_json(record)
        return
    took = f" in {record.duration_ms:.0f} ms" if record.duration_ms is not None else ""
    typer.echo(f"{record.id} {record.status.value}{took}")
    if record.result is not None:
        typer.echo(json.dumps(record.result))
    if record.error is not None:
        typer.echo(record.error, err=True)
