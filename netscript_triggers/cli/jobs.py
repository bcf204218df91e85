"""`jobs`: what can be run, and running it. Works on the database; no server is needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netscript_triggers.cli.completing import job_ids
from netscript_triggers.cli.deeds import note
from netscript_triggers.cli.given import payload_of
from netscript_triggers.cli.output import AsJson, ProjectDir, load_settings, print_json, print_table
from netscript_triggers.cli.waiting import show_result, show_until_ended

if TYPE_CHECKING:
    from netscript_workers.jobs import JobDefinition

app = typer.Typer(help="Jobs: list them, trigger one.", no_args_is_help=True)


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
        print_json({"jobs": shown, "total": len(shown), "limit": len(shown), "offset": 0})
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
    job_id: Annotated[
        str, typer.Argument(help="The job.", show_default=False, autocompletion=job_ids)
    ],
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
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="With --wait: give up after so many seconds, and say why.",
            show_default=False,
        ),
    ] = None,
    project: ProjectDir = Path(),
    as_json: AsJson = False,
) -> None:
    """Enqueue a job."""
    from netscript_workers.actions import Cause, enqueue_job, resolve
    from netscript_workers.app import HOUR, open_store
    from netscript_workers.domain import IDEMPOTENCY_MODES, TriggeredBy
    from netscript_workers.errors import ConfigurationError
    from netscript_workers.registry import discover_jobs
    from netscript_workers.store import outbox
    from netscript_workers.store.definitions import StoredCatalog
    from netscript_workers.store.outbox import Submission
    from netscript_workers.store.wake import make_bell

    if timeout is not None and not wait:
        raise typer.BadParameter("it is for --wait", param_hint="--timeout")
    if idempotency not in IDEMPOTENCY_MODES:
        told = f"use one of {', '.join(IDEMPOTENCY_MODES)}"
        raise typer.BadParameter(told, param_hint="--idempotency")
    settings = load_settings(project)
    try:
        action = enqueue_job(
            job_id,
            payload_of(payload),
            idempotency_key=idempotency_key,
            concurrency_key=concurrency_key,
            priority=priority,
            delay=delay,
            idempotency=idempotency,
            max_wait=max_wait,
        )
    except ConfigurationError as error:  # an option's value can't be meant
        raise typer.BadParameter(str(error)) from None
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
        note(store, "jobs.trigger", job_id)
        if not wait:
            _say(job_id, enqueued.execution_id, duplicate=enqueued.duplicate, as_json=as_json)
            return
        record = show_until_ended(store, enqueued.execution_id, timeout)
        show_result(record, as_json=as_json)
        raise typer.Exit(0 if record.status == "completed" else 1)
    finally:
        bell.close()
        store.dispose()


def _say(job_id: str, execution_id: str, *, duplicate: bool, as_json: bool) -> None:
    if as_json:
        print_json({"job_id": job_id, "execution_id": execution_id, "triggered": not duplicate})
    elif duplicate:
        typer.echo(f"{execution_id} was enqueued before, under the same key.")
    else:
        typer.echo(f"{execution_id} is enqueued.")
