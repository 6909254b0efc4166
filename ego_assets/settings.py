"""Everything that can be configured through the environment, in one place.

Every variable starts with ``EGO_``; a ``.env`` file in the working directory is read too. The defaults
need no account, no GPU and no download, and keep all data below one folder.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ego_assets.schema.buckets import BucketAccess, bucket_of, is_bucket_url
from ego_assets.schema.clip import Clip
from ego_assets.schema.errors import ConfigurationError
from ego_assets.schema.masks import MASK_VOCABULARIES, UNKNOWN_CATEGORY
from ego_assets.schema.vocabulary import AudioPolicy, PlatesPolicy, RedactionMethod

#: Frame rate that disk space is estimated for while a clip's own is not known.
USUAL_FPS = 30.0
#: Pixels of a proxy of a widescreen clip.
PROXY_PIXELS = 1280 * 720


@dataclass(frozen=True, kw_only=True)
class CaptionSettings:
    """How captions are asked for; see the fields of :class:`Settings` that begin with ``caption_``."""

    base_url: str
    api_key: str = field(repr=False)
    models: tuple[str, ...]
    prompts_file: Path | None
    interval_s: float
    concurrency: int
    requests_per_minute: float
    timeout_s: float
    max_retries: int
    usd_per_million_prompt_tokens: float | None
    usd_per_million_completion_tokens: float | None


@dataclass(frozen=True, kw_only=True)
class EnrichmentSettings:
    """What layers after the privacy pass may know of the settings: no folder of originals among it.

    Attributes:
        frames_per_second: Rate of the JPEG frames.
        frames_input: ``proxy`` or ``full``.
        lossless_frames_per_second: Rate of the lossless subsample; 0 leaves it out.
        enrichment_input: Which video the other layers read, ``proxy`` or ``full``.
        decoder: What decodes it, as :class:`ego_assets.media.decode.VideoReader` has it.
        layer_frames_per_second: Task to rate, where it is not the profile's.
        depth_baseline_m: Median distance the camera moves between neighbouring depth frames; ``None`` where unknown.
        mask_vocabulary: Categories that masks may have.
        action_labels: Activities to report; empty for all that the backend knows.
        captions: How captions are asked for.
    """

    frames_per_second: float
    frames_input: str
    lossless_frames_per_second: float
    enrichment_input: str
    decoder: Literal["cpu", "cuda"]
    layer_frames_per_second: Mapping[str, float]
    depth_baseline_m: float | None
    mask_vocabulary: tuple[str, ...]
    action_labels: tuple[str, ...]
    captions: CaptionSettings

    def pixels(self, clip: Clip, source: str) -> int:
        """About how many pixels a picture of the clip has that comes from ``proxy`` or ``full``."""
        if source == "full" and clip.width and clip.height:
            return clip.width * clip.height
        return PROXY_PIXELS

    def pictures(self, clip: Clip, task: str) -> float:
        """About how many pictures of a clip a task looks at: every frame where no rate is set."""
        rate = self.layer_frames_per_second.get(task, clip.fps or USUAL_FPS)
        return clip.estimated_duration_s * rate

    def raster_bytes(self, clip: Clip, task: str, *, bits_per_pixel: float) -> int:
        """About how much disk space the pictures of a task take."""
        pixels = self.pixels(clip, self.enrichment_input)
        return int(self.pictures(clip, task) * pixels * bits_per_pixel / 8)


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
    vault_url: str = Field(
        default="",
        description="URL of the originals where they lie in a bucket: another one than that of the artifacts.",
    )
    uploads_dir: Path | None = Field(
        default=None,
        description="Watched folder; empty means data_dir/uploads. Layout: raw/COLLECTOR/DATE/FILE.",
    )
    uploads_url: str = Field(
        default="", description="URL of a bucket that is watched instead of a folder; the same layout."
    )
    uploads_queue_url: str = Field(
        default="",
        description="Address of the SQS queue that hears of new objects below uploads_url; empty means listing.",
    )
    deliveries_dir: Path | None = Field(
        default=None, description="Folder of the deliveries; empty means data_dir/deliveries."
    )
    deliveries_url: str = Field(
        default="", description="URL that finished deliveries are copied to; the folder keeps them too."
    )
    store_s3_endpoint_url: str = Field(
        default="", description="Address of the S3 service of artifacts and deliveries; empty means Amazon's."
    )
    store_s3_region: str = Field(default="", description="Region of the bucket of artifacts and deliveries.")
    store_aws_profile: str = Field(
        default="", description="AWS profile for artifacts and deliveries; empty means the usual credentials."
    )
    store_aws_access_key_id: str = Field(
        default="", description="Key for artifacts and deliveries, where no profile is used."
    )
    store_aws_secret_access_key: SecretStr = Field(
        default=SecretStr(""), description="Secret that belongs to that key."
    )
    store_s3_kms_key_id: str = Field(
        default="", description="KMS key with which artifacts and deliveries are encrypted in the bucket."
    )
    store_gcs_token: str = Field(
        default="", description="Service account file for artifacts and deliveries at gs:// URLs."
    )
    vault_s3_endpoint_url: str = Field(
        default="", description="Address of the S3 service of the originals; empty means Amazon's."
    )
    vault_s3_region: str = Field(default="", description="Region of the bucket of the originals.")
    vault_aws_profile: str = Field(
        default="",
        description="AWS profile for the originals: other credentials than those of the artifacts.",
    )
    vault_aws_access_key_id: str = Field(
        default="", description="Key for the originals, where no profile is used."
    )
    vault_aws_secret_access_key: SecretStr = Field(
        default=SecretStr(""), description="Secret that belongs to that key."
    )
    vault_s3_kms_key_id: str = Field(
        default="", description="KMS key with which originals are encrypted in the bucket."
    )
    vault_gcs_token: str = Field(
        default="", description="Service account file for the originals at gs:// URLs."
    )
    uploads_s3_endpoint_url: str = Field(
        default="", description="Address of the S3 and SQS services of the uploads; empty means Amazon's."
    )
    uploads_s3_region: str = Field(default="", description="Region of the bucket of the uploads.")
    uploads_aws_profile: str = Field(
        default="", description="AWS profile for the uploads; empty means the usual credentials."
    )
    uploads_aws_access_key_id: str = Field(
        default="", description="Key for the uploads, where no profile is used."
    )
    uploads_aws_secret_access_key: SecretStr = Field(
        default=SecretStr(""), description="Secret that belongs to that key."
    )
    uploads_gcs_token: str = Field(
        default="", description="Service account file for the uploads at gs:// URLs."
    )
    bucket_max_attempts: int = Field(
        default=6, ge=1, le=20, description="Tries of one request to a bucket, the first one included."
    )
    bucket_timeout_s: float = Field(
        default=60.0, gt=0, description="How long one answer of a bucket may take, in seconds."
    )
    vault_encryption: Literal["on", "off"] = Field(
        default="on",
        description="Whether the vault's files are encrypted (AES-256-GCM); off leaves originals readable on disk.",
    )
    vault_key: SecretStr = Field(
        default=SecretStr(""),
        description="Key of the vault, 32 bytes in base64; empty means the generated key in vault_key_file.",
    )
    vault_previous_keys: SecretStr = Field(
        default=SecretStr(""),
        description="Earlier keys of the vault, separated by commas; needed until all files are rotated.",
    )
    vault_key_file: Path | None = Field(
        default=None,
        description="File of the generated key; empty means data_dir/keys/vault.key. Keep a copy apart from the vault.",
    )
    database_pool_size: int = Field(
        default=5, ge=1, le=200, description="Connections to Postgres that a process keeps open."
    )
    database_max_overflow: int = Field(
        default=10,
        ge=0,
        le=200,
        description="Connections to Postgres beyond those, while many threads want one.",
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
    enrichment_input: str = Field(
        default="proxy",
        pattern="^(proxy|full)$",
        description="Which video depth, hands, masks, activities, captions and embeddings read: proxy or full.",
    )
    decoder: Literal["cpu", "cuda"] = Field(
        default="cpu",
        description=(
            "What decodes the pictures for depth, hands, masks, activities, captions and embeddings: cpu, or cuda for "
            "the decoder of an NVIDIA GPU. Pictures are the same; what that decoder cannot read is postponed."
        ),
    )
    depth_frames_per_second: float = Field(
        default=0.0, ge=0, le=240, description="Rate of the depth maps; 0 takes the profile's."
    )
    masks_frames_per_second: float = Field(
        default=0.0, ge=0, le=240, description="Rate of the masks; 0 takes the profile's."
    )
    hands_frames_per_second: float = Field(
        default=0.0, ge=0, le=240, description="Rate of the hand-object records; 0 takes the profile's."
    )
    depth_baseline_m: float = Field(
        default=0.0,
        ge=0,
        description=(
            "Median distance in metres that the camera moves between neighbouring depth frames, where it is known "
            "(a rail, a robot): makes depth from motion metric. 0 means unknown."
        ),
    )
    mask_vocabulary: str = Field(
        default="default",
        description="Categories of the masks: default, surfaces, or names separated by commas.",
    )
    action_labels: str = Field(
        default="",
        description=(
            "Activities to report, separated by commas, as the profile's backend names them (manipulating, cooking); "
            "empty means all that it knows."
        ),
    )
    caption_base_url: str = Field(
        default="",
        description=(
            "Address of an OpenAI-compatible endpoint for captions, such as http://localhost:8000/v1; empty means "
            "the profile's backend."
        ),
    )
    caption_api_key: SecretStr = Field(
        default=SecretStr(""), description="Key for that endpoint; empty where it needs none."
    )
    caption_models: str = Field(
        default="",
        validate_default=True,
        description="Models of that endpoint, separated by commas: the first one captions, the others are fallbacks.",
    )
    caption_prompts_file: Path | None = Field(
        default=None,
        description="YAML file with a list of prompts: the first one is used, the others are fallbacks.",
    )
    caption_interval_s: float = Field(
        default=2.0, gt=0, description="Time between two captions, in seconds (the guide: 2)."
    )
    caption_concurrency: int = Field(
        default=4, ge=1, le=256, description="Most requests to the endpoint at the same time."
    )
    caption_requests_per_minute: float = Field(
        default=0.0, ge=0, description="Most requests a minute; 0 means no limit."
    )
    caption_timeout_s: float = Field(
        default=60.0, gt=0, description="How long one request may take, in seconds."
    )
    caption_max_retries: int = Field(
        default=4,
        ge=0,
        description="Further tries of one request after 408, 409, 425, 429, 5xx, a timeout or a lost connection.",
    )
    caption_usd_per_million_prompt_tokens: float | None = Field(
        default=None,
        ge=0,
        description="Price of a million tokens sent, for the cost per clip; one price for all models.",
    )
    caption_usd_per_million_completion_tokens: float | None = Field(
        default=None,
        ge=0,
        description="Price of a million tokens received, for the cost per clip; one price for all models.",
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

    @field_validator("mask_vocabulary")
    @classmethod
    def _known_vocabulary(cls, value: str) -> str:
        if value not in MASK_VOCABULARIES and UNKNOWN_CATEGORY not in _names(value):
            raise ValueError(
                f"expected {', '.join(MASK_VOCABULARIES)}, or names separated by commas with {UNKNOWN_CATEGORY!r} "
                f"among them, which a backend says that cannot tell; got {value!r}"
            )
        return value

    @field_validator("caption_base_url")
    @classmethod
    def _web_address(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("expected an address that begins with http:// or https://")
        return value

    @field_validator("caption_models")
    @classmethod
    def _endpoint_has_a_model(cls, value: str, info: ValidationInfo) -> str:
        if info.data.get("caption_base_url") and not _names(value):
            raise ValueError("expected at least one model, because EGO_CAPTION_BASE_URL names an endpoint")
        return value

    @field_validator("caption_prompts_file")
    @classmethod
    def _file_is_there(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"expected a file, found none at {value}")
        return value

    @model_validator(mode="after")
    def _places_fit_together(self) -> Settings:
        for name in ("vault", "uploads", "deliveries"):
            url = getattr(self, f"{name}_url")
            if url and not is_bucket_url(url):
                raise ValueError(
                    f"EGO_{name.upper()}_URL: expected a URL such as s3://bucket/prefix, got {url!r}; a folder "
                    f"goes into EGO_{name.upper()}_DIR"
                )
            if url and name != "deliveries" and getattr(self, f"{name}_dir") is not None:
                raise ValueError(f"EGO_{name.upper()}_URL and EGO_{name.upper()}_DIR: expected one of them")
        for role in ("store", "vault", "uploads"):
            key = getattr(self, f"{role}_aws_access_key_id")
            if bool(key) != bool(getattr(self, f"{role}_aws_secret_access_key").get_secret_value()):
                raise ValueError(
                    f"EGO_{role.upper()}_AWS_ACCESS_KEY_ID and EGO_{role.upper()}_AWS_SECRET_ACCESS_KEY: "
                    "expected both or neither"
                )
        if self.uploads_queue_url and not self.uploads_url.startswith("s3://"):
            raise ValueError("EGO_UPLOADS_QUEUE_URL: expected EGO_UPLOADS_URL with it, at s3://")
        shared = {bucket_of(url) for url in (self.store, self.deliveries_url) if is_bucket_url(url)}
        if self.vault_url and bucket_of(self.vault_url) in shared:
            raise ValueError(
                f"EGO_VAULT_URL: expected another bucket than that of artifacts and deliveries, got "
                f"{bucket_of(self.vault_url)} for both; who may read artifacts must not be able to read originals"
            )
        return self

    @field_validator(
        "vault_dir",
        "vault_key_file",
        "uploads_dir",
        "deliveries_dir",
        "models_dir",
        "caption_prompts_file",
        "caption_usd_per_million_prompt_tokens",
        "caption_usd_per_million_completion_tokens",
        mode="before",
    )
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    def for_enrichment(self) -> EnrichmentSettings:
        """The part that enrichment may see."""
        return EnrichmentSettings(
            frames_per_second=self.frames_per_second,
            frames_input=self.frames_input,
            lossless_frames_per_second=self.lossless_frames_per_second,
            enrichment_input=self.enrichment_input,
            decoder=self.decoder,
            layer_frames_per_second={
                task: rate
                for task, rate in (
                    ("depth", self.depth_frames_per_second),
                    ("masks", self.masks_frames_per_second),
                    ("hands", self.hands_frames_per_second),
                )
                if rate
            },
            depth_baseline_m=self.depth_baseline_m or None,
            mask_vocabulary=MASK_VOCABULARIES.get(self.mask_vocabulary, _names(self.mask_vocabulary)),
            action_labels=_names(self.action_labels),
            captions=CaptionSettings(
                base_url=self.caption_base_url.rstrip("/"),
                api_key=self.caption_api_key.get_secret_value(),
                models=_names(self.caption_models),
                prompts_file=self.caption_prompts_file,
                interval_s=self.caption_interval_s,
                concurrency=self.caption_concurrency,
                requests_per_minute=self.caption_requests_per_minute,
                timeout_s=self.caption_timeout_s,
                max_retries=self.caption_max_retries,
                usd_per_million_prompt_tokens=self.caption_usd_per_million_prompt_tokens,
                usd_per_million_completion_tokens=self.caption_usd_per_million_completion_tokens,
            ),
        )

    @property
    def profile_place(self) -> str:
        """The profile's name, or the absolute path of its file: the same from whichever folder it was named."""
        path = Path(self.profile)
        return str(path.resolve()) if path.suffix in (".yaml", ".yml") else self.profile

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
        """Folder of the vault, absolute; nothing lies in it where :attr:`vault_root` is a bucket."""
        return (self.vault_dir or self.root / "vault").expanduser().resolve()

    @property
    def vault_root(self) -> str:
        """Where the vault lies: a folder or the URL of a bucket."""
        return self.vault_url or str(self.vault)

    @property
    def vault_key_path(self) -> Path:
        """File of the vault's generated key, absolute."""
        return (self.vault_key_file or self.root / "keys" / "vault.key").expanduser().resolve()

    @property
    def store_access(self) -> BucketAccess:
        """How the bucket of artifacts and deliveries is reached."""
        return self._bucket_access("store")

    @property
    def vault_access(self) -> BucketAccess:
        """How the bucket of the originals is reached."""
        return self._bucket_access("vault")

    @property
    def uploads_access(self) -> BucketAccess:
        """How the bucket of the uploads is reached."""
        return self._bucket_access("uploads")

    def _bucket_access(self, role: Literal["store", "vault", "uploads"]) -> BucketAccess:
        return BucketAccess(
            endpoint_url=getattr(self, f"{role}_s3_endpoint_url"),
            region=getattr(self, f"{role}_s3_region"),
            aws_profile=getattr(self, f"{role}_aws_profile"),
            access_key_id=getattr(self, f"{role}_aws_access_key_id"),
            secret_access_key=getattr(self, f"{role}_aws_secret_access_key").get_secret_value(),
            # Nothing is written to the uploads but their removal.
            kms_key_id=getattr(self, f"{role}_s3_kms_key_id", ""),
            gcs_token=getattr(self, f"{role}_gcs_token"),
            max_attempts=self.bucket_max_attempts,
            timeout_s=self.bucket_timeout_s,
        )

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
    def collector_reports(self) -> Path:
        """Folder of the daily files for collectors."""
        return self.reports / "collectors"

    @property
    def dagster_home(self) -> Path:
        """Folder of the Dagster instance that the command line and `make ui` share."""
        return self.root / "dagster_home"


def _names(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(name for part in text.split(",") if (name := part.strip()))


@lru_cache(maxsize=1)
def load_settings() -> Settings:
    """The settings of this process, read once; ``load_settings.cache_clear()`` reads them again.

    Raises:
        ConfigurationError: A variable has a value that it cannot have.
    """
    try:
        return Settings()
    except ValidationError as error:
        # What concerns several variables names them itself.
        wrong = [
            "".join(f"EGO_{name}".upper() + ": " for name in found["loc"][:1]) + found["msg"]
            for found in error.errors()
        ]
        raise ConfigurationError(f"{'; '.join(wrong)}. Correct the environment or .env.") from None


def command_with_profile(arguments: str, profile: str) -> str:
    """An ``ego-assets`` command as it is typed, with its profile named."""
    return f"ego-assets {arguments} --profile {shlex.quote(profile)}"


def same_profile_command(arguments: str, settings: Settings) -> str:
    """An ``ego-assets`` command as it is typed to get these settings' profile, which is named where it has to be.

    Raises:
        ConfigurationError: The settings of this process are wrong.
    """
    if settings.profile == load_settings().profile:
        return f"ego-assets {arguments}"
    return command_with_profile(arguments, settings.profile)
