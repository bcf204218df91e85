"""The outbox and the inbox."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.Text().with_variant(postgresql.UUID(as_uuid=False), "postgresql")
KEY = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

# Rows of these tables live for seconds and are rewritten often: room on every page for updates
# in place, and vacuum long before the default would think of it.
HOT_TABLES = (
    "netscript_executions",
    "netscript_concurrency_slots",
    "netscript_admissions",
    "netscript_workers",
)
HOT_OPTIONS = (
    "fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 200, "
    "autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.05"
)


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "netscript_admissions",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("key", KEY, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "netscript_changes",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("items", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("netscript_changes_seq", "netscript_changes", ["seq"], unique=True)
    op.create_index(
        "netscript_changes_unstamped",
        "netscript_changes",
        ["id"],
        unique=False,
        sqlite_where=sa.text("seq IS NULL"),
        postgresql_where=sa.text("seq IS NULL"),
    )
    op.create_table(
        "netscript_concurrency_slots",
        sa.Column("key", KEY, nullable=False),
        sa.Column("max_used", sa.Integer(), nullable=False),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.Column("holder", ID, nullable=True),
        sa.CheckConstraint("used >= 0 AND used <= max_used", name="netscript_slots_used"),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_table(
        "netscript_execution_attempts",
        sa.Column("execution_id", ID, nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("signal", sa.Integer(), nullable=True),
        sa.Column("worker_id", ID, nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("execution_id", "token"),
    )
    op.create_table(
        "netscript_execution_history",
        sa.Column("id", ID, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("job_id", KEY, nullable=False),
        sa.Column("topic", KEY, nullable=False),
        sa.Column("status", KEY, nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("strict_order", sa.Boolean(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("concurrency_key", KEY, nullable=True),
        sa.Column("correlation_id", sa.Text(), nullable=True),
        sa.Column("traceparent", sa.Text(), nullable=True),
        sa.Column("tracestate", sa.Text(), nullable=True),
        sa.Column("triggered_by", sa.Text(), nullable=False),
        sa.Column("trigger_event_id", ID, nullable=True),
        sa.Column("retried_from", ID, nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("run_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("token", sa.BigInteger(), nullable=True),
        sa.Column("worker_id", ID, nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("progress_percent", sa.Float(), nullable=True),
        sa.Column("progress_message", sa.Text(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "netscript_history_correlation",
        "netscript_execution_history",
        ["correlation_id", "id"],
        unique=False,
    )
    op.create_index(
        "netscript_history_job", "netscript_execution_history", ["job_id", "id"], unique=False
    )
    op.create_index(
        "netscript_history_status", "netscript_execution_history", ["status", "id"], unique=False
    )
    op.create_index(
        "netscript_history_topic", "netscript_execution_history", ["topic", "id"], unique=False
    )
    op.create_table(
        "netscript_execution_logs",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("execution_id", ID, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "netscript_logs_execution", "netscript_execution_logs", ["execution_id", "id"], unique=False
    )
    op.create_table(
        "netscript_execution_steps",
        sa.Column("execution_id", ID, nullable=False),
        sa.Column("name", KEY, nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("execution_id", "name"),
    )
    op.create_table(
        "netscript_executions",
        sa.Column("id", ID, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("job_id", KEY, nullable=False),
        sa.Column("topic", KEY, nullable=False),
        sa.Column("status", KEY, nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("strict_order", sa.Boolean(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("concurrency_key", KEY, nullable=True),
        sa.Column("correlation_id", sa.Text(), nullable=True),
        sa.Column("traceparent", sa.Text(), nullable=True),
        sa.Column("tracestate", sa.Text(), nullable=True),
        sa.Column("triggered_by", sa.Text(), nullable=False),
        sa.Column("trigger_event_id", ID, nullable=True),
        sa.Column("retried_from", ID, nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("run_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("token", sa.BigInteger(), nullable=True),
        sa.Column("worker_id", ID, nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("progress_percent", sa.Float(), nullable=True),
        sa.Column("progress_message", sa.Text(), nullable=True),
        sa.Column("sort_at", sa.BigInteger(), nullable=False),
        sa.Column("holds_key", sa.Boolean(), nullable=False),
        sa.Column("parked", sa.Boolean(), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "netscript_executions_blocked",
        "netscript_executions",
        ["concurrency_key", "id"],
        unique=False,
        sqlite_where=sa.text("status = 'blocked'"),
        postgresql_where=sa.text("status = 'blocked'"),
    )
    op.create_index(
        "netscript_executions_due",
        "netscript_executions",
        ["run_at", "id"],
        unique=False,
        sqlite_where=sa.text("status = 'scheduled'"),
        postgresql_where=sa.text("status = 'scheduled'"),
    )
    op.create_index(
        "netscript_executions_ready",
        "netscript_executions",
        ["topic", "sort_at", "id"],
        unique=False,
        sqlite_where=sa.text("status = 'queued' AND NOT parked"),
        postgresql_where=sa.text("status = 'queued' AND NOT parked"),
    )
    op.create_index(
        "netscript_executions_parked",
        "netscript_executions",
        ["job_id", "id"],
        unique=False,
        sqlite_where=sa.text("parked"),
        postgresql_where=sa.text("parked"),
    )
    op.create_index(
        "netscript_executions_running",
        "netscript_executions",
        ["worker_id", "id"],
        unique=False,
        sqlite_where=sa.text("status = 'running'"),
        postgresql_where=sa.text("status = 'running'"),
    )
    op.create_table(
        "netscript_idempotency_keys",
        sa.Column("scope", KEY, nullable=False),
        sa.Column("key", KEY, nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("ref", ID, nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "key"),
    )
    op.create_index(
        "netscript_idempotency_expiry", "netscript_idempotency_keys", ["expires_at"], unique=False
    )
    op.create_table(
        "netscript_job_definitions",
        sa.Column("id", KEY, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("timeout", sa.Float(), nullable=True),
        sa.Column("strict_order", sa.Boolean(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("payload_schema", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("registered_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "netscript_topics",
        sa.Column("name", KEY, nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "netscript_trigger_events",
        sa.Column("id", ID, nullable=False),
        sa.Column("trigger_id", KEY, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("status", KEY, nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("headers", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("executions", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("conflict", sa.Boolean(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("traceparent", sa.Text(), nullable=True),
        sa.Column("tracestate", sa.Text(), nullable=True),
        sa.Column("replayed_from", ID, nullable=True),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("token", ID, nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "netscript_events_due",
        "netscript_trigger_events",
        ["due_at", "id"],
        unique=False,
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index(
        "netscript_events_status", "netscript_trigger_events", ["status", "id"], unique=False
    )
    op.create_index(
        "netscript_events_trigger", "netscript_trigger_events", ["trigger_id", "id"], unique=False
    )
    op.create_table(
        "netscript_workers",
        sa.Column("id", ID, nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("jobs", sa.Text(), nullable=False),
        sa.Column("lifeline", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("heartbeat_at", sa.BigInteger(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute("CREATE SEQUENCE netscript_claim_token")
        for table in HOT_TABLES:
            op.execute(f"ALTER TABLE {table} SET ({HOT_OPTIONS})")
    else:
        # SQLite has no sequences: one row that each claim counts up.
        op.execute("CREATE TABLE netscript_claim_token (value INTEGER NOT NULL)")
        op.execute("INSERT INTO netscript_claim_token VALUES (0)")


def downgrade() -> None:
    """Take back; everything stored is lost."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP SEQUENCE netscript_claim_token")
    else:
        op.drop_table("netscript_claim_token")
    op.drop_table("netscript_admissions")
    op.drop_table("netscript_changes")
    op.drop_table("netscript_concurrency_slots")
    op.drop_table("netscript_execution_attempts")
    op.drop_table("netscript_execution_history")
    op.drop_table("netscript_execution_logs")
    op.drop_table("netscript_execution_steps")
    op.drop_table("netscript_executions")
    op.drop_table("netscript_idempotency_keys")
    op.drop_table("netscript_job_definitions")
    op.drop_table("netscript_topics")
    op.drop_table("netscript_trigger_events")
    op.drop_table("netscript_workers")
