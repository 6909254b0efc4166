"""Depth maps as they are stored: two archives of PNG, a document that says how to read them, a table of verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.media.contact_sheet import contact_sheet
from ego_assets.media.frame_archive import FrameArchiveWriter
from ego_assets.media.overlays import depth_picture, draw_label, side_by_side
from ego_assets.media.parallel import ordered_map, run_ahead
from ego_assets.media.rasters import encode_png8, encode_png16
from ego_assets.media.verdict_table import write_verdict_table
from ego_assets.schema.camera import PinholeCamera, Scale
from ego_assets.schema.depth import MEASURED_FROM, DepthFrame, DepthMeasurements, DepthStatus
from ego_assets.schema.detections import BackendInfo, BgrImage
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.gates import GateOutcome
from ego_assets.schema.motion import CameraMotion

#: Version of ``depth.json``.
DEPTH_FORMAT = 1
#: Value of a pixel for a depth of 1, in metres or in medians of the segment's first map.
UNITS_PER_DEPTH = 1000
#: Largest value of a pixel; what lies farther away has it too.
LARGEST_VALUE = 65535

_UNITS = {
    Scale.METRIC: "millimetre",
    Scale.UNKNOWN: "thousandth of the median measured depth of the segment's first map",
}

# Statistics look at every fourth pixel both ways: 57,600 of a 1280x720 map.
_STRIDE = 4
# A percentile instead of the maximum: single wrong pixels at the edges of things must not decide.
_MAXIMUM_PERCENTILE = 99.9
# Maps that share fewer known pixels than this are not compared.
_MIN_SHARED = 0.01
# What is stored of the measurements, beside the verdicts.
_STORED = (
    "status",
    "segment",
    "is_metric",
    "valid_share",
    "measured_share",
    "completed_share",
    "median",
    "maximum",
    "change",
    "camera_motion",
    "picture_shift",
)
# Frames that are decoded, and maps that are made, before they are asked for.
_FRAMES_AHEAD = 4
_MAPS_AHEAD = 2
_PICTURES = 6
_PICTURE_WIDTH = 320


@dataclass(frozen=True, eq=False, kw_only=True)
class DepthArchive:
    """What was written.

    Attributes:
        measurements: What was measured on every map.
        contact_sheet: JPEG below 50 KB: frames with their depth beside them.
        camera: Intrinsics the maps were computed with, where the backend corrected those it was given.
    """

    measurements: DepthMeasurements
    contact_sheet: bytes
    camera: PinholeCamera | None = None

    @property
    def counts(self) -> dict[str, float]:
        """Plain numbers for the artifact document; shares are means over the maps that can be judged."""
        measured = self.measurements
        judged = measured.can_be_judged
        counts: dict[str, float] = {
            "frames": len(measured.status),
            "frames_without_parallax": measured.status.count("no_parallax"),
            "failed_frames": measured.status.count("failed"),
        }
        if judged.any():
            counts |= {
                "valid_share": float(measured.valid_share[judged].mean()),
                "measured_share": float(measured.measured_share[judged].mean()),
                "completed_share": float(measured.completed_share[judged].mean()),
            }
        return counts


def write_depth_archive(
    frames: Iterable[ClipFrame],
    estimate: Callable[[Iterator[ClipFrame]], Iterable[DepthFrame]],
    *,
    frame_index: npt.NDArray[np.int64],
    path: Callable[[str], Path],
    motion: CameraMotion | None = None,
) -> DepthArchive:
    """Estimate depth and write ``depth.tar`` and ``confidence.tar`` with their indices, one map at a time.

    Args:
        frames: The frames, in order.
        estimate: Gives one map for every frame, in order.
        frame_index: ``int64 [N]``, the frames that ``frames`` has.
        path: Where to write the file of a name.
        motion: How the camera moved, on every frame of the video, in pixels of the frames; ``None`` where that is not
            known.

    Raises:
        ValueError: There is no frame, or ``estimate`` does not give one map of the frame's size for every frame.
    """
    if not frame_index.size:
        raise ValueError("frame_index: expected at least one frame, got none")
    tap = _Tap(frames, frame_index)
    table = _Table()
    camera: PinholeCamera | None = None
    with (
        FrameArchiveWriter(path("depth.tar"), path("depth.parquet")) as depths,
        FrameArchiveWriter(path("confidence.tar"), path("confidence.parquet")) as confidences,
        # Frames are taken in one thread and maps made in another, so that neither waits for what is written. A network
        # is handed whole batches, and its next batch runs while the last one is stored.
        closing(run_ahead(tap, ahead=_FRAMES_AHEAD, name="depth-frames")) as taken,
        closing(run_ahead(estimate(taken), ahead=_MAPS_AHEAD, name="depth-maps")) as maps,
        closing(ordered_map(_stored, tap.checked(maps), name="depth-png")) as stored,
    ):
        for found in stored:
            table.add(found)
            camera = found.camera or camera
            depths.add(found.frame_index, found.timestamp_ns, found.depth_png, extension="png")
            confidences.add(found.frame_index, found.timestamp_ns, found.confidence_png, extension="png")
        if table.count != frame_index.size:
            raise ValueError(f"expected {frame_index.size} depth maps, got {table.count}")
    shift = picture_shift(motion, frame_index, width=tap.width)
    return DepthArchive(measurements=table.measurements(shift), contact_sheet=tap.sheet(), camera=camera)


def depth_values(depth: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Depth as stored: ``uint16``, a thousandth of the unit, 0 where nothing is known and at least 1 where it is."""
    values = depth * np.float32(UNITS_PER_DEPTH)
    np.rint(values, out=values)
    np.minimum(values, LARGEST_VALUE, out=values)
    stored = values.astype(np.uint16)
    if stored.size and not stored.min():
        lost = (stored == 0) & (depth > 0)
        stored[lost] = 1
    return stored


