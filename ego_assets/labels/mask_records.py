"""Stores the masks of a clip: PNG archive, table of instances, sidecar, verdicts, and the picture people see."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ego_assets.labels.mask_tracking import nearest_pixels, trace_back
from ego_assets.media.contact_sheet import contact_sheet
from ego_assets.media.frame_archive import FrameArchive, FrameArchiveIndex, FrameArchiveWriter
from ego_assets.media.overlays import draw_label, mask_overlay
from ego_assets.media.parallel import ordered_map, run_ahead
from ego_assets.media.rasters import decode_png, encode_indexed_png, encode_png16
from ego_assets.media.verdict_table import write_verdict_table
from ego_assets.schema.detections import BackendInfo, BgrImage
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.gates import GateOutcome
from ego_assets.schema.masks import HAND_CATEGORY, MaskFrame, MaskInstance, MaskMeasurements

ARCHIVE, INDEX, CATEGORIES = "masks.tar", "masks.parquet", "categories.json"
TRACKS = "tracks.parquet"

#: One row per instance and frame; boxes are in pixels of the masks.
TRACK_SCHEMA = pa.schema(
    [
        pa.field("instance_id", pa.int32(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("side", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("frame_index", pa.int64(), nullable=False),
        pa.field("timestamp_ns", pa.int64(), nullable=False),
        pa.field("left", pa.float32(), nullable=False),
        pa.field("top", pa.float32(), nullable=False),
        pa.field("right", pa.float32(), nullable=False),
        pa.field("bottom", pa.float32(), nullable=False),
        pa.field("area_share", pa.float32(), nullable=False),
    ]
)

#: Highest id that an 8-bit PNG with a palette can hold.
_LAST_PALETTE_ID = 255
#: Longer side in pixels at which consecutive frames are compared.
_COMPARED_SIDE = 240
#: Less of the flow believable than this, and two frames cannot be compared.
_COMPARABLE = 0.4
#: Frames and width in pixels of the tiles that people see.
_TILES, _TILE_WIDTH = 8, 320
_LEGEND = "left hand red, right hand green"
#: Frames that are decoded, and masks that are made, before they are asked for.
_FRAMES_AHEAD, _MASKS_AHEAD = 4, 2

#: Runs a backend over a stream of frames.
Track = Callable[[Iterator[ClipFrame]], Iterator[MaskFrame]]


def instance_palette() -> npt.NDArray[np.uint8]:
    """Colours of ids in PNG files and pictures, ``uint8 [256, 3]``, RGB.

    The wearer's left hand (1) is red, the right one (2) green; nothing else is.
    """
    places = np.arange(256)
    # Steps of the golden ratio spread hues evenly however many ids there are.
    spread = places * 0.61803398875 % 1
    # Of OpenCV's 180 hues, those from yellow to orange and from cyan to magenta.
    allowed = np.concatenate([np.arange(14, 34), np.arange(84, 166)])
    hue = allowed[(spread * allowed.size).astype(int)].astype(np.uint8)
    saturation = np.array([110, 170, 80], np.uint8)[places % 3]
    value = np.where(places % 2 == 0, 245, 165).astype(np.uint8)
    hsv = np.stack([hue, saturation, value], axis=1)[None]
    palette = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0], dtype=np.uint8).copy()
    palette[0] = 0
    palette[1], palette[2] = (255, 40, 40), (40, 255, 40)
    return palette


@dataclass(frozen=True, eq=False, kw_only=True)
class RecordedMasks:
    """What was written of one clip.

    Attributes:
        measurements: What was measured on every frame.
        instances: Every instance of the clip with its category and side; the score is the mean over its frames.
        spans: Instance id to its first and last frame and the number of frames it is seen in.
        bit_depth: 8 or 16, of all PNG files.
        reseeded_frames: Frames on which instances were searched anew.
        contact_sheet: Overlays of some frames as JPEG.
    """

    measurements: MaskMeasurements
    instances: tuple[MaskInstance, ...]
    spans: Mapping[int, tuple[int, int, int]]
    bit_depth: int
    reseeded_frames: tuple[int, ...]
    contact_sheet: bytes

    @property
    def counts(self) -> dict[str, float]:
        """Plain numbers for the artifact document."""
        found = self.measurements
        frames = len(found)
        return {
            "frames": frames,
            "instances": len(self.instances),
            "hand_frame_share": round(float(found.has_hand.mean()), 4) if frames else 0.0,
            "mean_segmented_share": round(float(found.segmented_share.mean()), 4) if frames else 0.0,
        }


def record_masks(
    frames: Iterable[ClipFrame],
    track: Track,
    *,
    frame_index: Sequence[int] | npt.NDArray[np.int64],
    vocabulary: Sequence[str],
    path: Callable[[str], Path],
) -> RecordedMasks:
    """Track a clip and write ``masks.tar`` with its index and ``tracks.parquet``.

    Frames are decoded, instances followed and masks stored in threads, so that none waits for another.

    All PNG of a clip have one form: 8 bits with a palette while no id is above 255, otherwise 16-bit grey.

    Args:
        frames: Frames of one clip in order of time.
        track: Runs the backend over them.
        frame_index: The frames that will come, to choose those that people see.
        vocabulary: Categories that the backend may give.
        path: Where to write the file of a name.

    Raises:
        ValueError: The backend gave a category outside the vocabulary, changed one, or did not answer every frame.
    """
    seen: deque[ClipFrame] = deque()
    expected = np.asarray(frame_index, dtype=np.int64)
    shown = set(expected[np.linspace(0, expected.size - 1, min(_TILES, expected.size)).astype(int)].tolist())
    archive = _MaskArchive(path(ARCHIVE), path(INDEX))
    table = _InstanceTable(vocabulary)
    measures = _Measures()
    tiles: list[BgrImage] = []
    reseeded: list[int] = []
    palette = instance_palette()
    with (
        archive,
        closing(run_ahead(_remembered(frames, seen), ahead=_FRAMES_AHEAD, name="mask-frames")) as taken,
        closing(run_ahead(track(taken), ahead=_MASKS_AHEAD, name="mask-tracks")) as followed,
        closing(
            ordered_map(
                partial(_prepared, palette=palette, shown=shown), _answered(followed, seen), name="mask-png"
            )
        ) as prepared,
    ):
        for found in prepared:
            masks = found.masks
            archive.add(masks, found.png, is_narrow=found.is_narrow)
            table.add(masks, found.areas, found.boxes)
            measures.add(found)
            if masks.reseeded:
                reseeded.append(masks.frame_index)
            if found.tile is not None:
                tiles.append(found.tile if tiles else draw_label(found.tile, _LEGEND))
        if seen:
            raise ValueError(f"masks: expected an answer for every frame, got none for {len(seen)}")
    table.write(path(TRACKS))
    return RecordedMasks(
        measurements=measures.result(),
        instances=table.instances(),
        spans=dict(table.spans),
        bit_depth=archive.bit_depth,
        reseeded_frames=tuple(reseeded),
        contact_sheet=contact_sheet(tiles, tile_width=_TILE_WIDTH) if tiles else b"",
    )


def categories_document(
    recorded: RecordedMasks,
    *,
    vocabulary: Sequence[str],
    backend: BackendInfo,
    resolution: tuple[int, int],
    frames_per_second: float | None,
) -> dict[str, Any]:
    """The sidecar that says what the pixels of the PNG files mean."""
    return {
        "format": f"PNG, {recorded.bit_depth} bits, "
        + ("palette" if recorded.bit_depth == 8 else "grey")
        + ", pixel = instance id, 0 = not segmented",
        "bit_depth": recorded.bit_depth,
        "resolution": list(resolution),
        "frames_per_second": frames_per_second,
        "frame_count": len(recorded.measurements),
        "vocabulary": list(vocabulary),
        "backend": {
            "name": backend.backend,
            "model": backend.model,
            "weights_sha256": backend.weights_sha256,
        },
        "instances": {
            str(item.instance_id): {
                "category": item.category,
                "score": round(item.score, 4),
                "side": item.side,
                "first_frame": recorded.spans[item.instance_id][0],
                "last_frame": recorded.spans[item.instance_id][1],
                "frame_count": recorded.spans[item.instance_id][2],
            }
            for item in recorded.instances
        },
    }


def write_verdicts(
    measurements: MaskMeasurements, verdicts: Mapping[str, Sequence[GateOutcome]], path: Path
) -> None:
    """Write one row per frame: what was measured, and one column per criterion."""
    measured = {
        "segmented_share": measurements.segmented_share,
        "largest_share": measurements.largest_share,
        "hand_share": measurements.hand_share,
        "consistency_iou": measurements.consistency,
    }
    write_verdict_table(
        path,
        frame_index=measurements.frame_index,
        timestamps_ns=measurements.timestamps_ns,
        measurements={name: values.astype(np.float32) for name, values in measured.items()},
        verdicts=verdicts,
    )


def motion_compensated_iou(
    before: npt.NDArray[np.uint16], now: npt.NDArray[np.uint16], image_before: BgrImage, image_now: BgrImage
) -> float:
    """How much instances overlap those of an earlier frame, moved along the flow between the two pictures.

    Intersection over union of each instance, over the pixels whose flow can be believed, mean weighted by area.

    Args:
        before: ``uint16 [h, w]``, ids of the earlier frame.
        now: ``uint16 [h, w]``, ids of the later one.
        image_before: ``uint8 [h, w, 3]``, BGR, the earlier frame.
        image_now: ``uint8 [h, w, 3]``, BGR, the later frame.

    Returns:
        0-1; NaN where flow cannot link the pictures or nothing is segmented.
    """
    grey = [
        np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8) for image in (image_before, image_now)
    ]
    places, believable = trace_back(*grey, preset="medium")
    if believable.mean() < _COMPARABLE:
        return float("nan")
    moved = before[nearest_pixels(places)]
    a, b = moved[believable], now[believable]
    sizes_a = np.bincount(a, minlength=1)
    sizes_b = np.bincount(b, minlength=1)
    common = np.bincount(a[a == b], minlength=1)
    length = max(sizes_a.size, sizes_b.size)
    padded = [np.pad(sizes, (0, length - sizes.size))[1:] for sizes in (sizes_a, sizes_b, common)]
    union = padded[0] + padded[1] - padded[2]
    weight = padded[0] + padded[1]
    if not weight.sum():
        return float("nan")
    return float((weight * padded[2] / np.maximum(union, 1)).sum() / weight.sum())


def _remembered(frames: Iterable[ClipFrame], seen: deque[ClipFrame]) -> Iterator[ClipFrame]:
    """The frames, each kept until its answer comes."""
    for frame in frames:
        seen.append(frame)
        yield frame


@dataclass(frozen=True, eq=False)
class _Answer:
    """A frame, its masks, and those of the frame before."""

    frame: ClipFrame
    masks: MaskFrame
    before: tuple[ClipFrame, MaskFrame] | None


def _answered(followed: Iterable[MaskFrame], seen: deque[ClipFrame]) -> Iterator[_Answer]:
    """The backend's answers with the frames they belong to.

    Raises:
        ValueError: One belongs to none, or has another size.
    """
    before = None
    for masks in followed:
        if not seen or seen[0].frame_index != masks.frame_index:
            raise ValueError(f"masks: expected one answer per frame in order, got frame {masks.frame_index}")
        frame = seen.popleft()
        if masks.instance_ids.shape != frame.image.shape[:2]:
            raise ValueError(
                f"instance_ids of frame {masks.frame_index}: expected {list(frame.image.shape[:2])}, got "
                f"{list(masks.instance_ids.shape)}"
            )
        yield _Answer(frame, masks, before)
        before = frame, masks


@dataclass(frozen=True, eq=False, kw_only=True)
class _Prepared:
    """What is stored of one frame.

    Attributes:
        masks: The backend's answer.
        png: The picture of ids, with 8 bits where ``is_narrow``, otherwise with 16.
        is_narrow: Whether its ids fit into 8 bits.
        areas: ``int64 [K]``, pixels of each id.
        boxes: ``int64 [K, 4]``, their boxes.
        consistency: How well they go with those of the frame before.
        tile: The picture that people see, on some frames.
    """

    masks: MaskFrame
    png: bytes
    is_narrow: bool
    areas: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.int64]
    consistency: float
    tile: BgrImage | None


def _prepared(answer: _Answer, *, palette: npt.NDArray[np.uint8], shown: set[int]) -> _Prepared:
    """Everything about one frame that needs no other frame but the one before."""
    masks, image = answer.masks, answer.frame.image
    ids = masks.instance_ids
    is_narrow = int(ids.max(initial=0)) <= _LAST_PALETTE_ID
    consistency = float("nan")
    if answer.before is not None:
        frame_before, masks_before = answer.before
        earlier, earlier_image = _reduced(masks_before.instance_ids, frame_before.image)
        later, later_image = _reduced(ids, image)
        consistency = motion_compensated_iou(earlier, later, earlier_image, later_image)
    areas, boxes = _extents(ids)
    return _Prepared(
        masks=masks,
        png=encode_indexed_png(ids.astype(np.uint8), palette)
        if is_narrow
        else encode_png16(np.ascontiguousarray(ids)),
        is_narrow=is_narrow,
        areas=areas,
        boxes=boxes,
        consistency=consistency,
        tile=_tile(image, masks, palette) if masks.frame_index in shown else None,
    )


class _MaskArchive:
    """Writes PNG of 8 bits, and all of them anew with 16 bits once an id asks for it."""

    def __init__(self, archive: Path, index: Path) -> None:
        self._archive, self._index = archive, index
        self._writer = FrameArchiveWriter(archive, index)
        self.bit_depth = 8

    def add(self, masks: MaskFrame, png: bytes, *, is_narrow: bool) -> None:
        if self.bit_depth == 8 and not is_narrow:
            self._widen()
        if self.bit_depth == 16 and is_narrow:
            png = encode_png16(np.ascontiguousarray(masks.instance_ids))
        self._writer.add(masks.frame_index, masks.timestamp_ns, png, extension="png")

    def _widen(self) -> None:
        """Rewrite what there is: programs must not meet two forms in one archive."""
        self._writer.close()
        narrow, narrow_index = (
            path.with_name(f"narrow_{path.name}") for path in (self._archive, self._index)
        )
        self._archive.replace(narrow)
        self._index.replace(narrow_index)
        self._writer = FrameArchiveWriter(self._archive, self._index)
        self.bit_depth = 16
        with narrow.open("rb") as file:
            entries = FrameArchiveIndex.read(narrow_index)
            members = FrameArchive(file, entries)
            for entry in entries:
                ids = decode_png(members.read(entry.frame_index)).astype(np.uint16)
                self._writer.add(entry.frame_index, entry.timestamp_ns, encode_png16(ids), extension="png")
        narrow.unlink()
        narrow_index.unlink()

    def __enter__(self) -> _MaskArchive:
        return self

    def __exit__(self, *failure: Any) -> None:
        self._writer.__exit__(*failure)


@dataclass(eq=False)
class _InstanceTable:
    """Rows of ``tracks.parquet``, and what is said of each instance over the clip."""

    vocabulary: Sequence[str]
    said: dict[int, tuple[str, str]] = field(default_factory=dict)
    scores: dict[int, list[float]] = field(default_factory=dict)
    spans: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    columns: dict[str, Any] = field(
        default_factory=lambda: {
            item.name: []
            if pa.types.is_string(item.type)
            else array("q" if pa.types.is_integer(item.type) else "d")
            for item in TRACK_SCHEMA
        }
    )

    def add(self, masks: MaskFrame, areas: npt.NDArray[np.int64], boxes: npt.NDArray[np.int64]) -> None:
        """Take up one frame with the pixels and the box of each id."""
        for item in masks.instances:
            self._check(item, masks.frame_index)
            first, _, frames = self.spans.get(item.instance_id, (masks.frame_index, 0, 0))
            self.spans[item.instance_id] = first, masks.frame_index, frames + 1
            self.scores.setdefault(item.instance_id, []).append(item.score)
            left, top, right, bottom = boxes[item.instance_id]
            row = {
                "instance_id": item.instance_id,
                "category": item.category,
                "side": item.side,
                "score": item.score,
                "frame_index": masks.frame_index,
                "timestamp_ns": masks.timestamp_ns,
                "left": left,
                "top": top,
                "right": right,
                "bottom": bottom,
                "area_share": areas[item.instance_id] / masks.instance_ids.size,
            }
            for name, value in row.items():
                self.columns[name].append(value)

    def _check(self, item: MaskInstance, frame_index: int) -> None:
        if item.category not in self.vocabulary:
            raise ValueError(
                f"instance {item.instance_id}: expected a category out of {', '.join(self.vocabulary)}, got "
                f"{item.category!r}"
            )
        said = self.said.setdefault(item.instance_id, (item.category, item.side))
        if said != (item.category, item.side):
            raise ValueError(
                f"instance {item.instance_id}: expected {said} as before, got {(item.category, item.side)} on frame "
                f"{frame_index}"
            )

    def instances(self) -> tuple[MaskInstance, ...]:
        return tuple(
            MaskInstance(
                instance_id=number,
                category=category,
                side=side,
                score=min(1.0, float(np.mean(self.scores[number]))),
            )
            for number, (category, side) in sorted(self.said.items())
        )

    def write(self, path: Path) -> None:
        arrays = [
            pa.array(
                self.columns[item.name]
                if pa.types.is_string(item.type)
                else np.asarray(self.columns[item.name]),
            ).cast(item.type)
            for item in TRACK_SCHEMA
        ]
        pq.write_table(pa.Table.from_arrays(arrays, schema=TRACK_SCHEMA), path)


@dataclass(eq=False)
class _Measures:
    """What is measured while frames go by."""

    rows: list[tuple[int, int, float, float, float, float]] = field(default_factory=list)

    def add(self, found: _Prepared) -> None:
        masks, areas = found.masks, found.areas
        pixels = masks.instance_ids.size
        hands = [item.instance_id for item in masks.instances if item.category == HAND_CATEGORY]
        self.rows.append(
            (
                masks.frame_index,
                masks.timestamp_ns,
                float(areas[1:].sum()) / pixels,
                float(areas[1:].max(initial=0)) / pixels,
                float(areas[hands].sum()) / pixels,
                found.consistency,
            )
        )

    def result(self) -> MaskMeasurements:
        columns = list(zip(*self.rows, strict=True)) or [()] * 6
        integers = [np.array(column, np.int64) for column in columns[:2]]
        shares = [np.array(column, np.float64) for column in columns[2:]]
        return MaskMeasurements(
            frame_index=integers[0],
            timestamps_ns=integers[1],
            segmented_share=shares[0],
            largest_share=shares[1],
            hand_share=shares[2],
            consistency=shares[3],
        )


def _reduced(ids: npt.NDArray[np.uint16], image: BgrImage) -> tuple[npt.NDArray[np.uint16], BgrImage]:
    height, width = ids.shape
    scale = min(1.0, _COMPARED_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    # Nearest neighbours keep ids; only ids up to 16 bits occur, which single precision holds exactly.
    few = cv2.resize(ids.astype(np.float32), size, interpolation=cv2.INTER_NEAREST_EXACT)
    return few.astype(np.uint16), np.asarray(small, np.uint8)


def _extents(
    ids: npt.NDArray[np.uint16],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pixels of each id ``int64 [K]`` and its box ``int64 [K, 4]``, xyxy with open ends."""
    areas = np.bincount(ids.ravel(), minlength=1)
    boxes = np.zeros((areas.size, 4), np.int64)
    height, width = ids.shape
    low = np.full((areas.size, 2), max(height, width), np.int64)
    high = np.zeros((areas.size, 2), np.int64)
    # Only where an id begins or ends in its row can its box end, which is a fraction of the pixels.
    edge = np.ones(ids.shape, np.bool_)
    edge[:, 1:-1] = (ids[:, 1:-1] != ids[:, :-2]) | (ids[:, 1:-1] != ids[:, 2:])
    rows, columns = np.nonzero(edge)
    at = ids[rows, columns]
    for axis, places in enumerate((columns, rows)):
        np.minimum.at(low[:, axis], at, places)
        np.maximum.at(high[:, axis], at, places + 1)
    boxes[:, :2], boxes[:, 2:] = low, high
    return areas, boxes


def _tile(image: BgrImage, masks: MaskFrame, palette: npt.NDArray[np.uint8]) -> BgrImage:
    """A small overlay; ids above 255 share the colours of others."""
    height, width = masks.instance_ids.shape
    size = _TILE_WIDTH, max(1, round(_TILE_WIDTH * height / width))
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    wrapped = np.where(
        masks.instance_ids > _LAST_PALETTE_ID, masks.instance_ids % 253 + 3, masks.instance_ids
    ).astype(np.uint8)
    few = cv2.resize(wrapped, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return mask_overlay(small, np.asarray(few, np.uint8), palette, opacity=0.45)
