"""netscript's trigger side: what the outside world sends becomes events, and events become jobs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from netscript_triggers.actions import Defer, defer
    from netscript_triggers.circuits import Circuit
    from netscript_triggers.definitions import (
        FileWatchDefinition,
        ManualDefinition,
        QueueDefinition,
        ScheduleDefinition,
        TriggerContext,
        TriggerDefinition,
        WebhookDefinition,
    )
    from netscript_triggers.events import (
        EventStatus,
        FileEvent,
        ManualEvent,
        QueueEvent,
        ScheduledTime,
        ScheduleEvent,
        TriggerEvent,
        WebhookEvent,
    )
    from netscript_triggers.file_watches import define_file_watch, file_watch
    from netscript_triggers.files.settling import Stability
    from netscript_triggers.manual import define_manual_trigger, manual_trigger
    from netscript_triggers.queue_triggers import define_queue_trigger, queue_trigger
    from netscript_triggers.schedules import define_schedule, schedule
    from netscript_triggers.verifiers import RawRequest, Verified, Verifier
    from netscript_triggers.verifiers.hmac import HmacVerifier
    from netscript_triggers.webhooks import define_webhook, webhook
    from netscript_workers.actions import EnqueueJob, enqueue_job
    from netscript_workers.batches import EnqueueBatch, enqueue_batch
    from netscript_workers.errors import VerificationError

__all__ = [
    "Circuit",
    "Defer",
    "EnqueueBatch",
    "EnqueueJob",
    "EventStatus",
    "FileEvent",
    "FileWatchDefinition",
    "HmacVerifier",
    "ManualDefinition",
    "ManualEvent",
    "QueueDefinition",
    "QueueEvent",
    "RawRequest",
    "ScheduleDefinition",
    "ScheduleEvent",
    "ScheduledTime",
    "Stability",
    "TriggerContext",
    "TriggerDefinition",
    "TriggerEvent",
    "VerificationError",
    "Verified",
    "Verifier",
    "WebhookDefinition",
    "WebhookEvent",
    "defer",
    "define_file_watch",
    "define_manual_trigger",
    "define_queue_trigger",
    "define_schedule",
    "define_webhook",
    "enqueue_batch",
    "enqueue_job",
    "file_watch",
    "manual_trigger",
    "queue_trigger",
    "schedule",
    "webhook",
]

# Loaded when asked for: a command that only shows its help needs none of them.
_HOMES = {
    "Circuit": "netscript_triggers.circuits",
    "Defer": "netscript_triggers.actions",
    "EnqueueBatch": "netscript_workers.batches",
    "EnqueueJob": "netscript_workers.actions",
    "EventStatus": "netscript_triggers.events",
    "FileEvent": "netscript_triggers.events",
    "FileWatchDefinition": "netscript_triggers.definitions",
    "HmacVerifier": "netscript_triggers.verifiers.hmac",
    "ManualDefinition": "netscript_triggers.definitions",
    "ManualEvent": "netscript_triggers.events",
    "QueueDefinition": "netscript_triggers.definitions",
    "QueueEvent": "netscript_triggers.events",
    "RawRequest": "netscript_triggers.verifiers",
    "ScheduleDefinition": "netscript_triggers.definitions",
    "ScheduleEvent": "netscript_triggers.events",
    "ScheduledTime": "netscript_triggers.events",
    "Stability": "netscript_triggers.files.settling",
    "TriggerContext": "netscript_triggers.definitions",
    "TriggerDefinition": "netscript_triggers.definitions",
    "TriggerEvent": "netscript_triggers.events",
    "VerificationError": "netscript_workers.errors",
    "Verified": "netscript_triggers.verifiers",
    "Verifier": "netscript_triggers.verifiers",
    "WebhookDefinition": "netscript_triggers.definitions",
    "WebhookEvent": "netscript_triggers.events",
    "defer": "netscript_triggers.actions",
    "define_file_watch": "netscript_triggers.file_watches",
    "define_manual_trigger": "netscript_triggers.manual",
    "define_queue_trigger": "netscript_triggers.queue_triggers",
    "define_schedule": "netscript_triggers.schedules",
    "define_webhook": "netscript_triggers.webhooks",
    "enqueue_batch": "netscript_workers.batches",
    "enqueue_job": "netscript_workers.actions",
    "file_watch": "netscript_triggers.file_watches",
    "manual_trigger": "netscript_triggers.manual",
    "queue_trigger": "netscript_triggers.queue_triggers",
    "schedule": "netscript_triggers.schedules",
    "webhook": "netscript_triggers.webhooks",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its room on first use."""
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
