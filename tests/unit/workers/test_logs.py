"""Log formats: fields, ids, exceptions."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from netscript_workers.logs import EVENT, EXECUTION, ConsoleFormatter, EventIds, JsonFormatter
from tests.unit.fakes import claim_of


def record(message: str, *args: Any, **more: Any) -> logging.LogRecord:
    return logging.LogRecord("shop", logging.INFO, "shop.py", 1, message, args, more.get("exc"))


def told(one: logging.LogRecord) -> dict[str, Any]:
    text = JsonFormatter().format(one)
    assert "\n" not in text
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_line_says_what_the_context_is_about() -> None:
    attempt = claim_of("pack", trigger_event_id="event-1")
    before = EXECUTION.set(attempt)
    try:
        found = told(record("packing %s", "o_1"))
        console = ConsoleFormatter().format(record("packing"))
    finally:
        EXECUTION.reset(before)
    assert (
        found.items()
        >= {
            "level": "INFO",
            "logger": "shop",
            "message": "packing o_1",
            "execution_id": attempt.id,
            "job_id": "pack",
            "attempt": 1,
            "event_id": "event-1",
        }.items()
    )
    assert f"shop: [pack …{attempt.id[-8:]} #1] packing" in console
    assert told(record("later")).keys() == {"time", "level", "logger", "message"}


def test_what_the_record_says_itself_goes_first() -> None:
    before = EVENT.set(EventIds("event-1", "orders"))
    try:
        one = record("came")
        one.event_id = "event-2"
        assert told(one).items() >= {"event_id": "event-2", "trigger_id": "orders"}.items()
    finally:
        EVENT.reset(before)


def test_a_line_joins_on_the_span() -> None:
    span = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1)))
    with trace.use_span(span):
        found = told(record("traced"))
    assert found["trace_id"] == f"{0xABC:032x}"
    assert found["span_id"] == f"{0xDEF:016x}"


def test_an_exception_is_one_line_with_type_and_stack() -> None:
    try:
        raise ValueError("at postgresql://shop:hunter2@db/shop\nsecond line")
    except ValueError:
        found = told(record("it failed", exc=sys.exc_info()))
    assert found["exception"]["type"] == "ValueError"
    assert "test_logs.py" in found["exception"]["stack"]
    assert "postgresql://shop:***@db/shop" in found["exception"]["stack"]


def test_what_is_no_utf_8_or_breaks_lines_is_one_line_all_the_same() -> None:
    assert told(record("a\nb\u2028c\udc80 \x00"))["message"] == "a\nb\u2028c\udc80 \x00"
