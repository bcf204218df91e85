"""From a delivery's bytes to the payload that a handler sees."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from netscript_triggers.definitions import WebhookDefinition
from netscript_workers.errors import PayloadInvalidError
from netscript_workers.payloads import invalid_payload
from netscript_workers.strict_json import MalformedError, parse


def read_payload(trigger: WebhookDefinition[Any], body: bytes) -> Any:
    """Parse a body and, where the trigger has a model, validate it.

    Raises:
        PayloadInvalidError: It is no JSON, or the model refuses it; the message may be told to
            the sender, who has proven who it is.
    """
    try:
        value = parse(body)
    except MalformedError as error:
        raise PayloadInvalidError(str(error)) from None
    if trigger.model is None:
        return value
    try:
        return trigger.model.validate_python(value)
    except ValidationError as error:
        raise invalid_payload(f'webhook "{trigger.id}"', error) from None
