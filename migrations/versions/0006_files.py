"""Files: what file watches have taken, and how far they have come."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ID = sa.Text().with_variant(postgresql.UUID(as_uuid=False), "postgresql")
KEY = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "netscript_file_watches",
        sa.Column("trigger_id", KEY, nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("roots", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("trigger_id"),
    )
    op.create_table(
        "netscript_files",
        sa.Column("trigger_id", KEY, nullable=False),
        sa.Column("path_digest", KEY, nullable=False),
        sa.Column("path", sa.LargeBinary(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("inode", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("event_id", ID, nullable=True),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("taken_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("trigger_id", "path_digest"),
    )
    op.create_index("netscript_files_inode", "netscript_files", ["trigger_id", "inode"])


def downgrade() -> None:
    """Take back; file watches then take every file that is there anew."""
    op.drop_table("netscript_files")
    op.drop_table("netscript_file_watches")
