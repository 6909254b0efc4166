"""What people order to be covered: the findings of reviewers and of incidents."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from ego_assets.schema.artifact import digest_of
from ego_assets.schema.clip import Clip

#: Kinds of personal data that a person can report; ``other`` is what no detector looks for.
PiiKind = Literal["faces", "text", "screens", "plates", "other"]
PII_KINDS: tuple[PiiKind, ...] = get_args(PiiKind)

#: What people type for each kind, in the order in which it is offered to them.
KIND_WORDS: Mapping[PiiKind, str] = {
    "faces": "face",
    "text": "text",
    "screens": "screen",
    "plates": "plate",
    "other": "other",
}

#: Left, top, right, bottom in pixels of the upright full-size picture.
Box = tuple[float, float, float, float]

#: Name under which corrections appear among the inputs of an artifact.
CORRECTIONS_INPUT = "corrections"


@dataclass(frozen=True, kw_only=True)
class Correction:
    """One order to cover something in the next rendering of a clip.

    Attributes:
        clip_id: The clip.
        kind: What was left uncovered.
        first_frame: First frame in which it shows, as numbered in the blurred video.
        last_frame: Last frame in which it shows, inclusive.
        box_xyxy: Where, in pixels of the upright full-size picture; ``None`` when the person who reported it could
            not say. Then these frames are covered whole.
        origin: Who ordered it, such as ``incident:3`` or ``review:12``.
        actor: The person.
        note: What was seen.
        created_at: When (UTC).
    """

    clip_id: str
    kind: PiiKind
    first_frame: int
    last_frame: int
    box_xyxy: Box | None = None
    origin: str = ""
    actor: str = ""
    note: str = ""
    created_at: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))

    def __post_init__(self) -> None:
        if self.kind not in PII_KINDS:
            raise ValueError(f"kind: expected one of {', '.join(PII_KINDS)}, got {self.kind!r}")
        if not 0 <= self.first_frame <= self.last_frame:
            raise ValueError(
                f"frames: expected 0 <= first <= last, got {self.first_frame} to {self.last_frame}"
            )
        if self.box_xyxy is not None:
            check_box(self.box_xyxy)


def check_box(box_xyxy: Box) -> None:
    """Raise ``ValueError`` for a box without area or with an edge that is no number."""
    left, top, right, bottom = box_xyxy
    if not (all(map(math.isfinite, box_xyxy)) and left < right and top < bottom):
        raise ValueError(
            f"box_xyxy: expected finite edges with left < right and top < bottom, got {list(box_xyxy)}"
        )


def why_outside(
    clip: Clip, *, last_frame: int, boxes_xyxy: Sequence[Box], frame_count: int | None = None
) -> str:
    """Why frames or boxes lie outside a clip, as a sentence; empty when they lie inside.

    Args:
        clip: The clip; what is not known of it is not checked.
        last_frame: The highest frame that is named.
        boxes_xyxy: The boxes that are named.
        frame_count: Frames of the rendering that they are about; those of the clip by default.
    """
    count = clip.frame_count if frame_count is None else frame_count
    if count is not None and last_frame >= count:
        return f"Clip {clip.clip_id} has {count} frames, numbered 0 to {count - 1}, so there is no frame {last_frame}."
    if clip.width is None or clip.height is None:
        return ""
    for box in boxes_xyxy:
        if min(box[:2]) < 0 or box[2] > clip.width or box[3] > clip.height:
            return (
                f"The box {','.join(f'{edge:g}' for edge in box)} reaches outside the picture of clip "
                f"{clip.clip_id}, which has {clip.width} x {clip.height} pixels."
            )
    return ""


def corrections_version(corrections: Sequence[Correction]) -> str:
    """Digest of what is ordered, for data versions: who ordered it and when has no influence."""
    orders = [
        (item.kind, item.first_frame, item.last_frame, item.box_xyxy or (), item.origin.partition(":")[0])
        for item in corrections
    ]
    return digest_of(sorted(orders))
