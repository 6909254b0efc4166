"""Dense optical flow without weights, and whether it leads back to where it began."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.schema.flow import FlowField

#: ``uint8 [height, width]``.
Grey = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
#: ``float32 [height, width, 2]``: for every pixel its place (x, y) in another picture.
PixelMap = npt.NDArray[np.float32]

#: How thoroughly flow is computed; each step is two to four times as slow and more exact.
DisPreset = Literal["ultrafast", "fast", "medium"]

DIS_PRESETS: Mapping[DisPreset, int] = MappingProxyType(
    {
        "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
        "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
        "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
    }
)

# Patches of 8 pixels at a quarter of the size need 32; in flatter pictures OpenCV reads beyond its pyramid and crashes.
_MIN_SIDE = 48
# cv2.remap takes the places of pixels in one array.
_NO_MAP = np.zeros(0, np.float32)


def dense_flow(first: Grey, second: Grey, *, preset: DisPreset) -> FlowField:
    """Where every pixel of one picture went in another, by dense inverse search (Kroeger et al. 2016, in OpenCV).

    Pictures of any size; in those smaller than 48 pixels a side, the border is continued for the search. Nothing is
    remembered from one call to the next.

    Args:
        first: ``uint8 [height, width]``.
        second: The other picture, of the same size.
        preset: How thoroughly.

    Returns:
        ``float32 [height, width, 2]``, offsets (x, y) in pixels; finite.

    Raises:
        ValueError: The pictures are not grey, or differ in size.
    """
    if first.ndim != 2 or first.shape != second.shape or not first.size:
        raise ValueError(
            "pictures: expected two grey ones of one size, [height, width], got "
            f"{list(first.shape)} and {list(second.shape)}"
        )
    height, width = first.shape
    below, beside = max(0, _MIN_SIDE - height), max(0, _MIN_SIDE - width)
    greys = [np.ascontiguousarray(picture) for picture in (first, second)]
    if below or beside:
        greys = [
            np.asarray(cv2.copyMakeBorder(grey, 0, below, 0, beside, cv2.BORDER_REPLICATE), np.uint8)
            for grey in greys
        ]
    # Made anew: an instance keeps buffers of the pictures before.
    method = cv2.DISOpticalFlow.create(DIS_PRESETS[preset])
    field = method.calc(greys[0], greys[1], np.zeros((*greys[0].shape, 2), np.float32))
    return np.ascontiguousarray(np.nan_to_num(np.asarray(field[:height, :width], np.float32)))


def there_and_back(
    there: FlowField,
    back: FlowField,
    *,
    start: PixelMap | None = None,
    max_error_px: float = 1.0,
    max_error_share: float = 0.0,
) -> tuple[PixelMap, Mask]:
    """Follow flow to the other picture and back again: only what returns to its start is believable.

    Args:
        there: Flow from a first picture to a second, ``float32 [height, width, 2]``.
        back: Flow from the second to the first.
        start: Places in the first picture to begin at, ``float32 [height, width, 2]``; every pixel where left out.
        max_error_px: The way back must end nearer to the start than this ...
        max_error_share: ... and this share of the flow's length.

    Returns:
        The places in the second picture, and ``bool [height, width]``: where they lie inside and the way back returns.
    """
    height, width = there.shape[:2]
    if start is None:
        start, forward = pixel_grid(width, height), there
    else:
        forward = sampled(there, start)
    places = start + forward
    returned = forward + sampled(back, places)
    error_2 = (returned * returned).sum(axis=-1)
    allowed = np.float32(max_error_px)
    if max_error_share > 0:
        allowed = allowed + np.float32(max_error_share) * np.sqrt((forward * forward).sum(axis=-1))
    return places, np.asarray((error_2 < allowed * allowed) & inside(places, width, height))


def pixel_grid(width: int, height: int) -> PixelMap:
    """Every pixel's own place (x, y), ``float32 [height, width, 2]``."""
    columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    return np.stack(np.meshgrid(columns, rows), axis=-1)


def sampled(field: FlowField, places: PixelMap) -> FlowField:
    """A field's values at places between its pixels; beyond its border, those of the border."""
    values = cv2.remap(field, places, _NO_MAP, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(values, np.float32)


def inside(places: PixelMap, width: int, height: int) -> Mask:
    """Which places lie inside a picture, ``bool [...]``."""
    x, y = places[..., 0], places[..., 1]
    return np.asarray((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1))
