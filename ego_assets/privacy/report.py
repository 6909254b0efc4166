"""What was found in a clip and what was done about it, without showing any of it."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ego_assets.privacy.config import PrivacyConfig
from ego_assets.privacy.examine import detectors_for
from ego_assets.privacy.leaks import LeakCheck
from ego_assets.privacy.tracking import FrameDetections, Track
from ego_assets.schema.corrections import Correction
from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.media import MediaProbe, StreamInfo

#: Raised whenever the meaning of a field changes.
REPORT_FORMAT = 2

_TRACKS_SCHEMA = pa.schema(
    [
        ("track_id", pa.int32()),
        ("kind", pa.string()),
        ("frame_index", pa.int64()),
        ("timestamp_ns", pa.int64()),
        ("left", pa.float32()),
        ("top", pa.float32()),
        ("right", pa.float32()),
        ("bottom", pa.float32()),
        ("score", pa.float32()),
        ("observed", pa.bool_()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class KindReport:
    """What was found of one kind.

    Attributes:
        detector: Who looked.
        settings: The detector's settings, as the profile states them.
        examined_frames: Frames that were looked at.
        examined_per_s: Rate of those looks.
        detections: Detections over all examined frames.
        detections_per_minute: Detections a minute *at one examined frame a second*: 60 times the mean number of
            detections on an examined frame. The guide states its limit for that rate, so looking
            more often does not inflate the figure.
        tracks: Regions followed over time.
        low_confidence_frames: Indices of examined frames that show a region whose every sighting scored below
            ``low_confidence_score``. A weak sighting of a region that was seen clearly on other frames is
            covered by its track and does not count.
    """

    detector: BackendInfo
    settings: Mapping[str, Any]
    examined_frames: int
    examined_per_s: float
    detections: int
    detections_per_minute: float
    tracks: int
    low_confidence_frames: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PiiReport:
    """``pii_report.json`` of one clip.

    Attributes:
        kinds: Findings by kind: ``faces``, ``text``, ``screens`` (the panels that carry text), ``plates``. A kind
            that no detector looked for is absent.
        frame_count: Frames of the clip.
        duration_s: Duration of the clip.
        resolution: Width and height in pixels of the upright picture, which all boxes refer to.
        redacted_share: Mean share of the picture's area that was redacted, measured on a coarse grid of cells over
            the coded picture.
        redacted_frames: Frames with at least one redacted region.
        leak_check: What the examination of the finished video saw; ``None`` where there was none.
        corrections: Orders to cover something, by kind; those beyond the clip's end had no effect.
        removed_streams: Streams of the original that the output lacks, such as sound and telemetry.
        removed_metadata_keys: Names of the container's metadata entries that were dropped, GPS among them.
        config: Settings of the pass.
        format: Version of this document's format.
    """

    kinds: Mapping[str, KindReport]
    frame_count: int
    duration_s: float
    resolution: tuple[int, int]
    redacted_share: float
    redacted_frames: int
    leak_check: LeakCheck | None = None
    corrections: Mapping[str, int] = field(default_factory=dict)
    removed_streams: tuple[StreamInfo, ...] = ()
    removed_metadata_keys: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    format: int = REPORT_FORMAT

    @property
    def low_confidence_frames(self) -> tuple[int, ...]:
        """Low-confidence frames of all kinds, ascending."""
        return tuple(sorted({index for kind in self.kinds.values() for index in kind.low_confidence_frames}))

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-serialisable values."""
        return asdict(self)

    def to_json(self) -> str:
        """The report as stored, with sorted keys."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"


def build_report(
    *,
    examined: Mapping[str, Sequence[FrameDetections]],
    tracks: Iterable[Track],
    doubted: Iterable[Track] | None = None,
    detectors: Mapping[str, BackendInfo],
    detector_settings: Mapping[str, Mapping[str, Any]],
    probe: MediaProbe,
    frame_count: int,
    duration_s: float,
    redacted_share: float,
    redacted_frames: int,
    config: PrivacyConfig,
    leak_check: LeakCheck | None = None,
    corrections: Sequence[Correction] = (),
) -> PiiReport:
    """Put a report together.

    Args:
        examined: Examined frames by kind, including those without detections.
        tracks: Tracks of all kinds.
        doubted: Tracks among which those with low confidence are counted; by default ``tracks``.
        detectors: Who looked, by kind; whoever looked for text found the screens as well.
        detector_settings: Settings by kind, for the record; kinds may be missing.
        probe: Probe of the original.
        frame_count: Frames of the clip.
        duration_s: Duration of the clip.
        redacted_share: Mean share of the area that was redacted.
        redacted_frames: Frames with at least one redacted region.
        config: Settings of the pass.
        leak_check: What the examination of the finished video saw.
        corrections: Orders of people that were applied.
    """
    tracks = list(tracks)
    by_kind, doubted_by_kind = _by_kind(tracks), _by_kind(tracks if doubted is None else doubted)
    return PiiReport(
        kinds={
            kind: _kind_report(
                frames,
                detector=detectors[detectors_for([kind])[0]],
                settings=detector_settings.get(detectors_for([kind])[0], {}),
                tracks=by_kind[kind],
                doubted=doubted_by_kind[kind],
                duration_s=duration_s,
                config=config,
            )
            for kind, frames in examined.items()
        },
        frame_count=frame_count,
        duration_s=duration_s,
        resolution=(probe.width, probe.height),
        redacted_share=redacted_share,
        redacted_frames=redacted_frames,
        leak_check=leak_check,
        corrections=dict(Counter(order.kind for order in corrections)),
        removed_streams=_removed_streams(probe, config),
        removed_metadata_keys=probe.metadata_keys,
        config=config.to_dict(),
    )


def _by_kind(tracks: Iterable[Track]) -> Mapping[str, list[Track]]:
    by_kind: Mapping[str, list[Track]] = defaultdict(list)
    for track in tracks:
        by_kind[track.kind].append(track)
    return by_kind


def _removed_streams(probe: MediaProbe, config: PrivacyConfig) -> tuple[StreamInfo, ...]:
    """What the output lacks. Handler names stay behind: some devices write their owner's name there."""
    removed = [replace(stream, handler="") for stream in probe.other_streams]
    kept = next((stream for stream in removed if stream.kind == "audio"), None)
    return tuple(stream for stream in removed if not (config.audio == "keep" and stream is kept))


