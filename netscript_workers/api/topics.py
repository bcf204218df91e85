"""The routes of topics: what waits in each, pausing, resuming and limiting."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict

from netscript_workers.api.answers import Answer
from netscript_workers.api.bodies import fit, read_object
from netscript_workers.api.services import Given, Services
from netscript_workers.errors import PayloadInvalidError
from netscript_workers.store import depths, topics

routes = APIRouter(prefix="/api/v1/workers/topics", tags=["topics"])

Name = Annotated[str, Path(min_length=1, max_length=512)]


@routes.get("")
def list_topics(given: Given) -> Answer:
    """List topics with what waits and runs in each."""
    store = given.store
    with store.snapshot() as conn:
        found, more = depths.list_topics(conn, store.dialect, store.now(conn))
    return Answer({"topics": found, "more": more})


@routes.post("/{topic:path}/pause")
def pause_topic(given: Given, topic: Name) -> Answer:
    """Have nothing more of a topic claimed; what runs goes on."""
    topics.pause(given.store, _checked(topic))
    return _told(given, topic)


@routes.post("/{topic:path}/resume")
def resume_topic(given: Given, topic: Name) -> Answer:
    """Have a topic claimed again."""
    topics.resume(given.store, _checked(topic))
    given.ring()
    return _told(given, topic)


class TopicLimit(BaseModel):
    """How many executions of a topic may start in a time; None for any number."""

    model_config = ConfigDict(extra="forbid")

    rate: str | None


_LIMIT = {
    "requestBody": {"content": {"application/json": {"schema": TopicLimit.model_json_schema()}}}
}


@routes.post("/{topic:path}/limit", openapi_extra=_LIMIT)
async def limit_topic(given: Given, topic: Name, request: Request) -> Answer:
    """Limit how many executions of a topic start in a time, over all workers."""
    rate = fit(TopicLimit, await read_object(request)).rate
    return await asyncio.to_thread(_limit, given, _checked(topic), rate)


def _limit(given: Services, topic: str, rate: str | None) -> Answer:
    topics.set_rate(given.store, topic, rate)
    given.ring()
    return _told(given, topic)


def _checked(topic: str) -> str:
    if "\0" in topic:
        raise PayloadInvalidError("No topic has a NUL in its name.")
    return topic


def _told(given: Services, topic: str) -> Answer:
    with given.store.snapshot() as conn:
        now = given.store.now(conn)
        return Answer(depths.get_topic(conn, given.store.dialect, topic, now))
