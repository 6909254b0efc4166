"""Depth from the motion of the camera: no weights, nothing to download."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ego_assets.geometry.correspondence import CornerMatcher, DenseMatcher, Matcher
from ego_assets.geometry.motion_depth import DepthFromMotion, MotionDepthConfig
from ego_assets.schema.camera import CameraTrajectory, PinholeCamera
from ego_assets.schema.depth import DepthFrame
from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.flow import FlowEstimator
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.vocabulary import LocationType
from resources.models.backends import BACKENDS


class _FromMotion:
    """What both have in common: they differ in how points are found again in another picture."""

    _matcher: Matcher
    _config: MotionDepthConfig

    @property
    def is_dense(self) -> bool:
        """Only pixels with evidence get a depth."""
        return False

    def estimate(
        self,
        frames: Iterable[ClipFrame],
        *,
        camera: PinholeCamera,
        poses: CameraTrajectory | None = None,
        baseline_m: float | None = None,
        cuts: frozenset[int] = frozenset(),
        location: LocationType = LocationType.OTHER,
    ) -> Iterator[DepthFrame]:
        """One map per frame, in order, a window behind the frames. Motion measures alike everywhere."""
        engine = DepthFromMotion(
            self._matcher,
            camera=camera,
            config=self._config,
            poses=poses,
            baseline_m=baseline_m,
            cuts=cuts,
        )
        return engine.run(frames)


class MotionDepth(_FromMotion):
    """Depth from dense flow. Implements :class:`ego_assets.schema.depth.DepthEstimator`.

    Args:
        flow: Finds where pixels went.
        max_side: Longer side in pixels at which pictures are compared. Cost grows with its square.
        window_frames: Frames that are held: how far back a frame is compared, and the delay of the result.
        completion: Whether gaps between measurements are filled.
        calibration: Whether a focal length that is only assumed is corrected by what the clip's first frames show.
    """

    def __init__(
        self,
        *,
        flow: FlowEstimator,
        max_side: int = 448,
        window_frames: int = 8,
        completion: bool = True,
        calibration: bool = True,
    ) -> None:
        BACKENDS["depth"]["depth_from_motion"].check_arguments(locals())
        self._config = MotionDepthConfig(
            max_side=max_side, window_frames=window_frames, completion=completion, calibration=calibration
        )
        self._flow = flow
        self._matcher = DenseMatcher(flow)

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        return BackendInfo(
            task="depth", backend="depth_from_motion", model=f"depth from motion by {self._flow.info.model}"
        )


class SparseMotionDepth(_FromMotion):
    """Depth of tracked corners, and between them. Implements :class:`ego_assets.schema.depth.DepthEstimator`.

    Each corner stands on its own, where dense flow smooths: what defeats flow, such as repeated texture or changing
    light, defeats it less. In exchange fewer pixels are measured.

    Args:
        max_side: Longer side in pixels at which pictures are compared.
        window_frames: Frames that are held: how far back a frame is compared, and the delay of the result.
        corners: Corners per picture at most.
        patch: Side in pixels of the patch around a corner that is tracked.
        calibration: Whether a focal length that is only assumed is corrected by what the clip's first frames show.
    """

    def __init__(
        self,
        *,
        max_side: int = 640,
        window_frames: int = 8,
        corners: int = 3000,
        patch: int = 15,
        calibration: bool = True,
    ) -> None:
        BACKENDS["depth"]["sparse_motion"].check_arguments(locals())
        self._config = MotionDepthConfig(
            max_side=max_side, window_frames=window_frames, calibration=calibration, footprint_px=patch // 2
        )
        self._matcher = CornerMatcher(count=corners, window=patch)

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        return BackendInfo(
            task="depth", backend="sparse_motion", model="depth from motion by OpenCV Lucas-Kanade corners"
        )
