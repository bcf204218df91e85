"""Event types: what an event is about, and whether its trigger wants to hear of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, cast

from netscript_triggers.events import CloudEvent

# Where senders that sign no type say it: Stripe and Standard Webhooks `type`, others one of these.
_FIELDS = ("type", "event_type", "event")
_MAX_TYPE = 200


def type_of(payload: Any) -> str | None:
    """Return the type that a payload itself names, None if it names none."""
    for name in _FIELDS:
        if isinstance(payload, Mapping):
            value: Any = cast("Mapping[str, Any]", payload).get(name)
        else:
            value = getattr(payload, name, None)
        if isinstance(value, str) and (found := shown_type(value)) is not None:
            return found
    return None


def type_of_event(payload: Any, about: CloudEvent | None, found: str | None = None) -> str | None:
    """Return an event's type: what its verifier has found, a CloudEvent's own, or its payload's."""
    own = about.type if about is not None else None
    return shown_type(found) or shown_type(own) or type_of(payload)


def shown_type(given: str | None) -> str | None:
    """Return a type as it can be stored and shown; one that can't be is as good as none."""
    if not given or len(given) > _MAX_TYPE or not given.isprintable():
        return None
    return given


def is_wanted(patterns: Sequence[str], event_type: str | None) -> bool:
    """Tell whether a type meets one of the patterns, in which `*` stands for any text.

    Without patterns everything is wanted. An event without a type meets `*` only.
    """
    if not patterns:
        return True
    return any(fnmatchcase(event_type or "", pattern) for pattern in patterns)
