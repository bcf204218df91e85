"""`jobs`: what can be run, and running it. Works on the database; no server is needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from netscript_triggers.cli.output import AsJson, ProjectDir, load_settings, print_json, print_table
from netscript_triggers.cli.triggering import add_trigger

if TYPE_CHECKING:
    from netscript_workers.jobs import JobDefinition

app = typer.Typer(help="Jobs: list them, trigger one.", no_args_is_help=True)
add_trigger(app, "job")


@app.command("list")
def list_(project: ProjectDir = Path(), as_json: AsJson = False) -> None:
    """List the project's jobs."""
    from netscript_workers.registry import discover_jobs

    settings = load_settings(project)
    defined = discover_jobs(settings.project_dir, *settings.folders).values()
    shown = [
        {
            "id": job.id,
            "name": job.name,
            "topic": job.topic,
            "priority": job.priority,
            "max_attempts": job.retry.max_attempts,
            "timeout": job.timeout,
            "enabled": job.enabled,
            **timing(job),
            "source": job.source,
        }
        for job in defined
        if job.kind == "job"
    ]
    if as_json:
        print_json({"jobs": shown, "total": len(shown), "limit": len(shown), "offset": 0})
        return
    print_table(
        ("ID", "TOPIC", "PRIORITY", "ATTEMPTS", "TIMEOUT", "CRON", "NEXT", "SOURCE"),
        [
            (
                *(j["id"], j["topic"], j["priority"], j["max_attempts"], j["timeout"]),
                *(cron_of(j), j["next_at"], j["source"]),
            )
            for j in shown
        ],
        empty=f"There are no jobs in {settings.project_dir / settings.jobs_dir}.",
    )


def timing(job: JobDefinition[Any, Any]) -> dict[str, Any]:
    """Tell when a job runs by itself; a disabled one does not."""
    if job.schedule is None:
        return {"cron": None, "timezone": None, "next_at": None}
    from netscript_workers.clock import to_micros, to_rfc3339
    from netscript_workers.schedules import preview

    upcoming = preview(job.schedule, 1) if job.enabled else []
    next_at = [to_rfc3339(to_micros(one.at)) for one in upcoming]
    times = {"cron": job.schedule.cron, "timezone": job.schedule.timezone}
    return {**times, "next_at": next_at[0] if next_at else None}


def cron_of(shown: dict[str, Any]) -> str | None:
    """Say a schedule in one cell of a table."""
    cron, zone = shown["cron"], shown["timezone"]
    return cron if cron is None or zone == "UTC" else f"{cron} {zone}"
