from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from ego_assets.schema.clip import Clip
from resources.database import Database
from resources.vault import Vault


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """An empty SQLite database, or the Postgres database that EGO_TEST_DATABASE_URL names, which is wiped."""
    url = os.environ.get("EGO_TEST_DATABASE_URL", "")
    database = Database(url or f"sqlite:///{tmp_path / 'meta' / 'metadata.db'}")
    if url:
        with database.engine.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
    database.upgrade()
    yield database
    database.close()


@pytest.fixture
def vault(tmp_path: Path, database: Database) -> Vault:
    return Vault(tmp_path / "vault", database)


@pytest.fixture
def new_clip() -> Callable[..., Clip]:
    def make(**fields: object) -> Clip:
        values: dict[str, object] = {"clip_id": str(uuid.uuid4()), "source_name": "clip.mp4", **fields}
        return Clip(**values)  # type: ignore[arg-type]

    return make
