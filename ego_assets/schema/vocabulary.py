"""The closed vocabularies of the platform, spelled as the collection guide spells them."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal


class SourceCamera(StrEnum):
    """Cameras that collectors wear."""

    GOPRO_HERO12 = "gopro_hero12"
    GOPRO_HERO13 = "gopro_hero13"
    ARIA = "aria"
    REALSENSE_D455 = "realsense_d455"
    OTHER = "other"


class LocationType(StrEnum):
    """Where a clip was recorded; exported also as ``environment_type``."""

    KITCHEN = "kitchen"
    OFFICE = "office"
    WORKSHOP = "workshop"
    OUTDOOR = "outdoor"
    OTHER = "other"


class PrivacyStatus(StrEnum):
    """How far de-identification of a clip has come."""

    PENDING = "pending"
    BLURRED = "blurred"
    REVIEWED = "reviewed"


class ProcessingStatus(StrEnum):
    """Display status, derived from the committed artifacts; never set by hand."""

    INGESTED = "ingested"
    FRAMES_EXTRACTED = "frames_extracted"
    DEPTH_COMPLETE = "depth_complete"
    SEGMENTATION_COMPLETE = "segmentation_complete"
    CAPTIONS_COMPLETE = "captions_complete"
    DELIVERED = "delivered"


class ConsentScope(StrEnum):
    """What the people in front of and behind the camera agreed to."""

    UNKNOWN = "unknown"
    INTERNAL = "internal"
    RESEARCH = "research"
    COMMERCIAL = "commercial"


class VaultPurpose(StrEnum):
    """Why an original may be opened. There is no purpose for enrichment, by design."""

    INGEST = "ingest"
    RAW_QUALITY = "raw_quality"
    DEIDENTIFY = "deidentify"
    REVIEW = "review"
    #: Reading it once to compare it with its digest.
    VERIFICATION = "verification"


class ReviewKind(StrEnum):
    """Why a person should look at a clip."""

    LAYER_FAILED = "layer_failed"
    GATE_FAILED = "gate_failed"
    PII_DENSITY = "pii_density"
    PII_LOW_CONFIDENCE = "pii_low_confidence"
    PII_LEAK = "pii_leak"
    RANDOM_AUDIT = "random_audit"


class ReviewRisk(StrEnum):
    """High-risk items keep a clip out of deliveries while they are open."""

    HIGH = "high"
    NORMAL = "normal"


#: How regions are made unrecognisable.
RedactionMethod = Literal["blur", "pixelate", "solid"]
#: What becomes of the sound of the full-size video.
AudioPolicy = Literal["drop", "keep"]
#: Whether number plates are looked for; ``auto`` decides by location and activity.
PlatesPolicy = Literal["auto", "always", "never"]
