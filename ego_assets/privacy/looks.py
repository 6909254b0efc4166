"""One look of one detector at one frame, at whichever scale is asked for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ego_assets.media.decode import DecodedFrame
from ego_assets.media.orientation import upright_size
from ego_assets.privacy.frames import PrivacyPassFailed
from ego_assets.privacy.tiles import detect_tiled
from ego_assets.schema.detections import BgrImage, Detections, RegionDetector
from ego_assets.schema.timeline import NANOSECONDS

#: Overlap of neighbouring tiles, as a share of their side: a face of that size is whole in one of them.
TILE_OVERLAP = 0.2


class FrameView:
    """A decoded frame as pictures for detectors; each scale is converted once.

    Args:
        frame: The frame.
    """

    def __init__(self, frame: DecodedFrame) -> None:
        self.frame = frame
        self.width, self.height = upright_size(frame.frame.width, frame.frame.height, frame.rotation_deg)
        self._images: dict[int, BgrImage] = {}

    def image(self, max_side: int) -> BgrImage:
        """The upright picture with a longer side of at most ``max_side`` pixels, never enlarged."""
        side = min(max_side, max(self.width, self.height))
        if side not in self._images:
            self._images[side] = self.frame.bgr(max_side=side)
        return self._images[side]


def detect_at(
    detector: RegionDetector,
    kind: str,
    view: FrameView,
    *,
    max_side: int,
    tile_side: int | None = None,
    part_xyxy: npt.NDArray[np.float32] | None = None,
    strict: bool = False,
) -> Detections:
    """Regions in a frame, in pixels of the upright full-size picture and clipped to it.

    Args:
        detector: Who looks.
        kind: What for, for messages.
        view: The frame.
        max_side: Longer side in pixels of the picture that is examined.
        tile_side: Longest side of one tile; larger pictures are examined tile by tile. ``None`` looks at the
            picture as a whole.
        part_xyxy: ``float32 [4]``, the only part of the frame to look at, in pixels of the upright full-size picture.
        strict: Use the detector's lower threshold.

    Raises:
        PrivacyPassFailed: The detector failed, or gave boxes or scores that are no numbers.
    """
    whole = view.image(max_side)
    scale_x, scale_y = view.width / whole.shape[1], view.height / whole.shape[0]
    left, top, image = 0, 0, whole
    if part_xyxy is not None:
        scales = np.array([scale_x, scale_y] * 2)
        left, top = np.floor(part_xyxy[:2] / scales[:2]).astype(int).tolist()
        right, bottom = np.ceil(part_xyxy[2:] / scales[2:]).astype(int).tolist()
        image = np.ascontiguousarray(whole[top:bottom, left:right])
    where = f"frame {view.frame.index} ({view.frame.timestamp_ns / NANOSECONDS:.3f} s)"
    try:
        if tile_side is not None and max(image.shape[:2]) > tile_side:
            found = detect_tiled(detector, image, tile_side=tile_side, overlap=TILE_OVERLAP, strict=strict)
        else:
            (found,) = detector.detect([image], strict=strict)
    except Exception as error:
        raise PrivacyPassFailed(
            f"The {kind} detector {detector.info.backend!r} failed on {where}: {type(error).__name__}: {error}. "
            "Nothing was written. Run the clip again, or choose another backend in the profile."
        ) from error
    if not (np.isfinite(found.boxes_xyxy).all() and np.isfinite(found.scores).all()):
        raise PrivacyPassFailed(
            f"The {kind} detector {detector.info.backend!r} gave no usable answer on {where}: expected finite "
            "boxes and scores. Nothing was written. Choose another backend in the profile."
        )
    inside = np.clip(found.boxes_xyxy, 0, np.array([image.shape[1], image.shape[0]] * 2, np.float32))
    shown = np.all(inside[:, 2:] > inside[:, :2], axis=1)
    offset = np.array([left, top] * 2, np.float32)
    return Detections(inside[shown] + offset, found.scores[shown]).scaled(scale_x, scale_y)
