"""Exposure of a frame, from its luma histogram.

Definition, on luma of the full range 0-255 (video of the limited range 16-235 is expanded first):

* a frame is **over-exposed** when more than a quarter of its pixels are clipped (250 or more), or more than
  half of them lie in the highest tenth of the range (230 or more);
* a frame is **under-exposed** when more than half of its pixels lie in the lowest tenth (25 or less).

The lowest tenth of sRGB is about 1 % of white, more than four stops below a grey card: detail there is lost
in noise. Black is common in good pictures (dark clothes, the corners of a fisheye image, which cover up to
41 % of a 4:3 picture), clipped white is not, hence the different shares. The collection guide (step 2) asks
for exposure histograms and sets the share of bad frames per clip; what makes a frame bad is defined here.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.quality.blur import require_luma

#: Luma of the full range from which a pixel counts as clipped.
CLIPPED_LUMA = 250
#: Luma of the full range from which a pixel counts as bright: the highest tenth.
BRIGHT_LUMA = 230
#: Luma of the full range up to which a pixel counts as dark: the lowest tenth.
DARK_LUMA = 25
#: Share of clipped pixels above which a frame is over-exposed.
CLIPPED_SHARE_LIMIT = 0.25
#: Share of bright pixels above which a frame is over-exposed.
BRIGHT_SHARE_LIMIT = 0.5
#: Share of dark pixels above which a frame is under-exposed.
DARK_SHARE_LIMIT = 0.5
#: The histogram is taken from every n-th row and column, n chosen so that the short side keeps this many.
SAMPLED_SHORT_SIDE_PX = 180

#: Coded luma of black in the limited range.
LIMITED_BLACK = 16
_LIMITED_SPAN = 219

#: Factor by which differences of limited-range luma grow when it is expanded to the full range.
LIMITED_RANGE_GAIN = 255 / _LIMITED_SPAN


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """Exposure of one frame.

    Attributes:
        mean_luma: Mean luma in the full range, 0-255.
        clipped_share: Share of pixels at :data:`CLIPPED_LUMA` or above, 0-1.
        bright_share: Share of pixels at :data:`BRIGHT_LUMA` or above, 0-1.
        dark_share: Share of pixels at :data:`DARK_LUMA` or below, 0-1.
    """

    mean_luma: float
    clipped_share: float
    bright_share: float
    dark_share: float


def _full_range_values(*, full_range: bool) -> npt.NDArray[np.float64]:
    """Full-range luma of each of the 256 coded values."""
    coded = np.arange(256, dtype=np.float64)
    return coded if full_range else np.clip((coded - LIMITED_BLACK) * LIMITED_RANGE_GAIN, 0, 255)


_VALUES = {full_range: _full_range_values(full_range=full_range) for full_range in (False, True)}


def measure_exposure(luma: npt.NDArray[np.uint8], *, full_range: bool) -> Exposure:
    """Measure the exposure of one frame on a regular subset of its pixels.

    Args:
        luma: ``uint8 [height, width]`` as coded.
        full_range: Whether the coded values span 0-255 rather than 16-235.

    Returns:
        The exposure in the full range.

    Raises:
        ValueError: ``luma`` is not a non-empty 8-bit plane.
    """
    require_luma(luma)
    stride = max(1, min(luma.shape) // SAMPLED_SHORT_SIDE_PX)
    sampled = np.ascontiguousarray(luma[::stride, ::stride])
    histogram = cv2.calcHist([sampled], [0], None, [256], [0, 256]).ravel().astype(np.float64)
    # Whole numbers are added exactly, so that no share of a part exceeds that of the whole.
    values = _VALUES[full_range]
    rounded = np.rint(values)
    return Exposure(
        mean_luma=float(histogram @ values) / sampled.size,
        clipped_share=float(histogram[rounded >= CLIPPED_LUMA].sum()) / sampled.size,
        bright_share=float(histogram[rounded >= BRIGHT_LUMA].sum()) / sampled.size,
        dark_share=float(histogram[rounded <= DARK_LUMA].sum()) / sampled.size,
    )
