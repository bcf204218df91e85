"""`executions tail`: what changes, as it changes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from netscript_triggers.cli.completing import job_ids, topic_names
from netscript_triggers.cli.opening import opened
from netscript_triggers.cli.operating import one_of
from netscript_triggers.cli.output import ProjectDir, clean

if TYPE_CHECKING:
    from netscript_workers.store.engine import Store
    from netscript_workers.store.following import Update

_POLL_SECONDS = 0.2
_AT_A_TIME = 100


def tail(
    job: Annotated[
        str | None,
        typer.Option(help="Of this job only.", show_default=False, autocompletion=job_ids),
    ] = None,
    topic: Annotated[
        str | None, typer.Option(show_default=False, autocompletion=topic_names)
    ] = None,
    status: Annotated[str | None, typer.Option(show_default=False)] = None,
    project: ProjectDir = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
) -> None:
    """Show executions as they change, in the order of the commits, until Ctrl-C."""
    from netscript_workers.domain import ExecutionStatus

    if status is not None:
        one_of(ExecutionStatus, status, "status")
    try:
        with opened(project) as store:
            for update in _updates(store):
                if (
                    (job is None or update.record.job_id == job)
                    and (topic is None or update.record.topic == topic)
                    and (status is None or update.status == status)
                ):
                    _show(update, as_json=as_json)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _updates(store: Store) -> Iterator[Update]:
    """Yield what each commit from now on has left executions as."""
    from netscript_workers.store import following

    after = following.number(store)
    while True:
        newest = following.number(store)
        while after < newest:
            found = following.read(store, after, limit=_AT_A_TIME)
            yield from found.updates
            after = found.last
        time.sleep(_POLL_SECONDS)


def _show(update: Update, *, as_json: bool) -> None:
    import json
    import sys

    from netscript_workers.records import plain

    record, status = update.record, update.status.value
    if as_json:
        told = {"seq": update.seq, "status": status, "execution": plain(record)}
        typer.echo(json.dumps(told))
    else:
        is_now = record.status.value == status
        why = f" ({record.reason})" if is_now and record.reason else ""
        took = record.duration_ms if is_now and record.finished_at is not None else None
        span = "" if took is None else f" in {took:.0f} ms"
        typer.echo(clean(f"{record.id} {status:<10}{record.job_id}{span}{why}"))
    sys.stdout.flush()
