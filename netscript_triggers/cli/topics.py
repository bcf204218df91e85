"""`topics`: what waits and runs in each; pausing, resuming, limiting. Works on the database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from netscript_triggers.cli.completing import topic_names
from netscript_triggers.cli.deeds import Why, note
from netscript_triggers.cli.output import AsJson, ProjectDir, load_settings, print_json, print_table

if TYPE_CHECKING:
    from netscript_workers.records import TopicRecord
    from netscript_workers.store.engine import Store

app = typer.Typer(help="Topics: list them, pause, resume and limit one.", no_args_is_help=True)

Name = Annotated[
    str, typer.Argument(metavar="TOPIC", show_default=False, autocompletion=topic_names)
]


@app.command("list")
def list_(project: ProjectDir = Path(), as_json: AsJson = False) -> None:
    """List the topics of jobs, those in use and those that were paused or limited."""
    from netscript_workers.app import open_store
    from netscript_workers.store import depths

    store = open_store(load_settings(project))
    try:
        with store.snapshot() as conn:
            page = depths.list_topics(conn, store.dialect, store.now(conn))
    finally:
        store.dispose()
    if as_json:
        print_json(page)
        return
    print_table(
        ("TOPIC", "DEPTH", "OLDEST WAIT S", "RUNNING", "SCHEDULED", "BLOCKED", "PAUSED", "RATE"),
        [
            (
                one.name,
                f"{one.depth}" if one.depth_is_exact else f"{one.depth}+",
                None if one.oldest_wait is None else f"{one.oldest_wait:.1f}",
                one.running,
                one.scheduled,
                one.blocked,
                "paused" if one.paused else None,
                one.rate,
            )
            for one in page.topics
        ],
        empty="There are no topics yet. They come with jobs: @job(topic=…)",
    )
    if page.more:
        typer.echo("There are more.", err=True)


@app.command()
def pause(
    topic: Name, why: Why = None, project: ProjectDir = Path(), as_json: AsJson = False
) -> None:
    """Have nothing more of a topic claimed; what runs goes on."""
    from netscript_workers.store import topics

    store = _open(project, topic)
    try:
        topics.pause(store, topic)
        note(store, "topics.pause", topic, why)
        _show(_read(store, topic), "is paused", as_json=as_json)
    finally:
        store.dispose()


@app.command()
def resume(
    topic: Name, why: Why = None, project: ProjectDir = Path(), as_json: AsJson = False
) -> None:
    """Have a topic claimed again."""
    from netscript_workers.store import topics
    from netscript_workers.store.wake import make_bell

    store = _open(project, topic)
    bell = make_bell(store.parsed_url)
    try:
        topics.resume(store, topic)
        bell.ring()
        note(store, "topics.resume", topic, why)
        _show(_read(store, topic), "is claimed again", as_json=as_json)
    finally:
        bell.close()
        store.dispose()


@app.command()
def limit(
    topic: Name,
    rate: Annotated[str, typer.Argument(metavar="RATE|none", show_default=False)],
    why: Why = None,
    project: ProjectDir = Path(),
    as_json: AsJson = False,
) -> None:
    """Limit how many executions of a topic start in a time: 10/s, 100/m, 1000/h, 5/d, or none.

    A rate that stands in the project's file is set again whenever a worker starts.
    """
    from netscript_workers.store import topics
    from netscript_workers.store.wake import make_bell

    store = _open(project, topic)
    bell = make_bell(store.parsed_url)
    try:
        topics.set_rate(store, topic, None if rate == "none" else rate)
        bell.ring()
        note(store, "topics.limit", topic, why)
        told = "has no rate" if rate == "none" else f"starts no more than {rate}"
        _show(_read(store, topic), told, as_json=as_json)
    finally:
        bell.close()
        store.dispose()


def _open(project: Path, topic: str) -> Store:
    from netscript_workers.app import open_store

    if not 0 < len(topic) <= 512:
        raise typer.BadParameter("a topic's name has 1 to 512 characters", param_hint="TOPIC")
    return open_store(load_settings(project))


def _read(store: Store, topic: str) -> TopicRecord:
    from netscript_workers.store import depths

    with store.snapshot() as conn:
        return depths.get_topic(conn, store.dialect, topic, store.now(conn))


def _show(record: TopicRecord, what: str, *, as_json: bool) -> None:
    if as_json:
        print_json(record)
    else:
        typer.echo(f"{record.name} {what}: {record.depth} ready, {record.running} running.")
