"""Hands and what they hold: what detectors return, and the tracks that the layer makes of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt

from ego_assets.schema.arrays import hold_arrays
from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.frames import ClipFrame

#: Left and right of the person who wears the camera.
HandSide = Literal["left", "right"]
#: States of the collection guide's hand-object layer.
HandState = Literal["free", "pre-grasp", "grasp", "post-release"]

HAND_SIDES: tuple[HandSide, ...] = get_args(HandSide)
HAND_STATES: tuple[HandState, ...] = get_args(HandState)

#: Landmarks of a hand in the order of MediaPipe and FreiHAND: wrist, then thumb, index, middle, ring and little finger,
#: each from its base to its tip.
LANDMARK_COUNT = 21


@dataclass(frozen=True, eq=False, kw_only=True)
class HandDetections:
    """Hands found in one picture, whoever they belong to; NaN where the backend cannot tell.

    Attributes:
        boxes_xyxy: ``float32 [N, 4]``, left, top, right, bottom in pixels of the picture given.
        scores: ``float32 [N]``, 0-1.
        right_scores: ``float32 [N]``, how sure it is that this is the wearer's right hand and not the left, 0-1.
        landmarks_xy: ``float32 [N, 21, 2]`` in pixels.
        contact_scores: ``float32 [N]``, how sure it is that the hand touches an object, 0-1.
        contact_boxes_xyxy: ``float32 [N, 4]``, that object.
    """

    boxes_xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    right_scores: npt.NDArray[np.float32]
    landmarks_xy: npt.NDArray[np.float32]
    contact_scores: npt.NDArray[np.float32]
    contact_boxes_xyxy: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        count = self.scores.shape[0]
        hold_arrays(
            self,
            boxes_xyxy=(count, 4),
            scores=(count,),
            right_scores=(count,),
            landmarks_xy=(count, LANDMARK_COUNT, 2),
            contact_scores=(count,),
            contact_boxes_xyxy=(count, 4),
        )

    def __len__(self) -> int:
        return int(self.scores.size)

    @classmethod
    def empty(cls) -> HandDetections:
        """No hands."""
        return cls(
            boxes_xyxy=np.zeros((0, 4), np.float32),
            scores=np.zeros(0, np.float32),
            right_scores=np.zeros(0, np.float32),
            landmarks_xy=np.zeros((0, LANDMARK_COUNT, 2), np.float32),
            contact_scores=np.zeros(0, np.float32),
            contact_boxes_xyxy=np.zeros((0, 4), np.float32),
        )


@runtime_checkable
class HandDetector(Protocol):
    """Finds hands, and where it can the objects they touch, in the frames of one clip."""

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        ...

    def detect(self, frames: Iterable[ClipFrame]) -> Iterator[HandDetections]:
        """One result per frame, in order. Nothing is remembered from one call to the next."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class HandTrack:
    """One hand of the wearer over the frames of the layer; NaN where it is not visible.

    Attributes:
        side: Whose left or right.
        visible: ``bool [N]``.
        boxes_xyxy: ``float32 [N, 4]`` in pixels of the layer's resolution, inside the picture.
        scores: ``float32 [N]``, how sure it is that the hand is there, 0-1.
        landmarks_xy: ``float32 [N, 21, 2]`` in pixels; NaN also where the backend gives none.
        states: State per frame; ``None`` where the hand is not visible.
        state_scores: ``float32 [N]``, how sure it is that a grasp has contact and a free hand has none, 0-1; NaN in
            pre-grasp and post-release where they follow from a rule without a probability.
        contact_boxes_xyxy: ``float32 [N, 4]``, the object in contact; NaN where there is none.
        contact_scores: ``float32 [N]``, how sure it is that there is contact, 0-1.
    """

    side: HandSide
    visible: npt.NDArray[np.bool_]
    boxes_xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    landmarks_xy: npt.NDArray[np.float32]
    states: tuple[HandState | None, ...]
    state_scores: npt.NDArray[np.float32]
    contact_boxes_xyxy: npt.NDArray[np.float32]
    contact_scores: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        count = self.visible.shape[0]
        hold_arrays(
            self,
            visible=(count,),
            boxes_xyxy=(count, 4),
            scores=(count,),
            landmarks_xy=(count, LANDMARK_COUNT, 2),
            state_scores=(count,),
            contact_boxes_xyxy=(count, 4),
            contact_scores=(count,),
        )
        if len(self.states) != count:
            raise ValueError(f"states: expected {count}, got {len(self.states)}")
        if any(
            (state is not None) != bool(seen) for state, seen in zip(self.states, self.visible, strict=True)
        ):
            raise ValueError("states: expected a state exactly where the hand is visible")


@dataclass(frozen=True, eq=False, kw_only=True)
class HandObjectTracks:
    """The wearer's hands over a clip.

    Attributes:
        frame_index: ``int64 [N]``, frames the layer covers, ascending.
        timestamps_ns: ``int64 [N]``.
        resolution: Width and height in pixels that boxes and landmarks refer to.
        left: The left hand.
        right: The right hand.
        other_hands: ``int64 [N]``, hands of other people seen in the frame.
    """

    frame_index: npt.NDArray[np.int64]
    timestamps_ns: npt.NDArray[np.int64]
    resolution: tuple[int, int]
    left: HandTrack
    right: HandTrack
    other_hands: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        count = self.frame_index.shape[0]
        hold_arrays(self, frame_index=(count,), timestamps_ns=(count,), other_hands=(count,))
        for name, track in (("left", self.left), ("right", self.right)):
            if track.side != name or track.visible.size != count:
                raise ValueError(
                    f"{name}: expected the {name} hand over {count} frames, got the {track.side} one over "
                    f"{track.visible.size}"
                )
        if np.any(np.diff(self.frame_index) <= 0):
            raise ValueError("frame_index: expected ascending frames, got a step back or a repetition")

    @property
    def tracks(self) -> tuple[HandTrack, HandTrack]:
        """Left and right."""
        return self.left, self.right

    def position(self, frame_index: int) -> int | None:
        """Place of a frame among those covered, or ``None`` where it is not."""
        place = int(np.searchsorted(self.frame_index, frame_index))
        covered = place < self.frame_index.size and self.frame_index[place] == frame_index
        return place if covered else None
