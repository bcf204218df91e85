"""`triggers`: what makes events; firing one, testing a webhook, switching one on and off."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netscript_triggers.cli.completing import trigger_ids
from netscript_triggers.cli.deeds import Why, note
from netscript_triggers.cli.delivering import deliver
from netscript_triggers.cli.given import json_of
from netscript_triggers.cli.opening import opened
from netscript_triggers.cli.outcomes import discovered, follow, tell
from netscript_triggers.cli.output import (
    AsJson,
    ProjectDir,
    clean,
    load_settings,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from netscript_triggers.definitions import AnyTrigger
    from netscript_triggers.records import TriggerRecord
    from netscript_workers.store.engine import Store

app = typer.Typer(
    help="Triggers: list them, fire one, test a webhook, enable or disable one.",
    no_args_is_help=True,
)

Id = Annotated[
    str, typer.Argument(metavar="TRIGGER", show_default=False, autocompletion=trigger_ids)
]
Payload = Annotated[str, typer.Option(help="The payload, as JSON.")]

app.command("test")(deliver)


@app.command("list")
def list_(
    project: ProjectDir = Path(),
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 200,
    as_json: AsJson = False,
) -> None:
    """List the triggers that servers have registered."""
    from netscript_triggers.records import shown
    from netscript_triggers.store import triggers

    with opened(project) as store, store.read() as conn:
        found, total = triggers.list_triggers(conn, limit=limit, offset=0, now=store.now(conn))
    if as_json:
        page = [shown(one) for one in found]
        print_json({"triggers": page, "total": total, "limit": limit, "offset": 0})
        return
    print_table(
        ("ID", "KIND", "WHERE", "DISPATCH", "ENABLED", "CIRCUIT", "SOURCE"),
        [
            (
                one.id,
                one.kind,
                _where(one.definition),
                one.definition["dispatch"],
                "yes" if one.enabled else "no",
                one.circuit.state,
                one.source,
            )
            for one in found
        ],
        empty="There are no triggers yet. A server registers them when it starts: netscript serve",
    )
    if total > len(found):
        typer.echo(f"{total - len(found)} more: --limit {total}", err=True)


@app.command()
def show(trigger_id: Id, project: ProjectDir = Path(), as_json: AsJson = False) -> None:
    """Show a trigger, whether it is enabled, and how its circuit stands."""
    with opened(project) as store:
        _show(_record(store, trigger_id), as_json=as_json)


@app.command()
def enable(
    trigger_id: Id, why: Why = None, project: ProjectDir = Path(), as_json: AsJson = False
) -> None:
    """Enable a trigger and close its circuit; servers know within about a second."""
    _switch(trigger_id, project, why, enabled=True, as_json=as_json)


@app.command()
def disable(
    trigger_id: Id, why: Why = None, project: ProjectDir = Path(), as_json: AsJson = False
) -> None:
    """Disable a trigger: a webhook is as if it was not there, and its events wait."""
    _switch(trigger_id, project, why, enabled=False, as_json=as_json)


@app.command()
def fire(
    trigger_id: Id,
    payload: Payload = "{}",
    reason: Annotated[
        str | None, typer.Option(help="Why, in your words.", show_default=False)
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="A second fire with it is the same.", show_default=False)
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            help="Of a schedule: an instant that has come; it is run unless it was.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(min=0, help="Seconds to wait for a server to handle it; exit 1 if it failed."),
    ] = 0.0,
    project: ProjectDir = Path(),
    as_json: AsJson = False,
) -> None:
    """Make an event of a trigger, whose handler a server runs at once. No signature is needed."""
    from netscript_triggers.api.bodies import FireOptions
    from netscript_triggers.firing import FireConflictError, new_event
    from netscript_workers.api.bodies import fit
    from netscript_workers.app import HOUR
    from netscript_workers.errors import PayloadInvalidError
    from netscript_workers.store import outbox

    value = json_of(payload)
    asked = {"reason": reason, "idempotency_key": idempotency_key, "scheduled_for": at}
    try:
        options = fit(FireOptions, asked)
    except PayloadInvalidError as error:
        raise typer.BadParameter(str(error)) from None
    triggers = discovered(project)
    window = round(load_settings(project).idempotency_hours * HOUR)
    with opened(project) as store:
        record = _record(store, trigger_id, triggers)
        event_id, submission = new_event(
            store,
            record,
            triggers,
            value,
            key=options.idempotency_key,
            instant=options.scheduled_for,
            note=options.reason,
        )
        receipt = outbox.Receipt(duplicate_of=event_id)
        if submission is not None:
            with store.begin() as conn:
                now = store.now(conn)
                (receipt,) = outbox.store(conn, store.dialect, [submission], now=now, window=window)
        if receipt.duplicate_of is not None and receipt.conflict:
            raise FireConflictError(trigger_id, idempotency_key or "", receipt.duplicate_of)
        note(store, "triggers.fire", trigger_id, options.reason)
        first = receipt.duplicate_of or event_id
        detail = follow(store, first, wait)
    if as_json:
        from netscript_triggers.records import whole

        print_json({**whole(detail), "duplicate": receipt.duplicate_of is not None})
    elif receipt.duplicate_of is not None:
        same = "for the same instant" if at is not None else "under the same key"
        typer.echo(f"{first} was fired before, {same}.")
    else:
        tell(detail)
    if wait and detail.event.status.value != "completed":
        raise typer.Exit(1)


@app.command()
def preview(
    trigger_id: Id,
    count: Annotated[int, typer.Option(min=1, max=100, help="How many instants to come.")] = 5,
    project: ProjectDir = Path(),
    as_json: AsJson = False,
) -> None:
    """Show when a schedule is due next, and what became of the last instants."""
    from netscript_triggers.store.schedules import preview
    from netscript_workers.clock import from_micros
    from netscript_workers.records import plain

    triggers = discovered(project)
    with opened(project) as store:
        record = _record(store, trigger_id, triggers)
        with store.read() as conn:
            found = preview(conn, record, count, from_micros(store.now(conn)))
    if as_json:
        print_json(plain(found))
        return
    typer.echo(found.words)
    utc = {one: f"{one.scheduled_for:%Y-%m-%dT%H:%M:%SZ}" for one in (*found.next, *found.recent)}
    print_table(
        ("NEXT", "LOCAL TIME", "NOTE"),
        [(utc[one], one.local_time, one.note) for one in found.next],
        empty="It is not due any more.",
    )
    if found.recent:
        typer.echo("")
        print_table(
            ("CAME", "LOCAL TIME", "OUTCOME", "EVENT", "NOTE"),
            [
                (utc[one], one.local_time, one.outcome, one.event_id, one.note)
                for one in found.recent
            ],
            empty="",
        )


def _record(
    store: Store, trigger_id: str, triggers: dict[str, AnyTrigger] | None = None
) -> TriggerRecord:
    from netscript_triggers.store import triggers as stored
    from netscript_workers.errors import TriggerNotFoundError

    with store.read() as conn:
        now = store.now(conn)
        try:
            return stored.get_trigger(conn, trigger_id, now=now)
        except TriggerNotFoundError:
            if triggers is None:
                raise
            if trigger_id not in triggers:
                raise TriggerNotFoundError(trigger_id, triggers) from None
    stored.register(store, [triggers[trigger_id]])  # no server has started since it was written
    return _record(store, trigger_id)


def _where(definition: Mapping[str, Any]) -> str | None:
    """Tell where a trigger's events come from, in a few words."""
    if "paths" in definition:
        return f"{', '.join(definition['patterns'])} in {', '.join(definition['paths'])}"
    if "broker" in definition:
        return f"{definition['queue']} over {definition['broker']}"
    if definition.get("every"):
        return f"every {definition['every']:g} s"
    return definition.get("path") or definition.get("cron") or definition.get("at")


def _show(record: TriggerRecord, *, as_json: bool) -> None:
    from netscript_triggers.records import shown

    facts: dict[str, Any] = shown(record)
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        if value is not None:
            typer.echo(f"{name:<18}{clean(value if isinstance(value, str) else json.dumps(value))}")


def _switch(
    trigger_id: str, project: Path, why: str | None, *, enabled: bool, as_json: bool
) -> None:
    from netscript_triggers.records import shown
    from netscript_triggers.store import triggers

    with opened(project) as store:
        record = triggers.set_enabled(store, trigger_id, enabled=enabled)
        note(store, f"triggers.{'enable' if enabled else 'disable'}", trigger_id, why)
    if as_json:
        print_json(shown(record))
    else:
        typer.echo(f"{record.id} is {'enabled' if enabled else 'disabled'}.")
