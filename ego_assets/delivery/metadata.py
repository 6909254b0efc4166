"""``metadata.json`` of a delivered clip."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ego_assets.curation.completeness import layers_in
from ego_assets.curation.records import GateRecord
from ego_assets.curation.score import QualityScore
from ego_assets.schema.artifact import ArtifactDocument
from ego_assets.schema.clip import Clip
from ego_assets.schema.documents import json_document

#: A path from the root, from a home or from a drive; no address, and no slash between two words.
_PLACE = re.compile(r"(?<![\w.:/~-])(?:~?/|~\w+/|[A-Za-z]:\\)[^\s'\"`,;()<>]+")

#: Raised whenever the meaning of a field changes.
METADATA_FORMAT = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class TimeGrid:
    """The time steps of a delivered clip.

    Attributes:
        name: What defines the grid, such as ``frames at 5 per second``.
        rate_hz: Nominal time steps a second.
        frame_index: ``int64 [N]``, the frame of every step, ascending.
        timestamps_ns: ``int64 [N]``, its presentation time in nanoseconds.
    """

    name: str
    rate_hz: float
    frame_index: npt.NDArray[np.int64]
    timestamps_ns: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        for name in ("frame_index", "timestamps_ns"):
            values = getattr(self, name)
            if values.ndim != 1 or values.dtype != np.int64:
                raise ValueError(f"{name}: expected int64 [N], got {values.dtype} {list(values.shape)}")
        if self.frame_index.shape != self.timestamps_ns.shape:
            raise ValueError(
                f"timestamps_ns: expected {self.frame_index.size} entries, got {self.timestamps_ns.size}"
            )
        if np.any(np.diff(self.frame_index) <= 0):
            raise ValueError("frame_index: expected ascending frames, got a step back or a repetition")


def clip_metadata(
    clip: Clip,
    *,
    score: QualityScore,
    gates: Iterable[GateRecord],
    artifacts: Mapping[str, ArtifactDocument],
    grid: TimeGrid,
    layer_grids: Mapping[str, TimeGrid] | None = None,
    privacy: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything a consumer has to know about a clip, without what could identify a person.

    File names, upload locations and the digest of the original are left out: they may carry names or link
    the clip to its original. Verdicts are given as numbers, without their messages.

    Args:
        clip: The clip's row.
        score: Its quality score.
        gates: Its verdicts.
        artifacts: Delivered layers by name, and the privacy layer.
        grid: The time steps.
        layer_grids: Frames of the layers that have an entry per frame, by name.
        privacy: Counts of the privacy pass, JSON-serialisable.

    Returns:
        JSON-serialisable; ``location_type`` is given as ``environment_type`` too, the duration under both
        of its names.
    """
    return {
        "format": METADATA_FORMAT,
        "clip_id": clip.clip_id,
        "duration_s": clip.duration_s,
        "duration": clip.duration_s,
        "frame_count": clip.frame_count,
        "licence": clip.licence,
        "consent_scope": clip.consent_scope.value,
        "camera": {
            "source_camera": clip.source_camera.value,
            "width": clip.width,
            "height": clip.height,
            "fps": clip.fps,
            "intrinsics": dict(clip.camera_intrinsics) if clip.camera_intrinsics is not None else None,
        },
        "context": {
            "collector_id": clip.collector_id,
            "recording_date": clip.recording_date.isoformat() if clip.recording_date else None,
            "location_type": clip.location_type.value,
            "environment_type": clip.location_type.value,
            "activity_category": clip.activity_category,
            "recording_id": clip.recording_id,
            "chapter": clip.chapter,
        },
        "quality": {
            "score": score.to_dict(),
            "gates": sorted(
                (
                    {
                        "layer": gate.layer,
                        "gate": gate.gate,
                        "outcome": str(gate.outcome),
                        "blocking": gate.blocking,
                        "value": gate.value,
                        "threshold": gate.threshold,
                    }
                    for gate in gates
                ),
                key=lambda gate: (str(gate["layer"]), str(gate["gate"])),
            ),
        },
        "privacy": {"privacy_status": clip.privacy_status.value, **dict(privacy or {})},
        "time_grid": _grid_json(grid),
        "enrichment_completeness": clip.completeness,
        "complete_layers": list(layers_in(clip.completeness)),
        "layers": {
            name: _provenance(document, (layer_grids or {}).get(name))
            for name, document in sorted(artifacts.items())
        },
    }


def _grid_json(grid: TimeGrid) -> dict[str, Any]:
    return {
        "name": grid.name,
        "rate_hz": grid.rate_hz,
        "step_count": int(grid.frame_index.size),
        "frame_index": grid.frame_index.tolist(),
        "timestamps_ns": grid.timestamps_ns.tolist(),
    }


def metadata_json(metadata: Mapping[str, Any]) -> bytes:
    """The metadata as stored: UTF-8, sorted keys, numbers that every JSON reader accepts.

    Raises:
        ValueError: A number is not finite.
    """
    return json_document(metadata)


def _provenance(document: ArtifactDocument, grid: TimeGrid | None) -> dict[str, Any]:
    """How a layer was made: enough to trust and reproduce it; and its frames, where it has an entry for each."""
    return {
        **({"time_grid": _grid_json(grid)} if grid is not None else {}),
        "data_version": document.data_version,
        "config_digest": document.config_digest,
        "inputs": dict(document.inputs),
        "backends": [asdict(backend) for backend in document.backends],
        "attempts": [without_places(dict(attempt)) for attempt in document.attempts],
        "resolution": list(document.resolution) if document.resolution else None,
        "counts": dict(document.counts),
        "facts": dict(document.facts),
        "time_base": document.time_base,
        "files": [asdict(entry) for entry in document.files],
        "software": document.software,
    }


def without_places(value: Any) -> Any:
    """A JSON value in whose texts paths of the machine that made it are cut to their last name.

    Errors of refused attempts and settings name files; who receives a delivery has no use for folders and accounts.
    """
    if isinstance(value, str):
        return _PLACE.sub(lambda found: re.split(r"[/\\]", found.group().rstrip("/\\"))[-1], value)
    if isinstance(value, Mapping):
        return {key: without_places(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(item) for item in value]
    return value
