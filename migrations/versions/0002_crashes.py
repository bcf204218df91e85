"""Crashes: what an execution does to a process of its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column(
        "netscript_executions",
        sa.Column("crashes", sa.Integer(), nullable=False, server_default="0"),
    )
    op.add_column(
        "netscript_execution_attempts", sa.Column("peak_memory", sa.BigInteger(), nullable=True)
    )


def downgrade() -> None:
    """Take back."""
    op.drop_column("netscript_execution_attempts", "peak_memory")
    op.drop_column("netscript_executions", "crashes")
