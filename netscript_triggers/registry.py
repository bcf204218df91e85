"""The triggers of a project, by id and by path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netscript_triggers.definitions import WebhookDefinition
from netscript_triggers.paths import shape_of
from netscript_workers.errors import ConfigurationError, DuplicateIdError
from netscript_workers.registry import collect


def discover_triggers(
    project_dir: Path, folder: str = "triggers", *, dev: bool = False
) -> Mapping[str, WebhookDefinition[Any]]:
    """Return the webhooks of a project by id.

    Args:
        project_dir: The project.
        folder: Where its triggers are.
        dev: Whether the `memory` verifier, which accepts anything, may be used.

    Raises:
        DiscoveryError: A module can't be imported.
        DuplicateIdError: Two triggers have one id or one path.
        ConfigurationError: A trigger accepts anything, and this is not development.
    """
    kind: type[WebhookDefinition[Any]] = WebhookDefinition
    found = collect(project_dir, folder, kind)
    by_path(found)
    if not dev:
        for trigger in found.values():
            if trigger.verifier.name == "memory":
                raise ConfigurationError(
                    f'webhook "{trigger.id}" uses the verifier "memory", which accepts anything.',
                    hint="Use a real one, or run with --dev.",
                )
    return found


def by_path(
    triggers: Mapping[str, WebhookDefinition[Any]],
) -> dict[str, WebhookDefinition[Any]]:
    """Return the webhooks by their paths, of which the parameters' names are left out.

    Raises:
        DuplicateIdError: Two share one path.
    """
    routes: dict[str, WebhookDefinition[Any]] = {}
    for trigger in triggers.values():
        other = routes.setdefault(shape_of(trigger.path), trigger)
        if other is not trigger:
            raise DuplicateIdError(
                f"Two webhooks listen at {trigger.path}: {other.source} and {trigger.source}.",
                hint="Give one of them another path.",
            )
    return routes
