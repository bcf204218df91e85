"""Opening the project's database for a command."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

from netscript_triggers.cli.output import load_settings

if TYPE_CHECKING:
    from netscript_workers.store.engine import Store


@contextlib.contextmanager
def opened(project: Path, *, rings: bool = False) -> Generator[Store]:
    """Open the database of a project.

    Args:
        project: Its folder.
        rings: Wake the workers at the end, because there is something new for them.

    Raises:
        NetscriptError: It has another schema, or can't be reached.
    """
    from netscript_workers.app import open_store
    from netscript_workers.store.wake import make_bell

    store = open_store(load_settings(project))
    try:
        yield store
        if rings:
            bell = make_bell(store.parsed_url)
            bell.ring()
            bell.close()
    finally:
        store.dispose()
