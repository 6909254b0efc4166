"""What the lens was pointed at, and what was in front of it: covered, tilted away, not worn, smudged.

Everything is measured on thumbnails, from brightness, detail and motion. What pixels cannot tell is said to be
unknown: a view without any detail may be a hand or a bare wall, and the tilt shows only while the wearer turns.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.quality.blur import reduce_to_short_side
from ego_assets.quality.stability import MotionTrack, thumbnail
from ego_assets.schema.arrays import read_only
from ego_assets.schema.timeline import NANOSECONDS

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
LumaArray = npt.NDArray[np.uint8]

#: Tiles along the longer and the shorter side of the picture.
TILES = (16, 9)
#: Mean absolute Laplacian of a smoothed thumbnail's tile below which the tile shows nothing, in full-range luma steps:
#: more than rounding, coding and the noise of an even surface leave.
FLAT_TILE_DETAIL = 1.0
#: Share of flat tiles from which a picture shows nothing. A covered lens lets a little light in at an edge. The
#: barest second of 20 clips from uncovered cameras, the inside of a washing machine, has 0.81.
FEATURELESS_SHARE = 0.9
#: Mean full-range luma below which a featureless picture may as well be a dark room: the lowest tenth of the range, as
#: :mod:`ego_assets.quality.exposure` has it.
DARK_MEAN_LUMA = 25.0
#: Mean luma of a picture that shows a lit place.
LIT_MEAN_LUMA = 40.0

#: A second whose positions lie closer together than this share of the longer side was recorded by a camera that
#: stands still: a head that is held still sways more. Measured, over 2 s: two cameras that stand, with hands moving
#: before them, at most 0.0035; the stillest 2 s of 19 clips from a camera on the move 0.0052.
STILL_REACH = 0.004
#: Fewest seconds in a row that count as standing still.
MIN_STILL_S = 3
#: Mean speed (longer sides a second), spin (degrees a second) and share of lost comparisons from which a camera is
#: being handled: whoever wears it cannot see where he is going at that speed.
HANDLED_SPEED = 1.0
HANDLED_SPIN_DEG = 90.0
HANDLED_LOST_SHARE = 0.6
#: Share of flat tiles below which there is enough to follow in a picture.
TEXTURED_FLAT_SHARE = 0.5
#: Share of the seconds of a beginning or an end that must look as if the camera was not worn.
_NOT_WORN_SHARE = 0.75

#: A block of this length has one tilt.
TILT_BLOCK_S = 30
#: A turn by at least this angle within a second tells something about the tilt; so many of them must agree, and add up
#: to more than a head can be laid on its side.
TELLING_TURN_DEG = 8.0
MIN_TELLING_TURNS = 3
MIN_TURNED_DEG = 45.0
#: Least share of the turns' squared angles that must lie about one axis.
MIN_ONE_AXIS = 0.9
#: Focal length over the longer side where it is not known: a horizontal field of view of 80 degrees.
ASSUMED_FOCAL_SHARE = 0.6

#: Angle above the horizon from which the camera points at the ceiling: at a vertical field of view of up to 80 degrees
#: the horizon, and all that lies below the eyes with it, is out of the picture.
CEILING_UP_DEG = 40.0
#: Angle below the horizon from which it points at the floor: the middle of the picture then shows, seen from 1.5 m,
#: what lies within 0.4 m of the feet, nearer than hands work.
FLOOR_DOWN_DEG = 75.0
#: Angle from which the floor and the ceiling cannot be told apart: a picture that only turns about its middle does not
#: slide.
UNCLEAR_DEG = 82.0

#: A tile with less than this share of the detail around it is soft.
SOFT_TILE_SHARE = 0.25
#: Fewest looks, and least travel of the picture as shares of its longer side, before a soft tile tells about the lens
#: rather than about what lies there: four tiles sideways, and more than two up and down.
MIN_SMUDGE_LOOKS = 10
MIN_SMUDGE_TRAVEL = (0.25, 0.15)
#: Between two looks for smudges, in seconds. A clip so long that it has more than the limit is looked at less often.
_SMUDGE_INTERVAL_S = 1.0
_MAX_SMUDGE_LOOKS = 512
#: Share of the looks that may show more detail in a tile than its figure says.
_DETAIL_QUANTILE = 0.9


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A stretch of time, in seconds from the first frame."""

    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """Its length."""
        return self.end_s - self.start_s


