"""What backends share before the network: checking pictures, and resizing and normalising them."""

from __future__ import annotations

import cv2
import numpy as np

from ego_assets.schema.detections import BgrImage

#: The deepest stage of the fully convolutional detectors of faces and text halves the picture five times.
STRIDE = 32
#: Means and deviations of ImageNet's pictures: RGB, on values of 0-1.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


def check_image(image: BgrImage) -> None:
    """Refuse anything that is not ``uint8 [height, width, 3]`` with at least one pixel."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image: expected uint8 [height, width, 3], got {image.dtype} {list(image.shape)}")


def network_size(width: int, height: int, *, max_side: int) -> tuple[int, int]:
    """Width and height for the network: the longer side at most ``max_side``, both multiples of 32."""
    scale = min(1.0, max_side / max(width, height))
    return (
        max(STRIDE, round(width * scale / STRIDE) * STRIDE),
        max(STRIDE, round(height * scale / STRIDE) * STRIDE),
    )


def fit(image: BgrImage, *, max_side: int) -> BgrImage:
    """``image`` stretched to :func:`network_size`."""
    return resized(image, network_size(image.shape[1], image.shape[0], max_side=max_side))


def resized(image: BgrImage, size: tuple[int, int]) -> BgrImage:
    """``image`` stretched to a width and height in pixels; averaged where a side shrinks, so that nothing aliases."""
    height, width = image.shape[:2]
    if size == (width, height):
        return image
    shrinks = size[0] < width or size[1] < height
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=interpolation), dtype=np.uint8)
