"""The leak check: the finished video is examined again, and what is still in the clear is located.

It looks at other frames and at another scale than the first pass, so that it does not repeat its misses. It
knows nothing of the original: what it finds, anybody could find.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ego_assets.media.decode import decode_frames
from ego_assets.media.source import MediaSource
from ego_assets.privacy.config import PrivacyConfig
from ego_assets.privacy.coverage import covered_share
from ego_assets.privacy.looks import FrameView, detect_at
from ego_assets.privacy.redaction import expand_boxes
from ego_assets.privacy.tracking import RegionIndex
from ego_assets.schema.detections import RegionDetector
from ego_assets.schema.timeline import Timeline

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
        examined_frames: Frames of the finished video that were looked at.
        found: Leaks of the first rendering; they were repaired by rendering again.
        remaining: Leaks of the last rendering: the clip must not be used.
    """

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
    seen = np.zeros(count, dtype=bool)
    seen[[index for index in examined if index < count]] = True
    known = np.flatnonzero(seen)
    chosen = []
    for first, end in pairwise(edges.tolist()):
        if first == end:
            continue
        frames = np.arange(first, end)
        distance = np.abs(frames[:, None] - known[None]).min(axis=1) if known.size else np.zeros(frames.size)
        # Of the frames furthest from any look, the one nearest to the middle of the slot.
        furthest = frames[distance == distance.max()]
        chosen.append(int(furthest[np.argmin(np.abs(furthest - (first + end - 1) / 2))]))
    return np.unique(np.array(chosen, dtype=np.int64))


def find_leaks(
    video: MediaSource,
    *,
    frames: Sequence[int] | npt.NDArray[np.int64],
    detectors: Mapping[str, RegionDetector],
    regions: RegionIndex,
    config: PrivacyConfig,
) -> list[Leak]:
    """Faces and plates that are in the clear in a finished video.

    A detection that lies under redaction is the blur itself, which some detectors take for a face, and no leak.

    Args:
        video: The finished video at full size.
        frames: Frames to examine.
        detectors: Detectors by kind; kinds that are not checked are passed over.
        regions: What was redacted, without margin.
        config: Scale, thresholds and the margin that redaction added.
    """
    kinds = [kind for kind in LEAK_KINDS if kind in detectors]
    if not kinds:
        return []
    wanted = [int(index) for index in frames]
    return [
        leak
        for frame in decode_frames(video, indices=wanted, threads=config.decoder_threads)
        for view in [FrameView(frame)]
        for kind in kinds
        for leak in _leaks_of(view, kind, detectors[kind], regions, config)
    ]


def _leaks_of(
    view: FrameView, kind: LeakKind, detector: RegionDetector, regions: RegionIndex, config: PrivacyConfig
) -> list[Leak]:
    found = detect_at(detector, kind, view, max_side=config.leak_max_side)
    index = view.frame.index
    redacted = expand_boxes(
        regions.boxes_at(index), margin=config.box_margin, width=view.width, height=view.height
    )
    covered = covered_share(found.boxes_xyxy, redacted)
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
