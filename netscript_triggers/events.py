"""The event: one verified occurrence, as a trigger's handler sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Generic, Literal, TypeAlias

from typing_extensions import TypedDict, TypeVar

P = TypeVar("P", default=Any)

FileChange: TypeAlias = Literal["create", "modify", "delete"]
CHANGES: tuple[FileChange, ...] = ("create", "modify", "delete")


class EventStatus(StrEnum):
    """Where an event stands; the last two are final."""

    PENDING = "pending"
    PROCESSING = "processing"
    DEFERRED = "deferred"
    FAILED = "failed"
    COMPLETED = "completed"
    DEAD = "dead"

    @property
    def is_final(self) -> bool:
        """Whether it stays as it is, unless somebody replays it."""
        return self in (EventStatus.COMPLETED, EventStatus.DEAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerEvent(Generic[P]):
    """What a handler is called with.

    Attributes:
        id: The event's id.
        trigger_id: Which trigger took it.
        kind: `webhook`, `schedule`, `queue`, `file-watch` or `manual`.
        status: Where it stands while the handler runs.
        payload: The parsed body, or an instance of the trigger's model.
        headers: By lower-case name, without signatures and credentials.
        body: The bytes as they came.
        idempotency_key: Under which a second delivery is known as one.
        attempt: Failed attempts of the handler so far, plus one.
        received_at: When it came, in UTC.
        traceparent: W3C trace context of the sender.
        tracestate: W3C trace state of the sender.
        event_type: What the sender says it is about, such as `payment.succeeded`.
        replayed_from: The event that this one is another run of, which
            enqueues anew.
        note: Why somebody fired or replayed it, in their words.
    """

    id: str
    trigger_id: str
    kind: str
    status: EventStatus
    payload: P
    headers: Mapping[str, str]
    body: bytes
    idempotency_key: str | None
    attempt: int
    received_at: datetime
    traceparent: str | None = None
    tracestate: str | None = None
    event_type: str | None = None
    replayed_from: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudEvent:
    """The attributes of a CloudEvent; its data is the event's payload.

    Attributes:
        id: Unique together with the source.
        source: Where it happened; a URI reference.
        type: What happened.
        structured: Whether the attributes stood in the body, where most signatures cover them.
        subject: What it happened to.
        time: When it happened, in RFC 3339, as the sender wrote it.
        datacontenttype: What the data is.
        dataschema: The schema that it follows.
        extensions: All other attributes.
    """

    id: str
    source: str
    type: str
    structured: bool
    subject: str | None = None
    time: str | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    extensions: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def key(self) -> str:
        """Source and id: what makes a second delivery the same."""
        return f"{self.source} {self.id}"  # a source has no blanks


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookEvent(TriggerEvent[P]):
    """An event that came over HTTP.

    Attributes:
        path_params: What stood in the places of the path's parameters, by their names.
        cloudevent: The attributes of a CloudEvent, where the webhook reads those.
    """

    path_params: Mapping[str, str] = field(default_factory=dict[str, str])
    cloudevent: CloudEvent | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ManualEvent(TriggerEvent[P]):
    """An event that somebody fired by hand."""


class ScheduledTime(TypedDict):
    """The payload of a schedule's event.

    Attributes:
        scheduled_for: The instant it is for, in RFC 3339, UTC: the same, however late it is run.
        local_time: The same in the schedule's zone, with its offset.
        timezone: That zone.
        note: What a clock change had to do with it, or that it was made up for later.
    """

    scheduled_for: str
    local_time: str
    timezone: str
    note: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleEvent(TriggerEvent[ScheduledTime]):
    """An event that a clock made."""

    @property
    def scheduled_for(self) -> datetime:
        """The instant it is for, in UTC."""
        return datetime.fromisoformat(self.payload["scheduled_for"])


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueEvent(TriggerEvent[P]):
    """An event that a broker's message was.

    Attributes:
        queue: What it was taken from, as the trigger names it.
        message_id: What the broker or the publisher calls it; None where neither does.
        address: What it was published to: a routing key, a subject, a topic.
    """

    queue: str = ""
    message_id: str | None = None
    address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEvent(TriggerEvent[P]):
    """An event of a file that has come, has changed or is gone. Its payload tells the same.

    Attributes:
        path: Where the file is, or was. What is not UTF-8 in it stands as lone surrogates, which
            `open()` takes.
        name: The last part of the path.
        root: The watched directory that it is in.
        change: `create`, `modify` or `delete`.
        size: In bytes.
        modified_at: When its content was written, as the file system tells.
        sha256: Of its content, in hex; None of a file that is gone, and was there before anybody
            watched.
    """

    path: str = ""
    name: str = ""
    root: str = ""
    change: FileChange = "create"
    size: int = 0
    modified_at: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    sha256: str | None = None
