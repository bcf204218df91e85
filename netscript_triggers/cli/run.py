"""`dev`, `serve`, `worker`, `scheduler`: the processes."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from netscript_triggers.cli.output import ProjectDir, load_settings

if TYPE_CHECKING:
    from netscript_triggers.definitions import AnyTrigger
    from netscript_workers.settings import Settings

LogLevel = Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")]
LogFormat = Annotated[
    str | None,
    typer.Option("--log-format", help="console or json.", show_default=False),
]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        "--metrics-port", help="Serve a worker's metrics there, at loopback.", show_default=False
    ),
]
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
    log_format: LogFormat = None,
    metrics_port: MetricsPort = None,
) -> None:
    """Migrate, then run server and worker, restarted when a file changes."""
    from netscript_triggers.cli.environment import inherited
    from netscript_triggers.exposure import check_exposure
    from netscript_triggers.supervisor import supervise
    from netscript_workers.store.migrations import upgrade

    settings = load_settings(
        project, host=host, port=port, log_format=log_format, metrics_port=metrics_port
    )
    _log(log_level, settings)
    check_exposure(settings, insecure=insecure)
    upgrade(settings.url)
    shared = ["--project", str(project), "--log-level", log_level, "--supervised"]
    shared += ["--log-format", settings.log_format]
    address = ["--host", settings.host, "--port", str(settings.port)]
    if insecure:
        address.append("--insecure")
    given = [] if settings.metrics_port is None else ["--metrics-port", str(settings.metrics_port)]
    commands = {
        "serve": ["serve", "--dev", *address, *shared],
        "worker": ["worker", *shared, *given],
    }
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
    log_format: LogFormat = None,
    supervised: Supervised = False,
) -> None:
    """Serve webhooks and the API; run any number of these."""
    from netscript_triggers.app import SERVICE, run_server
    from netscript_triggers.cli.welcome import welcome
    from netscript_triggers.exposure import check_exposure
    from netscript_workers.telemetry import exporting

    settings = load_settings(project, host=host, port=port, log_format=log_format)
    _log(log_level, settings)
    if supervised:
        _end_with_parent()

    warning = check_exposure(settings, insecure=insecure)
    if warning is not None:  # whatever the level of the log
        typer.secho(warning, fg="red", err=True)
    exporting.start(SERVICE, scraped=True)

    def announce(url: str) -> None:
        if supervised:
            welcome(settings, url)
        else:
            typer.echo(f"netscript listens at {url}")

    code = run_server(settings, dev=accept_memory, insecure=insecure, on_start=announce)
    exporting.stop()
    raise typer.Exit(code)


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
    metrics_port: MetricsPort = None,
    log_level: LogLevel = "info",
    log_format: LogFormat = None,
    supervised: Supervised = False,
) -> None:
    """Run jobs and fire schedules; run any number of these."""
    from netscript_triggers.registry import discover_triggers
    from netscript_triggers.scheduling import schedules_of
    from netscript_triggers.secrets import learn_secrets
    from netscript_workers.app import WORKER_SERVICE, run_worker

    settings = load_settings(
        project,
        concurrency=concurrency,
        runtime=runtime,
        topics=topics,
        scheduler=False if no_scheduler else None,
        log_format=log_format,
        metrics_port=metrics_port,
    )
    _log(log_level, settings)
    if supervised:
        _end_with_parent()
    triggers: Mapping[str, AnyTrigger] = {}
    if settings.scheduler:
        # Which verifiers there are is no matter of a worker's.
        triggers = discover_triggers(settings.project_dir, settings.triggers_dir, dev=True)
        learn_secrets(triggers.values(), os.environ)
    with _exporting(settings, WORKER_SERVICE):
        code = run_worker(settings, schedules_of(triggers))
    raise typer.Exit(code)


def scheduler(
    project: ProjectDir = Path(),
    metrics_port: MetricsPort = None,
    log_level: LogLevel = "info",
    log_format: LogFormat = None,
) -> None:
    """Fire schedules and run nothing; run any number of these."""
    from netscript_triggers.registry import discover_triggers
    from netscript_triggers.scheduling import schedules_of
    from netscript_triggers.secrets import learn_secrets
    from netscript_workers.app import SCHEDULER_SERVICE, run_scheduler

    settings = load_settings(project, log_format=log_format, metrics_port=metrics_port)
    _log(log_level, settings)
    triggers = discover_triggers(settings.project_dir, settings.triggers_dir, dev=True)
    learn_secrets(triggers.values(), os.environ)
    with _exporting(settings, SCHEDULER_SERVICE):
        code = run_scheduler(settings, schedules_of(triggers))
    raise typer.Exit(code)


@contextmanager
def _exporting(settings: Settings, service: str) -> Generator[None]:
    """Export metrics and logs as long as this lasts, where anybody asks for them."""
    from netscript_workers.telemetry.asking import asks_for

    scraped = settings.metrics_port is not None
    if not (scraped or asks_for("metrics") or asks_for("logs")):
        yield
        return
    from netscript_workers.telemetry import exporting

    exporting.start(service, scraped=scraped)
    yield
    exporting.stop()


def _log(level: str, settings: Settings) -> None:
    from netscript_workers import logs
    from netscript_workers.redaction import redact

    if level not in ("debug", "info", "warning", "error"):
        message = f"{level!r} is none of debug, info, warning, error"
        raise typer.BadParameter(message, param_hint="--log-level")
    redact.learn(settings.secrets)
    logs.set_up(level.upper(), settings.log_format)
    # Alembic tells every start which database it looks at.
    for name in ("alembic", "watchfiles"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _end_with_parent() -> None:
    """End when the supervisor does, even if it was killed: then our standard input ends."""
    import os
    import signal

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="netscript-parent", daemon=True).start()
