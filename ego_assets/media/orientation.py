"""Turning pictures and boxes between the coded and the upright orientation.

A rotation is the clockwise turn in degrees (0, 90, 180, 270) that makes the coded picture upright.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import cv2
import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Orientation:
    """How a coded picture becomes the one to be shown: mirrored first, then turned.

    Attributes:
        mirrored: Whether left and right are swapped.
        rotation_deg: Clockwise turn in degrees (0, 90, 180, 270) after that.
    """

    mirrored: bool = False
    rotation_deg: int = 0

    @classmethod
    def from_display_matrix(cls, matrix: Sequence[int]) -> Orientation:
        """From the nine numbers of a display matrix, row by row (ISO/IEC 14496-12, FFmpeg's ``display.h``).

        A point (x, y), y pointing down, is shown at (a x + c y, b x + d y). Angles are rounded to a quarter
        turn; a degenerate matrix counts as none.
        """
        if len(matrix) != 9:
            raise ValueError(f"matrix: expected 9 numbers, got {len(matrix)}")
        a, b, _, c, d = matrix[:5]
        determinant = a * d - b * c
        if determinant == 0:
            return cls()
        mirrored = determinant < 0
        turn_deg = math.degrees(math.atan2(-b, -a) if mirrored else math.atan2(b, a))
        return cls(mirrored, round(turn_deg / 90) * 90 % 360)


PixelT = TypeVar("PixelT", np.uint8, np.uint16)

_CV2_TURNS: Final = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


def check_rotation(rotation_deg: int) -> int:
    """``rotation_deg`` itself; ``ValueError`` unless it is a quarter turn from 0 to 270."""
    if rotation_deg not in (0, 90, 180, 270):
        raise ValueError(f"rotation_deg: expected 0, 90, 180 or 270, got {rotation_deg}")
    return rotation_deg


def upright_size(width: int, height: int, rotation_deg: int) -> tuple[int, int]:
    """Width and height of the upright picture, from those of the coded one (and the other way round)."""
    return (height, width) if check_rotation(rotation_deg) in (90, 270) else (width, height)


def rotate_upright(image: npt.NDArray[PixelT], rotation_deg: int) -> npt.NDArray[PixelT]:
    """A coded picture, ``[h, w]`` or ``[h, w, c]``, turned upright; the same array for 0 degrees."""
    if check_rotation(rotation_deg) == 0:
        return image
    return np.asarray(cv2.rotate(image, _CV2_TURNS[rotation_deg]), dtype=image.dtype)


def boxes_to_upright(
    boxes_xyxy: npt.NDArray[np.float32], *, rotation_deg: int, coded_width: int, coded_height: int
) -> npt.NDArray[np.float32]:
    """Boxes ``[N, 4]`` in pixels of the coded picture, in pixels of the upright one (``float32``)."""
    boxes = _check_boxes(boxes_xyxy)
    return _turn(boxes, check_rotation(rotation_deg), coded_width, coded_height)


def boxes_to_coded(
    boxes_xyxy: npt.NDArray[np.float32], *, rotation_deg: int, coded_width: int, coded_height: int
) -> npt.NDArray[np.float32]:
    """Boxes ``[N, 4]`` in pixels of the upright picture, in pixels of the coded one (``float32``)."""
    boxes = _check_boxes(boxes_xyxy)
    width, height = upright_size(coded_width, coded_height, rotation_deg)
    return _turn(boxes, (360 - rotation_deg) % 360, width, height)


def _check_boxes(boxes_xyxy: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if boxes_xyxy.ndim != 2 or boxes_xyxy.shape[1] != 4:
        raise ValueError(f"boxes_xyxy: expected [N, 4], got {list(boxes_xyxy.shape)}")
    return np.asarray(boxes_xyxy, dtype=np.float32)


def _turn(
    boxes: npt.NDArray[np.float32], clockwise_deg: int, width: int, height: int
) -> npt.NDArray[np.float32]:
    """Boxes in a ``width`` by ``height`` picture after the picture is turned clockwise."""
    left, top, right, bottom = boxes.T
    if clockwise_deg == 90:
        columns = (height - bottom, left, height - top, right)
    elif clockwise_deg == 180:
        columns = (width - right, height - bottom, width - left, height - top)
    elif clockwise_deg == 270:
        columns = (top, width - right, bottom, width - left)
    else:
        return boxes
    return np.asarray(np.stack(columns, axis=1), dtype=np.float32)
