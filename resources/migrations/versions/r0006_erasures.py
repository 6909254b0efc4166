"""Erasures: what was erased for good, and what is refused when it is uploaded again.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table, and mark the clips that are erased."""
    op.add_column("clips", sa.Column("erased_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "erasures",
        sa.Column("clip_id", sa.String(36), sa.ForeignKey("clips.clip_id"), primary_key=True),
        sa.Column("begun_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("content_salt", sa.String(64), nullable=False),
        sa.Column("content_digest", sa.String(64), nullable=False),
        sa.Column("removed", sa.JSON(), nullable=False),
        sa.Column("deliveries", sa.JSON(), nullable=False),
        sa.Column("pending", sa.JSON(), nullable=True),
    )


def downgrade() -> None:
    """Remove it. Erased clips stay withdrawn, but the same content is not recognised any more."""
    op.drop_table("erasures")
    # Nothing in the table refers to this column, so that its rows need not be copied.
    op.drop_column("clips", "erased_at")
