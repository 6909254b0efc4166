"""Embeddings of clips, for similarity search.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from resources.embeddings import adopt_pgvector

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table; on Postgres with pgvector its vectors are of that type."""
    op.create_table(
        "embeddings",
        sa.Column("clip_id", sa.String(36), sa.ForeignKey("clips.clip_id"), primary_key=True),
        sa.Column("space", sa.String(200), nullable=False),
        sa.Column("data_version", sa.String(64), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
    )
    op.create_index("ix_embeddings_space", "embeddings", ["space"])
    adopt_pgvector(op.get_bind())


def downgrade() -> None:
    """Remove it; `ego-assets reindex` fills it again. The extension stays, for others may use it."""
    op.drop_table("embeddings")
