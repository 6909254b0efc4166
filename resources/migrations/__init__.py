"""Alembic migrations of the metadata database, run by :meth:`resources.database.Database.upgrade`."""
