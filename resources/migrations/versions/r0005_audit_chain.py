"""Each row of the audit log holds its digest and the one of the row before.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from alembic import op

from resources.audit import NO_DIGEST, entry_digest

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

#: How many rows are in memory at a time.
_PAGE = 1000
_DIGEST = sa.String(64)
_AUDIT_LOG = sa.table(
    "audit_log",
    sa.column("id", sa.Integer()),
    sa.column("at", sa.DateTime(timezone=True)),
    *(
        sa.column(name, sa.Text())
        for name in ("actor", "action", "purpose", "clip_id", "detail", "run_id", "previous_digest", "digest")
    ),
)


def upgrade() -> None:
    """Add both columns and chain the rows that are there, in the order of their numbers."""
    if _is_postgres():
        # Later steps of the same transaction change the clips; others lock the clips first.
        op.execute("LOCK TABLE clips, audit_log IN ACCESS EXCLUSIVE MODE")
    _allow_changes()
    for name in ("previous_digest", "digest"):
        op.add_column("audit_log", sa.Column(name, _DIGEST))
    _chain()
    with op.batch_alter_table("audit_log") as table:
        for name in ("previous_digest", "digest"):
            table.alter_column(name, existing_type=_DIGEST, nullable=False)
    op.create_index("ix_audit_log_previous_digest", "audit_log", ["previous_digest"], unique=True)
    _refuse_changes()


def downgrade() -> None:
    """Remove both columns; the rows stay, and a later upgrade chains them anew."""
    if _is_postgres():
        # Older steps of the same transaction lock the clips too; others read the clips first.
        op.execute("LOCK TABLE clips, audit_log IN ACCESS EXCLUSIVE MODE")
    _allow_changes()
    op.drop_index("ix_audit_log_previous_digest", "audit_log")
    with op.batch_alter_table("audit_log") as table:
        for name in ("previous_digest", "digest"):
            table.drop_column(name)
    if _is_postgres():
        # The rows of the chain were numbered without it.
        op.execute(
            "SELECT setval(pg_get_serial_sequence('audit_log', 'id'), max(id)) FROM audit_log HAVING max(id) >= 1"
        )
    _refuse_changes()


def _chain() -> None:
    connection, log = op.get_bind(), _AUDIT_LOG.c
    before = NO_DIGEST
    content = sa.select(
        log.id, log.at, log.actor, log.action, log.purpose, log.clip_id, log.detail, log.run_id
    )
    page = content.order_by(log.id).limit(_PAGE)
    update = (
        _AUDIT_LOG.update()
        .where(log.id == sa.bindparam("row"))
        .values(previous_digest=sa.bindparam("before"), digest=sa.bindparam("own"))
    )
    while rows := connection.execute(page).all():
        digests: list[dict[str, Any]] = []
        for row in rows:
            values = dict(row._mapping)
            if values["at"].tzinfo is None:
                values["at"] = values["at"].replace(tzinfo=dt.UTC)
            own = entry_digest(previous_digest=before, **values)
            digests.append({"row": row.id, "before": before, "own": own})
            before = own
        connection.execute(update, digests)
        page = content.where(log.id > rows[-1].id).order_by(log.id).limit(_PAGE)


def _is_postgres() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def _allow_changes() -> None:
    """Take away what keeps the rows from being changed, until the end of the transaction."""
    if _is_postgres():
        op.execute("DROP TRIGGER audit_log_append_only ON audit_log")
        return
    for change in ("update", "delete"):
        op.execute(f"DROP TRIGGER audit_log_no_{change}")


def _refuse_changes() -> None:
    """Let the database itself refuse to change or remove rows of the audit log."""
    if _is_postgres():
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
