"""Depth from the motion of the camera: poses and inverse depth along a clip, frame by frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.geometry.calibration import calibrated
from ego_assets.geometry.completion import complete_between, enlarge, enlarge_mask
from ego_assets.geometry.correspondence import Matcher, Matches, Picture, guessed_rotation
from ego_assets.geometry.inverse_depth import Gathered, carried_over, triangulate
from ego_assets.geometry.two_view import (
    KnownPoints,
    TwoView,
    pose_from_depth,
    relative_pose,
    rigid_inverse,
    rotation_between,
)
from ego_assets.schema.camera import CameraTrajectory, PinholeCamera, Scale
from ego_assets.schema.depth import MEASURED_FROM, DepthFrame, DepthStatus
from ego_assets.schema.frames import ClipFrame

FloatArray = npt.NDArray[np.float64]

#: Two frames that have less of their texture in common belong to different scenes.
_MIN_COMMON = 0.12
#: Until a segment has a depth to go by, neighbours must have more in common: pictures of different scenes agree here
#: and there.
_MIN_COMMON_TO_BEGIN = 0.5
#: Pictures with less texture than this share show nothing that could be found again.
_MIN_TEXTURE = 0.02
#: Points by which a camera is placed, at most.
_POSE_POINTS = 900
#: Fewer points than this with known depth place no camera.
_MIN_POSE_POINTS = 80
#: Share of those points that must agree with the pose.
_MIN_POSE_INLIERS = 0.5
#: Parallax in pixels between a pair of frames that is wide enough; a wider one has less in common.
_WANTED_PARALLAX_PX = 14.0
#: A turn that moves the picture by more than this share of its width leaves too little in common.
_MAX_TURN_SHARE = 0.4
#: Parallax from which a segment may begin.
_FIRST_PARALLAX_PX = 3.0
#: From one frame to the next, what is known of depth loses this share of its weight.
_FORGETTING = 0.15
#: Pixels that must have been measured for a frame to count as estimated.
_MIN_MEASURED = 200
#: Steps that are wanted before a known distance between frames fixes a segment's unit, and how many more frames the
#: result may lag for that.
_STEPS_FOR_UNIT = 5
_FURTHER_LAG = 8
#: A step that moves the picture by less parallax than this is a camera standing still.
_STEP_PARALLAX_PX = 1.0
#: Every so many pixels tell how near a picture's points lie.
_NEARNESS_STRIDE = 4
#: Measured depth is given out where its relative standard deviation is lower.
_MAX_RELATIVE_DEVIATION = 0.25
#: Frames at the clip's beginning by which an assumed focal length is corrected, and pairs of them that are used.
_CALIBRATION_FRAMES = 25
_CALIBRATION_PAIRS = 8
_TELLING_TURN_RAD = 0.1


@dataclass(frozen=True, kw_only=True)
class MotionDepthConfig:
    """How depth from motion works.

    Attributes:
        max_side: Longer side in pixels at which the picture is compared; depth is brought to the frame's size after.
        window_frames: Frames that are held: the most that lie between two frames compared, and the delay of the result.
        completion: Whether gaps between measurements are filled.
        calibration: Whether a focal length that is only assumed is corrected by what the clip's first frames show.
        footprint_px: Measurements stand for the pixels this near, which count as completed: the patch around a corner.
    """

    max_side: int = 448
    window_frames: int = 8
    completion: bool = True
    calibration: bool = True
    footprint_px: int = 0

    def __post_init__(self) -> None:
        if not 64 <= self.max_side <= 4096:
            raise ValueError(f"max_side: expected 64 to 4096 pixels, got {self.max_side}")
        if not 2 <= self.window_frames <= 64:
            raise ValueError(f"window_frames: expected 2 to 64, got {self.window_frames}")


class _View:
    """A frame in the window.

    Attributes:
        turn_from_previous: Rotation from the frame before, as far as it could be guessed; ``None`` where it was not.
        scene: Number of cuts before it.
        step: How far the camera moved since the frame before, in the segment's unit; NaN where unknown.
        parallax_px: Most parallax against a frame it could be compared with; NaN where there was none.
    """

    def __init__(self, frame: ClipFrame, size: tuple[int, int]) -> None:
        self.frame = frame
        small: npt.NDArray[Any] = frame.image
        if frame.size != size:
            small = cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA)
        self.picture = Picture(np.ascontiguousarray(small, np.uint8))
        self.has_texture = bool(self.picture.texture.mean() >= _MIN_TEXTURE)
        self.gathered = Gathered(*size)
        self.turn_from_previous: FloatArray | None = None
        self.T_world_camera: FloatArray | None = None
        self.segment = 0
        self.scene = 0
        self.step = float("nan")
        self.parallax_px = float("nan")

    @property
    def turned_by(self) -> FloatArray:
        """Rotation from the frame before; none where it could not be guessed."""
        return np.eye(3) if self.turn_from_previous is None else self.turn_from_previous

    @property
    def nearness(self) -> float:
        """Median of the known inverse depth; 0 where nothing is known."""
        values = self.gathered.inverse_depth[::_NEARNESS_STRIDE, ::_NEARNESS_STRIDE]
        known = values[values > 0]
        return float(np.median(known)) if known.size else 0.0

    def saw_parallax(self, parallax_px: float) -> None:
        """Take in how much parallax a comparison showed."""
        self.parallax_px = float(np.fmax(self.parallax_px, parallax_px))


class DepthFromMotion:
    """Depth of one clip. Made anew for every clip: it remembers what it has seen.

    The first pair of frames with enough parallax begins a segment and sets its unit. Each later frame is placed by
    the points whose depth is known already, so that the unit stays; then its pixels are triangulated with the frame
    before and with one further back. A frame leaves when it is the oldest of the window, so that its depth rests on
    frames before and after it.

    Frames that show no parallax against any other are told apart from those whose comparison failed.

    Args:
        matcher: Finds corresponding pixels.
        camera: Camera of the frames.
        config: How it works.
        poses: Where the camera was, where that is known; otherwise it is estimated.
        baseline_m: Median distance in metres between neighbouring frames, where it is known and ``poses`` are not
            metric.
        cuts: Frames on which a new scene begins; nothing is compared across them.
    """

    def __init__(
        self,
        matcher: Matcher,
        *,
        camera: PinholeCamera,
        config: MotionDepthConfig | None = None,
        poses: CameraTrajectory | None = None,
        baseline_m: float | None = None,
        cuts: frozenset[int] = frozenset(),
    ) -> None:
        if baseline_m is not None and not (np.isfinite(baseline_m) and baseline_m > 0):
            raise ValueError(f"baseline_m: expected a finite distance above 0, got {baseline_m}")
        self._matcher = matcher
        self._config = MotionDepthConfig() if config is None else config
        shrink = min(1.0, self._config.max_side / max(camera.width, camera.height))
        self._size = (max(1, round(camera.width * shrink)), max(1, round(camera.height * shrink)))
        self._frame_size = (camera.width, camera.height)
        self._camera = camera.scaled(*self._size)
        self._poses = poses
        self._place_of = {} if poses is None else {int(n): i for i, n in enumerate(poses.frame_index)}
        self._baseline_m = None if poses is not None and poses.scale == Scale.METRIC else baseline_m
        self._cuts = cuts
        self._scene = 0
        self._window: deque[_View] = deque()
        self._segment = -1
        self._units: dict[int, float] = {}
        self._first_steps: dict[int, float] = {}
        self._track: list[tuple[int, int, FloatArray, int]] = []

    @property
    def scale(self) -> Scale:
        """Unit of the depth."""
        metric = self._baseline_m is not None or (
            self._poses is not None and self._poses.scale == Scale.METRIC
        )
        return Scale.METRIC if metric else Scale.UNKNOWN

    @property
    def camera(self) -> PinholeCamera:
        """The camera that was used, for the frames' size."""
        return self._camera.scaled(*self._frame_size)

    def run(self, frames: Iterable[ClipFrame]) -> Iterator[DepthFrame]:
        """One map per frame, in order, a window behind the frames."""
        views = self._views(frames)
        begin: deque[_View] = deque()
        if self._config.calibration and self._poses is None and self._camera.source == "assumed":
            begin.extend(islice(views, _CALIBRATION_FRAMES))
            self._calibrate(begin)
        while (view := begin.popleft() if begin else next(views, None)) is not None:
            self._take(view)
            while self._is_ready():
                yield self._finished(self._window.popleft())
        while self._window:
            yield self._finished(self._window.popleft())

    def _is_ready(self) -> bool:
        """Whether the oldest frame of the window has waited long enough."""
        waiting = len(self._window) - self._config.window_frames
        if waiting <= 0 or waiting > _FURTHER_LAG:
            return waiting > 0
        segment = self._window[0].segment
        if self._baseline_m is None or segment in self._units or self._window[-1].segment != segment:
            return True
        steps = self._moving_steps(segment)
        return not 0 < len(steps) < _STEPS_FOR_UNIT

    def trajectory(self) -> CameraTrajectory:
        """Where the camera was at the frames given out so far, in the unit of their depth."""
        poses = []
        for _, _, pose, segment in self._track:
            scaled = pose.copy()
            scaled[:3, 3] *= self._units.get(segment, 1.0)
            poses.append(scaled)
        return CameraTrajectory(
            frame_index=np.array([index for index, *_ in self._track], np.int64),
            timestamps_ns=np.array([time for _, time, *_ in self._track], np.int64),
            T_world_camera=np.array(poses, np.float64).reshape(-1, 4, 4),
            segment=np.array([segment for *_, segment in self._track], np.int64),
            scale=self.scale,
        )

    def _views(self, frames: Iterable[ClipFrame]) -> Iterator[_View]:
        for frame in frames:
            if frame.size != self._frame_size:
                raise ValueError(
                    f"frame {frame.frame_index}: expected {self._frame_size} pixels as the camera, got {frame.size}"
                )
            view = _View(frame, self._size)
            self._scene += frame.frame_index in self._cuts
            view.scene = self._scene
            yield view

    def _calibrate(self, views: Sequence[_View]) -> None:
        """Correct an assumed focal length by what the first frames show."""
        assumed = self._camera
        turns = []
        for first, second in pairwise(views):
            if first.has_texture and second.has_texture and first.scene == second.scene:
                second.turn_from_previous = guessed_rotation(first.picture, second.picture, assumed)
                turns.append((second.turn_from_previous, first, second))
        # Small turns tell little, and wide ones leave little in common.
        turns.sort(key=lambda turn: abs(_angle(turn[0]) - _TELLING_TURN_RAD))

        def compare(camera: PinholeCamera) -> list[tuple[FloatArray, FloatArray]]:
            pairs = []
            for guess, first, second in turns[:_CALIBRATION_PAIRS]:
                matches = self._matcher.match(first.picture, second.picture, guess, camera)
                if self._in_common(matches, _MIN_COMMON):
                    pairs.append(self._points(matches))
            return pairs

        self._camera = calibrated(assumed, compare)

    def _take(self, view: _View) -> None:
        """Compare a new frame with those of the window."""
        previous = self._window[-1] if self._window else None
        supplied = self._supplied(view)
        if supplied is not None:
            view.T_world_camera, view.segment = supplied
        matches = None
        if previous is not None and previous.scene == view.scene:
            matches = self._matches_with_previous(previous, view)
        if previous is None or matches is None:
            if self._poses is None:
                self._begin_segment(view)
        elif self._poses is not None:
            self._use_supplied(previous, view, matches)
        else:
            view.segment = previous.segment
            if previous.T_world_camera is None and not self._in_common(matches, _MIN_COMMON_TO_BEGIN):
                self._begin_segment(view)
            elif previous.T_world_camera is None:
                self._window.append(view)
                self._try_to_begin(view, matches)
                return
            elif not self._follow(previous, view, matches):
                self._begin_segment(view)
        self._window.append(view)

    def _supplied(self, view: _View) -> tuple[FloatArray, int] | None:
        place = self._place_of.get(view.frame.frame_index)
        if place is None or self._poses is None:
            return None
        pose = self._poses.T_world_camera[place]
        return (pose, int(self._poses.segment[place])) if np.isfinite(pose).all() else None

    def _begin_segment(self, view: _View) -> None:
        self._segment += 1
        view.segment, view.T_world_camera = self._segment, None

    def _matches_with_previous(self, previous: _View, view: _View) -> Matches | None:
        """How the frame before shows in the new one; ``None`` where they have too little in common."""
        if not (previous.has_texture and view.has_texture):
            return None
        if previous.T_world_camera is not None and view.T_world_camera is not None:
            guess = _relative(previous, view)[:3, :3]
        elif view.turn_from_previous is not None:
            guess = view.turn_from_previous
        else:
            guess = guessed_rotation(previous.picture, view.picture, self._camera)
        matches = self._matcher.match(previous.picture, view.picture, guess, self._camera)
        poor = not self._in_common(matches, _MIN_COMMON_TO_BEGIN)
        if self._poses is None and (poor or previous.T_world_camera is None):
            points = self._points(matches)
            if len(points[0]) >= _MIN_POSE_POINTS:
                guess = rotation_between(*points, self._camera)
                if poor:
                    matches = self._matcher.match(previous.picture, view.picture, guess, self._camera)
        view.turn_from_previous = guess
        return matches if self._in_common(matches, _MIN_COMMON) else None

    @staticmethod
    def _in_common(matches: Matches, share: float) -> bool:
        return matches.found_share >= share and int(matches.known_a.sum()) >= _MIN_POSE_POINTS

    def _points(
        self, matches: Matches, use: npt.NDArray[np.bool_] | None = None
    ) -> tuple[FloatArray, FloatArray]:
        rows, columns = self._chosen(matches.known_a if use is None else matches.known_a & use)
        return np.stack([columns, rows], axis=1).astype(np.float64), matches.to_b[rows, columns].astype(
            np.float64
        )

    @staticmethod
    def _chosen(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Pixels spread evenly over a mask."""
        rows, columns = np.nonzero(mask)
        if rows.size <= _POSE_POINTS:
            return rows, columns
        chosen = np.linspace(0, rows.size - 1, _POSE_POINTS).astype(np.intp)
        return rows[chosen], columns[chosen]

    def _turn_between(self, first: _View, second: _View) -> FloatArray:
        """Rotation from an earlier view of the window to a later one."""
        if first.T_world_camera is not None and second.T_world_camera is not None:
            return _relative(first, second)[:3, :3]
        turn = np.eye(3)
        passing = False
        for view in self._window:
            if passing:
                turn = view.turned_by @ turn
            passing |= view is first
            if view is second:
                return turn
        return second.turned_by @ turn

    def _turned_too_far(self, turn: FloatArray) -> bool:
        angle = np.arccos(np.clip(turn[2, 2], -1, 1))
        return bool(np.tan(min(angle, 1.5)) * self._camera.fx > _MAX_TURN_SHARE * self._camera.width)

    def _try_to_begin(self, view: _View, matches: Matches) -> None:
        """Look for a pair with enough parallax; from it, the frames without a pose get theirs."""
        waiting = [other for other in self._window if other.segment == view.segment]
        first = waiting[-2]
        for other in waiting:
            if not self._turned_too_far(self._turn_between(other, view)):
                first = other
                break
        two = self._compared(waiting[-2], view, matches)
        if not _begins(two) and first is not waiting[-2]:
            turn = self._turn_between(first, view)
            matches = self._matcher.match(first.picture, view.picture, turn, self._camera)
            two = self._compared(first, view, matches)
        else:
            first = waiting[-2]
        if two is None or not _begins(two):
            return
        first.T_world_camera = np.eye(4)
        T_second_first = np.eye(4)
        T_second_first[:3, :3], T_second_first[:3, 3] = two.rotation, two.direction
        view.T_world_camera = rigid_inverse(T_second_first)
        self._measure(first, view, matches)
        start = waiting.index(first)
        # Outwards from the pair: first the frames between, then those before.
        for other in waiting[start + 1 : -1]:
            self._place_by(first, other)
        for other in reversed(waiting[:start]):
            self._place_by(first, other)
        self._first_steps[view.segment] = 1 / (len(waiting) - 1 - start)
        for before, after in pairwise(waiting):
            if before.T_world_camera is not None and after.T_world_camera is not None:
                after.step = float(np.linalg.norm(_relative(before, after)[:3, 3]))

    def _compared(self, first: _View, second: _View, matches: Matches) -> TwoView | None:
        """The motion between two frames, and how much parallax they show; ``None`` with too little in common."""
        if not self._in_common(matches, _MIN_COMMON):
            return None
        two = relative_pose(*self._points(matches), self._camera)
        if two.kind != "failed":
            for view in (first, second):
                view.saw_parallax(two.parallax_px)
        return two

    def _place_by(self, first: _View, other: _View) -> None:
        """Find the pose of a frame that was passed over, by the depth of another."""
        turn = (
            self._turn_between(first, other) if _before(first, other) else self._turn_between(other, first).T
        )
        if self._turned_too_far(turn):
            return
        matches = self._matcher.match(first.picture, other.picture, turn, self._camera)
        start = np.eye(4)
        start[:3, :3] = turn
        known = self._known(first, matches, np.eye(4))
        if len(known.points) < _MIN_POSE_POINTS:
            return
        pose, share = pose_from_depth([known], start, self._camera)
        if share >= _MIN_POSE_INLIERS and first.T_world_camera is not None:
            other.T_world_camera = first.T_world_camera @ rigid_inverse(pose)
            self._measure(first, other, matches)

    def _known(self, view: _View, matches: Matches, anchor_from_view: FloatArray) -> KnownPoints:
        gathered = view.gathered
        use = (gathered.inverse_depth > 0) & (gathered.support > gathered.against)
        use &= gathered.variance < (0.5 * gathered.inverse_depth) ** 2
        rows, columns = self._chosen(use & matches.known_a)
        return KnownPoints(
            points=np.stack([columns, rows], axis=1).astype(np.float64),
            inverse_depth=gathered.inverse_depth[rows, columns].astype(np.float64),
            targets=matches.to_b[rows, columns].astype(np.float64),
            T_anchor_first=anchor_from_view,
        )

    def _follow(self, previous: _View, view: _View, matches: Matches) -> bool:
        """Place a frame by the depth of the one before it, then by one further back as well, and measure."""
        if previous.T_world_camera is None:
            return False
        known = self._known(previous, matches, np.eye(4))
        if len(known.points) < _MIN_POSE_POINTS:
            return False
        start = np.eye(4)
        start[:3, :3] = view.turned_by
        pose, share = pose_from_depth([known], start, self._camera)
        if share < _MIN_POSE_INLIERS:
            return False
        view.T_world_camera = previous.T_world_camera @ rigid_inverse(pose)
        partner = self._partner(view)
        if partner is not None:
            further = self._matcher.match(
                partner.picture, view.picture, self._turn_between(partner, view), self._camera
            )
            back = self._known(partner, further, _relative(partner, previous))
            if len(back.points) >= _MIN_POSE_POINTS:
                refined, share = pose_from_depth([known, back], pose, self._camera)
                if share >= _MIN_POSE_INLIERS:
                    view.T_world_camera = previous.T_world_camera @ rigid_inverse(refined)
        view.step = float(np.linalg.norm(_relative(previous, view)[:3, 3]))
        self._carry(previous, view, matches)
        self._measure(previous, view, matches)
        if partner is not None:
            self._measure(partner, view, further)
        return True

    def _use_supplied(self, previous: _View, view: _View, matches: Matches) -> None:
        if view.T_world_camera is None or previous.T_world_camera is None or previous.segment != view.segment:
            return
        view.step = float(np.linalg.norm(_relative(previous, view)[:3, 3]))
        self._carry(previous, view, matches)
        self._measure(previous, view, matches)
        partner = self._partner(view)
        if partner is not None:
            further = self._matcher.match(
                partner.picture, view.picture, self._turn_between(partner, view), self._camera
            )
            self._measure(partner, view, further)

    def _partner(self, view: _View) -> _View | None:
        """The nearest frame further back that gives enough parallax, or else the one that gives most."""
        best: _View | None = None
        most = 0.0
        for other in list(self._window)[-2::-1]:
            if (other.segment, other.scene) != (view.segment, view.scene) or other.T_world_camera is None:
                continue
            T_view_other = _relative(other, view)
            if self._turned_too_far(T_view_other[:3, :3]):
                continue
            parallax = float(np.linalg.norm(T_view_other[:3, 3])) * other.nearness * self._camera.fx
            if best is None or parallax > most:
                best, most = other, parallax
            if most >= _WANTED_PARALLAX_PX:
                break
        return best

    def _carry(self, previous: _View, view: _View, matches: Matches) -> None:
        gathered = previous.gathered
        usable = (gathered.support > gathered.against) & matches.known_a
        carried = carried_over(
            gathered.inverse_depth,
            gathered.variance / np.float32(1 - _FORGETTING),
            matches.to_b,
            usable,
            _relative(previous, view),
            self._camera,
        )
        view.gathered.add(carried)

    def _measure(self, first: _View, second: _View, matches: Matches) -> None:
        """Triangulate both ways."""
        T_second_first = _relative(first, second)
        baseline = float(np.linalg.norm(T_second_first[:3, 3]))
        if baseline <= 0:
            return
        one = triangulate(matches.to_b, matches.known_a, T_second_first, self._camera)
        other = triangulate(matches.to_a, matches.known_b, rigid_inverse(T_second_first), self._camera)
        for view, measurement in ((first, one), (second, other)):
            view.gathered.add(measurement)
            if nearness := view.nearness:
                view.saw_parallax(baseline * nearness * self._camera.fx)

    def _finished(self, view: _View) -> DepthFrame:
        """The map of a frame that leaves the window."""
        pose = np.full((4, 4), np.nan) if view.T_world_camera is None else view.T_world_camera
        self._track.append((view.frame.frame_index, view.frame.timestamp_ns, pose, view.segment))
        gathered = view.gathered
        measured = (gathered.support > 0) & (gathered.support > gathered.against)
        measured &= gathered.variance < (_MAX_RELATIVE_DEVIATION * gathered.inverse_depth) ** 2
        if int(measured.sum()) < _MIN_MEASURED:
            status: DepthStatus = "no_parallax" if view.parallax_px < _FIRST_PARALLAX_PX else "failed"
            return self._map(view, None, status)
        return self._map(view, measured, "estimated")

    def _map(self, view: _View, measured: npt.NDArray[np.bool_] | None, status: DepthStatus) -> DepthFrame:
        width, height = self._frame_size
        depth = np.zeros((height, width), np.float32)
        confidence = np.zeros((height, width), np.uint8)
        if measured is not None:
            gathered = view.gathered
            unit = self._unit(view, gathered.inverse_depth[measured])
            inverse = np.where(measured, gathered.inverse_depth, np.float32(0))
            deviation = np.sqrt(np.where(measured, gathered.variance, 0)) / np.maximum(inverse, 1e-9)
            # From 0.5 to 1 for measurements, below for what is completed.
            certainty = np.where(measured, 1 - 0.5 * deviation / _MAX_RELATIVE_DEVIATION, 0).astype(
                np.float32
            )
            small = view.picture.image
            if self._config.completion:
                moving = cv2.dilate((gathered.against > 0).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
                filled, sure = complete_between(
                    inverse, measured, moving & ~measured, small, footprint_px=self._config.footprint_px
                )
                gap = ~measured & (sure > 0)
                inverse = np.where(gap, filled, inverse)
                certainty = np.where(gap, 0.48 * sure + 0.005, certainty)
            inverse, certainty = enlarge(inverse, certainty, small, view.frame.image)
            known = (inverse > 0) & (certainty > 0)
            np.divide(np.float32(unit), inverse, out=depth, where=known)
            # Between the two kinds, certainty is blended where a map is enlarged; what was measured is not.
            large = enlarge_mask(measured, width, height)
            confidence = np.rint(certainty * 255).astype(np.uint8)
            np.maximum(confidence, MEASURED_FROM, out=confidence, where=large)
            np.minimum(confidence, MEASURED_FROM - 1, out=confidence, where=~large)
            np.maximum(confidence, 1, out=confidence)
            confidence[~known] = 0
        return DepthFrame(
            frame_index=view.frame.frame_index,
            timestamp_ns=view.frame.timestamp_ns,
            depth=depth,
            confidence=confidence,
            scale=self.scale,
            status=status,
            segment=view.segment,
            camera_motion=view.step * self._units.get(view.segment, float("nan")),
            camera=self.camera if self._camera.source == "estimated" else None,
        )

    def _unit(self, view: _View, inverse_depth: npt.NDArray[np.float32]) -> float:
        """What one unit of the estimate is in the unit of the result: fixed by the first map of a segment.

        Without a scale, so that the median of its measured depth is 1. With a known distance between frames, so that
        this is the median of the steps known by then; those of a camera that stands still do not count.
        """
        if self._poses is not None and self._poses.scale == Scale.METRIC:
            self._units[view.segment] = 1.0
        elif view.segment not in self._units:
            unit = float(np.median(inverse_depth))
            if self._baseline_m is not None:
                steps = self._moving_steps(view.segment, view) or [self._first_steps.get(view.segment, 1.0)]
                unit = self._baseline_m / float(np.median(steps))
            self._units[view.segment] = unit
        return self._units[view.segment]

    def _moving_steps(self, segment: int, *leaving: _View) -> list[float]:
        """Steps of a segment's frames in the window, and of one that leaves it, with some parallax."""
        return [
            view.step
            for view in (*leaving, *self._window)
            if view.segment == segment and view.step * view.nearness * self._camera.fx >= _STEP_PARALLAX_PX
        ]


def _relative(a: _View, b: _View) -> FloatArray:
    if a.T_world_camera is None or b.T_world_camera is None:
        raise ValueError("expected two frames whose poses are known")
    return np.asarray(rigid_inverse(b.T_world_camera) @ a.T_world_camera)


def _angle(rotation: FloatArray) -> float:
    return float(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1)))


def _before(a: _View, b: _View) -> bool:
    return a.frame.frame_index < b.frame.frame_index


def _begins(two: TwoView | None) -> bool:
    """Whether a segment may begin with this motion."""
    return two is not None and two.kind == "moved" and two.parallax_px >= _FIRST_PARALLAX_PX
