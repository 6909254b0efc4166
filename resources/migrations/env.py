"""What Alembic runs; it works on the connection and inside the transaction that ``Database`` hands it."""

from __future__ import annotations

from alembic import context

from resources.database import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
