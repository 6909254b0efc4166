"""Pictures at reduced size."""

from __future__ import annotations

import cv2
import numpy as np

from ego_assets.schema.detections import BgrImage


def shrink(image: BgrImage, max_side: int) -> BgrImage:
    """A picture whose longer side is ``max_side`` pixels at most; the picture itself where it already is.

    Args:
        image: ``uint8 [height, width, 3]``.
        max_side: Longest side in pixels, 1 or more. Proportions stay, up to rounding; no side gets below one pixel.

    Raises:
        ValueError: ``max_side`` is below 1.
    """
    if max_side < 1:
        raise ValueError(f"max_side: expected 1 or more, got {max_side}")
    height, width = image.shape[:2]
    scale = max_side / max(width, height)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
