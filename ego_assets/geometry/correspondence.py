"""Which pixel of one picture is which of another, densely or at corners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.geometry.two_view import rotation_between
from ego_assets.schema.camera import PinholeCamera
from ego_assets.schema.detections import BgrImage
from ego_assets.schema.flow import FlowEstimator

FloatArray = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Grey = npt.NDArray[np.uint8]
#: ``float32 [height, width, 2]``: for every pixel its place (x, y) in the other picture.
PixelMap = npt.NDArray[np.float32]

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
#: The places of pixels come in one array, not in two.
_NO_MAP = np.zeros(0, np.float32)


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

    def match(self, a: BgrImage, b: BgrImage, rotation: FloatArray, camera: PinholeCamera) -> Matches:
        """Corresponding pixels of two pictures of one size; ``rotation`` (first to second camera) is a first guess."""
        ...


class DenseMatcher:
    """Corresponding pixels by dense flow, checked there and back.

    The guessed rotation is undone first, so that flow only has to find what remains: a turning head moves the picture
    further than flow can follow.
    """

    def __init__(self, flow: FlowEstimator) -> None:
        self._flow = flow

    def match(self, a: BgrImage, b: BgrImage, rotation: FloatArray, camera: PinholeCamera) -> Matches:
        """See :class:`Matcher`."""
        height, width = a.shape[:2]
        turn = _homography(rotation, camera)
        turned = _as_seen_from_a(b, turn)
        there, back = self._flow.flow([(a, turned), (turned, a)])
        pixels = pixel_grid(width, height)

        in_turned = pixels + there
        returned = there + _sampled(back, in_turned)
        to_b = _moved(in_turned, turn)
        texture = has_texture(a)
        known_a = _short(returned) & _inside(to_b, width, height) & texture

        in_a_axes = _moved(pixels, _homography(rotation.T, camera))
        back_there = _sampled(back, in_a_axes)
        to_a = in_a_axes + back_there
        returned = back_there + _sampled(there, to_a)
        known_b = _short(returned) & _inside(to_a, width, height) & _inside(in_a_axes, width, height)
        return Matches(
            to_b=to_b,
            known_a=known_a,
            to_a=to_a,
            known_b=known_b & has_texture(b),
            searched=int(texture.sum()),
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

    def match(self, a: BgrImage, b: BgrImage, rotation: FloatArray, camera: PinholeCamera) -> Matches:
        """See :class:`Matcher`."""
        turn = _homography(rotation, camera)
        turn_back = _homography(rotation.T, camera)
        to_b, known_a, searched = self._one_way(a, b, turn, turn_back)
        to_a, known_b, _ = self._one_way(b, a, turn_back, turn)
        return Matches(to_b=to_b, known_a=known_a, to_a=to_a, known_b=known_b, searched=searched)

    def _one_way(
        self, first: BgrImage, second: BgrImage, turn: FloatArray, turn_back: FloatArray
    ) -> tuple[PixelMap, Mask, int]:
        height, width = first.shape[:2]
        places = np.zeros((height, width, 2), np.float32)
        known = np.zeros((height, width), np.bool_)
        start, other = (cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in (first, second))
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
            & _short(np.asarray(back - corners, np.float32))
            & _inside(found, width, height)
        ).ravel()
        columns, rows = corners[good, 0].astype(np.intp).T
        places[rows, columns] = found[good, 0]
        known[rows, columns] = True
        return places, known & has_texture(first), len(corners)


def guessed_rotation(a: BgrImage, b: BgrImage, camera: PinholeCamera) -> FloatArray:
    """How far the camera turned, from flow between small copies of two pictures.

    Returns:
        ``float64 [3, 3]``, first to second camera; the identity where that explains the picture better.
    """
    height, width = a.shape[:2]
    shrink = min(1.0, _GUESS_SIDE / max(width, height))
    size = (max(16, round(width * shrink)), max(16, round(height * shrink)))
    first, second = (
        np.asarray(
            cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY), np.uint8
        )
        for image in (a, b)
    )
    little = camera.scaled(*size)
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    best = np.eye(3)
    least = _difference(first, second, best, little)
    for _ in range(2):
        turned = _as_seen_from_a(second, _homography(best, little))
        flow = method.calc(first, turned, np.zeros((*first.shape, 2), np.float32))
        points = pixel_grid(*size)[3::6, 3::6].reshape(-1, 2).astype(np.float64)
        moved = points + flow[3::6, 3::6].reshape(-1, 2)
        rotation = best @ rotation_between(points, moved, little)[0]
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


def has_texture(image: BgrImage) -> Mask:
    """Where a picture has enough structure to be found again, ``bool [height, width]``."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    slopes = [cv2.Sobel(grey, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1))]
    energy = slopes[0] * slopes[0] + slopes[1] * slopes[1]
    window = (_TEXTURE_WINDOW_PX, _TEXTURE_WINDOW_PX)
    return np.asarray(cv2.blur(energy, window) > _MIN_SLOPE**2)


def pixel_grid(width: int, height: int) -> PixelMap:
    """Every pixel's own place (x, y), ``float32 [height, width, 2]``."""
    return np.stack(
        np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)), axis=-1
    )


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


def _sampled(field: PixelMap, places: PixelMap) -> PixelMap:
    return np.asarray(
        cv2.remap(field, places, _NO_MAP, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32
    )


def _short(offsets: PixelMap) -> Mask:
    return np.asarray((offsets * offsets).sum(axis=-1) < MAX_ROUND_TRIP_PX**2)


def _inside(places: PixelMap, width: int, height: int) -> Mask:
    x, y = places[..., 0], places[..., 1]
    return np.asarray((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1))
