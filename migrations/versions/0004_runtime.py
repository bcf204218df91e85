"""The runtime: limits of jobs and topics, batches, cancelling, workers that are told to leave."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ID = sa.Text().with_variant(postgresql.UUID(as_uuid=False), "postgresql")
KEY = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")

EXECUTIONS = "netscript_executions"
# Few rows, each written with many of the ticks.
HOT_TABLES = ("netscript_job_gates", "netscript_batches")
HOT_OPTIONS = (
    "fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 200, "
    "autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.05"
)

INDEXES = (
    ("netscript_executions_waiting", ["job_id", "id"], "status = 'blocked' AND wants_job"),
    ("netscript_executions_holding", ["job_id", "id"], "holds_job"),
    ("netscript_executions_cancelling", ["worker_id", "id"], "cancel_requested"),
)


def upgrade() -> None:
    """Apply."""
    for name in ("limited", "wants_job", "holds_job"):
        op.add_column(
            EXECUTIONS, sa.Column(name, sa.Boolean(), nullable=False, server_default=sa.false())
        )
    for table in (EXECUTIONS, "netscript_execution_history"):
        op.add_column(table, sa.Column("batch_id", ID, nullable=True))
    for name, columns, condition in INDEXES:
        op.create_index(
            name,
            EXECUTIONS,
            columns,
            unique=False,
            sqlite_where=sa.text(condition),
            postgresql_where=sa.text(condition),
        )
    op.add_column(
        "netscript_admissions", sa.Column("kind", KEY, nullable=False, server_default="key")
    )
    op.add_column(
        "netscript_admissions", sa.Column("added", sa.Integer(), nullable=False, server_default="0")
    )
    op.add_column(
        "netscript_idempotency_keys",
        sa.Column("handed_on", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    op.add_column("netscript_topics", sa.Column("rate", sa.Text(), nullable=True))
    op.add_column("netscript_topics", sa.Column("rate_from", sa.BigInteger(), nullable=True))
    op.add_column(
        "netscript_job_definitions", sa.Column("max_concurrency", sa.Integer(), nullable=True)
    )
    op.add_column("netscript_job_definitions", sa.Column("rate", sa.Text(), nullable=True))
    op.add_column(
        "netscript_workers",
        sa.Column("drain_requested", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    op.add_column("netscript_workers", sa.Column("stalled_at", sa.BigInteger(), nullable=True))
    op.add_column("netscript_workers", sa.Column("topics", sa.Text(), nullable=True))
    op.create_table(
        "netscript_job_gates",
        sa.Column("job_id", KEY, nullable=False),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.Column("rate_from", sa.BigInteger(), nullable=True),
        sa.Column("look_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("used >= 0", name="netscript_gates_used"),
        sa.PrimaryKeyConstraint("job_id"),
    )
    op.create_table(
        "netscript_batches",
        sa.Column("id", ID, nullable=False),
        sa.Column("expected", sa.Integer(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("callback", sa.Text(), nullable=True),
        sa.Column("callback_id", ID, nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("completed_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("netscript_batches_completed", "netscript_batches", ["completed_at", "id"])
    op.create_table(
        "netscript_batch_done",
        sa.Column("batch_id", ID, nullable=False),
        sa.Column("execution_id", ID, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("batch_id", "execution_id"),
    )
    if op.get_bind().dialect.name == "postgresql":
        for hot in HOT_TABLES:
            op.execute(f"ALTER TABLE {hot} SET ({HOT_OPTIONS})")
        # Every row is rewritten by its heartbeats, over and over: room for that in its own page.
        op.execute("ALTER TABLE netscript_workers SET (fillfactor = 50)")


def downgrade() -> None:
    """Take back; what waited for a limit waits no longer for anything but its key."""
    op.execute(
        f"UPDATE {EXECUTIONS} SET status = 'queued', reason = NULL "
        "WHERE status = 'blocked' AND wants_job"
    )
    op.execute("DELETE FROM netscript_admissions WHERE kind <> 'key'")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE netscript_workers SET (fillfactor = 70)")
    op.drop_table("netscript_batch_done")
    op.drop_table("netscript_batches")
    op.drop_table("netscript_job_gates")
    op.drop_column("netscript_workers", "topics")
    op.drop_column("netscript_workers", "stalled_at")
    op.drop_column("netscript_workers", "drain_requested")
    op.drop_column("netscript_job_definitions", "rate")
    op.drop_column("netscript_job_definitions", "max_concurrency")
    op.drop_column("netscript_topics", "rate_from")
    op.drop_column("netscript_topics", "rate")
    op.drop_column("netscript_idempotency_keys", "handed_on")
    op.drop_column("netscript_admissions", "added")
    op.drop_column("netscript_admissions", "kind")
    for name, _, _ in INDEXES:
        op.drop_index(name, EXECUTIONS)
    for table in (EXECUTIONS, "netscript_execution_history"):
        op.drop_column(table, "batch_id")
    for name in ("limited", "wants_job", "holds_job"):
        op.drop_column(EXECUTIONS, name)
