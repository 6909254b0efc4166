"""Corrections and privacy incidents.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)
_WORD = sa.String(32)
_ID = sa.String(36)


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "corrections",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("clip_id", _ID, sa.ForeignKey("clips.clip_id"), nullable=False),
        sa.Column("kind", _WORD, nullable=False),
        sa.Column("first_frame", sa.Integer(), nullable=False),
        sa.Column("last_frame", sa.Integer(), nullable=False),
        sa.Column("box_xyxy", sa.JSON()),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
    )
    op.create_index("ix_corrections_clip_id", "corrections", ["clip_id"])
    op.create_table(
        "incidents",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("clip_id", _ID, sa.ForeignKey("clips.clip_id"), nullable=False),
        sa.Column("kind", _WORD, nullable=False),
        sa.Column("first_frame", sa.Integer(), nullable=False),
        sa.Column("last_frame", sa.Integer(), nullable=False),
        sa.Column("box_xyxy", sa.JSON()),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("background", sa.Boolean(), nullable=False),
        sa.Column("layers", sa.JSON(), nullable=False),
        sa.Column("quarantined", sa.JSON(), nullable=False),
        sa.Column("deliveries", sa.JSON(), nullable=False),
        sa.Column("opened_at", _MOMENT, nullable=False),
        sa.Column("opened_by", sa.Text(), nullable=False),
        sa.Column("quarantined_at", _MOMENT),
        sa.Column("corrected_at", _MOMENT),
        sa.Column("purged_at", _MOMENT),
        sa.Column("resolved_at", _MOMENT),
        sa.Column("resolved_by", sa.Text(), nullable=False),
        sa.Column("resolution", sa.Text(), nullable=False),
    )
    for column in ("clip_id", "resolved_at"):
        op.create_index(f"ix_incidents_{column}", "incidents", [column])


def downgrade() -> None:
    """Remove both tables."""
    op.drop_table("incidents")
    op.drop_table("corrections")
