"""The inbox: verified events, on the same metadata as the outbox, so one commit covers both."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Index, Integer, LargeBinary, Table, Text

from netscript_workers.store.schema import PREFIX, Id, Key, Micros, metadata, partial_index

trigger_events = Table(
    f"{PREFIX}trigger_events",
    metadata,
    Column("id", Id, primary_key=True),
    Column("trigger_id", Key, nullable=False),
    Column("kind", Text, nullable=False),
    Column("status", Key, nullable=False),
    Column("idempotency_key", Text),
    Column("headers", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("executions", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("conflict", Boolean, nullable=False),
    Column("error", Text),
    Column("traceparent", Text),
    Column("tracestate", Text),
    Column("replayed_from", Id),
    Column("received_at", Micros, nullable=False),
    Column("due_at", Micros),
    Column("token", Id),
    Column("finished_at", Micros),
    partial_index(f"{PREFIX}events_due", "due_at", "id", where="due_at IS NOT NULL"),
    Index(f"{PREFIX}events_trigger", "trigger_id", "id"),
    Index(f"{PREFIX}events_status", "status", "id"),
)
