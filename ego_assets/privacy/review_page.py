"""The page on which a person looks at frames of a blurred video and marks what was missed.

One HTML file and, beside it, its pictures. It loads nothing else and sends nothing: what was found becomes a command
that the reviewer runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt

from ego_assets.media.contact_sheet import encode_jpeg
from ego_assets.media.decode import VideoReader
from ego_assets.privacy.recall import CoveredRegion
from ego_assets.privacy.redaction import expand_boxes
from ego_assets.schema.corrections import KIND_WORDS, PiiKind
from ego_assets.schema.errors import MediaError
from ego_assets.schema.progress import ProgressCallback, ignore_progress
from ego_assets.schema.timeline import NANOSECONDS

#: Time between a frame and the pictures of its context, in seconds.
CONTEXT_S = 0.5

_COLOURS: Mapping[PiiKind, str] = {
    "faces": "#ff9f1c",
    "text": "#2ec4f3",
    "screens": "#b388ff",
    "plates": "#7ddc4a",
    "other": "#ff5fa2",
}
#: Longer side in pixels of the pictures: full HD as it is, so that a face of 24 pixels can be seen.
_LARGE_MAX_SIDE, _SMALL_MAX_SIDE = 1920, 480
_LARGE_QUALITY, _SMALL_QUALITY = 85, 75


@dataclass(frozen=True, kw_only=True)
class ContextPicture:
    """A small picture from shortly before or after a frame.

    Attributes:
        path: Path relative to the page.
        frame_index: Its frame.
        offset_s: Time from the frame under review to this one, in seconds.
    """

    path: str
    frame_index: int
    offset_s: float


@dataclass(frozen=True, kw_only=True)
class ReviewFrame:
    """One frame under review.

    Attributes:
        frame_index: The frame.
        time_s: Its time in seconds.
        picture: Path of its picture, relative to the page.
        before: Context before it; ``None`` where the clip begins too late.
        after: Context after it; ``None`` where the clip ends too early.
        regions: What is covered in it.
        note: Why it is shown; empty for frames of the sample.
    """

    frame_index: int
    time_s: float
    picture: str
    before: ContextPicture | None
    after: ContextPicture | None
    regions: Sequence[CoveredRegion] = ()
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ReviewSubject:
    """What is reviewed.

    Attributes:
        item_id: The review item.
        kind: Kind of the item.
        reason: Why it was queued.
        clip_id: The clip.
        source_name: Name of the uploaded file.
        version: Start of the data version of the blurred video.
        width: Width in pixels of the upright full-size picture, in which boxes are given.
        height: Height of that picture.
        frame_count: Frames of the video.
        item_frames: Frames of the item, of which the page may show fewer.
    """

    item_id: int
    kind: str
    reason: str
    clip_id: str
    source_name: str
    version: str
    width: int
    height: int
    frame_count: int
    item_frames: int


def write_pictures(
    video: Path,
    frames: Sequence[int],
    folder: Path,
    *,
    timestamps_ns: npt.NDArray[np.int64],
    regions: Mapping[int, Sequence[CoveredRegion]],
    notes: Mapping[int, str] | None = None,
    progress: ProgressCallback = ignore_progress,
) -> list[ReviewFrame]:
    """Write the pictures of some frames and of their context as JPEG files.

    Args:
        video: A **blurred** video. Never give an original.
        frames: Frames under review.
        folder: Where the page will lie; the pictures go into its folder ``frames``.
        timestamps_ns: ``int64 [frames]``, presentation times of the video.
        regions: What is covered, by frame.
        notes: Why a frame is shown, by frame.
        progress: Hears pictures done and in total.

    Raises:
        ValueError: A frame lies outside the video.
        MediaError: A frame cannot be decoded.
    """
    chosen = sorted({int(frame) for frame in frames})
    if chosen and not 0 <= chosen[0] <= chosen[-1] < timestamps_ns.size:
        raise ValueError(f"frames: expected 0 to {timestamps_ns.size - 1}, got {chosen[0]} to {chosen[-1]}")
    near = {frame: _neighbours(frame, timestamps_ns) for frame in chosen}
    small = {index for pair in near.values() for index in pair if index is not None}
    wanted = sorted({*chosen, *small})
    pictures = folder / "frames"
    pictures.mkdir(parents=True, exist_ok=True)
    written: set[int] = set()
    with VideoReader(video, indices=wanted) as reader:
        for frame in reader.frames():
            if frame.index in near:
                image = frame.bgr(max_side=_LARGE_MAX_SIDE)
                (pictures / _large(frame.index)).write_bytes(encode_jpeg(image, quality=_LARGE_QUALITY))
            if frame.index in small:
                image = frame.bgr(max_side=_SMALL_MAX_SIDE)
                (pictures / _small(frame.index)).write_bytes(encode_jpeg(image, quality=_SMALL_QUALITY))
            written.add(frame.index)
            progress(len(written), len(wanted))
    lost = sorted(set(wanted) - written)
    if lost:
        raise MediaError(
            "damaged",
            f"Frame(s) {', '.join(map(str, lost[:5]))} of the blurred video cannot be decoded: the file is damaged. "
            "Make it again: `ego-assets run --layer blurred_video --again`.",
        )

    def context(frame: int, neighbour: int | None) -> ContextPicture | None:
        if neighbour is None:
            return None
        offset_s = float(timestamps_ns[neighbour] - timestamps_ns[frame]) / NANOSECONDS
        return ContextPicture(path=f"frames/{_small(neighbour)}", frame_index=neighbour, offset_s=offset_s)

    return [
        ReviewFrame(
            frame_index=frame,
            time_s=float(timestamps_ns[frame] - timestamps_ns[0]) / NANOSECONDS,
            picture=f"frames/{_large(frame)}",
            before=context(frame, near[frame][0]),
            after=context(frame, near[frame][1]),
            regions=regions.get(frame, ()),
            note=(notes or {}).get(frame, ""),
        )
        for frame in chosen
    ]


def render_review_page(subject: ReviewSubject, frames: Sequence[ReviewFrame], *, box_margin: float) -> str:
    """The page as one HTML document; what came from outside is escaped.

    Args:
        subject: What is reviewed.
        frames: The frames in the order in which they are shown.
        box_margin: Share of its width and height by which each side of a box was moved out when it was blurred; the
            outlines show what is covered.

    Returns:
        HTML that refers to nothing but the pictures of ``frames``.
    """
    kinds = [(word, kind) for kind, word in KIND_WORDS.items()]
    data: dict[str, Any] = {
        "item": subject.item_id,
        "version": subject.version,
        "width": subject.width,
        "height": subject.height,
        "frame_count": subject.frame_count,
        "item_frames": subject.item_frames,
        "kinds": kinds,
        "colours": _COLOURS,
        "regions": {frame.frame_index: _regions(frame, box_margin, subject) for frame in frames},
    }
    page = {
        "item_id": subject.item_id,
        "kind": subject.kind,
        "reason": subject.reason,
        "clip_id": subject.clip_id,
        "source_name": subject.source_name,
        "version": subject.version,
        "width": subject.width,
        "height": subject.height,
        "item_frames": subject.item_frames,
        "frames": frames,
        "kinds": kinds,
        "colours": _COLOURS,
        "context_s": CONTEXT_S,
        "data": data,
    }
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = resources.files("ego_assets.privacy").joinpath("templates/review.html.j2").read_text("utf-8")
    return environment.from_string(template).render(page=page)


def _neighbours(frame: int, timestamps_ns: npt.NDArray[np.int64]) -> tuple[int | None, int | None]:
    """The frames of the context before and after; ``None`` where the clip does not reach so far."""
    here, reach = int(timestamps_ns[frame]), round(CONTEXT_S * NANOSECONDS)
    before = int(np.searchsorted(timestamps_ns, here - reach, side="right")) - 1
    after = int(np.searchsorted(timestamps_ns, here + reach, side="left"))
    return before if before >= 0 else None, after if after < timestamps_ns.size else None


def _regions(frame: ReviewFrame, box_margin: float, subject: ReviewSubject) -> list[dict[str, Any]]:
    """The regions of a frame as the page draws them: boxes as they were blurred, to a tenth of a pixel."""
    boxes = np.array([region.box_xyxy for region in frame.regions], np.float32).reshape(-1, 4)
    grown = expand_boxes(boxes, margin=box_margin, width=subject.width, height=subject.height)
    return [
        {
            "group": f"{frame.frame_index}:{region.group}",
            "kind": region.kind,
            "box": [round(edge, 1) for edge in box],
            "counted": region.counted,
        }
        for region, box in zip(frame.regions, grown.tolist(), strict=True)
    ]


def _large(frame: int) -> str:
    return f"{frame:06d}.jpg"


def _small(frame: int) -> str:
    return f"{frame:06d}_small.jpg"
