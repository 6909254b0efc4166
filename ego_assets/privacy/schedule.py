"""Which frames are examined for which kind of region, decided while the frames are decoded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from ego_assets.privacy.config import PrivacyConfig
from ego_assets.privacy.motion import FrameMotion
from ego_assets.schema.detections import Detections, iou_matrix
from ego_assets.schema.timeline import NANOSECONDS

FloatArray = npt.NDArray[np.float64]

#: How a frame is looked at: ``ordinary`` on the one downscaled copy, ``fine`` in tiles as well, where small regions
#: show that the copy hides.
Look = Literal["ordinary", "fine"]
LOOKS: tuple[Look, ...] = get_args(Look)

#: A region is small when its shorter side is below this many pixels in the downscaled copy: twice the size at which
#: detectors begin to miss, so that focus sets in before a shrinking region is lost.
_SMALL_PX = 24
#: Around a small region, this many of its sizes to each side are looked at, and at least this share of the
#: picture's longer side.
_FOCUS_SIZES = 2.0
_FOCUS_SHARE = 0.05
#: A strip that the camera's motion uncovered is looked at from this share of the longer side on, along with this
#: share of what was known before: what enters is cut in two otherwise.
_STRIP_SHARE = 0.015
_STRIP_OVERLAP = 0.04
#: A camera that moves by this share of the longer side per frame blurs small regions away, and one that has slowed
#: down to this part of it shows them: then a fine look is due, if the last one is this long ago.
_BLURRING_SHIFT = 0.01
_CALM_PART = 0.2
_CALM_FINE_S = 0.2
#: More than this share of the picture is not looked at in pieces but as a whole.
_FOCUS_MOST = 0.5
_FOCUS_PARTS = 32

#: Kinds of regions that have a rule.
SCHEDULED_KINDS = ("faces", "text", "plates")

#: Kinds whose ordinary looks also see parts of the picture finely. Those parts suit faces; a line of text is looked
#: for as a whole, on a copy of its own.
FOCUSED_KINDS = frozenset({"faces"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """How often one kind is looked for.

    Attributes:
        longest_ns: No longer time goes by without a look.
        longest_with_regions_ns: The same while there are regions of the kind.
        shortest_ns: However much the picture changes, looks are at least this far apart.
        every_frames: And this many frames.
        unsettled_frames: The same after a look that found a region in a new place.
    """

    longest_ns: int
    longest_with_regions_ns: int
    shortest_ns: int
    every_frames: int
    unsettled_frames: int


@dataclass(slots=True)
class _Looks:
    """What was looked at so far for one kind."""

    last_frame: int = -1
    last_ns: int = 0
    last_fine_ns: int = 0
    #: Change since the last look; a look is due from 1.
    novelty: float = 0.0
    #: Regions that are about, relative to the still scene, ``float64 [N, 4]``, and when each was found last.
    places: FloatArray = field(default_factory=lambda: np.zeros((0, 4)))
    found_ns: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    #: The part of the scene that was looked at finely since the last fine look, xyxy.
    known: FloatArray = field(default_factory=lambda: np.zeros(4))
    #: Largest shift of one frame since the last fine look, that frame included, as a share of the longer side.
    fastest_shift: float = 0.0
    #: Parts of the picture that the look due now sees finely.
    focus: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    #: Whether a region appeared or moved so far that the next look must come soon.
    is_unsettled: bool = False
    #: Times at which a look is due because a scene began.
    after_cut_ns: tuple[int, ...] = ()


class LookSchedule:
    """Says for each frame, in order, which kinds are looked for on it, and how.

    A kind is looked for when the picture has changed enough since the last look: by the camera's shift, which
    uncovers something new, and by what the shift does not explain. While regions of the kind are about, half as
    much is enough. A region that was not there at the look before, or that moved by so much within the scene that
    the two places hardly overlap, is looked at again on the very next frames, until it keeps still: its track
    would be a guess. Scene cuts are looked at at once and again shortly after. Two limits hold whatever the
    picture does, the shortest time between looks (but for those next frames) and the longest; about once a
    second, at cuts, and when a fast turn that blurred the picture ends, the look is a fine one. Between fine
    looks :meth:`focus` names the parts of the picture that deserve one: around small regions, and what the
    camera's motion uncovered. Memory does not grow with the clip.

    The first frame is always due. Nobody knows which frame is the last until it has passed: call
    :meth:`owed_at_end` with it.

    Args:
        kinds: Tasks of the detectors: ``faces``, ``text``, ``plates``.
        config: Rates.
        frame_rate: Nominal rate of the clip in frames per second.
        picture_size: Width and height in pixels of the upright full-size picture.

    Raises:
        ValueError: A kind has no rule.
    """

    def __init__(
        self,
        kinds: Iterable[str],
        *,
        config: PrivacyConfig,
        frame_rate: Fraction,
        picture_size: tuple[int, int],
    ) -> None:
        if frame_rate <= 0:
            raise ValueError(f"frame_rate: expected more than 0, got {frame_rate}")
        self._frame_ns = round(NANOSECONDS / frame_rate)
        self._rules = {kind: _rule(kind, config, self._frame_ns) for kind in kinds}
        self._looks = {kind: _Looks() for kind in self._rules}
        self._config = config
        self._picture_size = picture_size
        self._longer_side = max(picture_size)
        self._whole = np.array([0, 0, *picture_size], np.float64)
        self._fine_ns = round(NANOSECONDS / config.fine_looks_per_s)
        self._frame_index: int | None = None
        self._stamp_ns = 0
        # Repeated time stamps count as one nominal interval each, so that looks go on where the clock stands still.
        self._clock_ns = 0
        self._camera_xyxy = np.zeros(4)

    def due(self, frame_index: int, timestamp_ns: int, motion: FrameMotion) -> Mapping[str, Look]:
        """The looks that this frame gets, by kind; to be called for each frame in order.

        Args:
            frame_index: The frame; higher than at the call before.
            timestamp_ns: Its presentation time; not before that at the call before.
            motion: What changed since the frame at the call before.

        Raises:
            ValueError: Frames are out of order.
        """
        self._advance(frame_index, timestamp_ns)
        self._camera_xyxy += (motion.shift_x, motion.shift_y, motion.shift_x, motion.shift_y)
        return {kind: look for kind in self._rules if (look := self._look(kind, motion)) is not None}

    def focus(self, kind: str) -> npt.NDArray[np.float32]:
        """Parts of the picture that the look due on the frame of the last call should see at the fine scale as well.

        Args:
            kind: What is looked for.

        Returns:
            ``float32 [N, 4]``, xyxy in pixels of the upright full-size picture. None where the look is fine anyway,
            and for pictures that the detectors see at full size.
        """
        return self._looks[kind].focus

    def _parts(self, looks: _Looks) -> npt.NDArray[np.float32] | None:
        """The parts for :meth:`focus`; ``None`` where they would be most of the picture."""
        width, height = self._picture_size
        downscaling = self._longer_side / self._config.detection_max_side
        if downscaling <= 1:
            return np.zeros((0, 4), np.float32)
        sides = looks.places[:, 2:] - looks.places[:, :2]
        is_small = sides.min(axis=1, initial=np.inf) < _SMALL_PX * downscaling
        reach = np.maximum(_FOCUS_SHARE * self._longer_side, _FOCUS_SIZES * sides.max(axis=1, initial=0))
        around = reach[:, None] * np.array([-1, -1, 1, 1])
        parts = list((looks.places + self._camera_xyxy + around)[is_small])
        strips = self._uncovered(looks.known + self._camera_xyxy)
        if strips:
            now = self._whole - self._camera_xyxy
            low, high = np.minimum(looks.known[:2], now[:2]), np.maximum(looks.known[2:], now[2:])
            looks.known = np.concatenate([low, high])
        clipped = np.clip(np.array(parts + strips, np.float64).reshape(-1, 4), 0, np.tile(self._whole[2:], 2))
        clipped = clipped[np.all(clipped[:, 2:] > clipped[:, :2], axis=1)]
        if len(clipped) > _FOCUS_PARTS:
            return None
        clipped = _joined(clipped)
        area = (clipped[:, 2:] - clipped[:, :2]).prod(axis=1).sum()
        return None if area > _FOCUS_MOST * width * height else clipped.astype(np.float32)

    def _uncovered(self, known: FloatArray) -> list[FloatArray]:
        """Strips of the picture outside the known part, where they are broad enough to matter."""
        strip, overlap = _STRIP_SHARE * self._longer_side, _STRIP_OVERLAP * self._longer_side
        width, height = self._picture_size
        strips = []
        if known[0] >= strip:
            strips.append(np.array([0, 0, known[0] + overlap, height]))
        if known[1] >= strip:
            strips.append(np.array([0, 0, width, known[1] + overlap]))
        if width - known[2] >= strip:
            strips.append(np.array([known[2] - overlap, 0, width, height]))
        if height - known[3] >= strip:
            strips.append(np.array([0, known[3] - overlap, width, height]))
        return strips

    def found(self, kind: str, detections: Detections) -> None:
        """Tell what a look that was due on the frame of the last call found, even if that is nothing.

        Args:
            kind: What was looked for.
            detections: Boxes in pixels of the upright full-size picture.
        """
        looks = self._looks[kind]
        places = detections.boxes_xyxy - self._camera_xyxy
        same = (
            iou_matrix(places.astype(np.float32), looks.places.astype(np.float32)) >= self._config.track_iou
        )
        is_new = ~same.any(axis=1)
        looks.is_unsettled = bool(is_new.any())
        # A new sighting replaces the old one of the same region, from which it may have moved away; what is not
        # seen is kept for a while.
        reach = _FOCUS_SIZES * (looks.places[:, 2:] - looks.places[:, :2])
        near = np.abs(_centers(places)[:, None] - _centers(looks.places)[None]) <= reach[None]
        replaced = same | (near.all(axis=2) & is_new[:, None])
        keep_ns = round(self._config.track_weak_gap_s * NANOSECONDS)
        kept = ~replaced.any(axis=0) & (self._clock_ns - looks.found_ns <= keep_ns)
        looks.places = np.concatenate([looks.places[kept], places])
        looks.found_ns = np.concatenate(
            [looks.found_ns[kept], np.full(len(places), self._clock_ns, np.int64)]
        )

    def owed_at_end(self) -> Mapping[str, Look]:
        """The looks that the clip's last frame still needs, when :meth:`due` was last called with it."""
        return {
            kind: "ordinary"
            for kind, looks in self._looks.items()
            if self._frame_index is not None and looks.last_frame < self._frame_index
        }

    def _advance(self, frame_index: int, timestamp_ns: int) -> None:
        if self._frame_index is not None:
            if frame_index <= self._frame_index or timestamp_ns < self._stamp_ns:
                raise ValueError(
                    f"frames: expected a frame after {self._frame_index} ({self._stamp_ns} ns), "
                    f"got {frame_index} ({timestamp_ns} ns)"
                )
            self._clock_ns += (timestamp_ns - self._stamp_ns) or self._frame_ns
        self._frame_index, self._stamp_ns = frame_index, timestamp_ns

    def _look(self, kind: str, motion: FrameMotion) -> Look | None:
        assert self._frame_index is not None
        rule, looks, now_ns = self._rules[kind], self._looks[kind], self._clock_ns
        first = looks.last_frame < 0
        if motion.is_cut:
            looks.after_cut_ns = tuple(
                now_ns + round(s * NANOSECONDS) for s in self._config.looks_after_cut_s
            )
        looks.novelty += self._novelty(motion)
        shift = self._shift_share(motion)
        looks.fastest_shift = max(looks.fastest_shift, shift)
        since_fine_ns = now_ns - looks.last_fine_ns
        calm = (
            looks.fastest_shift >= _BLURRING_SHIFT
            and shift <= _CALM_PART * looks.fastest_shift
            and since_fine_ns >= _CALM_FINE_S * NANOSECONDS
        )
        fine_due = first or motion.is_cut or calm or since_fine_ns + self._frame_ns > self._fine_ns
        if not (first or motion.is_cut or self._is_due(rule, looks)):
            return None
        looks.last_frame, looks.last_ns, looks.novelty = self._frame_index, now_ns, 0.0
        looks.after_cut_ns = tuple(due_ns for due_ns in looks.after_cut_ns if due_ns > now_ns)
        if not fine_due:
            if kind not in FOCUSED_KINDS:
                return "ordinary"
            if (parts := self._parts(looks)) is not None:
                looks.focus = parts
                return "ordinary"
        looks.last_fine_ns, looks.fastest_shift = now_ns, shift
        looks.known = self._whole - self._camera_xyxy
        looks.focus = np.zeros((0, 4), np.float32)
        return "fine"

    def _is_due(self, rule: _Rule, looks: _Looks) -> bool:
        assert self._frame_index is not None
        now_ns, since_ns = self._clock_ns, self._clock_ns - looks.last_ns
        if any(due_ns <= now_ns for due_ns in looks.after_cut_ns):
            return True
        about = bool(looks.found_ns.size)
        longest_ns = rule.longest_with_regions_ns if about else rule.longest_ns
        # Waiting for the next frame would be too long.
        if since_ns + self._frame_ns > longest_ns:
            return True
        if looks.is_unsettled and self._frame_index - looks.last_frame >= rule.unsettled_frames:
            return True
        enough = 0.5 if about else 1.0
        # Half a frame of tolerance: time stamps are rounded.
        return (
            looks.novelty >= enough
            and since_ns + self._frame_ns // 2 >= rule.shortest_ns
            and self._frame_index - looks.last_frame >= rule.every_frames
        )

    def _novelty(self, motion: FrameMotion) -> float:
        shift = self._shift_share(motion) / self._config.look_after_shift
        return shift + motion.change / self._config.look_after_change

    def _shift_share(self, motion: FrameMotion) -> float:
        return math.hypot(motion.shift_x, motion.shift_y) / self._longer_side


