"""The live stream over HTTP: Server-Sent Events."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from sse_starlette import EventSourceResponse

from netscript_workers.api.methods import HEAD
from netscript_workers.api.services import Given, Text
from netscript_workers.domain import ExecutionStatus
from netscript_workers.streaming.frames import Wanted

stream = APIRouter(prefix="/api/v1/workers", tags=["executions"])

_EXAMPLE = """\
retry: 1000
id: 41
event: heartbeat
data: {}

id: 42:0
event: execution.updated
data: {"id":"01939f3e-6b5a-7c3e-8d2f-0a1b2c3d4e5f","job_id":"process-payment","status":"completed"}

"""


class EventStream(EventSourceResponse):
    """A response without an end; what it says of itself in the API's description."""

    media_type = "text/event-stream"


@stream.get(
    "/subscribe",
    response_class=EventStream,
    responses={
        200: {
            "description": "Events, until the subscriber leaves.",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}},
        }
    },
)
async def subscribe(
    given: Given,
    request: Request,
    job_id: Text = None,
    topic: Text = None,
    execution_id: Text = None,
    status: ExecutionStatus | None = None,
    last_event_id: Annotated[str | None, Header(max_length=100)] = None,
) -> Response:
    """Tell of executions as they change, in commit order.

    `execution.updated` carries the record as it is now, `execution.progress` how far one is,
    `heartbeat` nothing. With the last id that was seen as `Last-Event-ID` nothing is missed and
    nothing told twice; `reset` says that what was missed is not known any more: read it anew.
    """
    if HEAD in request.scope:
        return Response(media_type=EventStream.media_type)
    wanted = Wanted(execution_id=execution_id, job_id=job_id, topic=topic, status=status)
    messages = await given.feed.subscribe(wanted, last_event_id)
    # What is sent as a sign of life has an id, so it comes from the feed.
    return EventStream(messages, ping=0)
