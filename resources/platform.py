"""The platform's services as Dagster resources, each with a local default.

The objects behind them are plain Python and are kept for the life of the process: one database engine
per URL, one loaded model per backend, however many runs come by.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster import ConfigurableResource
from pydantic import Field

if TYPE_CHECKING:
    from ego_assets.schema.detections import RegionDetector
    from ego_assets.schema.ladder import Rung
    from ego_assets.settings import Settings
    from resources.database import Database
    from resources.intake import Intake
    from resources.keys import VaultKeys
    from resources.profiles import Profile
    from resources.storage import ArtifactStore
    from resources.upload_queue import UploadQueue
    from resources.uploads import BucketUploads
    from resources.vault import Vault


def open_database(settings: "Settings") -> "Database":
    """The metadata database, migrated to the newest schema; one per URL in a process."""
    return _open_database(settings.database, settings.database_pool_size, settings.database_max_overflow)


@lru_cache(maxsize=8)
def _open_database(url: str, pool_size: int, max_overflow: int) -> "Database":
    from resources.database import Database

    database = Database(url, pool_size=pool_size, max_overflow=max_overflow)
    database.upgrade()
    return database


def open_store(settings: "Settings") -> "ArtifactStore":
    """The artifact store."""
    from resources.storage import ArtifactStore

    return ArtifactStore(settings.store, settings.store_access)


def open_vault(settings: "Settings", database: "Database") -> "Vault":
    """The vault of originals; every open is audited in ``database``."""
    from resources.vault import Vault

    return Vault(settings.vault_root, database, keys=open_vault_keys(settings), access=settings.vault_access)


def open_vault_keys(settings: "Settings") -> "VaultKeys":
    """The keys of the vault; none is made before something is encrypted.

    Raises:
        ConfigurationError: A key cannot be used, or the key file would lie in the vault.
    """
    from resources.keys import VaultKeys

    return VaultKeys(
        settings.vault_key_path,
        environment_key=settings.vault_key.get_secret_value(),
        previous=settings.vault_previous_keys.get_secret_value(),
        encrypts=settings.vault_encryption == "on",
        apart_from=None if settings.vault_url else settings.vault,
    )


def open_uploads(settings: "Settings") -> "BucketUploads":
    """The bucket that is watched; where none is, a place that objects of other buckets can be copied through."""
    from ego_assets.disk import require_space
    from resources.uploads import BucketUploads

    # Beside the originals where they lie on this machine: taking a private copy is a change of name then.
    workspace = (settings.root if settings.vault_url else settings.vault) / "incoming"

    def has_room(needed_bytes: int, what: str) -> None:
        require_space(workspace, needed_bytes, reserve_bytes=settings.free_disk_reserve_bytes, what=what)

    return BucketUploads(
        settings.uploads_url, settings.uploads_access, workspace=workspace, require_space=has_room
    )


def open_upload_queue(settings: "Settings") -> "UploadQueue | None":
    """The queue that hears of new uploads, where there is one."""
    from resources.upload_queue import UploadQueue

    if not settings.uploads_queue_url:
        return None
    return UploadQueue(settings.uploads_queue_url, settings.uploads_access)


def open_intake(settings: "Settings", database: "Database", vault: "Vault") -> "Intake":
    """The way in."""
    from resources.intake import Intake

    return Intake(database, vault, uploads=open_uploads(settings), uploads_folder=settings.uploads)


class ProfileModels:
    """Hands out the backends of one profile; a model is loaded at its first use."""

    def __init__(self, profile: "Profile", *, models_dir: Path | None = None) -> None:
        self.profile = profile
        self._models_dir = models_dir

    def detector(self, task: str, *, leak_check: bool = False) -> "RegionDetector":
        """The detection backend of the task; with ``leak_check`` the one that examines the finished video.

        Raises:
            ConfigurationError: The profile names none.
            BackendUnavailable: It cannot run here.
        """
        from resources.profiles import build_backend

        detector: RegionDetector = build_backend(
            self.profile, task, models_dir=self._models_dir, leak_check=leak_check
        )
        return detector

    def ladder(self, task: str) -> "Sequence[Rung[Any]]":
        """The profile's attempts at a task, in order.

        Raises:
            ConfigurationError: The profile names no backend for the task.
        """
        from resources.profiles import build_ladder

        return build_ladder(self.profile, task, models_dir=self._models_dir)

    def frames_per_second(self, task: str) -> float | None:
        """The profile's rate for a task; ``None`` for every frame."""
        return self.profile.frames_per_second.get(task)

    def settings(self, tasks: Iterable[str], *, leak_check: bool = False) -> dict[str, Mapping[str, Any]]:
        """The profile's settings of the tasks, for the records; or of those that do the leak check."""
        backends = {**self.profile.backends, **(self.profile.leak_check if leak_check else {})}
        return {task: dict(backends[task].settings) for task in tasks}

    def require_intact(self, tasks: Collection[str]) -> None:
        """Refuse weights for these tasks that are there and are not what they should be; they are read as a whole.

        Missing ones are no matter here: the layer that needs them says so.

        Args:
            tasks: Tasks of the profile; those that their backends use are looked at as well.

        Raises:
            BackendUnavailable: The message names the file and what to do.
        """
        from resources.models.weights import file_states, locate
        from resources.profiles import profile_models, used_tasks

        needed = {*tasks, *used_tasks(self.profile, tasks)}
        for model in profile_models(self.profile):
            if model.task not in needed or model.card.shipped_in is not None:
                continue
            if any(file.state == "damaged" for file in file_states(model.card, self._models_dir)):
                locate(model.card, self._models_dir)

    def give_back_memory(self, *, keep_networks: bool) -> None:
        """Give unused memory of a GPU back; networks wait on the CPU for their next use, unless they are kept."""
        from resources.models.torch_runtime import make_room, release_memory

        if keep_networks:
            release_memory()
        else:
            make_room()


