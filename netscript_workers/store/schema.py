"""The tables. All of them live in the user's own database, so every name begins `netscript_`.

Times are microseconds since the epoch, so that one arithmetic serves both databases. Payloads,
results and steps are JSON as ASCII text: `jsonb` refuses what JSON allows (a NUL, a lone
surrogate).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    false,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeEngine

PREFIX = "netscript_"
VERSION_TABLE = f"{PREFIX}alembic_version"
CLAIM_TOKEN = f"{PREFIX}claim_token"

metadata = MetaData()

# Ids are UUIDs on PostgreSQL (16 bytes) and text on SQLite; either way strings in Python.
Id: TypeEngine[str] = Text().with_variant(postgresql.UUID(as_uuid=False), "postgresql")
# Collation "C": these are compared on hot paths, and never sorted for people.
Key: TypeEngine[str] = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
Serial: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")
Micros = BigInteger


def partial_index(name: str, *columns: str, where: str) -> Index:
    """Return an index over the rows that meet a condition, on both databases."""
    condition = text(where)
    return Index(name, *columns, sqlite_where=condition, postgresql_where=condition)


def _common() -> list[Column[Any]]:
    """Columns that a live and a finished execution share."""
    return [
        Column("id", Id, primary_key=True),
        Column("kind", Text, nullable=False),
        Column("job_id", Key, nullable=False),
        Column("topic", Key, nullable=False),
        Column("status", Key, nullable=False),
        Column("priority", SmallInteger, nullable=False),
        Column("payload", Text, nullable=False),
        Column("fingerprint", Text, nullable=False),
        Column("attempt", Integer, nullable=False),
        Column("max_attempts", Integer, nullable=False),
        Column("losses", Integer, nullable=False),
        Column("strict_order", Boolean, nullable=False),
        Column("idempotency_key", Text),
        Column("concurrency_key", Key),
        Column("correlation_id", Text),
        Column("traceparent", Text),
        Column("tracestate", Text),
        Column("triggered_by", Text, nullable=False),
        Column("trigger_event_id", Id),
        Column("retried_from", Id),
        Column("batch_id", Id),
        Column("created_at", Micros, nullable=False),
        Column("run_at", Micros, nullable=False),
        Column("started_at", Micros),
        Column("token", BigInteger),
        Column("worker_id", Id),
        Column("reason", Text),
        Column("error", Text),
        Column("progress_percent", Float),
        Column("progress_message", Text),
    ]


COMMON: tuple[str, ...] = tuple(column.name for column in _common())

executions = Table(
    f"{PREFIX}executions",
    metadata,
    *_common(),
    # run_at minus a few seconds a point of priority: one static index serves the most urgent
    # first, and makes nobody wait for ever. See docs of PRIORITY_STEP.
    Column("sort_at", Micros, nullable=False),
    Column("holds_key", Boolean, nullable=False),
    # Out of the way of claims: no worker on the list knows the job, or it must run alone.
    Column("parked", Boolean, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    # How often it killed the process that it had to itself; a budget apart from `attempt`.
    Column("crashes", Integer, nullable=False, server_default="0"),
    # Its job has a limit: it passes the job's gate before it is queued. It wants to when it waits
    # for nothing else, and holds the place that it was given until the attempt has ended.
    Column("limited", Boolean, nullable=False, server_default=false()),
    Column("wants_job", Boolean, nullable=False, server_default=false()),
    Column("holds_job", Boolean, nullable=False, server_default=false()),
    # No other index without a measurement, and no column here that a heartbeat touches.
    partial_index(
        f"{PREFIX}executions_ready",
        "topic",
        "sort_at",
        "id",
        where="status = 'queued' AND NOT parked",
    ),
    partial_index(f"{PREFIX}executions_parked", "job_id", "id", where="parked"),
    partial_index(f"{PREFIX}executions_due", "run_at", "id", where="status = 'scheduled'"),
    partial_index(
        f"{PREFIX}executions_blocked", "concurrency_key", "id", where="status = 'blocked'"
    ),
    partial_index(f"{PREFIX}executions_running", "worker_id", "id", where="status = 'running'"),
    # These three are empty, but for what is limited or being cancelled.
    partial_index(
        f"{PREFIX}executions_waiting",
        "job_id",
        "sort_at",
        "id",
        where="status = 'blocked' AND wants_job",
    ),
    partial_index(f"{PREFIX}executions_holding", "job_id", "id", where="holds_job"),
    partial_index(f"{PREFIX}executions_cancelling", "worker_id", "id", where="cancel_requested"),
)

history = Table(
    f"{PREFIX}execution_history",
    metadata,
    *_common(),
    Column("result", Text),
    Column("finished_at", Micros, nullable=False),
    Index(f"{PREFIX}history_job", "job_id", "id"),
    Index(f"{PREFIX}history_status", "status", "id"),
    Index(f"{PREFIX}history_topic", "topic", "id"),
    Index(f"{PREFIX}history_correlation", "correlation_id", "id"),
)

attempts = Table(
    f"{PREFIX}execution_attempts",
    metadata,
    Column("execution_id", Id, primary_key=True),
    Column("token", BigInteger, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("error", Text),
    Column("detail", Text),
    Column("exit_code", Integer),
    Column("signal", Integer),
    Column("peak_memory", BigInteger),
    Column("worker_id", Id),
    Column("started_at", Micros),
    Column("finished_at", Micros, nullable=False),
)

steps = Table(
    f"{PREFIX}execution_steps",
    metadata,
    Column("execution_id", Id, primary_key=True),
    Column("name", Key, primary_key=True),
    Column("value", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("finished_at", Micros, nullable=False),
)

logs = Table(
    f"{PREFIX}execution_logs",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("execution_id", Id, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("at", Micros, nullable=False),
    Column("level", Text, nullable=False),
    Column("message", Text, nullable=False),
    Index(f"{PREFIX}logs_execution", "execution_id", "id"),
)

idempotency_keys = Table(
    f"{PREFIX}idempotency_keys",
    metadata,
    Column("scope", Key, primary_key=True),
    Column("key", Key, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("ref", Id, nullable=False),
    Column("expires_at", Micros, nullable=False),
    # It has stood for an earlier execution, which a mode other than `once` has had it let go.
    Column("handed_on", Boolean, nullable=False, server_default=false()),
    Index(f"{PREFIX}idempotency_expiry", "expires_at"),
)

slots = Table(
    f"{PREFIX}concurrency_slots",
    metadata,
    Column("key", Key, primary_key=True),
    Column("max_used", Integer, nullable=False),
    Column("used", Integer, nullable=False),
    Column("holder", Id),
    CheckConstraint("used >= 0 AND used <= max_used", name=f"{PREFIX}slots_used"),
)

# Notes for whoever ticks next: look at this concurrency key, this job's gate, this batch.
admissions = Table(
    f"{PREFIX}admissions",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("kind", Key, nullable=False, server_default="key"),
    Column("key", Key, nullable=False),
    # Of a batch: how many of its executions have finished.
    Column("added", Integer, nullable=False, server_default="0"),
)

# The limits of a job that has or had any: how many of its executions have a place, and since
# when its rate has been used up.
job_gates = Table(
    f"{PREFIX}job_gates",
    metadata,
    Column("job_id", Key, primary_key=True),
    Column("used", Integer, nullable=False),
    Column("rate_from", Micros),
    # When the rate lets the next one through, if one waits for that.
    Column("look_at", Micros),
    CheckConstraint("used >= 0", name=f"{PREFIX}gates_used"),
)

batches = Table(
    f"{PREFIX}batches",
    metadata,
    Column("id", Id, primary_key=True),
    Column("expected", Integer, nullable=False),
    # Counted from `batch_done` by one transaction at a time, which holds this row.
    Column("done", Integer, nullable=False),
    Column("callback", Text),
    Column("callback_id", Id),
    Column("created_at", Micros, nullable=False),
    Column("completed_at", Micros),
    # The id has those that are open, which are all NULL, read in order.
    Index(f"{PREFIX}batches_completed", "completed_at", "id"),
)

batch_done = Table(
    f"{PREFIX}batch_done",
    metadata,
    # A set: who finishes twice is in it once.
    Column("batch_id", Id, primary_key=True),
    Column("execution_id", Id, primary_key=True),
    Column("status", Text, nullable=False),
)

workers = Table(
    f"{PREFIX}workers",
    metadata,
    Column("id", Id, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", Text, nullable=False),
    Column("concurrency", Integer, nullable=False),
    Column("jobs", Text, nullable=False),
    Column("lifeline", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("started_at", Micros, nullable=False),
    Column("heartbeat_at", Micros, nullable=False),
    Column("lease_until", Micros, nullable=False),
    Column("drain_requested", Boolean, nullable=False, server_default=false()),
    # Since when its claim loop makes no progress, although its heart beats.
    Column("stalled_at", Micros),
    # Which it serves; NULL for all.
    Column("topics", Text),
)

topics = Table(
    f"{PREFIX}topics",
    metadata,
    Column("name", Key, primary_key=True),
    Column("paused", Boolean, nullable=False),
    Column("rate", Text),
    # Since when the rate has been used up.
    Column("rate_from", Micros),
)

job_definitions = Table(
    f"{PREFIX}job_definitions",
    metadata,
    Column("id", Key, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text),
    Column("topic", Text, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("timeout", Float),
    Column("strict_order", Boolean, nullable=False),
    Column("max_concurrency", Integer),
    Column("rate", Text),
    Column("enabled", Boolean, nullable=False),
    Column("tags", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("payload_schema", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("registered_at", Micros, nullable=False),
)

changes = Table(
    f"{PREFIX}changes",
    metadata,
    Column("id", Serial, primary_key=True),
    # Given after the commit, so that readers see commits in order and miss none.
    Column("seq", BigInteger),
    Column("at", Micros, nullable=False),
    Column("items", Text, nullable=False),
    Index(f"{PREFIX}changes_seq", "seq", unique=True),
    partial_index(f"{PREFIX}changes_unstamped", "id", where="seq IS NULL"),
)

schedules = Table(
    f"{PREFIX}schedules",
    metadata,
    Column("id", Key, primary_key=True),
    # What it sets off, and which one of those.
    Column("kind", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("definition", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    # The fingerprints of all its definitions in the order in which they were first seen.
    Column("known", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("anchor", Micros, nullable=False),
    # The cursor: the first instant that nobody has dealt with. None when there is none to come.
    Column("next_at", Micros),
    Column("changed_at", Micros, nullable=False),
    partial_index(f"{PREFIX}schedules_due", "next_at", where="enabled"),
)

schedule_fires = Table(
    f"{PREFIX}schedule_fires",
    metadata,
    # Whoever inserts an instant first fires it; nobody else does.
    Column("schedule_id", Key, primary_key=True),
    Column("nominal_at", Micros, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("note", Text),
    # What it led to.
    Column("ref", Id),
    Column("recorded_at", Micros, nullable=False),
    Index(f"{PREFIX}fires_recorded", "recorded_at"),
)

schedulers = Table(
    f"{PREFIX}schedulers",
    metadata,
    Column("id", Id, primary_key=True),
    # Schedules that its code has, with the fingerprint of each.
    Column("declared", Text, nullable=False),
    Column("seen_at", Micros, nullable=False),
)

# Ids grow with time: they order it, and say what is old.
audit = Table(
    f"{PREFIX}audit",
    metadata,
    Column("id", Id, primary_key=True),
    Column("at", Micros, nullable=False),
    Column("who", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text),
    Column("reason", Text),
    Column("address", Text),
)


def include_name(name: str | None, type_: str, parent_names: Any) -> bool:
    """Leave netscript's own tables alone in a user's Alembic `env.py`.

    Example:
        context.configure(..., include_name=include_name)
    """
    return not (name is not None and name.startswith(PREFIX) and type_ in {"table", "index"})
