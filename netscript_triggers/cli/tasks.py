"""`tasks`: commands in other languages; listing them, showing one, running it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netscript_triggers.cli.completing import task_ids
from netscript_triggers.cli.jobs import timing
from netscript_triggers.cli.output import AsJson, ProjectDir, load_settings, print_json, print_table
from netscript_triggers.cli.triggering import add_trigger

if TYPE_CHECKING:
    from netscript_workers.settings import Settings
    from netscript_workers.tasks import TaskDefinition

app = typer.Typer(help="Tasks: list them, show or trigger one.", no_args_is_help=True)
add_trigger(app, "task")


@app.command("list")
def list_(project: ProjectDir = Path(), as_json: AsJson = False) -> None:
    """List the project's tasks."""
    settings = load_settings(project)
    shown = [_shown(task) for task in _tasks(settings)]
    if as_json:
        print_json({"tasks": shown, "total": len(shown), "limit": len(shown), "offset": 0})
        return
    print_table(
        ("ID", "RUNTIME", "ENTRYPOINT", "TOPIC", "ATTEMPTS", "TIMEOUT", "PERMISSIONS", "SOURCE"),
        [
            (
                *(t["id"], t["runtime"], t["entrypoint"], t["topic"], t["max_attempts"]),
                *(t["timeout"], "as told" if t["permissions"] else None, t["source"]),
            )
            for t in shown
        ],
        empty=f"There are no tasks in {settings.project_dir / settings.tasks_dir}.",
    )


@app.command()
def show(
    task_id: Annotated[
        str, typer.Argument(help="The task.", show_default=False, autocompletion=task_ids)
    ],
    project: ProjectDir = Path(),
    as_json: AsJson = False,
) -> None:
    """Show a task: what it would run here, and what keeps it from running, if anything does."""
    from netscript_workers.errors import TaskNotFoundError, TaskRefusedError
    from netscript_workers.execution.runners.orders import check_task

    settings = load_settings(project)
    tasks = {task.id: task for task in _tasks(settings)}
    if task_id not in tasks:
        raise TaskNotFoundError(task_id, tasks)
    task = tasks[task_id]
    argv: tuple[str, ...] | None = None
    fault: str | None = None
    try:
        argv = tuple(check_task(task, settings.project_dir))
    except TaskRefusedError as error:
        fault = str(error)
    shown = {**_shown(task), "argv": argv, "fault": fault}
    if as_json:
        print_json(shown)
        return
    width = max(map(len, shown))
    for name, value in shown.items():
        if value not in (None, {}, ()):
            told = shlex.join(value) if name == "argv" and value else value
            typer.echo(f"{name.ljust(width)}  {told}")


def _tasks(settings: Settings) -> list[TaskDefinition[Any]]:
    from netscript_workers.registry import discover_jobs
    from netscript_workers.tasks import TaskDefinition

    found = discover_jobs(settings.project_dir, *settings.folders).values()
    return [one for one in found if isinstance(one, TaskDefinition)]


def _shown(task: TaskDefinition[Any]) -> dict[str, Any]:
    """Tell what a task is; of its environment the names alone, for the values may be secret."""
    from dataclasses import asdict

    granted = None if task.permissions is None else asdict(task.permissions)
    return {
        "id": task.id,
        "name": task.name,
        "runtime": task.runtime,
        "entrypoint": task.entrypoint,
        "args": task.args,
        "env": tuple(task.env),
        "topic": task.topic,
        "priority": task.priority,
        "max_attempts": task.retry.max_attempts,
        "timeout": task.timeout,
        "permissions": granted,
        "limits": asdict(task.limits),
        "enabled": task.enabled,
        **timing(task),
        "source": task.source,
    }