@lru_cache(maxsize=8)
def open_models(profile: str, models_dir: Path | None = None) -> ProfileModels:
    """The backends of a profile.

    Args:
        profile: Profile name or path of a profile file.
        models_dir: Folder of the weights that ship in no package.
    """
    from resources.profiles import load_profile

    return ProfileModels(load_profile(profile), models_dir=models_dir)


@dataclass(frozen=True)
class DatabaseResource:
    """The metadata database: clips, gates, reviews, audit.

    Like the store and the vault no configurable resource, because Dagster shows the values of those, and a URL may
    hold a password.
    """

    settings: "Settings"

    def get(self) -> "Database":
        """The database, migrated."""
        return open_database(self.settings)


@dataclass(frozen=True)
class StoreResource:
    """The artifact store."""

    settings: "Settings"

    def get(self) -> "ArtifactStore":
        """The store."""
        return open_store(self.settings)


@dataclass(frozen=True)
class VaultResource:
    """The vault of originals. Only ingest, raw quality and the privacy pass ask for it."""

    settings: "Settings"

    def get(self) -> "Vault":
        """The vault; every open is audited in the database."""
        return open_vault(self.settings, open_database(self.settings))

    def intake(self) -> "Intake":
        """The way in."""
        return open_intake(self.settings, open_database(self.settings), self.get())


class ModelsResource(ConfigurableResource):  # type: ignore[type-arg]
    """The backends of the active profile."""

    profile: str = Field(description="Profile name or path of a profile file.")
    models_dir: str = Field(description="Folder of the weights that ship in no package.")

    def get(self) -> ProfileModels:
        """The backends, loaded at first use."""
        return open_models(self.profile, Path(self.models_dir))


def build_resources(settings: "Settings") -> dict[str, Any]:
    """All resources of the platform for these settings."""
    return {
        "settings": settings,
        "database": DatabaseResource(settings),
        "store": StoreResource(settings),
        "vault": VaultResource(settings),
        "models": ModelsResource(profile=settings.profile, models_dir=str(settings.models)),
    }
