"""Changing executions by hand: retry, cancel, discard; explaining one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from netscript_triggers.cli.bulk import change_all, told
from netscript_triggers.cli.completing import execution_ids, job_ids, topic_names
from netscript_triggers.cli.deeds import Why, described, note
from netscript_triggers.cli.given import payload_of
from netscript_triggers.cli.opening import opened
from netscript_triggers.cli.output import AsJson, ProjectDir, complain, load_settings, print_json
from netscript_workers.errors import NetscriptError

if TYPE_CHECKING:
    from netscript_workers.records import ExecutionDetail, Explanation
    from netscript_workers.store.bulk import Changed
    from netscript_workers.store.engine import Store
    from netscript_workers.store.queries import ExecutionFilter

Word = TypeVar("Word", bound=StrEnum)

Ids = Annotated[
    list[str] | None,
    typer.Argument(help="Executions.", show_default=False, autocompletion=execution_ids),
]
Status = Annotated[str | None, typer.Option(help="All of this status.", show_default=False)]
Job = Annotated[
    str | None, typer.Option(help="All of this job.", show_default=False, autocompletion=job_ids)
]
Topic = Annotated[
    str | None,
    typer.Option(help="All of this topic.", show_default=False, autocompletion=topic_names),
]
Correlation = Annotated[
    str | None, typer.Option("--correlation-id", help="All that one cause led to.")
]
Reason = Annotated[str | None, typer.Option(help="All with this reason.", show_default=False)]
Statuses = Annotated[
    list[str] | None,
    typer.Option(help="Of this status; several, or separated by commas.", show_default=False),
]
When = Annotated[
    datetime | None,
    typer.Option(
        formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"],
        help="In UTC.",
        show_default=False,
    ),
]
All = Annotated[bool, typer.Option("--all", help="Without any other condition.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


def retry(
    ids: Ids = None,
    payload: Annotated[
        str | None,
        typer.Option(
            help="Run the job of one execution with this JSON, as a new execution.",
            show_default=False,
        ),
    ] = None,
    status: Status = None,
    job: Job = None,
    topic: Topic = None,
    correlation_id: Correlation = None,
    reason: Reason = None,
    all_: All = False,
    yes: Yes = False,
    why: Why = None,
    project: ProjectDir = Path(),
    as_json: AsJson = False,
) -> None:
    """Run executions again: failed and cancelled ones by id, or failed ones by a condition."""
    from netscript_workers.store import bulk, retries

    wanted = wanted_from(status, reason, job, topic, correlation_id)
    _check_usage(ids, wanted, everything=all_)
    if payload is not None and (ids is None or len(ids) != 1):
        raise typer.BadParameter("name one execution with it", param_hint="--payload")
    deed = Deed("executions.retry", why)
    with opened(project, rings=True) as store:
        if payload is not None and ids:
            edited = payload_of(payload)
            catalog = _catalog(store, project)
            _each(
                store,
                ids,
                lambda id_: retries.retry_edited(store, id_, edited, catalog),
                "runs again with another payload, as {new}",
                deed,
                as_json=as_json,
            )
        elif ids:
            again = partial(retries.retry, store)
            _each(store, ids, again, "runs again", deed, as_json=as_json)
        else:
            again_all = partial(bulk.retry_many, store, wanted, None)
            changed = change_all(again_all, "Retry {count} executions?", yes=yes)
            note(store, "executions.retry-many", described(wanted), why)
            _say(changed, ("runs again", "run again"), as_json=as_json)


def cancel(
    ids: Ids = None,
    status: Status = None,
    job: Job = None,
    topic: Topic = None,
    correlation_id: Correlation = None,
    reason: Reason = None,
    all_: All = False,
    yes: Yes = False,
    why: Why = None,
    project: ProjectDir = Path(),
    as_json: AsJson = False,
) -> None:
    """Cancel executions that are not finished; those that run are ended by their workers."""
    from netscript_workers.store import bulk, cancelling

    wanted = wanted_from(status, reason, job, topic, correlation_id)
    _check_usage(ids, wanted, everything=all_)
    deed = Deed("executions.cancel", why)
    with opened(project, rings=True) as store:
        if ids:
            end = partial(cancelling.cancel, store)
            _each(store, ids, end, "is {status}", deed, as_json=as_json)
        else:
            end_all = partial(bulk.cancel_many, store, wanted, None)
            changed = change_all(end_all, "Cancel {count} executions?", yes=yes)
            note(store, "executions.cancel-many", described(wanted), why)
            _say(changed, ("is cancelled", "are cancelled"), as_json=as_json)


def discard(
    ids: Annotated[
        list[str],
        typer.Argument(help="Failed executions.", show_default=False, autocompletion=execution_ids),
    ],
    why: Why = None,
    project: ProjectDir = Path(),
    as_json: AsJson = False,
) -> None:
    """Put dead letters away: failed executions become cancelled, and keep their error."""
    from netscript_workers.store import retries

    with opened(project) as store:
        away, deed = partial(retries.discard, store), Deed("executions.discard", why)
        _each(store, ids, away, "is discarded", deed, as_json=as_json)


def explain(
    execution_id: Annotated[
        str, typer.Argument(metavar="EXECUTION", show_default=False, autocompletion=execution_ids)
    ],
    project: ProjectDir = Path(),
    as_json: AsJson = False,
) -> None:
    """Tell what an execution does, what it waits for, or how it ended."""
    with opened(project) as store:
        found = explanation_of(store, execution_id)
    if as_json:
        print_json(found)
    else:
        typer.echo(f"{found.code}: {found.sentence}")


@dataclass(frozen=True, slots=True)
class Deed:
    """What a command does to each of several, as the audit calls it, and why."""

    action: str
    why: str | None


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (retry, cancel, discard, explain):
        app.command()(command)


def explanation_of(store: Store, execution_id: str) -> Explanation:
    """Explain an execution.

    Raises:
        ExecutionNotFoundError: There is none with this id.
    """
    from netscript_workers.store.explain import explain as tell

    with store.snapshot() as conn:
        return tell(conn, store.dialect, execution_id, now=store.now(conn))


def wanted_from(
    status: str | Sequence[str] | None,
    reason: str | None,
    job: str | None,
    topic: str | None,
    correlation_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> ExecutionFilter:
    """Return the filter that options ask for; a wrong word is wrong usage."""
    from netscript_workers.domain import ExecutionStatus
    from netscript_workers.domain import Reason as Reasons
    from netscript_workers.store.queries import ExecutionFilter

    statuses = [status] if isinstance(status, str) else status
    return ExecutionFilter(
        statuses=words_of(ExecutionStatus, statuses, "status"),
        reason=None if reason is None else Reasons(one_of(Reasons, reason, "reason")),
        job_id=job,
        topic=topic,
        correlation_id=correlation_id,
        created_after=micros_of(since),
        created_before=micros_of(until),
    )


def words_of(known: type[Word], given: Sequence[str] | None, option: str) -> tuple[Word, ...]:
    """Return words of an enum, which may be repeated or separated by commas."""
    words = [word for one in given or () for word in one.split(",")]
    return tuple(dict.fromkeys(known(one_of(known, word, option)) for word in words))


def micros_of(when: datetime | None) -> int | None:
    """Return an instant in UTC as microseconds since the epoch."""
    from netscript_workers.clock import to_micros

    return None if when is None else to_micros(when)


def one_of(known: Any, given: str, option: str) -> str:
    """Return a word if it is one of an enum's; else it is wrong usage."""
    words = [one.value for one in known]
    if given not in words:
        raise typer.BadParameter(f"use one of {', '.join(words)}", param_hint=f"--{option}")
    return given