@dataclass(frozen=True, eq=False, kw_only=True)
class ViewSamples:
    """What every second of a clip shows and how it moves, one entry per second; NaN where that is not known.

    Attributes:
        timestamps_ns: ``int64 [N]``, presentation time at which the second begins, in nanoseconds.
        shake: ``float64 [N]``, see :class:`ego_assets.quality.stability.MotionSeconds`, as those up to ``lost_share``.
        reach: ``float64 [N]``.
        speed: ``float64 [N]``.
        slide: ``float64 [N]``.
        turn_deg: ``float64 [N]``.
        spin_deg: ``float64 [N]``.
        lost_share: ``float64 [N]``.
        flat_share: ``float64 [N]``, least share of tiles without detail in any picture of the second, 0-1.
        mean_luma: ``float64 [N]``, mean luma of the second, 0-255, full range.
    """

    timestamps_ns: npt.NDArray[np.int64]
    shake: FloatArray
    reach: FloatArray
    speed: FloatArray
    slide: FloatArray
    turn_deg: FloatArray
    spin_deg: FloatArray
    lost_share: FloatArray
    flat_share: FloatArray
    mean_luma: FloatArray

    def __post_init__(self) -> None:
        length = np.shape(self.timestamps_ns)
        for column in fields(self):
            dtype = np.int64 if column.name == "timestamps_ns" else np.float64
            values = np.asarray(getattr(self, column.name), dtype=dtype)
            if values.ndim != 1 or values.shape != length:
                raise ValueError(f"{column.name}: expected shape {list(length)}, got {list(values.shape)}")
            object.__setattr__(self, column.name, read_only(values))

    @classmethod
    def empty(cls) -> ViewSamples:
        """No seconds: nothing was measured."""
        return cls(**{column.name: [] for column in fields(cls)})  # type: ignore[arg-type]

    @property
    def featureless(self) -> BoolArray:
        """``bool [N]``, the seconds that show nothing at all, bright or dark."""
        return self.flat_share >= FEATURELESS_SHARE

    @property
    def too_dark_to_tell(self) -> BoolArray:
        """``bool [N]``, the featureless seconds that may as well be a dark room: nothing lit is seen near them."""
        dark = self.featureless & (self.mean_luma < DARK_MEAN_LUMA)
        if not dark.any():
            return dark
        others = self.mean_luma[~dark]
        lit = others.size >= 2 and float(np.nanmedian(others)) >= LIT_MEAN_LUMA
        return np.zeros_like(dark) if lit else dark

    @property
    def covered(self) -> BoolArray:
        """``bool [N]``, the seconds in which something is in front of the lens, or nothing but a bare surface."""
        return self.featureless & ~self.too_dark_to_tell

    @property
    def still(self) -> BoolArray:
        """``bool [N]``, the seconds in which the camera stands still."""
        still = ~self.featureless & (self.reach < STILL_REACH)
        kept = np.zeros_like(still)
        for first, after in _runs(still):
            if after - first >= MIN_STILL_S:
                kept[first:after] = True
        return kept

    @property
    def stands_throughout(self) -> bool:
        """Whether the camera stands still nearly all the time."""
        return bool(self.still.size and self.still.mean() >= _NOT_WORN_SHARE)

    @property
    def known(self) -> BoolArray:
        """``bool [N]``, the seconds of which it is known how the camera moved."""
        return np.isfinite(self.speed)

    @property
    def handled(self) -> BoolArray:
        """``bool [N]``, the seconds in which the camera tumbles: it is in a hand or falls."""
        tumbling = (
            (self.speed > HANDLED_SPEED)
            | (self.spin_deg > HANDLED_SPIN_DEG)
            # Without texture the motion is lost at any speed.
            | ((self.lost_share >= HANDLED_LOST_SHARE) & (self.flat_share < TEXTURED_FLAT_SHARE))
        )
        return tumbling & ~self.featureless

    def stretches(self, seconds: BoolArray) -> list[Stretch]:
        """Runs of marked seconds, in order."""
        return [Stretch(start_s=float(first), end_s=float(after)) for first, after in _runs(seconds)]

    def longest(self, seconds: BoolArray) -> Stretch | None:
        """The longest run of marked seconds; ``None`` without any."""
        return max(self.stretches(seconds), key=lambda stretch: stretch.length_s, default=None)

    def not_worn(self) -> tuple[int, int]:
        """Seconds at the beginning and at the end in which the camera was not worn.

        A beginning may hold single seconds that look worn: a camera is picked up. It ends at the middle of the clip at
        the latest; a camera that stands still throughout has nothing else.
        """
        still = self.still
        if self.stands_throughout:
            return int(still.sum()), 0
        unworn = still | self.covered | self.handled
        return _leading(unworn), _leading(unworn[::-1])

    def tilts(self, focal_share: float = ASSUMED_FOCAL_SHARE) -> list[Tilt]:
        """Tilt of every block of the clip in which the wearer turned enough to tell.

        While somebody turns, a level picture slides sideways, one of the floor or the ceiling turns about its middle:
        the two are the parts of one turn about the vertical, so that their ratio is the tangent of the tilt, and
        their signs tell up from down.

        Args:
            focal_share: Focal length over the picture's longer side.
        """
        found = []
        slide_deg = np.degrees(self.slide / focal_share)
        for start in range(0, self.slide.size, TILT_BLOCK_S):
            block = slice(start, start + TILT_BLOCK_S)
            turns = np.stack([slide_deg[block], self.turn_deg[block]])
            known = np.isfinite(turns).all(axis=0) & (self.lost_share[block] < HANDLED_LOST_SHARE)
            known &= ~self.handled[block]
            telling = turns[:, known & (np.hypot(*turns) >= TELLING_TURN_DEG)]
            if telling.shape[1] < MIN_TELLING_TURNS or np.hypot(*telling).sum() < MIN_TURNED_DEG:
                continue
            squares, axes = np.linalg.eigh(telling @ telling.T)
            if 1 - squares[0] / squares[1] < MIN_ONE_AXIS:
                continue
            sideways, about_middle = axes[:, 1] * (np.sign(axes[0, 1]) or 1.0)
            # A slide to the right is a turn to the left; looking down, the picture then turns clockwise.
            down_deg = float(np.degrees(np.arctan2(about_middle, sideways)))
            end = min(start + TILT_BLOCK_S, self.slide.size)
            found.append(
                Tilt(
                    when=Stretch(start_s=float(start), end_s=float(end)),
                    down_deg=down_deg,
                    turns=telling.shape[1],
                )
            )
        return found


