"""What the routes of triggers and events are asked with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from netscript_triggers.events import EventStatus
from netscript_triggers.store.replays import EventFilter
from netscript_workers.clock import to_micros
from netscript_workers.errors import PayloadInvalidError
from netscript_workers.ids import is_id
from netscript_workers.options import MAX_KEY_LENGTH

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


class FireOptions(BaseModel):
    """How to fire a trigger; query parameters, the key also as the header `Idempotency-Key`."""

    model_config = ConfigDict(extra="forbid")

    reason: _Note | None = Field(None, description="Why, in your words; kept with the event.")
    idempotency_key: _Key | None = Field(
        None, description="A second fire with it is the same event, and runs nothing."
    )
    scheduled_for: AwareDatetime | None = Field(
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

    ids: list[Annotated[str, AfterValidator(_check_id)]] | None = Field(None, max_length=MAX_IDS)
    status: EventStatus | None = None
    trigger_id: str | None = Field(None, min_length=1, max_length=MAX_KEY_LENGTH)
    event_type: str | None = Field(None, min_length=1, max_length=MAX_KEY_LENGTH)
    received_after: AwareDatetime | None = Field(None, description="At this instant or later.")
    received_before: AwareDatetime | None = None
    all: bool = Field(default=False, description="Needed where no condition is given.")
    force: bool = Field(default=False, description="As new events, which enqueue anew.")
    reason: _Note | None = None

    @property
    def filter(self) -> EventFilter:
        """The conditions, but for the ids."""
        after, before = self.received_after, self.received_before
        return EventFilter(
            status=self.status,
            trigger_id=self.trigger_id,
            event_type=self.event_type,
            received_after=None if after is None else to_micros(after),
            received_before=None if before is None else to_micros(before),
        )


def documented(model: type[BaseModel]) -> dict[str, Any]:
    """Return what the documentation says of a body that a route reads by itself."""
    schema = model.model_json_schema()
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}


def check_switch(asked: Mapping[str, Any], name: str) -> None:
    """Take true and false only: a slip must not change what is not meant."""
    if not isinstance(asked.get(name, False), bool):
        raise PayloadInvalidError(f"{name} must be true or false.")
