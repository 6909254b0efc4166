"""The leak check: the finished video is examined again, and what is still in the clear is located.

It looks at other frames and at another scale than the first pass, so that it does not repeat its misses. It
knows nothing of the original: what it finds, anybody could find.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.media.decode import DecodedFrame, decode_frames
from ego_assets.media.orientation import boxes_to_coded
from ego_assets.media.source import MediaSource
from ego_assets.privacy.config import PrivacyConfig
from ego_assets.privacy.frames import PrivacyPassFailed
from ego_assets.privacy.looks import FrameView, detect_at
from ego_assets.privacy.tracking import RegionIndex
from ego_assets.schema.detections import BackendInfo, RegionDetector
from ego_assets.schema.timeline import Timeline

#: What redaction leaves is flat: its detail is 0, apart from the edges of overlapping regions, and that of a face more
#: than 8 at every size. Into smaller regions coding carries detail from beside them.
_MOST_DETAIL = 4.0
_LEAST_AREA_PX = 24
_DETAIL_SIDE_PX = 48

#: Kinds that are looked for in the finished video. Text is not: of blurred lines the detector still sees traces.
LeakKind = Literal["faces", "plates"]
LEAK_KINDS: tuple[LeakKind, ...] = get_args(LeakKind)


@dataclass(frozen=True, kw_only=True)
class Leak:
    """A region that is still recognisable in the finished video.

    Attributes:
        kind: ``faces`` or ``plates``.
        frame_index: The frame.
        box_xyxy: Where, in pixels of the upright full-size picture.
        score: How sure the detector is.
    """

    kind: LeakKind
    frame_index: int
    box_xyxy: tuple[float, float, float, float]
    score: float

    def to_dict(self) -> dict[str, Any]:
        """The leak as JSON-serialisable values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class LeakCheck:
    """What the leak check of one clip saw.

    Attributes:
        detectors: Who looked, by kind.
        settings: The detectors' settings by kind, as the profile states them; kinds may be missing.
        examined_frames: Frames of the finished video that were looked at.
        found: Leaks of the first rendering; they were repaired by rendering again.
        remaining: Leaks of the last rendering: the clip must not be used.
    """

    detectors: Mapping[str, BackendInfo]
    settings: Mapping[str, Mapping[str, Any]]
    examined_frames: int
    found: tuple[Leak, ...] = ()
    remaining: tuple[Leak, ...] = ()


def leak_check_frames(
    timeline: Timeline, *, examined: Collection[int], looks_per_s: float
) -> npt.NDArray[np.int64]:
    """Frames to examine in the finished video: evenly spread, and away from those of the first pass.

    Args:
        timeline: Time stamps of the finished video.
        examined: Frames that the first pass looked at.
        looks_per_s: Frames a second.

    Returns:
        Ascending unique ``int64``. Where the first pass looked at every frame, its frames are repeated.
    """
    count = timeline.frame_count
    if count == 0:
        return np.zeros(0, np.int64)
    slots = max(1, round(timeline.duration_s * looks_per_s))
    edges = np.linspace(0, count, slots + 1).round().astype(int)
    known = np.array(sorted(index for index in examined if index < count), np.int64)
    chosen = []
    for first, end in pairwise(edges.tolist()):
        if first == end:
            continue
        frames = np.arange(first, end)
        distance = _distance_to_nearest(frames, known)
        # Of the frames furthest from any look, the one nearest to the middle of the slot.
        furthest = frames[distance == distance.max()]
        chosen.append(int(furthest[np.argmin(np.abs(furthest - (first + end - 1) / 2))]))
    return np.unique(np.array(chosen, dtype=np.int64))


