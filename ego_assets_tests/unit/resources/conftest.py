from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ego_assets.schema.clip import Clip
from resources.database import Database
from resources.keys import VaultKeys
from resources.vault import Vault


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # A module says ``DATABASES = ("sqlite", "postgres")`` to have its tests run on both.
    kinds = getattr(metafunc.module, "DATABASES", ())
    if kinds and "database" in metafunc.fixturenames:
        metafunc.parametrize("database", kinds, indirect=True)


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database: SQLite, or what the module names in ``DATABASES``."""
    if getattr(request, "param", "sqlite") == "postgres":
        database = Database(request.getfixturevalue("postgres_url"))
    else:
        database = Database(f"sqlite:///{tmp_path / 'meta' / 'metadata.db'}")
        database.upgrade()
    yield database
    database.close()


@pytest.fixture
def vault(tmp_path: Path, database: Database) -> Vault:
    return Vault(tmp_path / "vault", database, keys=VaultKeys(tmp_path / "keys" / "vault.key"))


@pytest.fixture
def new_clip() -> Callable[..., Clip]:
    def make(**fields: object) -> Clip:
        values: dict[str, object] = {"clip_id": str(uuid.uuid4()), "source_name": "clip.mp4", **fields}
        return Clip(**values)  # type: ignore[arg-type]

    return make
