"""`doctor`: what is not in order, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from netscript_triggers.cli.output import AsJson, ProjectDir, clean, print_json

if TYPE_CHECKING:
    from netscript_triggers.checkup import Finding

_MARKS = {"ok": ("ok", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}


def doctor(project: ProjectDir = Path(), as_json: AsJson = False) -> None:
    """Check settings, code, secrets, database, workers and port; exit 1 if something can't work."""
    from netscript_triggers.checkup import checkup
    from netscript_triggers.cli.environment import load_environment

    if not project.is_dir():
        typer.echo(f"netscript: there is no folder {project}.", err=True)
        raise typer.Exit(2)
    load_environment(project)
    found: list[Finding] = []
    for finding in checkup(project):
        found.append(finding)
        if not as_json:
            _show(finding)
    failed = any(finding.status == "fail" for finding in found)
    if as_json:
        print_json({"ok": not failed, "findings": found})
    if failed:
        raise typer.Exit(1)


def _show(finding: Finding) -> None:
    word, colour = _MARKS[finding.status]
    typer.secho(f"{word:<6}", fg=colour, nl=False)
    typer.echo(clean(f"{finding.what}: {finding.detail}"))
    if finding.hint:
        typer.echo(clean(f"        {finding.hint}"))