@dataclass(frozen=True, kw_only=True)
class Tilt:
    """How far the camera was tilted.

    Attributes:
        when: The stretch of the clip.
        down_deg: Angle of the lens below the horizon; negative above it.
        turns: Seconds of turning on which this rests.
    """

    when: Stretch
    down_deg: float
    turns: int

    @property
    def is_upside_unclear(self) -> bool:
        """Whether the lens is so near the vertical that up and down look the same."""
        return abs(self.down_deg) > UNCLEAR_DEG

    @property
    def points_away(self) -> bool:
        """Whether the camera points at the ceiling or at the floor."""
        return self.down_deg > FLOOR_DOWN_DEG or self.down_deg < -CEILING_UP_DEG


@dataclass(frozen=True, eq=False, kw_only=True)
class TileDetail:
    """How much detail every part of the picture ever shows.

    Attributes:
        detail: ``float64 [rows, columns]`` over the upright picture: mean absolute Laplacian at the working scale that
            nine looks in ten do not exceed, in full-range luma steps.
        brightest: ``float64 [rows, columns]``, highest mean luma of the tile, 0-255, full range.
        looks: Pictures looked at.
        travel_x: How far the picture moved sideways, as a share of the longer side: from the tenth to the ninetieth
            percentile of the positions.
        travel_y: The same up and down.
    """

    detail: FloatArray
    brightest: FloatArray
    looks: int = 0
    travel_x: float = 0.0
    travel_y: float = 0.0

    def __post_init__(self) -> None:
        for name in ("detail", "brightest"):
            values = np.asarray(getattr(self, name), dtype=np.float64)
            if values.ndim != 2 or values.shape != np.shape(self.detail):
                raise ValueError(
                    f"{name}: expected two axes, both tables of one size, got {list(values.shape)}"
                )
            object.__setattr__(self, name, read_only(values))

    @classmethod
    def empty(cls) -> TileDetail:
        """No looks."""
        return cls(detail=np.zeros((0, 0)), brightest=np.zeros((0, 0)))

    def softness(self) -> FloatArray:
        """``float64 [rows, columns]``, detail of each tile over that of the tiles two away; NaN where not comparable.

        Not comparable are tiles that stay black (the rim of a fisheye lens) and those around which nothing has detail.
        """
        rows, columns = self.detail.shape
        softness = np.full((rows, columns), np.nan)
        lit = self.brightest >= DARK_MEAN_LUMA
        for row in range(rows):
            for column in range(columns):
                around = [
                    self.detail[r, c]
                    for r in range(max(0, row - 2), min(rows, row + 3))
                    for c in range(max(0, column - 2), min(columns, column + 3))
                    if max(abs(r - row), abs(c - column)) == 2 and lit[r, c]
                ]
                if lit[row, column] and len(around) >= _MIN_NEIGHBOURS:
                    usual = float(np.median(around))
                    if usual >= _MIN_NEIGHBOUR_DETAIL:
                        softness[row, column] = self.detail[row, column] / usual
        return softness

    @property
    def moved_enough(self) -> bool:
        """Whether enough different things were seen in every place to tell the lens from what lies before it."""
        return self.looks >= MIN_SMUDGE_LOOKS and (
            self.travel_x >= MIN_SMUDGE_TRAVEL[0] and self.travel_y >= MIN_SMUDGE_TRAVEL[1]
        )

    def largest_smudge(self) -> BoolArray:
        """``bool [rows, columns]``, the largest group of neighbouring soft tiles."""
        soft = (self.softness() < SOFT_TILE_SHARE).astype(np.uint8)
        count, labels, statistics, _ = cv2.connectedComponentsWithStats(soft, connectivity=8)
        if count < 2:
            return np.zeros(soft.shape, np.bool_)
        largest = 1 + int(np.argmax(statistics[1:, cv2.CC_STAT_AREA]))
        return np.asarray(labels == largest, dtype=np.bool_)

    def place(self, tiles: BoolArray) -> str:
        """Where the marked tiles lie, in words such as ``upper left``."""
        rows, columns = np.nonzero(tiles)
        height, width = tiles.shape
        vertical = _third((rows.mean() + 0.5) / height, ("upper", "", "lower"))
        horizontal = _third((columns.mean() + 0.5) / width, ("left", "", "right"))
        return " ".join(filter(None, (vertical, horizontal))) or "middle"