def _kind_report(
    frames: Sequence[FrameDetections],
    *,
    detector: BackendInfo,
    settings: Mapping[str, Any],
    tracks: Sequence[Track],
    doubted: Sequence[Track],
    duration_s: float,
    config: PrivacyConfig,
) -> KindReport:
    detections = sum(len(frame.detections) for frame in frames)
    return KindReport(
        detector=detector,
        settings=dict(settings),
        examined_frames=len(frames),
        examined_per_s=len(frames) / duration_s if duration_s > 0 else 0.0,
        detections=detections,
        detections_per_minute=60 * detections / len(frames) if frames else 0.0,
        tracks=len(tracks),
        low_confidence_frames=_unsure_frames(doubted, config.low_confidence_score),
    )


def _unsure_frames(tracks: Sequence[Track], confident_score: float) -> tuple[int, ...]:
    """Frames with a sighting of a region that was never seen clearly."""
    unsure = {
        int(index)
        for track in tracks
        if float(track.scores[track.observed].max(initial=0.0)) < confident_score
        for index in track.frame_indices[track.observed]
    }
    return tuple(sorted(unsure))


def tracks_table(tracks: Iterable[Track], timestamps_ns: npt.NDArray[np.int64]) -> pa.Table:
    """All regions on all covered frames, one row each, ordered by track and frame.

    Args:
        tracks: The tracks.
        timestamps_ns: ``int64 [frames]``, presentation time of every frame of the clip.

    Returns:
        ``track_id``, ``kind``, ``frame_index``, ``timestamp_ns``, ``left``, ``top``, ``right``, ``bottom`` (pixels of
        the upright full-size picture, without margin), ``score``, ``observed``.
    """
    tables = [
        pa.table(
            {
                "track_id": np.full(track.frame_indices.size, track.track_id, np.int32),
                "kind": [track.kind] * track.frame_indices.size,
                "frame_index": track.frame_indices,
                "timestamp_ns": timestamps_ns[track.frame_indices],
                "left": track.boxes_xyxy[:, 0],
                "top": track.boxes_xyxy[:, 1],
                "right": track.boxes_xyxy[:, 2],
                "bottom": track.boxes_xyxy[:, 3],
                "score": track.scores,
                "observed": track.observed,
            },
            schema=_TRACKS_SCHEMA,
        )
        for track in tracks
    ]
    return pa.concat_tables([_TRACKS_SCHEMA.empty_table(), *tables]).combine_chunks()
