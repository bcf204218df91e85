"""What the routes work with, and the parameters that several of them take."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Query, Request
from pydantic import AwareDatetime, BeforeValidator, StringConstraints, WithJsonSchema

from netscript_workers.actions import JobCatalog
from netscript_workers.ids import ID_PATTERN
from netscript_workers.jobs import JobDefinition
from netscript_workers.options import MAX_KEY_LENGTH
from netscript_workers.store.engine import Store
from netscript_workers.store.writer import Writer
from netscript_workers.streaming.feed import Feed

MAX_LIMIT = 200
# Nothing that is stored holds one.
NO_NUL = r"^[^\x00]*$"
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


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
Text = Annotated[str | None, Query(min_length=1, max_length=512, pattern=NO_NUL)]
Cursor = Annotated[
    str | None, Query(min_length=1, max_length=1024, description="The `next_cursor` of a page.")
]


def split_words(given: Any) -> Any:
    """Take a parameter that may be repeated, or separated by commas."""
    if not isinstance(given, list):
        return given
    parts: list[Any] = given  # pyright: ignore[reportUnknownVariableType] - checked afterwards
    return [
        word for part in parts for word in (part.split(",") if isinstance(part, str) else [part])
    ]


def _check_instant(given: Any) -> Any:
    if not (isinstance(given, str) and _INSTANT.fullmatch(given)):
        msg = "must be an instant as RFC 3339 has it, such as 2026-01-02T03:04:05Z"
        raise ValueError(msg)
    return given


# A number would be taken for seconds or for milliseconds, by its size.
Instant = Annotated[AwareDatetime, BeforeValidator(_check_instant)]
When = Annotated[Instant | None, Query(description="An instant, RFC 3339.")]
Why = Annotated[
    str | None,
    Query(min_length=1, max_length=500, description="Why; for log and audit."),
]
# In a body.
ID_SCHEMA = WithJsonSchema({"type": "string", "pattern": ID_PATTERN})
Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_KEY_LENGTH, pattern=NO_NUL)]


def one_or_many(given: Any) -> Any:
    """Take one word, several separated by commas, or a list of some."""
    if isinstance(given, str):
        return given.split(",")
    if given == []:
        msg = "must name a status"
        raise ValueError(msg)
    return given
