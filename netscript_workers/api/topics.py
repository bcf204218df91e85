"""The routes of topics: what waits in each, pausing, resuming and limiting."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from netscript_workers.api import examples
from netscript_workers.api.answers import Answer
from netscript_workers.api.bodies import fit, read_object
from netscript_workers.api.document import answers, body
from netscript_workers.api.services import MAX_LIMIT, Cursor, Given, Limit, Services, Why
from netscript_workers.api.shapes import TopicList
from netscript_workers.errors import PayloadInvalidError
from netscript_workers.options import is_storable
from netscript_workers.rates import RATE_PATTERN
from netscript_workers.records import TopicRecord
from netscript_workers.store import depths, topics

logger = logging.getLogger(__name__)

routes = APIRouter(prefix="/api/v1/workers/topics", tags=["topics"])

Name = Annotated[str, Path(min_length=1, max_length=512)]


_ONE = answers(TopicRecord, examples.TOPIC, 404)


@routes.get("", responses=answers(TopicList, examples.TOPICS))
def list_topics(given: Given, limit: Limit = MAX_LIMIT, cursor: Cursor = None) -> Answer:
    """List topics with what waits and runs in each."""
    store = given.store
    with store.snapshot() as conn:
        now = store.now(conn)
        return Answer(depths.list_topics(conn, store.dialect, now, limit=limit, cursor=cursor))


@routes.post("/{topic:path}/pause", responses=_ONE)
def pause_topic(given: Given, topic: Name, reason: Why = None) -> Answer:
    """Have nothing more of a topic claimed; what runs goes on."""
    topics.pause(given.store, _checked(topic))
    logger.info("topic %r was paused: %r", topic, reason)
    return _told(given, topic)


@routes.post("/{topic:path}/resume", responses=_ONE)
def resume_topic(given: Given, topic: Name, reason: Why = None) -> Answer:
    """Have a topic claimed again."""
    topics.resume(given.store, _checked(topic))
    logger.info("topic %r was resumed: %r", topic, reason)
    given.ring()
    return _told(given, topic)


class TopicLimit(BaseModel):
    """How many executions of a topic may start in a time; None for any number."""

    model_config = ConfigDict(extra="forbid")

    rate: str | None = Field(json_schema_extra={"pattern": RATE_PATTERN})


_LIMIT = body(TopicLimit, {"rate": "100/m"}, required=True)


@routes.post("/{topic:path}/limit", openapi_extra=_LIMIT, responses=_ONE)
async def limit_topic(given: Given, topic: Name, request: Request) -> Answer:
    """Limit how many executions of a topic start in a time, over all workers."""
    rate = fit(TopicLimit, await read_object(request)).rate
    return await asyncio.to_thread(_limit, given, _checked(topic), rate)


def _limit(given: Services, topic: str, rate: str | None) -> Answer:
    topics.set_rate(given.store, topic, rate)
    given.ring()
    return _told(given, topic)


def _checked(topic: str) -> str:
    if not is_storable(topic):
        raise PayloadInvalidError("No topic has a NUL in its name.")
    return topic


def _told(given: Services, topic: str) -> Answer:
    with given.store.snapshot() as conn:
        now = given.store.now(conn)
        return Answer(depths.get_topic(conn, given.store.dialect, topic, now))
