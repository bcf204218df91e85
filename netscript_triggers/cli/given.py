"""What is given to commands: a payload, and text at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer


def check_text(arguments: Sequence[str]) -> None:
    """Refuse arguments that are no text, which no database could hold.

    Raises:
        BadParameter: One is not UTF-8.
    """
    for one in arguments:
        try:
            one.encode()
        except UnicodeEncodeError:
            shown = one.encode(errors="backslashreplace").decode()
            raise typer.BadParameter(f"{shown[:100]} is not UTF-8") from None


def payload_of(given: str) -> dict[str, Any]:
    """Read the payload that an option gives, as strictly as the API does.

    Raises:
        BadParameter: It is no JSON object.
    """
    value = json_of(given)
    if not isinstance(value, dict):
        raise typer.BadParameter("it must be a JSON object", param_hint="--payload")
    return value  # pyright: ignore[reportUnknownVariableType] - JSON keys are strings


def json_of(given: str) -> Any:
    """Read any JSON that an option gives, as strictly as the API does.

    Raises:
        BadParameter: It is no JSON.
    """
    from netscript_workers.strict_json import MalformedError, parse

    try:
        return parse(given.encode())
    except MalformedError as error:
        told = str(error).replace("The body", "it").removesuffix(".")
        raise typer.BadParameter(told, param_hint="--payload") from None
