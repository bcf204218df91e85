"""netscript's trigger side: what the outside world sends becomes events, and events become jobs."""

from __future__ import annotations

from netscript_triggers.definitions import TriggerContext, WebhookDefinition
from netscript_triggers.events import EventStatus, TriggerEvent, WebhookEvent
from netscript_triggers.verifiers import RawRequest, Verified, Verifier
from netscript_triggers.verifiers.hmac import HmacVerifier
from netscript_triggers.webhooks import define_webhook, webhook
from netscript_workers.actions import EnqueueJob, enqueue_job
from netscript_workers.errors import VerificationError

__all__ = [
    "EnqueueJob",
    "EventStatus",
    "HmacVerifier",
    "RawRequest",
    "TriggerContext",
    "TriggerEvent",
    "VerificationError",
    "Verified",
    "Verifier",
    "WebhookDefinition",
    "WebhookEvent",
    "define_webhook",
    "enqueue_job",
    "webhook",
]
