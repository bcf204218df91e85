"""What the routes of triggers and events are asked with."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from netscript_triggers.events import EventStatus
from netscript_triggers.store.replays import EventFilter
from netscript_workers.api.services import ID_SCHEMA, Instant, Name, one_or_many
from netscript_workers.clock import to_micros
from netscript_workers.errors import PayloadInvalidError
from netscript_workers.ids import is_id
from netscript_workers.options import MAX_KEY_LENGTH
from netscript_workers.store.bulk import Bounds

MAX_IDS = 10_000
MAX_NOTE = 500


def _check_id(id_: str) -> str:
    if not is_id(id_):
        msg = "must be the id of an event"
        raise ValueError(msg)
    return id_


def _check_text(text: str) -> str:
    if not text.isprintable():
        msg = "must be printable text"
        raise ValueError(msg)
    return text


_Note = Annotated[str, Field(min_length=1, max_length=MAX_NOTE), AfterValidator(_check_text)]
_Key = Annotated[str, Field(min_length=1, max_length=MAX_KEY_LENGTH), AfterValidator(_check_text)]


_Id = Annotated[str, AfterValidator(_check_id), ID_SCHEMA]


class FireOptions(BaseModel):
    """How to fire a trigger; query parameters, the key also as the header `Idempotency-Key`."""

    model_config = ConfigDict(extra="forbid")

    reason: _Note | None = Field(None, description="Why, in your words; kept with the event.")
    idempotency_key: _Key | None = Field(
        None, description="A second fire with it is the same event, and runs nothing."
    )
    scheduled_for: Instant | None = Field(
        None, description="Of a schedule: the instant that is run, unless it was run already."
    )


class ReplayBody(BaseModel):
    """How to replay: the same event again, or as a new one."""

    model_config = ConfigDict(extra="forbid")

    force: bool = Field(default=False, description="As a new event, which enqueues anew.")
    payload: Any = Field(None, description="Instead of the event's own; makes a new event.")
    reason: _Note | None = None


class Which(BaseModel):
    """Which events to replay: all conditions hold, and there is at least one, or `all`."""

    model_config = ConfigDict(extra="forbid")

    ids: list[Annotated[str, AfterValidator(_check_id), ID_SCHEMA]] | None = Field(
        None, max_length=MAX_IDS
    )
    status: Annotated[list[EventStatus], BeforeValidator(one_or_many)] | None = None
    trigger_id: Name | None = None
    event_type: Name | None = None
    received_after: Instant | None = Field(None, description="At this instant or later.")
    received_before: Instant | None = None
    all: bool = Field(default=False, description="Needed where no condition is given.")
    force: bool = Field(default=False, description="As new events, which enqueue anew.")
    reason: _Note | None = None
    dry_run: bool = Field(default=False, description="Only count; change nothing.")
    limit: int = Field(MAX_IDS, ge=1, le=100_000, description="So many are looked at, at most.")
    cursor: str | None = Field(
        None, min_length=1, max_length=1024, description="The `next_cursor` of the call before."
    )

    @property
    def filter(self) -> EventFilter:
        """The conditions, but for the ids."""
        return to_filter(
            status=self.status,
            trigger_id=self.trigger_id,
            event_type=self.event_type,
            received_after=self.received_after,
            received_before=self.received_before,
        )

    @property
    def bounds(self) -> Bounds:
        """How far to go."""
        return Bounds(limit=self.limit, cursor=self.cursor, dry_run=self.dry_run)


def to_filter(
    *,
    status: list[EventStatus] | None,
    received_after: datetime | None,
    received_before: datetime | None,
    **same: Any,
) -> EventFilter:
    """Return the filter of what was asked."""
    return EventFilter(
        statuses=tuple(dict.fromkeys(status or ())),
        received_after=None if received_after is None else to_micros(received_after),
        received_before=None if received_before is None else to_micros(received_before),
        **same,
    )


def check_switch(asked: Mapping[str, Any], name: str) -> None:
    """Take true and false only: a slip must not change what is not meant."""
    if not isinstance(asked.get(name, False), bool):
        raise PayloadInvalidError(f"{name} must be true or false.")
