"""`python -m netscript_triggers` is the `netscript` command."""

from __future__ import annotations

from netscript_triggers.cli import main

main()
