"""Which pixel of one picture is which of another, densely or at corners."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.geometry.flow import Grey, Mask, PixelMap, dense_flow, inside, pixel_grid, there_and_back
from ego_assets.geometry.two_view import rotation_between
from ego_assets.schema.camera import PinholeCamera
from ego_assets.schema.detections import BgrImage
from ego_assets.schema.flow import FlowEstimator

FloatArray = npt.NDArray[np.float64]

#: Going to the other picture and back must end within this many pixels of the start.
MAX_ROUND_TRIP_PX = 1.0
#: Weaker mean slopes (grey levels per pixel) than this are noise of the camera and the coder, not texture.
_MIN_SLOPE = 3.0
_TEXTURE_WINDOW_PX = 9
#: Longer side of the copies by which the turn of the camera is guessed.
_GUESS_SIDE = 160
#: Two pictures with less than this share in common cannot be compared.
_MIN_LEFT = 0.25
#: Corners are as good as this share of the best, and this far apart.
_CORNER_QUALITY = 0.003
_CORNER_DISTANCE_PX = 3


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that is compared with several others: what each comparison needs is made once.

    Attributes:
        image: ``uint8 [height, width, 3]``, BGR.
    """

    image: BgrImage

    @cached_property
    def grey(self) -> Grey:
        """``uint8 [height, width]``."""
        return np.asarray(cv2.cvtColor(self.image, cv2.COLOR_BGR2GRAY), np.uint8)

    @cached_property
    def texture(self) -> Mask:
        """``bool [height, width]``, where there is enough structure to be found again."""
        return has_texture(self.grey)

    @cached_property
    def thumbnail(self) -> Grey:
        """A small grey copy, by which turns are guessed."""
        height, width = self.grey.shape
        shrink = min(1.0, _GUESS_SIDE / max(width, height))
        size = (max(16, round(width * shrink)), max(16, round(height * shrink)))
        return np.asarray(cv2.resize(self.grey, size, interpolation=cv2.INTER_AREA), np.uint8)


@dataclass(frozen=True, eq=False, kw_only=True)
class Matches:
    """Two pictures' pixels that show the same.

    Attributes:
        to_b: Places of the first picture's pixels in the second.
        known_a: ``bool [height, width]``: where ``to_b`` holds.
        to_a: Places of the second picture's pixels in the first.
        known_b: Where ``to_a`` holds.
        searched: Pixels of the first picture that were looked for.
    """

    to_b: PixelMap
    known_a: Mask
    to_a: PixelMap
    known_b: Mask
    searched: int

    @property
    def found_share(self) -> float:
        """Share of the pixels looked for that were found."""
        return float(self.known_a.sum()) / max(self.searched, 1)


class Matcher(Protocol):
    """Finds corresponding pixels."""

    def match(self, a: Picture, b: Picture, rotation: FloatArray, camera: PinholeCamera) -> Matches:
        """Corresponding pixels of two pictures of one size; ``rotation`` (first to second camera) is a first guess."""
        ...


class DenseMatcher:
    """Corresponding pixels by dense flow, checked there and back.

    The guessed rotation is undone first, so that flow only has to find what remains: a turning head moves the picture
    further than flow can follow.
    """

    def __init__(self, flow: FlowEstimator) -> None:
        self._flow = flow

    def match(self, a: Picture, b: Picture, rotation: FloatArray, camera: PinholeCamera) -> Matches:
        """See :class:`Matcher`."""
        height, width = a.grey.shape
        turn = _homography(rotation, camera)
        turned = _as_seen_from_a(b.image, turn)
        there, back = self._flow.flow([(a.image, turned), (turned, a.image)])

        in_turned, believable = there_and_back(there, back, max_error_px=MAX_ROUND_TRIP_PX)
        to_b = _moved(in_turned, turn)
        known_a = believable & inside(to_b, width, height) & a.texture

        in_a_axes = _moved(pixel_grid(width, height), _homography(rotation.T, camera))
        to_a, believable = there_and_back(back, there, start=in_a_axes, max_error_px=MAX_ROUND_TRIP_PX)
        known_b = believable & inside(in_a_axes, width, height) & b.texture
        return Matches(
            to_b=to_b, known_a=known_a, to_a=to_a, known_b=known_b, searched=int(np.count_nonzero(a.texture))
        )


