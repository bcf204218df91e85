"""Logs: for people on one line each, or as JSON; both say which execution or event they are about.

Whoever handles one says so in a context variable. A handler's own `logging.getLogger(__name__)`
then tells it too.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple, TypeAlias

from opentelemetry import trace

from netscript_workers.clock import MICROSECONDS, to_rfc3339
from netscript_workers.domain import ClaimedExecution
from netscript_workers.redaction import redact

LogFormat: TypeAlias = Literal["console", "json"]
FORMATS: tuple[LogFormat, ...] = ("console", "json")

# What people compare of an id: its beginning is the time, alike for all of an hour.
_SHORT = 8
_IDS = ("execution_id", "job_id", "attempt", "event_id", "trigger_id")


class EventIds(NamedTuple):
    """The event that is handled."""

    event_id: str
    trigger_id: str


EXECUTION: ContextVar[ClaimedExecution | None] = ContextVar("netscript_execution", default=None)
"""The attempt that runs here."""
EVENT: ContextVar[EventIds | None] = ContextVar("netscript_event", default=None)
"""The event that is handled here."""


def ids_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return which trace, execution and event a record is about, as far as it is about any.

    Call it in the context in which it was logged.
    """
    found: dict[str, Any] = {}
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        found["trace_id"] = trace.format_trace_id(span.trace_id)
        found["span_id"] = trace.format_span_id(span.span_id)
    claim, event = EXECUTION.get(), EVENT.get()
    if claim is not None:
        found |= {"execution_id": claim.id, "job_id": claim.job_id, "attempt": claim.attempt}
        if claim.trigger_event_id is not None:
            found["event_id"] = claim.trigger_event_id
    if event is not None:
        found |= event._asdict()
    for name in _IDS:  # what the record itself says goes first
        if (told := getattr(record, name, None)) is not None:
            found[name] = told
    return found


class JsonFormatter(logging.Formatter):
    """One JSON object on a line for each record."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        told: dict[str, Any] = {
            "time": to_rfc3339(round(record.created * MICROSECONDS)),
            "level": record.levelname,
            "logger": record.name,
            "message": redact(record.getMessage()),
            **ids_of(record),
        }
        if record.exc_info and record.exc_info[0] is not None:
            stack = "".join(traceback.format_exception(*record.exc_info))
            told["exception"] = {"type": record.exc_info[0].__name__, "stack": redact(stack)}
        if record.stack_info:
            told["stack"] = redact(record.stack_info)
        return json.dumps(told, default=str)


class ConsoleFormatter(logging.Formatter):
    """A line for people, with the ends of the ids."""

    def __init__(self) -> None:
        """Write it as ever, and the ids before the message."""
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(about)s%(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - as it is called there
        """Write the first line of a record."""
        record.about = _shortly(ids_of(record))
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        return redact(super().format(record))


def _shortly(ids: dict[str, Any]) -> str:
    if "execution_id" in ids:
        job, id_ = ids.get("job_id", "?"), str(ids["execution_id"])[-_SHORT:]
        return f"[{job} …{id_} #{ids.get('attempt', '?')}] "
    if "event_id" in ids:
        return f"[{ids.get('trigger_id', '?')} …{str(ids['event_id'])[-_SHORT:]}] "
    return ""


class _Handler(logging.StreamHandler[Any]):
    """Ours, so that it is found again."""


def set_up(level: str | int, format: LogFormat = "console") -> None:  # noqa: A002 - as the setting
    """Write this process's logs to its standard error.

    Args:
        level: The lowest level that is written.
        format: For whom.
    """
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, _Handler)]:
        root.removeHandler(handler)
    handler = _Handler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else ConsoleFormatter())
    root.addHandler(handler)
    root.setLevel(level)


def as_set_up() -> dict[str, Any]:
    """Return how this process logs, for its children: what `set_up_as` takes."""
    root = logging.getLogger()
    is_json = any(isinstance(one.formatter, JsonFormatter) for one in root.handlers)
    level = root.getEffectiveLevel()
    return {"level": level, "format": "json" if is_json else "console", "secrets": redact.known}


def set_up_as(told: dict[str, Any]) -> None:
    """Log as the parent does."""
    redact.learn(told["secrets"])
    set_up(told["level"], told["format"])
