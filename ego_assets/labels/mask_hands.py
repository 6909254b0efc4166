"""What the hand layer knows of the wearer's hands in one frame, as prompts for a network that draws masks."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.labels.hands import KNUCKLES, WRIST, hand_silhouette, palm_length
from ego_assets.labels.regions import Mask
from ego_assets.schema.hands import HandObjectTracks, HandSide

#: Landmarks that lie well inside a hand.
INNER_LANDMARKS = (WRIST, *KNUCKLES)
#: A mask may leave the box by this share of its sides: boxes are drawn around landmarks, not around skin.
_ROOM = 0.15
#: A hand fills this much of the ellipse in its box, and has this much of its mask in the box.
_FILLED, _CONTAINED = (0.15, 1.6), 0.6


@dataclass(frozen=True, eq=False, kw_only=True)
class SeenHand:
    """One of the wearer's hands in one frame.

    Attributes:
        side: Which one.
        score: How sure it is that the hand is there, 0-1.
        box_xyxy: ``float32 [4]`` in pixels of the frame.
        landmarks_xy: ``float32 [21, 2]`` in pixels of the frame; NaN where there are none.
    """

    side: HandSide
    score: float
    box_xyxy: npt.NDArray[np.float32]
    landmarks_xy: npt.NDArray[np.float32]

    @property
    def has_landmarks(self) -> bool:
        """Whether landmarks are known."""
        return bool(np.isfinite(self.landmarks_xy).all())

    @property
    def inner_points_xy(self) -> npt.NDArray[np.float32]:
        """``float32 [P, 2]``, points that lie in the hand; none without landmarks."""
        places = list(INNER_LANDMARKS) if self.has_landmarks else []
        return np.asarray(self.landmarks_xy[places], dtype=np.float32)

    def outline(self, width: int, height: int) -> Mask:
        """``bool [height, width]``: the skeleton's outline, or, without landmarks, the ellipse in the box."""
        if self.has_landmarks and palm_length(self.landmarks_xy) >= 2:
            drawn = hand_silhouette(self.landmarks_xy, width=width, height=height)
            if drawn.any():
                return drawn
        ellipse = np.zeros((height, width), np.uint8)
        centre = np.rint((self.box_xyxy[:2] + self.box_xyxy[2:]) / 2).astype(int)
        axes = np.maximum(np.rint((self.box_xyxy[2:] - self.box_xyxy[:2]) / 2), 1).astype(int)
        cv2.ellipse(ellipse, centre.tolist(), axes.tolist(), 0, 0, 360, (1,), cv2.FILLED)
        return np.asarray(ellipse > 0, dtype=np.bool_)

    def accepted(self, mask: Mask) -> Mask:
        """The mask that a network drew, limited to the box; the outline where that is no hand.

        Args:
            mask: ``bool [height, width]``.
        """
        height, width = mask.shape
        room = _ROOM * (self.box_xyxy[2:] - self.box_xyxy[:2])
        left, top = np.maximum(np.floor(self.box_xyxy[:2] - room), 0).astype(int)
        right, bottom = np.minimum(np.ceil(self.box_xyxy[2:] + room), (width, height)).astype(int)
        limited = np.zeros_like(mask)
        limited[top:bottom, left:right] = mask[top:bottom, left:right]
        ellipse = float(np.prod(self.box_xyxy[2:] - self.box_xyxy[:2])) * np.pi / 4
        area, kept = int(mask.sum()), int(limited.sum())
        fills = _FILLED[0] * ellipse <= kept <= _FILLED[1] * ellipse
        return limited if fills and kept >= _CONTAINED * area else self.outline(width, height)


def seen_hands(
    tracks: HandObjectTracks | None, frame_index: int, *, width: int, height: int
) -> list[SeenHand]:
    """The wearer's hands that the hand layer sees in a frame, in pixels of a picture of the given size."""
    place = None if tracks is None else tracks.position(frame_index)
    if tracks is None or place is None:
        return []
    scale = np.array([width / tracks.resolution[0], height / tracks.resolution[1]], np.float32)
    return [
        SeenHand(
            side=track.side,
            score=float(np.clip(np.nan_to_num(track.scores[place]), 0, 1)),
            box_xyxy=track.boxes_xyxy[place] * np.tile(scale, 2),
            landmarks_xy=track.landmarks_xy[place] * scale,
        )
        for track in tracks.tracks
        if track.visible[place] and np.isfinite(track.boxes_xyxy[place]).all()
    ]
