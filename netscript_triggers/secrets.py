"""Where a trigger's secrets come from: the environment, at the moment they are needed."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from netscript_triggers.definitions import WebhookDefinition
from netscript_triggers.verifiers import RawRequest

NOBODYS = (secrets.token_hex(32).encode(),)
"""A secret that signs nothing: what a request is checked against when it has none."""


def secrets_of(
    trigger: WebhookDefinition[Any],
    environment: Mapping[str, str],
    request: RawRequest | None = None,
) -> tuple[bytes, ...] | None:
    """Return the secrets in force: every word of every variable that the trigger names.

    Args:
        trigger: Whose.
        environment: Where they are.
        request: From which a trigger that chooses its variables tells which.

    Returns:
        The secrets; None where the trigger chooses and there are none, for a tenant that there
        is not must look as one whose signature is wrong.
    """
    named = trigger.secret_env
    if not callable(named):
        return _words(tuple([environment.get(name, "") for name in named]))
    if request is None:
        return None
    chosen = named(request)
    names = (chosen,) if isinstance(chosen, str) else tuple(chosen or ())
    return _words(tuple([environment.get(name, "") for name in names])) or None


@lru_cache(maxsize=64)
def _words(values: tuple[str, ...]) -> tuple[bytes, ...]:
    words = [word for value in values for word in value.split()]
    return tuple(word.encode("utf-8", "surrogateescape") for word in words)
