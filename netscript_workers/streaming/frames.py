"""Frames: one update as it goes over the wire, encoded once for all who get it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sse_starlette.event import ServerSentEvent

from netscript_workers.domain import ExecutionStatus
from netscript_workers.problems import to_bytes
from netscript_workers.records import plain
from netscript_workers.store.following import Progress, Reading, Update

# No commit has as many executions.
_WHOLE = 1 << 40
_POSITION = re.compile(r"(0|[1-9][0-9]{0,17})(?::(0|[1-9][0-9]{0,8}))?", re.ASCII)
_RETRY_MILLISECONDS = 1000


class Position(NamedTuple):
    """A place in the list of commits: all up to it has been seen."""

    seq: int
    item: int = _WHOLE

    def __str__(self) -> str:
        """Write it the way it goes over the wire."""
        return str(self.seq) if self.item == _WHOLE else f"{self.seq}:{self.item}"


def parse_position(given: str) -> Position | None:
    """Read what a subscriber says it has seen; None where it is nothing of ours."""
    found = _POSITION.fullmatch(given.strip())
    if found is None:
        return None
    seq, item = found.groups()
    return Position(int(seq)) if item is None else Position(int(seq), int(item))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a subscriber wants to hear of: all that is given must fit."""

    execution_id: str | None = None
    job_id: str | None = None
    topic: str | None = None
    status: ExecutionStatus | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """An update, encoded.

    Attributes:
        position: Its place; None for progress, which nobody can resume at.
        status: What the commit has left the execution as.
        data: The bytes that a subscriber gets.
    """

    position: Position | None
    execution_id: str
    job_id: str
    topic: str
    status: ExecutionStatus
    data: bytes

    def fits(self, wanted: Wanted) -> bool:
        """Tell whether a subscriber wants it."""
        return (
            wanted.execution_id in (None, self.execution_id)
            and wanted.job_id in (None, self.job_id)
            and wanted.topic in (None, self.topic)
            and wanted.status in (None, self.status)
        )


def frames_of(reading: Reading) -> Sequence[Frame]:
    """Encode what was read; one record is encoded once, however often it stands there."""
    bodies: dict[str, str] = {}
    return [_frame(update, bodies) for update in reading.updates]


def _frame(update: Update, bodies: dict[str, str]) -> Frame:
    record, position = update.record, Position(update.seq, update.index)
    body = bodies.get(record.id)
    if body is None:
        body = bodies[record.id] = to_bytes(plain(record)).decode()
    data = f"id: {position}\nevent: execution.updated\ndata: {body}\n\n".encode()
    return Frame(position, record.id, record.job_id, record.topic, update.status, data)


def progress_frame(progress: Progress) -> Frame:
    """Encode how far an execution is; it has no id, so nobody resumes there."""
    body = {"id": progress.id, "percent": progress.percent, "message": progress.message}
    data = _event("execution.progress", body)
    running = ExecutionStatus.RUNNING
    return Frame(None, progress.id, progress.job_id, progress.topic, running, data)


def heartbeat(position: Position) -> bytes:
    """Encode a sign of life; who hears nothing else can still resume where it is."""
    return _event("heartbeat", {}, position)


def opening(position: Position) -> bytes:
    """Encode what a subscriber hears at once: when to come back, and a heartbeat."""
    return _event("heartbeat", {}, position, retry=_RETRY_MILLISECONDS)


def reset(position: Position, reason: str) -> bytes:
    """Encode that what was missed can't be told; the subscriber reads it anew and goes on here."""
    return _event("reset", {"reason": reason}, position)


def _event(
    name: str, data: object, position: Position | None = None, retry: int | None = None
) -> bytes:
    id_ = None if position is None else str(position)
    return ServerSentEvent(
        to_bytes(data).decode(), event=name, id=id_, retry=retry, sep="\n"
    ).encode()
