"""`dev`, `serve`, `worker`, `scheduler`: the processes."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from netscript_triggers.cli.output import ProjectDir, load_settings

if TYPE_CHECKING:
    from netscript_triggers.definitions import AnyTrigger
    from netscript_workers.settings import Settings

LogLevel = Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")]
Host = Annotated[str | None, typer.Option(help="The address to listen at.", show_default=False)]
Port = Annotated[int | None, typer.Option(help="The port to listen at; 8091.", show_default=False)]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Let everybody in, though there are no tokens.")
]
Supervised = Annotated[bool, typer.Option("--supervised", hidden=True)]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the root."""
    app.command()(dev)
    app.command()(serve)
    app.command()(worker)
    app.command()(scheduler)


def dev(
    project: ProjectDir = Path(),
    host: Host = None,
    port: Port = None,
    reload: Annotated[
        bool, typer.Option("--reload/--no-reload", help="Restart when a file changes.")
    ] = True,
    insecure: Insecure = False,
    log_level: LogLevel = "info",
) -> None:
    """Migrate, then run server and worker, restarted when a file changes."""
    from netscript_triggers.cli.environment import inherited
    from netscript_triggers.exposure import bind, check_exposure
    from netscript_triggers.supervisor import supervise
    from netscript_workers.store.migrations import upgrade

    _log(log_level)
    settings = load_settings(project, host=host, port=port)
    check_exposure(settings, insecure=insecure)
    _check_project(settings)
    bind(settings.host, settings.port).close()
    upgrade(settings.url)
    shared = ["--project", str(project), "--log-level", log_level, "--supervised"]
    address = ["--host", settings.host, "--port", str(settings.port)]
    if insecure:
        address.append("--insecure")
    commands = {"serve": ["serve", "--dev", *address, *shared], "worker": ["worker", *shared]}
    watched = settings.project_dir if reload else None
    code = supervise(commands, environment=inherited(), watch=watched)
    raise typer.Exit(code)


def serve(
    project: ProjectDir = Path(),
    host: Host = None,
    port: Port = None,
    accept_memory: Annotated[
        bool, typer.Option("--dev", help='Allow the verifier "memory", which accepts anything.')
    ] = False,
    insecure: Insecure = False,
    log_level: LogLevel = "info",
    supervised: Supervised = False,
) -> None:
    """Serve webhooks and the API; run any number of these."""
    from netscript_triggers.app import run_server
    from netscript_triggers.cli.welcome import welcome
    from netscript_triggers.exposure import check_exposure

    _log(log_level)
    settings = load_settings(project, host=host, port=port)
    if supervised:
        _end_with_parent()

    warning = check_exposure(settings, insecure=insecure)
    if warning is not None:  # whatever the level of the log
        typer.secho(warning, fg="red", err=True)

    def announce(url: str) -> None:
        if supervised:
            welcome(settings, url)
        else:
            typer.echo(f"netscript listens at {url}")

    raise typer.Exit(run_server(settings, dev=accept_memory, insecure=insecure, on_start=announce))


def worker(
    project: ProjectDir = Path(),
    concurrency: Annotated[
        int | None,
        typer.Option(
            help="Executions at a time; 100 in-process, else one per processor.",
            show_default=False,
        ),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            help="Where jobs run: in-process, worker-process or subprocess.", show_default=False
        ),
    ] = None,
    topics: Annotated[
        str | None,
        typer.Option(
            help="Serve these only, and how many of one at a time: a,b:5.", show_default=False
        ),
    ] = None,
    no_scheduler: Annotated[
        bool, typer.Option("--no-scheduler", help="Fire no schedules; others must.")
    ] = False,
    log_level: LogLevel = "info",
    supervised: Supervised = False,
) -> None:
    """Run jobs and fire schedules; run any number of these."""
    from netscript_triggers.registry import discover_triggers
    from netscript_triggers.scheduling import schedules_of
    from netscript_workers.app import run_worker

    _log(log_level)
    settings = load_settings(
        project,
        concurrency=concurrency,
        runtime=runtime,
        topics=topics,
        scheduler=False if no_scheduler else None,
    )
    if supervised:
        _end_with_parent()
    triggers: Mapping[str, AnyTrigger] = {}
    if settings.scheduler:
        # Which verifiers there are is no matter of a worker's.
        triggers = discover_triggers(settings.project_dir, settings.triggers_dir, dev=True)
    raise typer.Exit(run_worker(settings, schedules_of(triggers)))


def scheduler(project: ProjectDir = Path(), log_level: LogLevel = "info") -> None:
    """Fire schedules and run nothing; run any number of these."""
    from netscript_triggers.registry import discover_triggers
    from netscript_triggers.scheduling import schedules_of
    from netscript_workers.app import run_scheduler

    _log(log_level)
    settings = load_settings(project)
    triggers = discover_triggers(settings.project_dir, settings.triggers_dir, dev=True)
    raise typer.Exit(run_scheduler(settings, schedules_of(triggers)))


def _log(level: str) -> None:
    if level not in ("debug", "info", "warning", "error"):
        message = f"{level!r} is none of debug, info, warning, error"
        raise typer.BadParameter(message, param_hint="--log-level")
    logging.basicConfig(
        level=level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )
    # Alembic tells every start which database it looks at.
    for name in ("alembic", "watchfiles"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _check_project(settings: Settings) -> None:
    """Refuse a folder that holds no project, before anything is made in it."""
    from netscript_workers.errors import ConfigurationError

    folders = (settings.jobs_dir, settings.triggers_dir)
    if not any((settings.project_dir / folder).is_dir() for folder in folders):
        raise ConfigurationError(
            f"There is no project in {settings.project_dir}: it has neither {folders[0]}/ nor "
            f"{folders[1]}/.",
            hint="Go to one, or begin one with: netscript init shop",
        )


def _end_with_parent() -> None:
    """End when the supervisor does, even if it was killed: then our standard input ends."""
    import os
    import signal

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="netscript-parent", daemon=True).start()
