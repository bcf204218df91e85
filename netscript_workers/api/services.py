"""What the routes work with, and the parameters that several of them take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Query, Request

from netscript_workers.actions import JobCatalog
from netscript_workers.jobs import JobDefinition
from netscript_workers.store.engine import Store
from netscript_workers.store.writer import Writer
from netscript_workers.streaming.feed import Feed

MAX_LIMIT = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the routes work with; `ring` wakes the workers."""

    store: Store
    writer: Writer
    catalog: JobCatalog
    jobs: Mapping[str, JobDefinition[Any, Any]]
    version: str
    ring: Callable[[], None]
    feed: Feed


def services(request: Request) -> Services:
    """Return the app's services."""
    found: Services = request.app.state.services
    return found


Given = Annotated[Services, Depends(services)]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]
Offset = Annotated[int, Query(ge=0, le=1_000_000_000)]
Text = Annotated[str | None, Query(min_length=1, max_length=512)]
