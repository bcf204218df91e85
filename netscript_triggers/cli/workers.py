"""`workers`: who is there; telling one to leave. Works on the database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from netscript_triggers.cli.completing import worker_ids
from netscript_triggers.cli.deeds import Why, note
from netscript_triggers.cli.output import AsJson, ProjectDir, load_settings, print_json, print_table

app = typer.Typer(help="Workers: list them, have one leave.", no_args_is_help=True)


@app.command("list")
def list_(project: ProjectDir = Path(), as_json: AsJson = False) -> None:
    """List the workers, the newest first."""
    from netscript_workers.app import open_store
    from netscript_workers.store import presence

    store = open_store(load_settings(project))
    try:
        with store.read() as conn:
            page = presence.list_workers(conn, store.now(conn))
    finally:
        store.dispose()
    if as_json:
        print_json(page)
        return
    print_table(
        (
            "ID",
            "HOST",
            "PID",
            "STATE",
            "RUNNING",
            "SLOTS",
            "JOBS",
            "TOPICS",
            "STARTED",
            "BEAT S AGO",
        ),
        [
            (
                one.id,
                one.host,
                one.pid,
                _state(one.state, fresh=one.fresh, stalled=one.stalled),
                one.running,
                one.concurrency,
                len(one.jobs),
                "all" if one.topics is None else ", ".join(one.topics),
                f"{one.started_at:%Y-%m-%d %H:%M:%S}Z",
                f"{one.age_seconds:.1f} s ago",
            )
            for one in page.workers
        ],
        empty="There are no workers. Start one with: netscript worker",
    )
    if page.next_cursor is not None:
        typer.echo(f"and {page.total - len(page.workers)} more", err=True)


@app.command()
def drain(
    worker_id: Annotated[
        str, typer.Argument(metavar="WORKER", show_default=False, autocompletion=worker_ids)
    ],
    why: Why = None,
    project: ProjectDir = Path(),
    as_json: AsJson = False,
) -> None:
    """Have a worker finish what it runs, and leave; it hears of it within seconds."""
    from netscript_workers.app import open_store
    from netscript_workers.store import presence
    from netscript_workers.store.wake import make_bell

    store = open_store(load_settings(project))
    bell = make_bell(store.parsed_url)
    try:
        told = presence.request_drain(store, worker_id)
        bell.ring()
        note(store, "workers.drain", worker_id, why)
    finally:
        bell.close()
        store.dispose()
    if as_json:
        print_json(told)
    else:
        typer.echo(f"{told.id} is told to leave; it runs {told.running}.")


def _state(state: str, *, fresh: bool, stalled: bool) -> str:
    if not fresh:
        return "gone"
    return f"{state}, stalled" if stalled else state
