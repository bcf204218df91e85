"""What the live stream tells, as a client sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import httpx
from httpx_sse import ServerSentEvent

from netscript_workers.client.errors import error_of
from netscript_workers.client.requests import AGAIN, BASE, RECORD, Pauses
from netscript_workers.domain import ExecutionStatus
from netscript_workers.records import ExecutionRecord

PATH = f"{BASE}/subscribe"
# Three heartbeats that did not come.
SILENCE_SECONDS = 45.0


@dataclass(frozen=True, slots=True)
class Update:
    """An execution has changed.

    Attributes:
        id: The place in the order of commits, where a subscription can go on.
        execution: Its record as it is now.
    """

    id: str
    execution: ExecutionRecord


@dataclass(frozen=True, slots=True)
class ProgressUpdate:
    """A running execution has told how far it is."""

    execution_id: str
    percent: float
    message: str | None


@dataclass(frozen=True, slots=True)
class Reset:
    """What was missed is not known any more: read anew what you follow."""

    reason: str


Change: TypeAlias = Update | ProgressUpdate | Reset


class Subscription:
    """Where a subscriber is, over however many connections."""

    def __init__(
        self,
        job_id: str | None,
        topic: str | None,
        execution_id: str | None,
        status: ExecutionStatus | str | None,
        last_event_id: str | None,
    ) -> None:
        """Want to hear of what fits all that is given."""
        given = {
            "job_id": job_id,
            "topic": topic,
            "execution_id": execution_id,
            "status": ExecutionStatus(status).value if status is not None else None,
        }
        self.query = {name: value for name, value in given.items() if value is not None}
        self._at = last_event_id
        self._pauses = Pauses()

    @property
    def headers(self) -> Mapping[str, str]:
        """What says where to go on."""
        return {} if self._at is None else {"Last-Event-ID": self._at}

    def check(self, answer: httpx.Response) -> bool:
        """Tell whether events come; the answer was read where they don't.

        Raises:
            ApiError: They never will.
        """
        if answer.status_code in AGAIN:
            return False
        if not answer.is_success:
            raise error_of(answer)
        return True

    def take(self, event: ServerSentEvent) -> Change | None:
        """Return what an event tells; None for a sign of life."""
        self._pauses = Pauses()
        if event.id:
            self._at = event.id
        if event.event == "execution.updated":
            return Update(event.id, RECORD.validate_json(event.data))
        if event.event == "execution.progress":
            told = event.json()
            return ProgressUpdate(told["id"], told["percent"], told["message"])
        return Reset(event.json()["reason"]) if event.event == "reset" else None

    def pause(self) -> float:
        """Return the seconds until the next connection."""
        return self._pauses.next()
