"""JPEG encoding and small contact sheets. Only ever given pictures of blurred video."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from ego_assets.schema.detections import BgrImage

_QUALITIES = (90, 80, 70, 60, 50, 40, 30)
_SMALLEST_TILE = 16
_BORDER = 2


def encode_jpeg(image: BgrImage, *, quality: int = 95) -> bytes:
    """A ``uint8 [height, width, 3]`` BGR picture as JPEG without metadata.

    Raises:
        ValueError: The picture has another shape or type, or ``quality`` is not 1 to 100.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image: expected uint8 [height, width, 3], got {image.dtype} {list(image.shape)}")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality: expected 1 to 100, got {quality}")
    done, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"image: {image.shape[1]}x{image.shape[0]} is too large for JPEG")
    return encoded.tobytes()


def contact_sheet(
    images: Sequence[BgrImage], *, columns: int = 4, tile_width: int = 240, max_bytes: int = 50_000
) -> bytes:
    """Pictures side by side in rows, as one JPEG below ``max_bytes``.

    Tiles have the shape of the first picture; others are fitted into them. Quality is lowered first,
    then the tiles shrink.

    Args:
        images: BGR pictures ``uint8 [height, width, 3]``, in reading order.
        columns: Tiles per row, at most.
        tile_width: Width of a tile in pixels.
        max_bytes: Upper bound of the result's size.

    Raises:
        ValueError: No picture, an option below 1, or ``max_bytes`` too small for the smallest sheet.
    """
    if not images:
        raise ValueError("images: expected at least one picture, got none")
    if columns < 1 or tile_width < 1:
        raise ValueError(f"columns, tile_width: expected 1 or more, got {columns}, {tile_width}")
    width = tile_width
    while True:
        sheet = _arrange(images, min(columns, len(images)), width)
        for quality in _QUALITIES:
            encoded = encode_jpeg(sheet, quality=quality)
            if len(encoded) <= max_bytes:
                return encoded
        if width <= _SMALLEST_TILE:
            raise ValueError(f"max_bytes: expected room for {len(images)} tiles, got {max_bytes}")
        width = max(_SMALLEST_TILE, round(width * 0.75))


def _arrange(images: Sequence[BgrImage], columns: int, tile_width: int) -> BgrImage:
    tile_height = max(1, round(tile_width * images[0].shape[0] / images[0].shape[1]))
    rows = math.ceil(len(images) / columns)
    sheet = np.zeros(
        (rows * (tile_height + _BORDER) - _BORDER, columns * (tile_width + _BORDER) - _BORDER, 3), np.uint8
    )
    for position, image in enumerate(images):
        scale = min(tile_width / image.shape[1], tile_height / image.shape[0])
        width = min(tile_width, max(1, round(image.shape[1] * scale)))
        height = min(tile_height, max(1, round(image.shape[0] * scale)))
        row, column = divmod(position, columns)
        top = row * (tile_height + _BORDER) + (tile_height - height) // 2
        left = column * (tile_width + _BORDER) + (tile_width - width) // 2
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        sheet[top : top + height, left : left + width] = cv2.resize(
            image, (width, height), interpolation=interpolation
        )
    return sheet
