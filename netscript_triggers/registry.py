"""The triggers of a project, by id and by path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from netscript_triggers.definitions import (
    AnyTrigger,
    FileWatchDefinition,
    TriggerDefinition,
    WebhookDefinition,
)
from netscript_triggers.files.facts import resolve
from netscript_triggers.paths import shape_of
from netscript_workers.errors import (
    ConfigurationError,
    DuplicateIdError,
    StateError,
    TriggerNotFoundError,
)
from netscript_workers.registry import collect


def discover_triggers(
    project_dir: Path, folder: str = "triggers", *, dev: bool = False
) -> Mapping[str, AnyTrigger]:
    """Return the triggers of a project by id.

    Args:
        project_dir: The project.
        folder: Where its triggers are.
        dev: Whether the `memory` verifier, which accepts anything, may be used.

    Raises:
        DiscoveryError: A module can't be imported.
        DuplicateIdError: Two triggers have one id or one path.
        ConfigurationError: A trigger accepts anything, and this is not development.
    """
    kind: type[AnyTrigger] = TriggerDefinition
    found = {
        id_: _in_project(trigger, project_dir)
        for id_, trigger in collect(project_dir, folder, kind).items()
    }
    by_path(found)
    if not dev:
        for trigger in found.values():
            if isinstance(trigger, WebhookDefinition) and trigger.verifier.name == "memory":
                raise ConfigurationError(
                    f'webhook "{trigger.id}" uses the verifier "memory", which accepts anything.',
                    hint="Use a real one, or run with --dev.",
                )
    return found


def _in_project(trigger: AnyTrigger, project_dir: Path) -> AnyTrigger:
    """Have the relative paths of a file watch go on from the project, wherever its server runs."""
    if not isinstance(trigger, FileWatchDefinition):
        return trigger
    return replace(trigger, paths=resolve(trigger.paths, str(project_dir.absolute())))


def by_path(
    triggers: Mapping[str, AnyTrigger],
) -> dict[str, WebhookDefinition[Any]]:
    """Return the webhooks by their paths, of which the parameters' names are left out.

    Raises:
        DuplicateIdError: Two share one path.
    """
    routes: dict[str, WebhookDefinition[Any]] = {}
    for trigger in triggers.values():
        if not isinstance(trigger, WebhookDefinition):
            continue
        other = routes.setdefault(shape_of(trigger.path), trigger)
        if other is not trigger:
            raise DuplicateIdError(
                f"Two webhooks listen at {trigger.path}: {other.source} and {trigger.source}.",
                hint="Give one of them another path.",
            )
    return routes


def webhook_named(triggers: Mapping[str, AnyTrigger], trigger_id: str) -> WebhookDefinition[Any]:
    """Return a webhook by its id.

    Raises:
        TriggerNotFoundError: There is no such trigger; the error names the nearest.
        StateError: It is no webhook.
    """
    if trigger_id not in triggers:
        raise TriggerNotFoundError(trigger_id, triggers)
    found = triggers[trigger_id]
    if not isinstance(found, WebhookDefinition):
        raise StateError(
            f'Trigger "{trigger_id}" is no webhook, so nothing is delivered to it.',
            hint=f"Fire it: netscript triggers fire {trigger_id}",
        )
    return found