_MIN_NEIGHBOURS = 5
#: Detail in full-range luma steps that shows that there is something sharp to see.
_MIN_NEIGHBOUR_DETAIL = 3.0


class ViewMeter:
    """Measures what a clip shows and how it moves while it is decoded. Keeps no picture but the last thumbnail.

    Args:
        rotation_deg: Clockwise turn (0, 90, 180, 270) that makes the coded pictures upright.
        gain: Factor from coded to full-range luma steps.
        black: Coded luma of black.
        working_short_side_px: Short side at which smudges are looked for.
    """

    def __init__(self, *, rotation_deg: int, gain: float, black: int, working_short_side_px: int) -> None:
        self._rotation_deg = rotation_deg
        self._gain, self._black = gain, black
        self._working_px = working_short_side_px
        self._track = MotionTrack(rotation_deg)
        self._start_ns: int | None = None
        self._times_s = array("d")
        self._flat, self._luma = array("f"), array("f")
        self._next_look_s = 0.0
        self._interval_s = _SMUDGE_INTERVAL_S
        self._looks: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]] = []

    def due(self, timestamp_ns: int) -> bool:
        """Whether the frame shown at ``timestamp_ns`` is to be looked at."""
        return self._track.due(timestamp_ns)

    def add(self, timestamp_ns: int, luma: LumaArray) -> None:
        """Look at a frame; call it for those that are due."""
        if self._start_ns is None:
            self._start_ns = timestamp_ns
        time_s = (timestamp_ns - self._start_ns) / NANOSECONDS
        small = thumbnail(luma)
        self._track.add(timestamp_ns, small)
        # Noise is finer than what there is to see.
        smooth = cv2.blur(small.astype(np.float32), (3, 3))
        detail = self._gain * _tile_means(np.abs(cv2.Laplacian(smooth, cv2.CV_32F)))
        self._times_s.append(time_s)
        self._flat.append(float((detail < FLAT_TILE_DETAIL).mean()))
        self._luma.append(self._full_range(float(small.mean())))
        if time_s >= self._next_look_s:
            self._next_look_s = time_s + self._interval_s
            self._look_for_smudges(luma, small)

    def samples(self, duration_s: float) -> ViewSamples:
        """What every second showed; a last part of less than half a second belongs to the second before."""
        if self._start_ns is None:
            return ViewSamples.empty()
        count = max(1, round(duration_s))
        motion = self._track.seconds(self._start_ns, count)
        bins = np.clip(np.array(self._times_s).astype(np.int64), 0, count - 1)
        flat, luma = np.full(count, np.inf), np.zeros(count)
        np.minimum.at(flat, bins, np.array(self._flat, np.float64))
        np.add.at(luma, bins, np.array(self._luma, np.float64))
        seen = np.bincount(bins, minlength=count)
        with np.errstate(invalid="ignore"):
            luma = luma / seen
        flat[seen == 0] = np.nan
        columns = {column.name: _rounded(getattr(motion, column.name)) for column in fields(motion)}
        return ViewSamples(
            timestamps_ns=self._start_ns + np.arange(count, dtype=np.int64) * NANOSECONDS,
            flat_share=_rounded(flat),
            mean_luma=_rounded(luma),
            **columns,
        )

    def tile_detail(self) -> TileDetail:
        """How much detail every part of the picture showed."""
        if not self._looks:
            return TileDetail.empty()
        detail = np.quantile([look[0] for look in self._looks], _DETAIL_QUANTILE, axis=0)
        brightest = np.max([look[1] for look in self._looks], axis=0)
        travel_x, travel_y = self._track.travel()
        quarter_turns = -self._rotation_deg // 90
        return TileDetail(
            detail=_rounded(np.rot90(detail, quarter_turns)),
            brightest=_rounded(np.rot90(brightest, quarter_turns)),
            looks=len(self._looks),
            travel_x=float(f"{travel_x:.4g}"),
            travel_y=float(f"{travel_y:.4g}"),
        )

    def _look_for_smudges(self, luma: LumaArray, small: LumaArray) -> None:
        reduced = reduce_to_short_side(luma, self._working_px)
        detail = self._gain * _tile_detail(reduced)
        self._looks.append((detail, self._full_range(_tile_means(small))))
        if len(self._looks) >= _MAX_SMUDGE_LOOKS:
            self._looks = self._looks[::2]
            self._interval_s *= 2

    def _full_range(self, coded: Any) -> Any:
        return np.clip((coded - self._black) * self._gain, 0, 255)


