"""Changing many at once: counted first, asked about, and shown while it goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from netscript_workers.store.bulk import Bounds, Changed


def change_all(change: Callable[[Bounds], Changed], question: str, *, yes: bool) -> Changed:
    """Change all that meet the conditions, part by part, with a bar on standard error.

    Who sits at a terminal is asked first, with the number; a script is not.

    Args:
        change: Changes as many as the bounds say, and tells where to go on.
        question: Such as `Retry {count}?`.
        yes: Don't ask.

    Raises:
        Abort: The answer is no.
    """
    from rich.console import Console
    from rich.progress import Progress

    from netscript_workers.store.bulk import CHUNK, Bounds, Changed

    met = change(Bounds(dry_run=True)).count
    if met and not yes and sys.stdin.isatty():
        typer.confirm(question.format(count=f"{met:,}"), abort=True)
    count = skipped = 0
    cursor: str | None = None
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=met)
        while True:
            part = change(Bounds(limit=CHUNK, cursor=cursor))
            count, skipped = count + part.count, skipped + part.skipped
            bar.update(task, completed=min(count + skipped, met))
            cursor = part.next_cursor
            # What meets the conditions only since they were counted is for the next time.
            if not part.more or count + skipped >= met:
                return Changed(count=count, skipped=skipped)


def told(changed: Changed, noun: str, one: str, many: str, failed: str) -> str:
    """Say what became of all, such as: 3 executions run again; 1 could not be changed."""
    subject = (
        f"{changed.count:,} {noun} {one}"
        if changed.count == 1
        else f"{changed.count:,} {noun}s {many}"
    )
    left = f"; {changed.skipped:,} could not be {failed}" if changed.skipped else ""
    return f"{subject}{left}."
