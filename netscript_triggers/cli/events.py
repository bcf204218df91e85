"""`events`: what has come in, and running some of it again. Works on the database."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netscript_triggers.cli.bulk import change_all, told
from netscript_triggers.cli.completing import event_ids, trigger_ids
from netscript_triggers.cli.deeds import described, note
from netscript_triggers.cli.given import json_of
from netscript_triggers.cli.opening import opened
from netscript_triggers.cli.operating import Statuses, When, micros_of, one_of, words_of
from netscript_triggers.cli.outcomes import discovered, event_detail, tell
from netscript_triggers.cli.output import (
    AsJson,
    ProjectDir,
    clean,
    complain,
    print_json,
    print_table,
)
from netscript_workers.errors import NetscriptError

if TYPE_CHECKING:
    from netscript_triggers.records import EventDetail
    from netscript_triggers.store.replays import EventFilter
    from netscript_workers.store.engine import Store

app = typer.Typer(help="Events: list them, show one, replay some.", no_args_is_help=True)

Trigger = Annotated[
    str | None,
    typer.Option(help="Of this trigger.", show_default=False, autocompletion=trigger_ids),
]
Status = Annotated[str | None, typer.Option(help="Of this status.", show_default=False)]


@app.command("list")
def list_(
    project: ProjectDir = Path(),
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    cursor: Annotated[
        str | None, typer.Option(help="Go on after a page.", show_default=False)
    ] = None,
    trigger: Trigger = None,
    status: Statuses = None,
    event_type: Annotated[
        str | None, typer.Option("--type", help="Of this type.", show_default=False)
    ] = None,
    since: When = None,
    until: When = None,
    as_json: AsJson = False,
) -> None:
    """List events, newest first; dead letters are those that are `dead`."""
    from netscript_triggers.events import EventStatus
    from netscript_triggers.store import queries
    from netscript_triggers.store.replays import EventFilter

    wanted = EventFilter(
        statuses=words_of(EventStatus, status, "status"),
        trigger_id=trigger,
        event_type=event_type,
        received_after=micros_of(since),
        received_before=micros_of(until),
    )
    with opened(project) as store, store.read() as conn:
        page = queries.list_events(conn, wanted, limit=limit, cursor=cursor)
    if as_json:
        print_json(page)
        return
    print_table(
        ("ID", "TRIGGER", "TYPE", "STATUS", "ATTEMPT", "RECEIVED", "EXECUTIONS", "REASON", "ERROR"),
        [
            (
                one.id,
                one.trigger_id,
                one.event_type,
                one.status.value,
                one.attempt,
                f"{one.received_at:%Y-%m-%d %H:%M:%S}Z",
                len(one.executions),
                one.reason,
                one.error,
            )
            for one in page.events
        ],
        empty="There are no events yet. Make one with: netscript triggers fire TRIGGER",
    )
    if page.next_cursor is not None:
        typer.echo(f"More: --cursor {page.next_cursor}", err=True)


@app.command()
def show(
    event_id: Annotated[
        str, typer.Argument(metavar="EVENT", show_default=False, autocompletion=event_ids)
    ],
    project: ProjectDir = Path(),
    as_json: AsJson = False,
) -> None:
    """Show an event with its payload, what it has led to, its failures and its replays."""
    from netscript_triggers.records import whole

    with opened(project) as store:
        detail = event_detail(store, event_id)
    facts = whole(detail)
    if as_json:
        print_json(facts)
        return
    for name in ("actions", "failures", "replayed_as", "waits_for", "body"):
        facts.pop(name)
    if facts["payload"] is None:
        facts["payload"] = detail.body
    for name, value in facts.items():
        if value is not None:
            typer.echo(f"{name:<18}{clean(value if isinstance(value, str) else json.dumps(value))}")
    _show_story(detail)


def _show_story(detail: EventDetail) -> None:
    for one in detail.actions:
        typer.echo(f"execution         {one.execution_id} of {one.job_id}: {one.status}")
    for failed in detail.failures:
        typer.echo(f"attempt {failed.attempt:<10}{failed.at:%H:%M:%S}Z {clean(failed.error)}")
    for id_ in detail.replayed_as:
        typer.echo(f"replayed as       {id_}")
    if detail.waits_for is not None:
        typer.echo(f"{detail.waits_for.code}: {detail.waits_for.sentence}")


@app.command()
def replay(
    ids: Annotated[
        list[str] | None,
        typer.Argument(help="Events.", show_default=False, autocompletion=event_ids),
    ] = None,
    payload: Annotated[
        str | None,
        typer.Option(help="Run one event with this JSON, as a new event.", show_default=False),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="As new events, which enqueue anew.")
    ] = False,
    reason: Annotated[
        str | None, typer.Option(help="Why, in your words.", show_default=False)
    ] = None,
    trigger: Trigger = None,
    status: Status = None,
    event_type: Annotated[
        str | None, typer.Option("--type", help="Of this type.", show_default=False)
    ] = None,
    since: When = None,
    until: When = None,
    all_: Annotated[bool, typer.Option("--all", help="Without any other condition.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    project: ProjectDir = Path(),
    as_json: AsJson = False,
) -> None:
    """Run events again: by id, or by conditions those that are dead (or of another status)."""
    from netscript_triggers.store import replays

    wanted = _wanted(trigger, status, event_type, since, until)
    _check_usage(ids, wanted, everything=all_)
    if payload is not None and (ids is None or len(ids) != 1):
        raise typer.BadParameter("name one event with it", param_hint="--payload")
    value = None if payload is None else json_of(payload)
    if payload is not None and value is None:
        raise typer.BadParameter("it must not be null", param_hint="--payload")
    with opened(project) as store:
        if ids:
            _each(store, project, ids, value, force=force, reason=reason, as_json=as_json)
            return
        again = partial(replays.replay_many, store, wanted, force=force, note=reason)
        changed = change_all(lambda bounds: again(bounds=bounds), "Replay {count} events?", yes=yes)
        note(store, "events.replay-many", described(wanted), reason)
    if as_json:
        print_json(changed)
    else:
        typer.echo(told(changed, "event", "runs again", "run again", "replayed"))


def _wanted(
    trigger: str | None,
    status: str | None,
    event_type: str | None,
    since: datetime | None,
    until: datetime | None,
) -> EventFilter:
    from netscript_triggers.events import EventStatus
    from netscript_triggers.store.replays import REPLAYABLE, EventFilter

    word = None if status is None else EventStatus(one_of(EventStatus, status, "status"))
    if word is not None and word not in REPLAYABLE:
        told = f"use one of {', '.join(REPLAYABLE)}: others run by themselves"
        raise typer.BadParameter(told, param_hint="--status")
    return EventFilter(
        statuses=() if word is None else (word,),
        trigger_id=trigger,
        event_type=event_type,
        received_after=micros_of(since),
        received_before=micros_of(until),
    )


def _check_usage(ids: Sequence[str] | None, wanted: EventFilter, *, everything: bool) -> None:
    if ids and (everything or not wanted.is_empty):
        raise typer.BadParameter("name events, or give conditions, but not both")
    if not (ids or everything) and wanted.is_empty:
        raise typer.BadParameter("name events, give a condition such as --trigger, or say --all")


def _each(
    store: Store,
    project: Path,
    ids: Sequence[str],
    payload: Any,
    *,
    force: bool,
    reason: str | None,
    as_json: bool,
) -> None:
    """Replay events one by one and say what became of each; exit 1 if one was refused."""
    from netscript_triggers.records import whole

    done: list[dict[str, Any]] = []
    refused: list[dict[str, str]] = []
    for id_ in ids:
        try:
            new = _replay_one(store, project, id_, payload, force=force, reason=reason)
        except NetscriptError as error:
            refused.append({"id": id_, "code": error.code, "error": str(error)})
            complain(error)
            continue
        note(store, "events.replay", id_, reason)
        detail = event_detail(store, new)
        done.append(whole(detail))
        if not as_json:
            typer.echo(f"{id_} runs again{'' if new == id_ else f' as {new}'}.")
            tell(detail)
    if as_json:
        print_json({"events": done, "errors": refused})
    if refused:
        raise typer.Exit(1)


def _replay_one(
    store: Store, project: Path, event_id: str, payload: Any, *, force: bool, reason: str | None
) -> str:
    from netscript_triggers.firing import check_payload
    from netscript_triggers.store import queries, replays
    from netscript_triggers.store.triggers import get_trigger

    if payload is None:
        if force:
            return replays.replay_as_new(store, event_id, note=reason)
        return replays.replay(store, event_id, note=reason)
    with store.read() as conn:
        trigger_id = queries.get_event(conn, event_id).event.trigger_id
        record = get_trigger(conn, trigger_id, now=store.now(conn))
    body = check_payload(record, discovered(project), payload)
    return replays.replay_as_new(store, event_id, body=body, note=reason)
