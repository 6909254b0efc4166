"""``artifact.json``: the document that publishes one version of one layer of one clip."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.errors import ConfigurationError

#: Raised whenever the meaning of a field changes.
ARTIFACT_FORMAT = 1
#: Digest of the document itself, which nothing else vouches for.
_OWN_DIGEST = "document_sha256"


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of an artifact.

    Attributes:
        name: Path relative to the version folder, with forward slashes.
        bytes: Size.
        sha256: Digest of the content, hexadecimal.
    """

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ArtifactDocument:
    """Everything needed to trust, reproduce and read one committed layer.

    Attributes:
        clip_id: The clip.
        layer: The layer.
        data_version: Hash of file digests, configuration and input data versions; no clock in it.
        version_id: Name of the version folder, derived from ``data_version``.
        files: The files, sorted by name.
        config: The settings that made the layer, JSON-serialisable.
        config_digest: Digest of ``config``.
        inputs: Data version of every input layer that was read.
        backends: Models that took part.
        attempts: What the fallback ladder tried and why it was refused, oldest first.
        counts: Plain numbers, such as ``frames``.
        time_base: What the time stamps in the files mean.
        resolution: Width and height in pixels that rasters and boxes refer to; ``None`` where there are none.
        facts: What a reader has to know before using the files, such as the unit of depth; JSON-serialisable.
        pictures: Files that show people what was made, by title.
        software: Version of this package.
        committed_at: UTC time of the commit, ISO 8601; not part of the data version.
        format: Version of this document's format.
    """

    clip_id: str
    layer: str
    data_version: str
    version_id: str
    files: tuple[FileEntry, ...]
    config: Mapping[str, Any]
    config_digest: str
    inputs: Mapping[str, str]
    backends: tuple[BackendInfo, ...] = ()
    attempts: tuple[Mapping[str, Any], ...] = ()
    counts: Mapping[str, float] = field(default_factory=dict)
    time_base: str = "presentation time stamps, integer nanoseconds"
    resolution: tuple[int, int] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, str] = field(default_factory=dict)
    software: str = ""
    committed_at: str = ""
    format: int = ARTIFACT_FORMAT

    def to_json(self) -> str:
        """The document as stored, with sorted keys and the digest of everything else in it."""
        content = asdict(self)
        content[_OWN_DIGEST] = digest_of(content)
        return json.dumps(content, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ArtifactDocument:
        """Read a stored document.

        Raises:
            ValueError: The document is not JSON, lacks something, or was changed since it was written.
            ConfigurationError: It was written by a newer version of the platform.
        """
        raw = json.loads(text)
        if raw.get("format", 0) > ARTIFACT_FORMAT:
            raise ConfigurationError(
                f"artifact.json has format {raw['format']}, this version reads up to {ARTIFACT_FORMAT}: "
                "upgrade ego_assets"
            )
        # Documents from before there was a digest have none.
        if (expected := raw.pop(_OWN_DIGEST, None)) is not None and digest_of(raw) != expected:
            raise ValueError(f"expected the content to have sha256 {expected}, got {digest_of(raw)}")
        raw["files"] = tuple(FileEntry(**entry) for entry in raw["files"])
        raw["backends"] = tuple(BackendInfo(**entry) for entry in raw["backends"])
        raw["attempts"] = tuple(raw["attempts"])
        raw["resolution"] = tuple(raw["resolution"]) if raw["resolution"] else None
        return cls(**raw)

    def file(self, name: str) -> FileEntry:
        """The entry called ``name``; ``KeyError`` names what exists."""
        for entry in self.files:
            if entry.name == name:
                return entry
        raise KeyError(
            f"{self.layer} of clip {self.clip_id} has no {name!r}, only {[f.name for f in self.files]}"
        )


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON-serialisable value in canonical form."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


def data_version_of(files: tuple[FileEntry, ...], config_digest: str, inputs: Mapping[str, str]) -> str:
    """The data version of a layer: equal content, configuration and inputs give equal versions."""
    return digest_of(
        {"files": [[f.name, f.sha256] for f in files], "config": config_digest, "inputs": dict(inputs)}
    )
