"""Inverse depth of every pixel: triangulated from pairs of pictures and gathered over several."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ego_assets.geometry.flow import Mask, PixelMap
from ego_assets.geometry.two_view import FLOW_NOISE_PX
from ego_assets.schema.camera import PinholeCamera

FloatArray = npt.NDArray[np.float64]
Map = npt.NDArray[np.float32]

#: Distance in pixels from where a still point could lie, beyond which the point moved by itself.
_MAX_EPIPOLAR_PX = 1.5
#: Measurements that differ by more than this many standard deviations contradict each other.
_GATE = 3.0
#: No measurement is more exact than this share of the inverse depth: the poses are not.
_RELATIVE_FLOOR = 0.02


@dataclass(frozen=True, eq=False, kw_only=True)
class Measurement:
    """What one pair of pictures tells about the first one's pixels.

    Attributes:
        inverse_depth: ``float32 [height, width]``; 0 where nothing is known.
        variance: Its variance; infinite where nothing is known.
        moving: ``bool [height, width]``: pixels that went where no still point can go.
    """

    inverse_depth: Map
    variance: Map
    moving: Mask


def triangulate(to_b: PixelMap, known: Mask, pose: FloatArray, camera: PinholeCamera) -> Measurement:
    """Inverse depth along the first camera's axis, from where its pixels lie in a second picture.

    The place is projected onto the epipolar line; the distance from it tells points that moved by themselves.

    Args:
        to_b: Places of the first picture's pixels in the second.
        known: Where they hold.
        pose: ``float64 [4, 4]``, ``T_b_a``: takes the first camera's axes to the second's.
        camera: The camera of both.
    """
    shape = known.shape
    nothing = Measurement(
        inverse_depth=np.zeros(shape, np.float32),
        variance=np.full(shape, np.inf, np.float32),
        moving=np.zeros(shape, np.bool_),
    )
    rows, columns = np.nonzero(known)
    if rows.size == 0:
        return nothing
    fx, fy, cx, cy = (np.float32(value) for value in (camera.fx, camera.fy, camera.cx, camera.cy))
    x, y = (columns.astype(np.float32) - cx) / fx, (rows.astype(np.float32) - cy) / fy
    turn, shift = pose[:3, :3].astype(np.float32), pose[:3, 3].astype(np.float32)
    turned_x, turned_y, turned_z = (turn[row, 0] * x + turn[row, 1] * y + turn[row, 2] for row in range(3))
    place = to_b[rows, columns]
    seen_x, seen_y = (place[:, 0] - cx) / fx, (place[:, 1] - cy) / fy

    # (turned + inverse * shift) is parallel to (seen, 1): two equations in pixels for one unknown.
    slope_x, slope_y = (seen_x * shift[2] - shift[0]) * fx, (seen_y * shift[2] - shift[1]) * fy
    offset_x, offset_y = (turned_x - seen_x * turned_z) * fx, (turned_y - seen_y * turned_z) * fy
    length_2 = np.maximum(slope_x * slope_x + slope_y * slope_y, np.float32(1e-12))
    inverse = (slope_x * offset_x + slope_y * offset_y) / length_2
    depth_b = turned_z + inverse * shift[2]
    length = np.sqrt(length_2)
    off_line = np.abs(slope_x * offset_y - slope_y * offset_x) / (length * np.maximum(depth_b, 1e-3))
    deviation = np.float32(FLOW_NOISE_PX) * np.maximum(depth_b, 0) / length
    moving = (off_line > _MAX_EPIPOLAR_PX) | (depth_b <= 0) | (inverse < -_GATE * deviation)
    good = ~moving & (inverse > 0)
    result = nothing
    result.inverse_depth[rows[good], columns[good]] = inverse[good]
    floor = _RELATIVE_FLOOR * inverse[good]
    result.variance[rows[good], columns[good]] = deviation[good] ** 2 + floor * floor
    result.moving[rows[moving], columns[moving]] = True
    return result


def carried_over(
    inverse_depth: Map,
    variance: Map,
    matches_to_b: PixelMap,
    known: Mask,
    pose: FloatArray,
    camera: PinholeCamera,
) -> Measurement:
    """The first picture's inverse depth as the second picture's: where its points lie there, and how far away.

    Points that are not seen where their depth says have moved by themselves.
    """
    shape = known.shape
    carried = Measurement(
        inverse_depth=np.zeros(shape, np.float32),
        variance=np.full(shape, np.inf, np.float32),
        moving=np.zeros(shape, np.bool_),
    )
    rows, columns = np.nonzero(known & (inverse_depth > 0))
    if rows.size == 0:
        return carried
    fx, fy, cx, cy = (np.float32(value) for value in (camera.fx, camera.fy, camera.cx, camera.cy))
    x, y = (columns.astype(np.float32) - cx) / fx, (rows.astype(np.float32) - cy) / fy
    turn, shift = pose[:3, :3].astype(np.float32), pose[:3, 3].astype(np.float32)
    inverse = inverse_depth[rows, columns]
    there = [turn[row, 0] * x + turn[row, 1] * y + turn[row, 2] + inverse * shift[row] for row in range(3)]
    depth = np.maximum(there[2], 1e-3)
    place = matches_to_b[rows, columns]
    error_x, error_y = there[0] / depth * fx + cx - place[:, 0], there[1] / depth * fy + cy - place[:, 1]
    error_2 = error_x * error_x + error_y * error_y
    new_columns, new_rows = np.rint(place[:, 0]).astype(np.intp), np.rint(place[:, 1]).astype(np.intp)
    # Twice what triangulation allows: here the error of the depth adds to that of the place.
    agree = error_2 < (2 * _MAX_EPIPOLAR_PX) ** 2
    moving = ~agree
    carried.moving[new_rows[moving], new_columns[moving]] = True
    rows, columns, depth = rows[agree], columns[agree], depth[agree]
    new_rows, new_columns = new_rows[agree], new_columns[agree]
    carried.inverse_depth[new_rows, new_columns] = inverse[agree] / depth
    carried.variance[new_rows, new_columns] = variance[rows, columns] / depth**2
    return carried


class Gathered:
    """The inverse depth of one picture's pixels, from all pairs so far.

    Attributes:
        inverse_depth: ``float32 [height, width]``; 0 where nothing is known.
        variance: Its variance; infinite where nothing is known.
        support: ``uint8 [height, width]``, measurements that agree.
        against: ``uint8 [height, width]``, measurements that contradict, or say that the pixel moved by itself.
    """

    def __init__(self, width: int, height: int) -> None:
        self.inverse_depth: Map = np.zeros((height, width), np.float32)
        self.variance: Map = np.full((height, width), np.inf, np.float32)
        self.support = np.zeros((height, width), np.uint8)
        self.against = np.zeros((height, width), np.uint8)

    def add(self, new: Measurement) -> None:
        """Take in what another pair tells: agreeing measurements are averaged by their variance."""
        self.against += new.moving
        there = np.isfinite(new.variance)
        has = np.isfinite(self.variance)
        both = there & has
        fresh = there & ~has
        np.copyto(self.inverse_depth, new.inverse_depth, where=fresh)
        np.copyto(self.variance, new.variance, where=fresh)
        self.support += fresh

        rows, columns = np.nonzero(both)
        old, old_variance = self.inverse_depth[rows, columns], self.variance[rows, columns]
        value, variance = new.inverse_depth[rows, columns], new.variance[rows, columns]
        agree = (old - value) ** 2 < _GATE**2 * (old_variance + variance)
        share = old_variance / (old_variance + variance)
        mixed, mixed_variance = old + share * (value - old), old_variance * (1 - share)
        # Of two that contradict each other, the more exact one stands.
        better = ~agree & (variance < old_variance)
        self.inverse_depth[rows, columns] = np.where(agree, mixed, np.where(better, value, old))
        floor = (_RELATIVE_FLOOR / 2 * old) ** 2
        self.variance[rows, columns] = np.where(
            agree, np.maximum(mixed_variance, floor), np.where(better, variance, old_variance)
        )
        self.support[rows, columns] += agree
        self.against[rows, columns] += ~agree
