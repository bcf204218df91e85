"""Events: types, reasons, replays, and what is known of triggers and their circuits."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ID = sa.Text().with_variant(postgresql.UUID(as_uuid=False), "postgresql")
KEY = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")

EVENTS = "netscript_trigger_events"
INDEXES = (
    ("netscript_events_waiting", ["trigger_id", "due_at", "id"], "due_at IS NOT NULL"),
    ("netscript_events_claimed", ["trigger_id", "id"], "token IS NOT NULL"),
    ("netscript_events_replays", ["replayed_from", "id"], "replayed_from IS NOT NULL"),
)


def upgrade() -> None:
    """Apply."""
    for name in ("event_type", "reason", "note", "failures"):
        op.add_column(EVENTS, sa.Column(name, sa.Text(), nullable=True))
    op.add_column(
        EVENTS, sa.Column("by_hand", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    op.add_column(EVENTS, sa.Column("replays", sa.Integer(), nullable=False, server_default="0"))
    # One that is due is looked for by its trigger, so that those of a trigger that waits cost the
    # others nothing.
    op.drop_index("netscript_events_due", EVENTS)
    for name, columns, condition in INDEXES:
        op.create_index(
            name,
            EVENTS,
            columns,
            unique=False,
            sqlite_where=sa.text(condition),
            postgresql_where=sa.text(condition),
        )
    op.create_table(
        "netscript_trigger_definitions",
        sa.Column("id", KEY, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.Column("payload_schema", sa.Text(), nullable=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("registered_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "netscript_trigger_state",
        sa.Column("trigger_id", KEY, nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("circuit", sa.Text(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("opened", sa.Integer(), nullable=False),
        sa.Column("opened_at", sa.BigInteger(), nullable=True),
        sa.Column("probe_at", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("trigger_id"),
    )


def downgrade() -> None:
    """Take back; disabled triggers and open circuits are so no longer."""
    op.drop_table("netscript_trigger_state")
    op.drop_table("netscript_trigger_definitions")
    for name, _, _ in INDEXES:
        op.drop_index(name, EVENTS)
    condition = sa.text("due_at IS NOT NULL")
    op.create_index(
        "netscript_events_due",
        EVENTS,
        ["due_at", "id"],
        unique=False,
        sqlite_where=condition,
        postgresql_where=condition,
    )
    for name in ("replays", "by_hand", "failures", "note", "reason", "event_type"):
        op.drop_column(EVENTS, name)
