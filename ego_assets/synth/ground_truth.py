"""What is known exactly about a synthetic clip."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from ego_assets.schema.arrays import hold_arrays
from ego_assets.schema.errors import EgoAssetsError
from ego_assets.schema.hands import HandState
from ego_assets.schema.timeline import NANOSECONDS
from ego_assets.synth.scene import FrameBox, ObjectKind, Scene
from ego_assets.synth.spec import SceneSpec

_DOCUMENT, _ARRAYS = "ground_truth.json", "ground_truth.npz"

#: Rate of the simulated inertial unit; a GoPro delivers about as many samples.
IMU_RATE_HZ = 200


class GroundTruthUnreadable(EgoAssetsError):
    """A folder does not hold the ground truth of a synthetic clip."""


@dataclass(frozen=True, eq=False, kw_only=True)
class GroundTruth:
    """Exact labels of one rendered clip.

    All times are on the clock of the video's presentation time stamps.

    Attributes:
        spec: What was rendered.
        timestamps_ns: ``int64 [N]``, presentation time of every frame in the file, in nanoseconds.
        boxes: Everything visible, ascending by frame.
        T_world_camera: ``float64 [N, 4, 4]``, takes points in camera axes (x right, y down, z forward) to the
            world (z up), metres.
        intrinsics: ``float64 [3, 3]``, pinhole camera matrix for upright pixels, centres on whole numbers.
        imu_timestamps_ns: ``int64 [M]``.
        angular_velocity_rad_s: ``float64 [M, 3]`` in camera axes.
        linear_acceleration_m_s2: ``float64 [M, 3]``, specific force in camera axes, gravity included: at
            rest it points up.
        left_hand_state: State of the left hand per frame; empty where the clip shows no hands.
        right_hand_state: The same for the right hand.
    """

    spec: SceneSpec
    timestamps_ns: npt.NDArray[np.int64]
    boxes: tuple[FrameBox, ...]
    T_world_camera: npt.NDArray[np.float64]
    intrinsics: npt.NDArray[np.float64]
    imu_timestamps_ns: npt.NDArray[np.int64]
    angular_velocity_rad_s: npt.NDArray[np.float64]
    linear_acceleration_m_s2: npt.NDArray[np.float64]
    left_hand_state: tuple[HandState, ...] = ()
    right_hand_state: tuple[HandState, ...] = ()

    def __post_init__(self) -> None:
        frames, samples = self.timestamps_ns.size, self.imu_timestamps_ns.size
        hold_arrays(
            self,
            timestamps_ns=(frames,),
            T_world_camera=(frames, 4, 4),
            intrinsics=(3, 3),
            imu_timestamps_ns=(samples,),
            angular_velocity_rad_s=(samples, 3),
            linear_acceleration_m_s2=(samples, 3),
        )
        for name in ("left_hand_state", "right_hand_state"):
            states = getattr(self, name)
            if len(states) not in (0, frames):
                raise ValueError(f"{name}: expected 0 or {frames} states, got {len(states)}")

    @property
    def frame_count(self) -> int:
        """Frames in the file."""
        return int(self.timestamps_ns.size)

    @cached_property
    def _scene(self) -> Scene:
        return Scene(self.spec)

    @cached_property
    def _boxes_by_frame(self) -> Mapping[int, tuple[FrameBox, ...]]:
        grouped: dict[int, list[FrameBox]] = {}
        for box in self.boxes:
            grouped.setdefault(box.frame_index, []).append(box)
        return {frame: tuple(boxes) for frame, boxes in grouped.items()}

    def boxes_at(self, frame_index: int, *kinds: ObjectKind) -> tuple[FrameBox, ...]:
        """What is visible in a frame, of the given kinds or of all."""
        boxes = self._boxes_by_frame.get(frame_index, ())
        return tuple(box for box in boxes if not kinds or box.kind in kinds)

    def scene_time_s(self, frame_index: int) -> float:
        """Seconds from the first nominal frame to a frame of the file."""
        if not 0 <= frame_index < self.frame_count:
            raise IndexError(f"frame_index: expected 0 to {self.frame_count - 1}, got {frame_index}")
        return int(self.timestamps_ns[frame_index]) / NANOSECONDS - self.spec.start_offset_s

    def depth_mm(self, frame_index: int) -> npt.NDArray[np.uint16]:
        """Distance along the optical axis of the upright picture, ``uint16 [h, w]``, mm; 0 for nothing.

        The frame is rendered again, which takes as long as it did in the clip.
        """
        rendering = self._scene.frame(self.scene_time_s(frame_index), frame_index).rendering
        depth = np.zeros(rendering.inverse_depth.shape, np.float32)
        np.divide(1000.0, rendering.inverse_depth, out=depth, where=rendering.inverse_depth > 0)
        return np.minimum(np.rint(depth), 65535).astype(np.uint16)

    def image_bgr(self, frame_index: int) -> npt.NDArray[np.uint8]:
        """The upright picture before blur, brightness and coding, ``uint8 [h, w, 3]``, BGR."""
        return self._scene.frame(self.scene_time_s(frame_index), frame_index).rendering.image

    def save(self, folder: Path) -> None:
        """Write ``ground_truth.json`` and ``ground_truth.npz``; the folder is made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        document = {
            "spec": self.spec.to_json_dict(),
            "boxes": [asdict(box) for box in self.boxes],
            "left_hand_state": self.left_hand_state,
            "right_hand_state": self.right_hand_state,
        }
        np.savez_compressed(
            folder / _ARRAYS,
            timestamps_ns=self.timestamps_ns,
            T_world_camera=self.T_world_camera,
            intrinsics=self.intrinsics,
            imu_timestamps_ns=self.imu_timestamps_ns,
            angular_velocity_rad_s=self.angular_velocity_rad_s,
            linear_acceleration_m_s2=self.linear_acceleration_m_s2,
        )
        (folder / _DOCUMENT).write_text(json.dumps(document), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> GroundTruth:
        """Read what :meth:`save` wrote.

        Raises:
            GroundTruthUnreadable: The folder does not hold it, or not all of it.
        """
        try:
            document = json.loads((folder / _DOCUMENT).read_text(encoding="utf-8"))
            with np.load(folder / _ARRAYS, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            return cls(
                spec=SceneSpec.from_json_dict(document["spec"]),
                boxes=tuple(
                    FrameBox(**{**box, "box_xyxy": tuple(box["box_xyxy"])}) for box in document["boxes"]
                ),
                left_hand_state=tuple(document["left_hand_state"]),
                right_hand_state=tuple(document["right_hand_state"]),
                **arrays,
            )
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            raise GroundTruthUnreadable(
                f"{folder} does not hold the ground truth of a synthetic clip ({error}): "
                "render the clip again."
            ) from error