def picture_shift(
    motion: CameraMotion | None, frame_index: npt.NDArray[np.int64], *, width: int
) -> npt.NDArray[np.float64]:
    """How far the picture moved from each frame to the next of a list, as share of its width.

    Args:
        motion: How the camera moved, on every frame of the video; ``None`` where that is not known.
        frame_index: ``int64 [N]``, ascending.
        width: Width in pixels of the pictures that ``motion`` refers to.

    Returns:
        ``float64 [N]``; NaN for the first frame, across a cut, and where the motion is not known.
    """
    shift = np.full(frame_index.size, np.nan)
    if motion is None or not frame_index.size or frame_index[-1] >= motion.frame_count:
        return shift
    moved = np.linalg.norm(np.diff(motion.positions_xy[frame_index], axis=0), axis=1) / width
    same_scene = np.diff(motion.scenes[frame_index]) == 0
    shift[1:] = np.where(same_scene, moved, np.nan)
    return shift


def cuts_at(motion: CameraMotion, frame_index: npt.NDArray[np.int64]) -> frozenset[int]:
    """The frames of a list on which a new scene begins, counted from the frame before in that list.

    Args:
        motion: How the camera moved, on every frame of the video.
        frame_index: ``int64 [N]``, ascending.
    """
    known = frame_index[frame_index < motion.frame_count]
    return frozenset(known[1:][np.diff(motion.scenes[known]) != 0].tolist())


def depth_document(
    measurements: DepthMeasurements,
    *,
    camera: PinholeCamera,
    backend: BackendInfo,
    is_dense: bool,
    frames_per_second: float | None,
    baseline_m: float | None,
) -> dict[str, Any]:
    """The content of ``depth.json``: what the maps are and how to read them.

    Args:
        measurements: What was measured on every map.
        camera: Intrinsics for pictures of the maps' size.
        backend: Who made the maps.
        is_dense: Whether it gives every pixel a depth.
        frames_per_second: Rate of the maps; ``None`` for every frame.
        baseline_m: Distance between frames that the estimator was told, in metres.
    """
    return {
        "format": DEPTH_FORMAT,
        "scale": measurements.scale.value,
        "unit": _UNITS[measurements.scale],
        "invalid_value": 0,
        "largest_value": LARGEST_VALUE,
        "reading": (
            "A map is a 16-bit greyscale PNG. A pixel is the depth along the optical axis in the unit of its segment; "
            f"0 means that nothing is known, and {LARGEST_VALUE} that it is at least that far. Where the scale is "
            "unknown, depths can be compared within one segment only."
        ),
        "confidence": (
            "An 8-bit greyscale PNG of the same name: 0 nothing known, 1-127 completed between measurements, 128-255 "
            "measured. Higher is surer."
        ),
        "resolution": [camera.width, camera.height],
        "camera": {
            "fx": camera.fx,
            "fy": camera.fy,
            "cx": camera.cx,
            "cy": camera.cy,
            "source": camera.source,
        },
        "backend": asdict(backend),
        "is_dense": is_dense,
        "frames_per_second": frames_per_second,
        "baseline_m": baseline_m,
        "frames": len(measurements.status),
        "statuses": {name: measurements.status.count(name) for name in get_args(DepthStatus)},
        "segments": list(_segments(measurements)),
    }


