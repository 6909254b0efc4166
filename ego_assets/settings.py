"""Everything that can be configured through the environment, in one place.

Every variable starts with ``EGO_``; a ``.env`` file in the working directory is read too. The defaults
need no account, no GPU and no download, and keep all data below one folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ego_assets.schema.errors import ConfigurationError
from ego_assets.schema.vocabulary import AudioPolicy, PlatesPolicy, RedactionMethod


@dataclass(frozen=True, kw_only=True)
class EnrichmentSettings:
    """What layers after the privacy pass may know of the settings: no folder of originals among it.

    Attributes:
        frames_per_second: Rate of the JPEG frames.
        frames_input: ``proxy`` or ``full``.
        lossless_frames_per_second: Rate of the lossless subsample; 0 leaves it out.
    """

    frames_per_second: float
    frames_input: str
    lossless_frames_per_second: float


class Settings(BaseSettings):
    """The platform's settings; see each field's description."""

    model_config = SettingsConfigDict(env_prefix="EGO_", env_file=".env", extra="ignore", frozen=True)

    data_dir: Path = Field(
        default=Path("ego_data"),
        description="Folder that holds everything whose place is not set separately.",
    )
    database_url: str = Field(
        default="", description="SQLAlchemy URL of the metadata database; empty means SQLite in data_dir."
    )
    store_url: str = Field(
        default="", description="Folder or fsspec URL of the artifacts; empty means data_dir/store."
    )
    vault_dir: Path | None = Field(
        default=None, description="Folder of the originals; empty means data_dir/vault."
    )
    uploads_dir: Path | None = Field(
        default=None,
        description="Watched folder; empty means data_dir/uploads. Layout: raw/COLLECTOR/DATE/FILE.",
    )
    deliveries_dir: Path | None = Field(
        default=None, description="Folder of the deliveries; empty means data_dir/deliveries."
    )
    profile: str = Field(
        default="local",
        description="Profile name, or path of a profile file: which backend serves each task.",
    )
    models_dir: Path | None = Field(
        default=None,
        description="Folder of the weights that ship in no package; empty means data_dir/models.",
    )
    redaction: RedactionMethod = Field(
        default="blur", description="How regions are made unrecognisable: blur, pixelate or solid."
    )
    audio: AudioPolicy = Field(
        default="drop",
        description="Whether the full-size blurred video keeps its sound. Voices identify people: drop by default.",
    )
    plates: PlatesPolicy = Field(
        default="auto",
        description=(
            "Whether number plates are looked for: auto does so unless the clip says it was recorded in a kitchen, "
            "an office or a workshop and its activity names no vehicle."
        ),
    )
    hold_flagged: bool = Field(
        default=False,
        description="Stop clips with blur or exposure flags before enrichment, until a person releases them.",
    )
    frames_per_second: float = Field(
        default=30.0, gt=0, le=240, description="Rate of the JPEG frames, in frames per second."
    )
    frames_input: str = Field(
        default="proxy",
        pattern="^(proxy|full)$",
        description="Which video the frames come from: proxy or full.",
    )
    lossless_frames_per_second: float = Field(
        default=0.0,
        ge=0,
        le=60,
        description="Rate of the lossless 16-bit PNG subsample; 0 leaves it out (the guide: 5).",
    )
    upload_quiet_s: float = Field(
        default=5.0, ge=0, description="An upload counts as complete when it has not changed for this long."
    )
    uploads_per_tick: int = Field(
        default=20, ge=1, description="Most clips that one tick of the uploads sensor takes on."
    )
    free_disk_reserve_bytes: int = Field(
        default=1_000_000_000, ge=0, description="Space that a run leaves free on the disk of the store."
    )

    @field_validator("vault_dir", "uploads_dir", "deliveries_dir", "models_dir", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    def for_enrichment(self) -> EnrichmentSettings:
        """The part that enrichment may see."""
        return EnrichmentSettings(
            frames_per_second=self.frames_per_second,
            frames_input=self.frames_input,
            lossless_frames_per_second=self.lossless_frames_per_second,
        )

    @property
    def root(self) -> Path:
        """The data folder, absolute."""
        return self.data_dir.expanduser().resolve()

    @property
    def database(self) -> str:
        """URL of the metadata database."""
        return self.database_url or f"sqlite:///{self.root / 'metadata.db'}"

    @property
    def store(self) -> str:
        """Root of the artifact store."""
        return self.store_url or str(self.root / "store")

    @property
    def vault(self) -> Path:
        """Root of the vault, absolute."""
        return (self.vault_dir or self.root / "vault").expanduser().resolve()

    @property
    def uploads(self) -> Path:
        """The watched upload folder, absolute."""
        return (self.uploads_dir or self.root / "uploads").expanduser().resolve()

    @property
    def deliveries(self) -> Path:
        """Root of the deliveries, absolute."""
        return (self.deliveries_dir or self.root / "deliveries").expanduser().resolve()

    @property
    def models(self) -> Path:
        """Folder of the weights that ship in no package, absolute."""
        return (self.models_dir or self.root / "models").expanduser().resolve()

    @property
    def reports(self) -> Path:
        """Folder of the HTML reports."""
        return self.root / "reports"

    @property
    def dagster_home(self) -> Path:
        """Folder of the Dagster instance that the command line and `make ui` share."""
        return self.root / "dagster_home"


@lru_cache(maxsize=1)
def load_settings() -> Settings:
    """The settings of this process, read once; ``load_settings.cache_clear()`` reads them again.

    Raises:
        ConfigurationError: A variable has a value that it cannot have.
    """
    try:
        return Settings()
    except ValidationError as error:
        wrong = [f"EGO_{found['loc'][0]}".upper() + f": {found['msg']}" for found in error.errors()]
        raise ConfigurationError(f"{'; '.join(wrong)}. Correct the environment or .env.") from None
