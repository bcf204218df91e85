"""Where a trigger's secrets come from: the environment, at the moment they are needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from netscript_triggers.definitions import WebhookDefinition


def secrets_of(
    trigger: WebhookDefinition[Any], environment: Mapping[str, str]
) -> tuple[bytes, ...]:
    """Return the secrets in force: every word of every variable that the trigger names."""
    words = [word for name in trigger.secret_env for word in environment.get(name, "").split()]
    return tuple(word.encode("utf-8", "surrogateescape") for word in words)
