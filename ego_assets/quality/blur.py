"""Sharpness of a frame, as the variance of its Laplacian."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

#: Short side in pixels to which a frame is reduced before its sharpness is compared across cameras.
#: 360 is the resolution at which public first-person collections are previewed, so every camera reaches it
#: by reduction; the reduction averages sensor noise and codec blocks away, which at native scale make a
#: 4K frame look sharper or smoother than the same view at 720p.
WORKING_SHORT_SIDE_PX = 360


def laplacian_variance(luma: npt.NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of a luma image; low where edges are soft.

    Equals ``cv2.Laplacian(luma, cv2.CV_64F).var()`` (collection guide, step 2). The 3x3 Laplacian of 8-bit
    values fits into 16 bits, which makes the same number several times cheaper.

    Args:
        luma: ``uint8 [height, width]``; rows may be padded.

    Returns:
        The variance, 0 or more, in squared luma steps.

    Raises:
        ValueError: ``luma`` is not a non-empty 8-bit plane.
    """
    require_luma(luma)
    _, deviation = cv2.meanStdDev(cv2.Laplacian(luma, cv2.CV_16S))
    return float(deviation[0, 0]) ** 2


def reduce_to_short_side(luma: npt.NDArray[np.uint8], short_side_px: int) -> npt.NDArray[np.uint8]:
    """The image reduced by area averaging until its short side is ``short_side_px``; never enlarged.

    Args:
        luma: ``uint8 [height, width]``.
        short_side_px: Wanted short side in pixels.

    Returns:
        ``uint8 [height', width']``; the input itself where it is already small enough.
    """
    require_luma(luma)
    if short_side_px < 1:
        raise ValueError(f"short_side_px: expected at least 1, got {short_side_px}")
    height, width = luma.shape
    factor = short_side_px / min(height, width)
    if factor >= 1:
        return luma
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(luma, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def require_luma(luma: npt.NDArray[np.uint8]) -> None:
    """Raise ``ValueError`` unless ``luma`` is a non-empty ``uint8 [height, width]``."""
    if luma.ndim != 2 or luma.dtype != np.uint8 or luma.size == 0:
        raise ValueError(
            f"luma: expected a non-empty uint8 [height, width], got {luma.dtype} {list(luma.shape)}"
        )