def _check_usage(ids: Sequence[str] | None, wanted: ExecutionFilter, *, everything: bool) -> None:
    if ids and (everything or not wanted.is_empty):
        raise typer.BadParameter("name executions, or give conditions, but not both")
    if not (ids or everything) and wanted.is_empty:
        raise typer.BadParameter("name executions, give a condition such as --job, or say --all")


def _catalog(store: Store, project: Path) -> Any:
    from netscript_workers.registry import discover_jobs
    from netscript_workers.store.definitions import StoredCatalog

    settings = load_settings(project)
    return StoredCatalog(store, discover_jobs(settings.project_dir, *settings.folders))


def _each(
    store: Store,
    ids: Sequence[str],
    change: Callable[[str], str | None],
    done: str,
    deed: Deed,
    *,
    as_json: bool,
) -> None:
    """Change executions one by one and say what became of each; exit 1 if one was refused."""
    from netscript_workers.records import plain
    from netscript_workers.store import queries

    changed: list[ExecutionDetail] = []
    refused: list[dict[str, str]] = []
    for id_ in ids:
        try:
            new = change(id_)
        except NetscriptError as error:
            refused.append({"id": id_, "code": error.code, "error": str(error)})
            complain(error)
            continue
        note(store, deed.action, id_, deed.why)
        with store.read() as conn:
            detail = queries.get_execution(conn, new or id_, now=store.now(conn))
        changed.append(detail)
        if not as_json:
            status = detail.execution.status.value
            asked = detail.execution.cancel_requested
            shown = "running, and its worker has been asked to end it" if asked else status
            typer.echo(f"{id_} {done.format(new=new, status=shown)}.")
    if as_json:
        print_json({"executions": plain(changed), "errors": refused})
    if refused:
        raise typer.Exit(1)


def _say(changed: Changed, done: tuple[str, str], *, as_json: bool) -> None:
    if as_json:
        print_json(changed)
    else:
        typer.echo(told(changed, "execution", *done, "changed"))