def _tile_detail(picture: LumaArray) -> npt.NDArray[np.float32]:
    """Mean absolute Laplacian of every tile, in coded luma steps."""
    edges = cv2.convertScaleAbs(cv2.Laplacian(picture, cv2.CV_16S))
    return _tile_means(np.asarray(edges, dtype=np.uint8))


def _tile_means(picture: npt.NDArray[np.uint8] | npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Mean of every tile, ``float32 [rows, columns]``."""
    size = TILES if picture.shape[1] >= picture.shape[0] else TILES[::-1]
    means = cv2.resize(picture.astype(np.float32, copy=False), size, interpolation=cv2.INTER_AREA)
    return np.asarray(means, dtype=np.float32)


def _runs(marked: BoolArray) -> list[tuple[int, int]]:
    """First index of every run of marked entries, and the one after its last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(np.int8)))
    return [(int(first), int(after)) for first, after in edges.reshape(-1, 2)]


def _leading(unworn: BoolArray) -> int:
    """Length of the beginning that is mostly marked and ends with a marked second."""
    half = unworn[: unworn.size // 2]
    shares = np.cumsum(half) / np.arange(1, half.size + 1)
    ends = np.flatnonzero(half & (shares >= _NOT_WORN_SHARE))
    return int(ends[-1]) + 1 if ends.size else 0


def _third(share: float, names: tuple[str, str, str]) -> str:
    return names[min(2, int(3 * share))]


def _rounded(values: npt.NDArray[Any]) -> FloatArray:
    """The values with four significant digits: a report is stored for every clip."""
    return np.array([float(f"{value:.4g}") for value in values.ravel()], np.float64).reshape(values.shape)