def write_map_verdicts(
    measurements: DepthMeasurements, verdicts: Mapping[str, Sequence[GateOutcome]], path: Path
) -> None:
    """Write ``verdicts.parquet``: a row per map, with what was measured and the verdict of every criterion.

    Args:
        measurements: What was measured on every map.
        verdicts: Criterion to one verdict per map.
        path: File to write.
    """
    write_verdict_table(
        path,
        frame_index=measurements.frame_index,
        timestamps_ns=measurements.timestamps_ns,
        measurements={name: getattr(measurements, name) for name in _STORED},
        verdicts=verdicts,
    )


def _segments(measurements: DepthMeasurements) -> Iterator[dict[str, Any]]:
    for segment in np.unique(measurements.segment).tolist():
        (rows,) = np.nonzero(measurements.segment == segment)
        known = rows[measurements.valid_share[rows] > 0]
        is_metric = known.size and measurements.is_metric[known].all()
        scale = Scale.METRIC if is_metric else Scale.UNKNOWN
        yield {
            "segment": segment,
            "first_frame_index": int(measurements.frame_index[rows[0]]),
            "last_frame_index": int(measurements.frame_index[rows[-1]]),
            "start_ns": int(measurements.timestamps_ns[rows[0]]),
            "end_ns": int(measurements.timestamps_ns[rows[-1]]),
            "frames": int(rows.size),
            "scale": scale.value,
            "unit": _UNITS[scale],
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class _Stored:
    """A map as it is stored, and what was measured on it alone."""

    frame_index: int
    timestamp_ns: int
    status: DepthStatus
    scale: Scale
    segment: int
    camera_motion: float
    camera: PinholeCamera | None
    measured_share: float
    completed_share: float
    median: float
    maximum: float
    sample: npt.NDArray[np.float32]
    depth_png: bytes
    confidence_png: bytes


def _stored(found: DepthFrame) -> _Stored:
    """Encode and measure one map; several at once, each in a thread."""
    pixels, sure = found.depth.size, found.constant_confidence
    if sure is None:
        known = cv2.countNonZero(found.confidence)
        measured = int(np.count_nonzero(found.confidence >= MEASURED_FROM))
    else:
        known, measured = pixels * (sure > 0), pixels * (sure >= MEASURED_FROM)
    sample = found.depth[::_STRIDE, ::_STRIDE].copy()
    values = sample[sample > 0]
    if not values.size:
        values = found.depth[found.depth > 0]
    median, maximum = np.percentile(values, (50, _MAXIMUM_PERCENTILE)) if values.size else (np.nan, np.nan)
    return _Stored(
        frame_index=found.frame_index,
        timestamp_ns=found.timestamp_ns,
        status=found.status,
        scale=found.scale,
        segment=found.segment,
        camera_motion=found.camera_motion,
        camera=found.camera,
        measured_share=measured / pixels,
        completed_share=(known - measured) / pixels,
        median=float(median),
        maximum=float(maximum),
        sample=sample,
        depth_png=encode_png16(depth_values(found.depth)),
        confidence_png=encode_png8(found.confidence),
    )


class _Table:
    """Collects one row of numbers per map; of the maps themselves it holds a sample of the last one."""

    def __init__(self) -> None:
        self._rows: list[tuple[Any, ...]] = []
        self._last: tuple[int, Scale, npt.NDArray[np.float32]] | None = None

    @property
    def count(self) -> int:
        return len(self._rows)

    def add(self, found: _Stored) -> None:
        self._rows.append(
            (
                found.frame_index,
                found.timestamp_ns,
                found.status,
                found.scale is Scale.METRIC,
                found.segment,
                found.measured_share,
                found.completed_share,
                found.median,
                found.maximum,
                self._change(found),
                float(found.camera_motion),
            )
        )
        self._last = found.segment, found.scale, found.sample

    def _change(self, found: _Stored) -> float:
        if self._last is None or self._last[:2] != (found.segment, found.scale):
            return float("nan")
        sample, before = found.sample, self._last[2]
        shared = (sample > 0) & (before > 0)
        if shared.sum() <= _MIN_SHARED * shared.size:
            return float("nan")
        return float(np.abs(sample - before)[shared].mean(dtype=np.float64))

    def measurements(self, shift: npt.NDArray[np.float64]) -> DepthMeasurements:
        columns = list(zip(*self._rows, strict=True))
        index, times, status, is_metric, segment, *numbers = columns
        measured, completed, median, maximum, change, moved = (np.array(c, np.float64) for c in numbers)
        return DepthMeasurements(
            frame_index=np.array(index, np.int64),
            timestamps_ns=np.array(times, np.int64),
            status=tuple(status),
            is_metric=np.array(is_metric, np.bool_),
            segment=np.array(segment, np.int64),
            measured_share=measured,
            completed_share=completed,
            median=median,
            maximum=maximum,
            change=change,
            camera_motion=moved,
            picture_shift=shift,
        )


class _Tap:
    """Hands frames on to the estimator; keeps small copies of the few that are shown, and of their depth."""

    def __init__(self, frames: Iterable[ClipFrame], frame_index: npt.NDArray[np.int64]) -> None:
        self._frames = frames
        self._expected = frame_index
        places = np.linspace(0, frame_index.size - 1, min(_PICTURES, frame_index.size))
        self._shown = set(frame_index[np.rint(places).astype(np.int64)].tolist())
        self._size = (0, 0)
        self._images: dict[int, BgrImage] = {}
        self._depths: dict[int, tuple[npt.NDArray[np.float32], str]] = {}

    def __iter__(self) -> Iterator[ClipFrame]:
        for frame in self._frames:
            self._size = frame.size
            if frame.frame_index in self._shown:
                small = cv2.resize(frame.image, self._picture_size(), interpolation=cv2.INTER_AREA)
                self._images[frame.frame_index] = np.asarray(small, np.uint8)
            yield frame

    @property
    def width(self) -> int:
        return self._size[0]

    def checked(self, maps: Iterable[DepthFrame]) -> Iterator[DepthFrame]:
        """The same maps; each must be that of its frame, and some are kept for the contact sheet."""
        for position, found in enumerate(maps):
            self._check(found, position=position)
            self._keep(found)
            yield found

    def _check(self, found: DepthFrame, *, position: int) -> None:
        expected = int(self._expected[position]) if position < self._expected.size else None
        if found.frame_index != expected:
            raise ValueError(f"expected the depth of frame {expected}, got that of frame {found.frame_index}")
        width, height = self._size
        if found.depth.shape != (height, width):
            raise ValueError(f"depth: expected [{height}, {width}], got {list(found.depth.shape)}")

    def _keep(self, found: DepthFrame) -> None:
        if found.frame_index not in self._shown:
            return
        small = cv2.resize(found.depth, self._picture_size(), interpolation=cv2.INTER_NEAREST)
        self._depths[found.frame_index] = np.asarray(small, np.float32), _legend(found)

    def sheet(self) -> bytes:
        """All depths in one range of colours, so that what flickers is seen to flicker."""
        known = np.concatenate([depth[depth > 0] for depth, _ in self._depths.values()])
        nearest, farthest = np.percentile(known, (1, 99)).tolist() if known.size else (None, None)
        tiles = []
        for index, (depth, legend) in self._depths.items():
            picture = depth_picture(depth, depth > 0, nearest=nearest, farthest=farthest)
            tiles.append(side_by_side(self._images[index], draw_label(picture, legend)))
        return contact_sheet(tiles, columns=2, tile_width=2 * _PICTURE_WIDTH)

    def _picture_size(self) -> tuple[int, int]:
        width, height = self._size
        return _PICTURE_WIDTH, max(1, round(height * _PICTURE_WIDTH / width))


def _legend(found: DepthFrame) -> str:
    """What is written over the picture of a map."""
    if found.status == "no_parallax":
        return "no parallax: unknown"
    known = np.count_nonzero(found.confidence) / found.confidence.size
    if not known:
        return "failed" if found.status == "failed" else "nothing found"
    near, far = np.percentile(found.depth[found.depth > 0][::_STRIDE], (1, 99))
    unit = " m" if found.scale is Scale.METRIC else " (relative)"
    measured = np.count_nonzero(found.confidence >= MEASURED_FROM) / found.confidence.size
    return f"{near:.1f}-{far:.1f}{unit}, {known:.0%} known, {measured:.0%} measured"
