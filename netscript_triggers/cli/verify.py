"""`verify`: checks the promises over the database's own rows."""

from __future__ import annotations

from pathlib import Path

import typer

from netscript_triggers.cli.output import AsJson, ProjectDir, load_settings, print_json, print_table


def verify(project: ProjectDir = Path(), as_json: AsJson = False) -> None:
    """Check the promises over the database's own rows; exit 1 if one is broken.

    It reads only, and may run beside servers and workers.
    """
    from netscript_triggers.store.verify import verify as check
    from netscript_workers.app import HOUR, open_store
    from netscript_workers.store.findings import Terms
    from netscript_workers.store.retention import Retention

    settings = load_settings(project)
    completed, failed = settings.retention_days
    terms = Terms(
        retention=Retention(completed=completed, failed=failed),
        window=round(settings.idempotency_hours * HOUR),
    )
    store = open_store(settings)
    try:
        report = check(store, terms)
    finally:
        store.dispose()
    if as_json:
        print_json(report)
    else:
        checked = ", ".join(f"{count} {name}" for name, count in report.checked.items() if count)
        print_table(
            ("CODE", "SUBJECT", "WHAT IS WRONG"),
            [(one.code, one.subject, one.detail) for one in report.findings],
            empty="Nothing is broken.",
        )
        shown = len(report.findings)
        if (total := report.counts.total()) > shown:
            typer.echo(f"and {total - shown} more of the same kinds", err=True)
        typer.echo(f"checked: {checked or 'an empty database'}", err=True)
    raise typer.Exit(1 if report.findings else 0)