def _distance_to_nearest(
    frames: npt.NDArray[np.int64], known: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Distance in frames from each frame to the nearest of the ascending ``known`` ones; 0 where there are none."""
    if not known.size:
        return np.zeros(frames.size, np.int64)
    after = np.minimum(np.searchsorted(known, frames), known.size - 1)
    before = np.maximum(after - 1, 0)
    return np.asarray(np.minimum(np.abs(frames - known[before]), np.abs(frames - known[after])), np.int64)


def find_leaks(
    video: MediaSource,
    *,
    frames: Sequence[int] | npt.NDArray[np.int64],
    detectors: Mapping[str, RegionDetector],
    regions: RegionIndex,
    config: PrivacyConfig,
) -> list[Leak]:
    """Faces and plates that are in the clear in a finished video.

    A detection that lies under redaction is the blur itself, which some detectors take for a face, and no leak. That
    the regions are covered is not taken on trust: the finished picture must be flat there.

    Args:
        video: The finished video at full size.
        frames: Frames to examine.
        detectors: Detectors by kind; kinds that are not checked are passed over.
        regions: What was redacted, without margin.
        config: Scale, thresholds and the margin that redaction added.

    Raises:
        PrivacyPassFailed: A detector failed, not all frames can be read, or a region was not covered.
    """
    kinds = [kind for kind in LEAK_KINDS if kind in detectors]
    wanted = [int(index) for index in frames]
    examined, leaks = 0, []
    for frame in decode_frames(video, indices=wanted, threads=config.decoder_threads):
        examined += 1
        _require_covered(frame, regions)
        view = FrameView(frame)
        for kind in kinds:
            leaks += _leaks_of(view, kind, detectors[kind], regions, config)
    if examined != len(wanted):
        raise PrivacyPassFailed(
            f"{examined} of {len(wanted)} frames of the finished video could be read again, so nobody knows what "
            "the others show. Nothing was kept. Run the clip again; if that does not help, check the disk."
        )
    return leaks


def _leaks_of(
    view: FrameView, kind: LeakKind, detector: RegionDetector, regions: RegionIndex, config: PrivacyConfig
) -> list[Leak]:
    found = detect_at(detector, kind, view, max_side=config.leak_max_side)
    index = view.frame.index
    covered = regions.covered_share(
        found.boxes_xyxy, index, margin=config.box_margin, width=view.width, height=view.height
    )
    clear = (covered < config.leak_covered_share) & (found.scores >= config.leak_score)
    return [
        Leak(
            kind=kind,
            frame_index=index,
            box_xyxy=(float(box[0]), float(box[1]), float(box[2]), float(box[3])),
            score=float(score),
        )
        for box, score in zip(found.boxes_xyxy[clear], found.scores[clear], strict=True)
    ]


def _require_covered(frame: DecodedFrame, regions: RegionIndex) -> None:
    """Refuse a video that shows detail where a region was to be covered: the rendering went wrong."""
    luma = frame.luma()
    coded = boxes_to_coded(
        regions.boxes_at(frame.index),
        rotation_deg=frame.rotation_deg,
        coded_width=frame.frame.width,
        coded_height=frame.frame.height,
    )
    for left, top, right, bottom in np.rint(coded).astype(int).tolist():
        area = luma[top:bottom, left:right]
        if min(area.shape) >= _LEAST_AREA_PX and _detail(area) > _MOST_DETAIL:
            raise PrivacyPassFailed(
                f"Frame {frame.index} of the finished video still shows detail at {[left, top, right, bottom]}, "
                "where a region was to be covered. Nothing was kept. This is a defect of the rendering: report it with "
                "the clip's format."
            )


def _detail(area: npt.NDArray[np.uint8]) -> float:
    """How much detail an area of luma shows at a size that suits a face, in grey levels.

    Median magnitude of the Laplacian, on a copy with a shorter side of 48 pixels: at full size a large face is smooth.
    """
    scale = min(1.0, _DETAIL_SIDE_PX / min(area.shape))
    size = (max(1, round(area.shape[1] * scale)), max(1, round(area.shape[0] * scale)))
    reduced = cv2.resize(np.ascontiguousarray(area), size, interpolation=cv2.INTER_AREA)
    return float(np.median(np.abs(cv2.Laplacian(reduced, cv2.CV_16S))))
