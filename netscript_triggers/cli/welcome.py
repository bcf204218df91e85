"""What `netscript dev` shows once it answers: where things are, and what would not work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from netscript_triggers.definitions import AnyTrigger, WebhookDefinition
    from netscript_workers.jobs import JobDefinition
    from netscript_workers.schedules import Schedule
    from netscript_workers.settings import Settings


def welcome(settings: Settings, url: str) -> None:
    """Print it."""
    from netscript_triggers.registry import discover_triggers
    from netscript_workers.registry import discover_jobs
    from netscript_workers.store.engine import masked

    jobs = discover_jobs(settings.project_dir, settings.jobs_dir)
    triggers = discover_triggers(settings.project_dir, settings.triggers_dir, dev=True)
    typer.echo(f"netscript listens at {url}")
    typer.echo(f"  database  {masked(settings.url)}")
    typer.echo(f"  loaded    {_count(len(triggers), 'trigger')}, {_count(len(jobs), 'job')}")
    lines = [*_triggers(triggers.values()), *_crons(jobs.values())]
    widths = [max(len(line[column]) for line in lines) for column in range(3)] if lines else []
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        typer.echo(f"  {'  '.join([*cells, line[3]])}".rstrip())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _triggers(triggers: Any) -> Iterator[tuple[str, str, str, str]]:
    from netscript_triggers.definitions import (
        QueueDefinition,
        ScheduleDefinition,
        WebhookDefinition,
    )

    trigger: AnyTrigger
    for trigger in triggers:
        if isinstance(trigger, WebhookDefinition):
            where = f"{' '.join(trigger.methods)} {trigger.path}"
            yield where, trigger.id, trigger.verifier.name, _secret(trigger)
        elif isinstance(trigger, ScheduleDefinition):
            yield _clock(trigger.schedule, trigger.id)
        elif isinstance(trigger, QueueDefinition):
            is_set = bool(os.environ.get(trigger.url_env))
            told = trigger.url_env if is_set else f"{trigger.url_env} IS NOT SET"
            yield trigger.queue, trigger.id, trigger.broker, told
        else:
            yield trigger.kind, trigger.id, "", ""


def _secret(webhook: WebhookDefinition[Any]) -> str:
    from netscript_triggers.secrets import secrets_of

    if callable(webhook.secret_env) or not webhook.verifier.needs_secret:
        return ""
    names = ", ".join(webhook.secret_env)
    return names if secrets_of(webhook, os.environ) else f"{names} IS NOT SET"


def _crons(jobs: Any) -> Iterator[tuple[str, str, str, str]]:
    job: JobDefinition[Any, Any]
    for job in jobs:
        if job.schedule is not None and job.enabled:
            yield _clock(job.schedule, job.id)


def _clock(schedule: Schedule, id_: str) -> tuple[str, str, str, str]:
    from netscript_workers.schedules import preview

    upcoming = [f"next {one.at:%Y-%m-%d %H:%M %Z}" for one in preview(schedule, 1)]
    timing = schedule.cron or (f"every {schedule.every:g} s" if schedule.every else "once")
    return timing, id_, schedule.timezone, upcoming[0] if upcoming else "not due any more"