class CornerMatcher:
    """Corresponding corners (Shi and Tomasi 1994), tracked by the pyramidal method of Lucas and Kanade.

    Fewer places than dense flow, but each stands on its own: nothing is smoothed across the picture.

    Args:
        count: Corners per picture at most.
        window: Side in pixels of the patch that is tracked.
    """

    def __init__(self, *, count: int = 3000, window: int = 15) -> None:
        self._count, self._window = count, window

    def match(self, a: Picture, b: Picture, rotation: FloatArray, camera: PinholeCamera) -> Matches:
        """See :class:`Matcher`."""
        turn = _homography(rotation, camera)
        turn_back = _homography(rotation.T, camera)
        to_b, known_a, searched = self._one_way(a, b, turn, turn_back)
        to_a, known_b, _ = self._one_way(b, a, turn_back, turn)
        return Matches(to_b=to_b, known_a=known_a, to_a=to_a, known_b=known_b, searched=searched)

    def _one_way(
        self, first: Picture, second: Picture, turn: FloatArray, turn_back: FloatArray
    ) -> tuple[PixelMap, Mask, int]:
        start, other = first.grey, second.grey
        height, width = start.shape
        places = np.zeros((height, width, 2), np.float32)
        known = np.zeros((height, width), np.bool_)
        seen = cv2.goodFeaturesToTrack(start, self._count, _CORNER_QUALITY, _CORNER_DISTANCE_PX)
        if seen is None:
            return places, known, 0
        corners = np.rint(seen).astype(np.float32)
        expected = _moved(corners, turn)
        size, flags = (self._window, self._window), cv2.OPTFLOW_USE_INITIAL_FLOW
        tracked, ok, _ = cv2.calcOpticalFlowPyrLK(start, other, corners, expected, winSize=size, flags=flags)
        found = np.asarray(tracked, np.float32)
        returned = _moved(found, turn_back)
        back, ok_back, _ = cv2.calcOpticalFlowPyrLK(other, start, found, returned, winSize=size, flags=flags)
        good = (
            (ok > 0)
            & (ok_back > 0)
            & (np.linalg.norm(back - corners, axis=-1) < MAX_ROUND_TRIP_PX)
            & inside(found, width, height)
        ).ravel()
        columns, rows = corners[good, 0].astype(np.intp).T
        places[rows, columns] = found[good, 0]
        known[rows, columns] = True
        return places, known & first.texture, len(corners)


def guessed_rotation(a: Picture, b: Picture, camera: PinholeCamera) -> FloatArray:
    """How far the camera turned, from flow between small copies of two pictures.

    Returns:
        ``float64 [3, 3]``, first to second camera; the identity where that explains the picture better.
    """
    first, second = a.thumbnail, b.thumbnail
    height, width = first.shape
    little = camera.scaled(width, height)
    grid = pixel_grid(width, height)[3::6, 3::6]
    points = grid.reshape(-1, 2).astype(np.float64)
    best = np.eye(3)
    least = _difference(first, second, best, little)
    for _ in range(2):
        turned = _as_seen_from_a(second, _homography(best, little))
        flow = dense_flow(first, turned, preset="fast")
        moved = points + flow[3::6, 3::6].reshape(-1, 2)
        rotation = best @ rotation_between(points, moved, little)
        difference = _difference(first, second, rotation, little)
        if difference >= least:
            break
        best, least = rotation, difference
    return best


def _difference(a: Grey, b: Grey, rotation: FloatArray, camera: PinholeCamera) -> float:
    """Mean difference in grey level once a rotation is undone; infinite where too little is left in common."""
    turn = _homography(rotation, camera)
    inside = _as_seen_from_a(np.full_like(b, 255), turn) == 255
    if inside.mean() < _MIN_LEFT:
        return float("inf")
    return float(cv2.absdiff(a, _as_seen_from_a(b, turn))[inside].mean())


def has_texture(grey: Grey) -> Mask:
    """Where a grey picture has enough structure to be found again, ``bool [height, width]``."""
    slopes = [cv2.Sobel(grey, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1))]
    energy = slopes[0] * slopes[0] + slopes[1] * slopes[1]
    window = (_TEXTURE_WINDOW_PX, _TEXTURE_WINDOW_PX)
    return np.asarray(cv2.blur(energy, window) > _MIN_SLOPE**2)


def _homography(rotation: FloatArray, camera: PinholeCamera) -> FloatArray:
    """Where a turn of the camera takes pixels, whatever their depth."""
    from_pixels = np.array(
        [[1 / camera.fx, 0, -camera.cx / camera.fx], [0, 1 / camera.fy, -camera.cy / camera.fy], [0, 0, 1]]
    )
    return np.asarray(camera.matrix @ rotation @ from_pixels)


def _as_seen_from_a(image: Grey, turn: FloatArray) -> Grey:
    turned = cv2.warpPerspective(
        image,
        turn,
        (image.shape[1], image.shape[0]),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
    )
    return np.asarray(turned, np.uint8)


def _moved(places: npt.NDArray[np.float32], turn: FloatArray) -> npt.NDArray[np.float32]:
    return np.asarray(cv2.perspectiveTransform(places, turn), np.float32)
