"""What is done with commands, noted in the audit as what is done over the API is."""

from __future__ import annotations

import getpass
import socket
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from netscript_workers.store.engine import Store

Why = Annotated[
    str | None,
    typer.Option("--why", help="Why, in your words, for the audit.", show_default=False),
]


def note(store: Store, action: str, subject: str | None = None, reason: str | None = None) -> None:
    """Record what has been done, under the name of whoever is logged in on this machine.

    Args:
        store: Where the audit is.
        action: As the API calls it, such as `executions.cancel`.
        subject: What it was done to.
        reason: Why, in their own words.
    """
    from netscript_workers.store.audit import Deed, as_text, record

    deed = Deed(
        who=as_text(_who()),
        action=action,
        subject=as_text(subject) if subject else None,
        reason=as_text(reason) if reason else None,
        address=as_text(f"command on {socket.gethostname()}"),
    )
    try:
        record(store, [deed])
    except Exception as error:  # noqa: BLE001 - what was done is done
        told = f"netscript: it is done, but not in the audit ({type(error).__name__})."
        typer.echo(told, err=True)


def described(wanted: object) -> str:
    """Return the conditions of a filter as JSON, as the API's bulk changes have them there."""
    import json
    from dataclasses import asdict, is_dataclass

    assert is_dataclass(wanted)
    assert not isinstance(wanted, type)
    meant = {name: value for name, value in asdict(wanted).items() if value not in (None, ())}
    return json.dumps(meant or {"all": True}, separators=(",", ":"))


def _who() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user need not have a name
        import os

        return f"uid {os.getuid()}"
