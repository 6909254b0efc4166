"""Findings of reviewers, frame by frame.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "frame_reviews",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("clip_id", sa.String(36), sa.ForeignKey("clips.clip_id"), nullable=False),
        sa.Column("data_version", sa.String(64), nullable=False),
        sa.Column("frame_index", sa.Integer(), nullable=False),
        sa.Column("reviewer", sa.String(200), nullable=False),
        sa.Column("item_id", sa.Integer(), nullable=False),
        sa.Column("sampled", sa.Boolean(), nullable=False),
        sa.Column("covered", sa.JSON(), nullable=False),
        sa.Column("false_regions", sa.JSON(), nullable=False),
        sa.Column("missed", sa.JSON(), nullable=False),
        sa.Column("reviewed_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint(
            "clip_id", "data_version", "frame_index", "reviewer", name="uq_frame_reviews_frame_reviewer"
        ),
    )
    op.create_index("ix_frame_reviews_data_version", "frame_reviews", ["data_version"])


def downgrade() -> None:
    """Remove it; the audit log keeps what was found."""
    op.drop_table("frame_reviews")
