"""Where a trigger's secrets come from: the environment, at the moment they are needed."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from netscript_triggers.definitions import AnyTrigger, WebhookDefinition
from netscript_triggers.verifiers import RawRequest, Scheme
from netscript_workers.errors import ConfigurationError
from netscript_workers.redaction import redact

NOBODYS = (secrets.token_hex(32).encode(),)
"""A secret that signs nothing: what a request is checked against when it has none."""

# A key or a certificate in PEM holds blanks, and is one word all the same.
_WORD = re.compile(r"-----BEGIN [^-]+-----.+?-----END [^-]+-----|\S+", re.DOTALL)


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


def learn_secrets(triggers: Iterable[AnyTrigger], environment: Mapping[str, str]) -> None:
    """Have the secrets masked that triggers name, also where no delivery ever comes."""
    for trigger in triggers:
        if isinstance(trigger, WebhookDefinition):
            webhook: WebhookDefinition[Any] = trigger
            secrets_of(webhook, environment)


def check_triggers(
    triggers: Iterable[WebhookDefinition[Any]], environment: Mapping[str, str], public_url: str
) -> None:
    """Refuse what no delivery could ever be verified with. A secret may still come later.

    Raises:
        ConfigurationError: A secret is malformed, or the URL is signed and ours is not known; the
            sentence says which trigger it is, and shows no secret.
    """
    for trigger in triggers:
        owner = f'webhook "{trigger.id}"'
        if getattr(trigger.verifier, "needs_url", False) and not public_url:
            raise ConfigurationError(
                f"{owner}: {trigger.verifier.name} signs the URL, and ours is not known.",
                hint="Set NETSCRIPT_PUBLIC_URL, as in https://hooks.example.com.",
            )
        if isinstance(trigger.verifier, Scheme):
            for secret in secrets_of(trigger, environment) or ():
                try:
                    trigger.verifier.check_secret(secret)
                except ConfigurationError as error:
                    raise ConfigurationError(f"{owner}: {error.message}", hint=error.hint) from None


@lru_cache(maxsize=64)
def _words(values: tuple[str, ...]) -> tuple[bytes, ...]:
    words = [word for value in values for word in _WORD.findall(value)]
    redact.learn(words)
    return tuple(word.encode("utf-8", "surrogateescape") for word in words)
