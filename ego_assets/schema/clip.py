"""A clip as the metadata database knows it, and the only form in which enrichment may see one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ego_assets.schema.artifact import ArtifactDocument
from ego_assets.schema.errors import ClipRefused
from ego_assets.schema.vocabulary import (
    ConsentScope,
    LocationType,
    PrivacyStatus,
    ProcessingStatus,
    SourceCamera,
)


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One row of ``clips``.

    Attributes:
        clip_id: UUID in canonical lower-case form; never reused.
        source_name: File name as uploaded.
        source_camera: Camera that recorded the clip.
        collector_id: Who wore it.
        recording_date: Day of the recording.
        location_type: Kind of place.
        activity_category: What was done, free text such as ``cooking``; empty when not given.
        consent_scope: What the people concerned agreed to.
        licence: Licence under which the clip may be delivered; empty when not given.
        camera_intrinsics: Camera parameters as supplied in the sidecar, or ``None``.
        recording_id: Groups the chapters of one recording; empty for a single file.
        chapter: Position within the recording, from 1; 0 for a single file.
        upload_uri: Where the upload lay when it was registered.
        raw_key: Key of the original inside the vault; empty until it is there.
        raw_sha256: Digest of the original; empty until it is in the vault.
        raw_bytes: Size of the original.
        duration_s: Duration measured from the time stamps.
        width: Width in pixels of the upright picture.
        height: Height in pixels of the upright picture.
        fps: Nominal frame rate.
        frame_count: Number of frames with a time stamp.
        rotation_deg: Clockwise turn that makes the coded picture upright.
        privacy_status: How far de-identification has come.
        processing_status: Derived display status; ``None`` before ingest.
        failed: A layer that everything needs failed, or a blocking gate did.
        failed_reason: Why.
        needs_review: A person should look.
        needs_review_reason: Why.
        withdrawn: Excluded from every later delivery.
        withdrawn_reason: Why.
        held: Stopped before enrichment because ``hold_flagged`` is set.
        held_reason: Which flags.
        duplicate_of: First clip with the same content; empty otherwise.
        quality_score: Composite score in 0-1, or ``None`` before the manifest.
        quality_confidence: Share of the score's weight that could be evaluated, 0-1.
        score_version: Version of the score's formula.
        completeness: Bitfield of the layers, see :mod:`ego_assets.schema.layers`.
        created_at: When the clip was registered (UTC).
        updated_at: When the row last changed (UTC).
    """

    clip_id: str
    source_name: str
    source_camera: SourceCamera = SourceCamera.OTHER
    collector_id: str = "unknown"
    recording_date: dt.date | None = None
    location_type: LocationType = LocationType.OTHER
    activity_category: str = ""
    consent_scope: ConsentScope = ConsentScope.UNKNOWN
    licence: str = ""
    camera_intrinsics: Mapping[str, Any] | None = None
    recording_id: str = ""
    chapter: int = 0
    upload_uri: str = ""
    raw_key: str = ""
    raw_sha256: str = ""
    raw_bytes: int = 0
    duration_s: float | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    frame_count: int | None = None
    rotation_deg: int = 0
    privacy_status: PrivacyStatus = PrivacyStatus.PENDING
    processing_status: ProcessingStatus | None = None
    failed: bool = False
    failed_reason: str = ""
    needs_review: bool = False
    needs_review_reason: str = ""
    withdrawn: bool = False
    withdrawn_reason: str = ""
    held: bool = False
    held_reason: str = ""
    duplicate_of: str = ""
    quality_score: float | None = None
    quality_confidence: float | None = None
    score_version: str = ""
    completeness: int = 0
    created_at: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))
    updated_at: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))

    @property
    def estimated_duration_s(self) -> float:
        """The duration, before it is known estimated from the size at 20 Mbit/s."""
        return self.duration_s if self.duration_s is not None else self.raw_bytes / 2_500_000


#: Name of the layer that turns an original into something that may be shown.
PRIVACY_LAYER = "blurred_video"


@dataclass(frozen=True, kw_only=True)
class BlurredClip:
    """What enrichment works on: a clip whose committed ``blurred_video`` may be opened.

    It is built from the committed privacy layer and from nothing else, so no code that holds one can
    reach an original through it.

    Attributes:
        clip: The clip's row.
        artifact: The committed ``blurred_video``.
        local_path: Yields a readable local path of one file of that artifact, such as ``proxy.mp4``.
    """

    clip: Clip
    artifact: ArtifactDocument
    local_path: Callable[[str], AbstractContextManager[Path]]

    def __post_init__(self) -> None:
        if self.artifact.layer != PRIVACY_LAYER or self.artifact.clip_id != self.clip.clip_id:
            raise ClipRefused(
                f"Clip {self.clip.clip_id}: enrichment needs its {PRIVACY_LAYER}, "
                f"got {self.artifact.layer} of clip {self.artifact.clip_id}."
            )
        if self.clip.privacy_status not in (PrivacyStatus.BLURRED, PrivacyStatus.REVIEWED):
            raise ClipRefused(
                f"Clip {self.clip.clip_id} is not de-identified (privacy_status "
                f"{self.clip.privacy_status.value}): materialize {PRIVACY_LAYER} and pass its gates first."
            )