def _rule(kind: str, config: PrivacyConfig, frame_ns: int) -> _Rule:
    if kind == "text":
        return _Rule(
            longest_ns=NANOSECONDS,
            longest_with_regions_ns=NANOSECONDS,
            shortest_ns=0,
            every_frames=config.text_every_frames,
            unsettled_frames=config.text_every_frames,
        )
    if kind == "faces":
        slowest, present, fastest = config.faces_min_per_s, config.faces_present_per_s, config.faces_max_per_s
    elif kind == "plates":
        slowest, present, fastest = config.plates_min_per_s, config.plates_min_per_s, config.plates_max_per_s
    else:
        raise ValueError(f"kind: expected {', '.join(SCHEDULED_KINDS)}, got {kind!r}")
    return _Rule(
        longest_ns=round(NANOSECONDS / slowest),
        longest_with_regions_ns=round(NANOSECONDS / present),
        shortest_ns=round(NANOSECONDS / fastest),
        every_frames=1,
        unsettled_frames=1,
    )


def _centers(boxes: FloatArray) -> FloatArray:
    return np.asarray((boxes[:, :2] + boxes[:, 2:]) / 2, dtype=np.float64)


def _joined(boxes: FloatArray) -> FloatArray:
    """The same parts of a picture, those that overlap replaced by the box around both, where that costs less."""
    parts = list(boxes)
    joined = True
    while joined:
        joined = False
        for a in range(len(parts)):
            for b in range(a + 1, len(parts)):
                around = np.concatenate(
                    [np.minimum(parts[a][:2], parts[b][:2]), np.maximum(parts[a][2:], parts[b][2:])]
                )
                areas = [float((box[2:] - box[:2]).prod()) for box in (parts[a], parts[b], around)]
                if areas[2] <= areas[0] + areas[1]:
                    parts = [box for index, box in enumerate(parts) if index not in (a, b)] + [around]
                    joined = True
                    break
            if joined:
                break
    return np.array(parts, np.float64).reshape(-1, 4)
