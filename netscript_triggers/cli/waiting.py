"""Waiting for an execution's end, and showing meanwhile what it does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from netscript_triggers.cli.operating import explanation_of
from netscript_triggers.cli.output import print_json

if TYPE_CHECKING:
    from netscript_workers.records import ExecutionRecord
    from netscript_workers.store.engine import Store

_POLL_SECONDS = 0.05
# How often the sentence is made anew that says what it waits for.
_EXPLAIN_SECONDS = 1.0


def show_until_ended(store: Store, execution_id: str, timeout: float | None) -> ExecutionRecord:
    """Show how far the execution is, or what it waits for, on standard error, until it has ended.

    Args:
        store: Where it is.
        execution_id: Which one.
        timeout: Seconds to wait at most; None for ever.

    Raises:
        WaitTimeoutError: It has not ended by then; the error says what it waits for.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    quiet = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=quiet) as bar:
        task = bar.add_task("waits", total=100.0)
        record: ExecutionRecord | None = None
        for record, sentence in _until_ended(store, execution_id, timeout):
            if record.progress is not None:
                bar.update(task, completed=record.progress.percent)
            message = record.progress.message if record.progress else None
            bar.update(task, description=_escape(sentence or message or record.status.value))
    assert record is not None
    return record


def show_result(record: ExecutionRecord, *, as_json: bool) -> None:
    """Print how an execution ended."""
    if as_json:
        print_json(record)
        return
    took = f" in {record.duration_ms:.0f} ms" if record.duration_ms is not None else ""
    why = f" ({record.reason})" if record.reason is not None else ""
    typer.echo(f"{record.id} {record.status.value}{took}{why}")
    if record.result is not None:
        typer.echo(json.dumps(record.result))
    if record.error is not None:
        typer.echo(record.error, err=True)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape("".join(char if char.isprintable() else "?" for char in text))


def _until_ended(
    store: Store, execution_id: str, timeout: float | None
) -> Iterator[tuple[ExecutionRecord, str | None]]:
    """Yield the execution as it is, and while it does not run the sentence that says why."""
    from netscript_workers.domain import FINAL_STATUSES, ExecutionStatus
    from netscript_workers.errors import WaitTimeoutError
    from netscript_workers.store import queries

    began = time.monotonic()
    explained, sentence = began, None
    while True:
        with store.read() as conn:
            record = queries.get_execution_record(conn, execution_id, now=store.now(conn))
        now = time.monotonic()
        if record.status is ExecutionStatus.RUNNING:
            sentence = None
        elif record.status not in FINAL_STATUSES and now - explained >= _EXPLAIN_SECONDS:
            sentence, explained = explanation_of(store, execution_id).sentence, now
        yield record, sentence
        if record.status in FINAL_STATUSES:
            return
        if timeout is not None and now - began >= timeout:
            raise WaitTimeoutError(timeout, explanation_of(store, execution_id))
        left = _POLL_SECONDS if timeout is None else began + timeout - now
        time.sleep(max(min(_POLL_SECONDS, left), 0.0))
