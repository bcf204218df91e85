"""What the routes of triggers and events answer, as the OpenAPI document tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as open_dataclass

from netscript_triggers.records import (
    ActionRecord,
    CircuitRecord,
    EventRecord,
    FailureRecord,
    WaitRecord,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """Events, newest first.

    Attributes:
        next_cursor: Of the next page; None where there is none. A page that was filtered row by row
            may be shorter than its limit, or empty, and still have one.
    """

    events: list[EventRecord]
    next_cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeEvent(EventRecord):
    """An event with what came with it and what it has led to."""

    headers: Mapping[str, str]
    body: str
    payload: Any
    failures: list[FailureRecord]
    actions: list[ActionRecord]
    replayed_as: list[str]
    waits_for: WaitRecord | None


@open_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="allow"))
class ShownTrigger:
    """A trigger; its options stand beside these, by its kind."""

    id: str
    kind: str
    description: str | None
    enabled: bool
    circuit: CircuitRecord
    payload_schema: Mapping[str, Any] | None
    source: str
    registered_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerList:
    """A page of triggers, by id."""

    triggers: list[ShownTrigger]
    total: int
    limit: int
    offset: int
