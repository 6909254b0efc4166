"""Clips, artifacts, gates, layer states, reviews, audit log and deliveries.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)
_SIZE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_WORD = sa.String(32)
_ID = sa.String(36)
_NAME = sa.String(200)
_DIGEST = sa.String(64)


def upgrade() -> None:
    """Create all tables."""
    op.create_table(
        "clips",
        sa.Column("clip_id", _ID, primary_key=True),
        sa.Column("source_name", sa.Text(), nullable=False),
        sa.Column("source_camera", _WORD, nullable=False),
        sa.Column("collector_id", sa.Text(), nullable=False),
        sa.Column("recording_date", sa.Date()),
        sa.Column("location_type", _WORD, nullable=False),
        sa.Column("activity_category", sa.Text(), nullable=False),
        sa.Column("consent_scope", _WORD, nullable=False),
        sa.Column("licence", sa.Text(), nullable=False),
        sa.Column("camera_intrinsics", sa.JSON()),
        sa.Column("recording_id", sa.Text(), nullable=False),
        sa.Column("chapter", sa.Integer(), nullable=False),
        sa.Column("upload_uri", sa.Text(), nullable=False),
        sa.Column("raw_key", sa.Text(), nullable=False),
        sa.Column("raw_sha256", _DIGEST, nullable=False),
        sa.Column("raw_bytes", _SIZE, nullable=False),
        sa.Column("duration_s", sa.Float()),
        sa.Column("width", sa.Integer()),
        sa.Column("height", sa.Integer()),
        sa.Column("fps", sa.Float()),
        sa.Column("frame_count", sa.Integer()),
        sa.Column("rotation_deg", sa.Integer(), nullable=False),
        sa.Column("privacy_status", _WORD, nullable=False),
        sa.Column("processing_status", _WORD),
        sa.Column("failed", sa.Boolean(), nullable=False),
        sa.Column("failed_reason", sa.Text(), nullable=False),
        sa.Column("needs_review", sa.Boolean(), nullable=False),
        sa.Column("needs_review_reason", sa.Text(), nullable=False),
        sa.Column("withdrawn", sa.Boolean(), nullable=False),
        sa.Column("withdrawn_reason", sa.Text(), nullable=False),
        sa.Column("held", sa.Boolean(), nullable=False),
        sa.Column("held_reason", sa.Text(), nullable=False),
        sa.Column("duplicate_of", _ID, nullable=False),
        sa.Column("quality_score", sa.Float()),
        sa.Column("quality_confidence", sa.Float()),
        sa.Column("score_version", sa.Text(), nullable=False),
        sa.Column("completeness", sa.Integer(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("updated_at", _MOMENT, nullable=False),
    )
    for column in ("collector_id", "raw_sha256", "upload_uri", "created_at"):
        op.create_index(f"ix_clips_{column}", "clips", [column])

    op.create_table(
        "artifacts",
        sa.Column("clip_id", _ID, primary_key=True),
        sa.Column("layer", _NAME, primary_key=True),
        sa.Column("version_id", _DIGEST, primary_key=True),
        sa.Column("data_version", _DIGEST, nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("bytes", _SIZE, nullable=False),
        sa.Column("backends", sa.JSON(), nullable=False),
        sa.Column("current", sa.Boolean(), nullable=False),
        sa.Column("committed_at", _MOMENT, nullable=False),
    )
    op.create_table(
        "gate_results",
        sa.Column("clip_id", _ID, sa.ForeignKey("clips.clip_id"), primary_key=True),
        sa.Column("layer", _NAME, primary_key=True),
        sa.Column("gate", _NAME, primary_key=True),
        sa.Column("outcome", _WORD, nullable=False),
        sa.Column("blocking", sa.Boolean(), nullable=False),
        sa.Column("value", sa.Float()),
        sa.Column("threshold", sa.Float()),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("data_version", _DIGEST, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("evaluated_at", _MOMENT, nullable=False),
    )
    op.create_table(
        "layer_states",
        sa.Column("clip_id", _ID, sa.ForeignKey("clips.clip_id"), primary_key=True),
        sa.Column("layer", _NAME, primary_key=True),
        sa.Column("state", _WORD, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("duration_s", sa.Float()),
        sa.Column("updated_at", _MOMENT, nullable=False),
    )
    op.create_table(
        "review_items",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("clip_id", _ID, sa.ForeignKey("clips.clip_id"), nullable=False),
        sa.Column("layer", _NAME, nullable=False),
        sa.Column("kind", _WORD, nullable=False),
        sa.Column("risk", _WORD, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("status", _WORD, nullable=False),
        sa.Column("resolution", sa.Text(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("resolved_at", _MOMENT),
        sa.Column("resolved_by", sa.Text(), nullable=False),
    )
    for column in ("clip_id", "status"):
        op.create_index(f"ix_review_items_{column}", "review_items", [column])

    op.create_table(
        "audit_log",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("clip_id", _ID, nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
    )
    op.create_index("ix_audit_log_clip_id", "audit_log", ["clip_id"])
    _make_append_only()

    op.create_table(
        "deliveries",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("version", _NAME, nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("definition", sa.JSON(), nullable=False),
        sa.Column("clip_count", sa.Integer(), nullable=False),
        sa.Column("bytes", _SIZE, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.UniqueConstraint("name", "version", name="uq_deliveries_name_version"),
    )
    op.create_table(
        "delivery_clips",
        sa.Column("delivery_id", sa.Integer(), sa.ForeignKey("deliveries.id"), primary_key=True),
        sa.Column("clip_id", _ID, sa.ForeignKey("clips.clip_id"), primary_key=True),
        sa.Column("data_versions", sa.JSON(), nullable=False),
    )
    op.create_index("ix_delivery_clips_clip_id", "delivery_clips", ["clip_id"])


def downgrade() -> None:
    """Remove everything."""
    for table in (
        "delivery_clips",
        "deliveries",
        "audit_log",
        "review_items",
        "layer_states",
        "gate_results",
        "artifacts",
        "clips",
    ):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_log_is_append_only()")


def _make_append_only() -> None:
    """Let the database itself refuse to change or remove rows of the audit log."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION audit_log_is_append_only() RETURNS trigger AS $$ "
            "BEGIN RAISE EXCEPTION 'audit_log is append-only'; END $$ LANGUAGE plpgsql"
        )
        op.execute(
            "CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log "
            "FOR EACH STATEMENT EXECUTE FUNCTION audit_log_is_append_only()"
        )
        return
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_log_no_{change.lower()} BEFORE {change} ON audit_log "
            "BEGIN SELECT RAISE(ABORT, 'audit_log is append-only'); END"
        )
