"""Where a trigger's secrets come from: the environment, at the moment they are needed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from netscript_triggers.definitions import WebhookDefinition


def secrets_of(
    trigger: WebhookDefinition[Any], environment: Mapping[str, str]
) -> tuple[bytes, ...]:
    """Return the secrets in force: every word of every variable that the trigger names."""
    return _words(tuple(environment.get(name, "") for name in trigger.secret_env))


@lru_cache(maxsize=64)
def _words(values: tuple[str, ...]) -> tuple[bytes, ...]:
    words = [word for value in values for word in value.split()]
    return tuple(word.encode("utf-8", "surrogateescape") for word in words)
