"""`executions tail`: what changes, as it changes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from netscript_triggers.cli.opening import opened
from netscript_triggers.cli.operating import one_of
from netscript_triggers.cli.output import ProjectDir, clean

if TYPE_CHECKING:
    from netscript_workers.records import ExecutionRecord
    from netscript_workers.store.engine import Store

_POLL_SECONDS = 0.2


def tail(
    job: Annotated[str | None, typer.Option(help="Of this job only.", show_default=False)] = None,
    topic: Annotated[str | None, typer.Option(show_default=False)] = None,
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
            for seq, record, now_is in _changes(store):
                if (
                    (job is None or record.job_id == job)
                    and (topic is None or record.topic == topic)
                    and (status is None or now_is == status)
                ):
                    _show(seq, record, now_is, as_json=as_json)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _changes(store: Store) -> Iterator[tuple[int, ExecutionRecord, str]]:
    """Yield what each commit from now on has left executions as."""
    from netscript_workers.store import changes, queries
    from netscript_workers.store.retention import number_changes

    number_changes(store)
    with store.read() as conn:
        after = changes.newest(conn)
    while True:
        with store.read() as conn:
            unstamped = changes.any_unstamped(conn)
        if unstamped:
            number_changes(store)
        with store.read() as conn:
            found = changes.read(conn, after)
            ids = sorted({id_ for change in found for id_, _ in change.items})
            records = queries.get_records(conn, store.dialect, ids, now=store.now(conn))
        for change in found:
            after = change.seq
            for id_, status in change.items:
                if id_ in records:  # it may be pruned already
                    yield change.seq, records[id_], status
        if not found:
            time.sleep(_POLL_SECONDS)


def _show(seq: int, record: ExecutionRecord, status: str, *, as_json: bool) -> None:
    import json
    import sys

    from netscript_workers.records import plain

    if as_json:
        told = {"seq": seq, "status": status, "execution": plain(record)}
        typer.echo(json.dumps(told))
    else:
        is_now = record.status.value == status
        why = f" ({record.reason})" if is_now and record.reason else ""
        took = record.duration_ms if is_now and record.finished_at is not None else None
        span = "" if took is None else f" in {took:.0f} ms"
        typer.echo(clean(f"{record.id} {status:<10}{record.job_id}{span}{why}"))
    sys.stdout.flush()
