"""From what is stored, or given by hand, to the event that a handler sees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from netscript_triggers.definitions import (
    AnyTrigger,
    FileWatchDefinition,
    QueueDefinition,
    WebhookDefinition,
)
from netscript_triggers.events import (
    CloudEvent,
    EventStatus,
    FileEvent,
    ManualEvent,
    QueueEvent,
    ScheduleEvent,
    TriggerEvent,
    WebhookEvent,
)
from netscript_triggers.files.facts import event_facts
from netscript_triggers.messages import message_facts, read_message
from netscript_triggers.paths import PATH_HEADER, parameters_of
from netscript_triggers.payloads import read_payload
from netscript_triggers.store.runs import StoredEvent
from netscript_workers.clock import from_micros
from netscript_workers.errors import PayloadInvalidError
from netscript_workers.payloads import invalid_payload
from netscript_workers.strict_json import MalformedError, parse

_CLASSES: dict[str, type[TriggerEvent[Any]]] = {
    "webhook": WebhookEvent,
    "schedule": ScheduleEvent,
    "file-watch": FileEvent,
    "manual": ManualEvent,
    "queue": QueueEvent,
}


def class_of(kind: str) -> type[TriggerEvent[Any]]:
    """Return the class of a trigger's events."""
    return _CLASSES.get(kind, TriggerEvent)


def check_given(trigger: AnyTrigger, value: Any) -> Any:
    """Return a payload that was given by hand as the handler sees it.

    Raises:
        PayloadInvalidError: The trigger's model refuses it.
    """
    if trigger.model is None:
        return value
    try:
        return trigger.model.validate_python(value)
    except ValidationError as error:
        raise invalid_payload(f'{trigger.kind} "{trigger.id}"', error) from None


def payload_of(
    trigger: AnyTrigger, body: bytes, headers: Mapping[str, str], *, by_hand: bool
) -> tuple[Any, CloudEvent | None]:
    """Read a body: a sender's as the trigger says, one that was given by hand as JSON.

    Returns:
        The payload, and the event's attributes where it is a CloudEvent.

    Raises:
        PayloadInvalidError: It can't be read, or the trigger's model refuses it.
    """
    if isinstance(trigger, WebhookDefinition) and not by_hand:
        return read_payload(trigger, body, headers)
    if isinstance(trigger, QueueDefinition) and not by_hand:
        return read_message(trigger, body), None
    try:
        value = parse(body)
    except MalformedError as error:
        raise PayloadInvalidError(str(error)) from None
    return check_given(trigger, value), None


def event_of(trigger: AnyTrigger, stored: StoredEvent) -> TriggerEvent[Any]:
    """Return the event that the handler is called with.

    Raises:
        PayloadInvalidError: Its body can't be read any more, or a newer model refuses it.
    """
    payload, about = payload_of(trigger, stored.body, stored.headers, by_hand=stored.by_hand)
    facts: dict[str, Any] = {}
    if isinstance(trigger, WebhookDefinition):
        target = stored.headers.get(PATH_HEADER)
        parameters = None if target is None else parameters_of(trigger.path, target)
        facts = {"path_params": parameters or {}, "cloudevent": about}
    elif isinstance(trigger, FileWatchDefinition):
        facts = event_facts(payload)
    elif isinstance(trigger, QueueDefinition):
        facts = message_facts(trigger, stored.headers)
    return class_of(trigger.kind)(
        id=stored.id,
        trigger_id=stored.trigger_id,
        kind=trigger.kind,
        status=EventStatus.PROCESSING,
        payload=payload,
        headers=stored.headers,
        body=stored.body,
        idempotency_key=stored.idempotency_key,
        attempt=stored.attempt,
        received_at=from_micros(stored.received_at),
        traceparent=stored.traceparent,
        tracestate=stored.tracestate,
        event_type=stored.event_type,
        replayed_from=stored.replayed_from,
        note=stored.note,
        **facts,
    )
