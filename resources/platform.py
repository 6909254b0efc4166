"""The platform's services as Dagster resources, each with a local default.

The objects behind them are plain Python and are kept for the life of the process: one database engine
per URL, one loaded model per backend, however many runs come by.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster import ConfigurableResource, ResourceDependency
from pydantic import Field

if TYPE_CHECKING:
    from ego_assets.schema.detections import RegionDetector
    from ego_assets.settings import Settings
    from resources.database import Database
    from resources.intake import Intake
    from resources.profiles import Profile
    from resources.storage import ArtifactStore
    from resources.vault import Vault


@lru_cache(maxsize=8)
def open_database(url: str) -> Database:
    """The metadata database at ``url``, migrated to the newest schema."""
    from resources.database import Database

    database = Database(url)
    database.upgrade()
    return database


class ProfileModels:
    """Hands out the backends of one profile; a model is loaded at its first use."""

    def __init__(self, profile: Profile, *, threads: int) -> None:
        self.profile = profile
        self.threads = threads
        self._detectors: dict[str, RegionDetector] = {}

    def has(self, task: str) -> bool:
        """Whether the profile names a backend for the task."""
        return task in self.profile.backends

    def detector(self, task: str) -> RegionDetector:
        """The detection backend of the task.

        Raises:
            ConfigurationError: The profile names none.
            BackendUnavailable: It cannot run here.
        """
        if task not in self._detectors:
            from resources.profiles import build_detector

            self._detectors[task] = build_detector(self.profile, task)
        return self._detectors[task]


@lru_cache(maxsize=8)
def open_models(profile: str, threads: int) -> ProfileModels:
    """The backends of a profile."""
    from resources.profiles import load_profile

    return ProfileModels(load_profile(profile), threads=threads)


class DatabaseResource(ConfigurableResource):  # type: ignore[type-arg]
    """The metadata database: clips, gates, reviews, audit."""

    url: str = Field(description="SQLAlchemy URL; SQLite and Postgres are supported.")

    def get(self) -> Database:
        """The database, migrated."""
        return open_database(self.url)


class StoreResource(ConfigurableResource):  # type: ignore[type-arg]
    """The artifact store."""

    root: str = Field(description="Folder or fsspec URL.")

    def get(self) -> ArtifactStore:
        """The store."""
        from resources.storage import ArtifactStore

        return ArtifactStore(self.root)


class VaultResource(ConfigurableResource):  # type: ignore[type-arg]
    """The vault of originals. Only ingest, raw quality and the privacy pass ask for it."""

    root: str = Field(description="Folder of the vault.")
    database: ResourceDependency[DatabaseResource]

    def get(self) -> Vault:
        """The vault; every open is audited in the database."""
        from resources.vault import Vault

        return Vault(Path(self.root), self.database.get())

    def intake(self) -> Intake:
        """The way in."""
        from resources.intake import Intake

        return Intake(self.database.get(), self.get())


class ModelsResource(ConfigurableResource):  # type: ignore[type-arg]
    """The backends of the active profile."""

    profile: str = Field(description="Profile name or path of a profile file.")
    threads: int = Field(default=0, description="Threads of a model on the CPU; 0 lets the library decide.")

    def get(self) -> ProfileModels:
        """The backends, loaded at first use."""
        return open_models(self.profile, self.threads)


def build_resources(settings: Settings) -> dict[str, Any]:
    """All resources of the platform for these settings."""
    database = DatabaseResource(url=settings.database)
    return {
        "settings": settings,
        "database": database,
        "store": StoreResource(root=settings.store),
        "vault": VaultResource(root=str(settings.vault), database=database),
        "models": ModelsResource(profile=settings.profile, threads=settings.detector_threads),
    }
