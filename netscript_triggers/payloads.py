"""From a delivery's bytes to the payload that a handler sees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from netscript_triggers.cloudevents import read_event
from netscript_triggers.definitions import WebhookDefinition
from netscript_triggers.events import CloudEvent
from netscript_triggers.forms import read_form
from netscript_triggers.media import InflatedTooLargeError, inflate
from netscript_triggers.verifiers import RawRequest
from netscript_workers.errors import PayloadInvalidError
from netscript_workers.payloads import invalid_payload
from netscript_workers.strict_json import MalformedError, parse

# Below this nobody counts what a body becomes.
_LARGE = 16_384
# It is copied on its way: from the wire, as text, for the handler, into the database.
_COPIES = 8
# What an object, a list, a member or an element takes at most.
_PER_VALUE = 100


def weight_of(trigger: WebhookDefinition[Any], body: bytes, encoding: str = "") -> int:
    """Estimate how many bytes of memory a large body takes until it is stored; 0 for a small one.

    Args:
        trigger: Whose delivery it is.
        body: As it came.
        encoding: What its header says of its compression.
    """
    if encoding and trigger.decompress:
        try:
            body = inflate(body, encoding, trigger.max_body)
        except (MalformedError, InflatedTooLargeError):
            return 0  # it won't be read
    if len(body) < _LARGE:
        return 0
    return _COPIES * len(body) + _PER_VALUE * sum(body.count(mark) for mark in (b",", b"[", b"{"))


def read_payload(
    trigger: WebhookDefinition[Any],
    body: bytes,
    headers: Mapping[str, str],
    request: RawRequest | None = None,
) -> tuple[Any, CloudEvent | None]:
    """Read a body the way the trigger says and, where it has a model, validate it.

    Args:
        trigger: Whose delivery it is.
        body: As it came.
        headers: By lower-case name.
        request: The one with this body, which its verifier may have read already.

    Returns:
        The payload, and the event's attributes where it is a CloudEvent.

    Raises:
        PayloadInvalidError: It can't be read, or the model refuses it; the message may be told to
            the sender, who has proven who it is.
    """
    about: CloudEvent | None = None

    def read(given: bytes) -> Any:
        if request is not None and given is request.body:
            return request.json()
        return parse(given)

    try:
        if trigger.decompress:
            body = inflate(body, headers.get("content-encoding", ""), trigger.max_body)
        if trigger.parse == "json":
            value = read(body)
        elif trigger.parse == "form":
            value = read_form(body, lists=trigger.lists)
        elif trigger.parse == "cloudevents":
            about, value = read_event(body, headers, read)
        else:
            return body, None
    except MalformedError as error:
        raise PayloadInvalidError(str(error)) from None
    return _modelled(trigger, value), about


def _modelled(trigger: WebhookDefinition[Any], value: Any) -> Any:
    if trigger.model is None:
        return value
    owner = f'webhook "{trigger.id}"'
    try:
        return trigger.model.validate_python(value)
    except ValidationError as error:
        raise invalid_payload(owner, error) from None
    except Exception as error:
        # A model's own validators meet whatever a sender thinks of; what breaks one is its fault.
        raise PayloadInvalidError(f"The payload of {owner} could not be read.") from error
