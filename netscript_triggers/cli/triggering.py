"""`jobs trigger` and `tasks trigger`. They work on the database; no server is needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netscript_triggers.cli.completing import job_ids_or_task_ids
from netscript_triggers.cli.deeds import note
from netscript_triggers.cli.given import payload_of
from netscript_triggers.cli.output import AsJson, ProjectDir, load_settings, print_json
from netscript_triggers.cli.waiting import show_result, show_until_ended

if TYPE_CHECKING:
    from netscript_workers.actions import EnqueueJob
    from netscript_workers.domain import ExecutionKind, NewExecution
    from netscript_workers.store.definitions import StoredCatalog


def add_trigger(app: typer.Typer, kind: ExecutionKind) -> None:
    """Add the command that enqueues a job, or a task."""

    def trigger(
        id_: Annotated[
            str,
            typer.Argument(metavar="ID", show_default=False, autocompletion=job_ids_or_task_ids),
        ],
        payload: Annotated[str, typer.Option(help="Its payload, as JSON.")] = "{}",
        idempotency_key: Annotated[str | None, typer.Option(show_default=False)] = None,
        concurrency_key: Annotated[str | None, typer.Option(show_default=False)] = None,
        priority: Annotated[int | None, typer.Option(show_default=False)] = None,
        delay: Annotated[float | None, typer.Option(help="Seconds.", show_default=False)] = None,
        idempotency: Annotated[
            str,
            typer.Option(
                help="What becomes of a second one with the same key: once, while_pending, "
                "replace or rerun_if_running."
            ),
        ] = "once",
        max_wait: Annotated[
            float | None,
            typer.Option(
                help="Seconds that replacing can put it off, at most.", show_default=False
            ),
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
        from netscript_workers.actions import enqueue_job
        from netscript_workers.app import HOUR, open_store
        from netscript_workers.domain import IDEMPOTENCY_MODES
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
                id_,
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
        jobs = discover_jobs(settings.project_dir, *settings.folders)
        store = open_store(settings)
        bell = make_bell(store.parsed_url)
        try:
            new = _resolve(action, StoredCatalog(store, jobs), kind)
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

                raise IdempotencyConflictError(id_, idempotency_key or "", enqueued.execution_id)
            note(store, f"{kind}s.trigger", id_)
            if not wait:
                _say(id_, enqueued.execution_id, duplicate=enqueued.duplicate, as_json=as_json)
                return
            record = show_until_ended(store, enqueued.execution_id, timeout)
            show_result(record, as_json=as_json)
            raise typer.Exit(0 if record.status == "completed" else 1)
        finally:
            bell.close()
            store.dispose()

    app.command(help=f"Enqueue a {kind}.")(trigger)


def _resolve(action: EnqueueJob[Any], catalog: StoredCatalog, kind: ExecutionKind) -> NewExecution:
    """Turn an action into an execution, of a job or of a task, whichever was asked for."""
    from netscript_workers.actions import Cause, resolve
    from netscript_workers.domain import TriggeredBy
    from netscript_workers.errors import JobNotFoundError, TaskNotFoundError

    id_ = action.job_id
    error = TaskNotFoundError if kind == "task" else JobNotFoundError
    try:
        new = resolve(action, catalog, Cause(triggered_by=TriggeredBy.API))
    except JobNotFoundError as missing:
        raise error(id_, () if missing.nearest is None else [missing.nearest]) from None
    if new.kind != kind:
        found = error(id_)
        found.hint = f"It is a {new.kind}: netscript {new.kind}s trigger {id_}"
        raise found
    return new


def _say(job_id: str, execution_id: str, *, duplicate: bool, as_json: bool) -> None:
    if as_json:
        print_json({"job_id": job_id, "execution_id": execution_id, "triggered": not duplicate})
    elif duplicate:
        typer.echo(f"{execution_id} was enqueued before, under the same key.")
    else:
        typer.echo(f"{execution_id} is enqueued.")
