"""The inbox and what is known of triggers, on the outbox's metadata: one commit covers both."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, Table, Text, false

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
    Column("event_type", Text),
    Column("reason", Text),
    Column("note", Text),
    Column("failures", Text),
    Column("by_hand", Boolean, nullable=False, server_default=false()),
    Column("replays", Integer, nullable=False, server_default="0"),
    partial_index(
        f"{PREFIX}events_waiting", "trigger_id", "due_at", "id", where="due_at IS NOT NULL"
    ),
    partial_index(f"{PREFIX}events_claimed", "trigger_id", "id", where="token IS NOT NULL"),
    partial_index(
        f"{PREFIX}events_replays", "replayed_from", "id", where="replayed_from IS NOT NULL"
    ),
    Index(f"{PREFIX}events_trigger", "trigger_id", "id"),
    Index(f"{PREFIX}events_status", "status", "id"),
)

trigger_definitions = Table(
    f"{PREFIX}trigger_definitions",
    metadata,
    Column("id", Key, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("description", Text),
    Column("definition", Text, nullable=False),
    Column("payload_schema", Text),
    Column("source", Text, nullable=False),
    Column("registered_at", Micros, nullable=False),
)

# A trigger that nobody has disabled and whose handler has not failed has no row.
trigger_state = Table(
    f"{PREFIX}trigger_state",
    metadata,
    Column("trigger_id", Key, primary_key=True),
    Column("enabled", Boolean, nullable=False),
    Column("circuit", Text, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("opened", Integer, nullable=False),
    Column("opened_at", Micros),
    Column("probe_at", Micros),
    Column("error", Text),
    Column("changed_at", Micros, nullable=False),
)

# How far each file watch has come: how many files it has taken, and which directory stood at each
# of its paths when all of that was last looked at.
file_watches = Table(
    f"{PREFIX}file_watches",
    metadata,
    Column("trigger_id", Key, primary_key=True),
    Column("generation", BigInteger, nullable=False),
    Column("roots", Text, nullable=False),
)

# The files that a file watch has taken, as long as they are there.
files = Table(
    f"{PREFIX}files",
    metadata,
    Column("trigger_id", Key, primary_key=True),
    Column("path_digest", Key, primary_key=True),
    Column("path", LargeBinary, nullable=False),  # as the kernel has it, which need not be text
    Column("size", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("inode", BigInteger, nullable=False),
    Column("sha256", Text),
    Column("event_id", Id),
    Column("generation", BigInteger, nullable=False),
    Column("taken_at", Micros, nullable=False),
    Index(f"{PREFIX}files_inode", "trigger_id", "inode"),
)
