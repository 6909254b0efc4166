"""How a picture looks, as 768 numbers made without a trained model: enough to find near-duplicates.

Forty-eight maps of a small copy of the picture say where it is light, which colours lie where and in which directions
its edges run. Of every map the sixteen lowest frequencies of its cosine transform are kept, so that a crop, a new
encoding or a shift of a few per cent changes little. The ingredients are those of the MPEG-7 colour layout descriptor
(low frequencies of colour) and of histograms of oriented gradients (Dalal and Triggs, 2005); the signed square root is
that of Perronnin et al. (2010) for image retrieval.

What it cannot do: it knows no objects and no words, a mirrored picture is another picture, and two recordings from one
place in one room look alike.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.schema.detections import BgrImage
from ego_assets.schema.embeddings import EMBEDDING_DIMENSIONS

#: Name of the space, with its version: raised with every change of the numbers.
SPACE = "appearance-v1"

#: Clips that are at least so similar may be copies of one recording; a person decides. Measured with
#: ``benchmarks/enrichment.py --part duplicates`` on 25 real clips: 95 % of 244 altered copies are found (100 % of those
#: encoded anew, cropped by 10 % at one corner, darker, brighter or a second shorter; 60 % of those cropped by 15 %),
#: and none of 300 pairs of different clips, whose similarity ends at 0.54. Recordings of one place lie on both sides.
NEAR_DUPLICATE_SIMILARITY = 0.75

#: Side in pixels of the copy that is looked at.
_SIDE = 64
#: Frequencies kept in each direction.
_FREQUENCIES = 4
#: Centres of the four overlapping ranges of lightness, in standard deviations of the picture's lightness.
_LIGHTNESS_LEVELS = np.array([-1.05, -0.35, 0.35, 1.05], np.float32)
_LIGHTNESS_LEVEL_DISTANCE = 0.7
_HUES = 8
_DIRECTIONS = 16
#: Blur before edges are looked at, as standard deviations in pixels of the copy: fine and coarse edges.
_EDGE_BLURS_PX = (1.0, 2.5)
#: CIELAB chroma of a clear colour; at half of it a pixel counts as half coloured.
_COLOURED = 20.0
#: Standard deviation of L* below which a picture counts as flat: less is mostly noise and coding error.
_FLAT_LIGHTNESS = 2.0
#: Mean change of relative lightness per pixel below which there are no edges, for the same reason.
_FLAT_EDGES = 0.01
#: A part of the descriptor shorter than this (it is 0.9 to 2 in ordinary pictures) is not made as long as the others.
_WEAK_PART = 0.4


def describe(image: BgrImage) -> npt.NDArray[np.float32]:
    """The appearance of a picture: ``float32 [768]`` of unit length.

    Every picture has one, also a flat one: pictures that are black, white or grey all over are nearly the same.

    Args:
        image: ``uint8 [height, width, 3]``, BGR, of any size and shape.

    Raises:
        ValueError: The picture has another shape or type, or no pixel.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image: expected uint8 [height, width, 3], got {image.dtype} {list(image.shape)}")
    small = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    lab = np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2Lab), dtype=np.float32)
    lightness, green_red, blue_yellow = np.moveaxis(lab, 2, 0)
    # Relative to the picture's own mean and contrast, so that exposure does not matter.
    relative = (lightness - lightness.mean()) / max(float(lightness.std()), _FLAT_LIGHTNESS)
    parts = [
        (1.0, _low_frequencies(relative[None])),
        (0.8, _low_frequencies(np.stack([green_red, blue_yellow]) / _COLOURED)),
        (0.8, _around_even(_low_frequencies(_lightness_levels(relative)))),
        (0.8, _around_even(_low_frequencies(_hues(green_red, blue_yellow)))),
        (1.2, _around_even(_low_frequencies(_edges(relative, blur_px=_EDGE_BLURS_PX[0])))),
        (1.0, _around_even(_low_frequencies(_edges(relative, blur_px=_EDGE_BLURS_PX[1])))),
    ]
    descriptor = np.concatenate([weight * _balanced(part) for weight, part in parts])
    assert descriptor.shape == (EMBEDDING_DIMENSIONS,)
    return np.asarray(descriptor / np.linalg.norm(descriptor), dtype=np.float32)


def _cosines() -> npt.NDArray[np.float32]:
    """The lowest basis functions of the orthonormal DCT-II, ``float32 [frequencies, side]``."""
    frequency = np.arange(_FREQUENCIES)[:, None]
    basis = np.cos(np.pi * (np.arange(_SIDE) + 0.5) * frequency / _SIDE)
    return np.asarray(basis * np.sqrt(np.where(frequency == 0, 1, 2) / _SIDE), dtype=np.float32)


_COSINES = _cosines()


def _low_frequencies(maps: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """``float32 [maps, 16]`` of ``[maps, side, side]``; the first of the sixteen is the map's mean."""
    found = _COSINES @ maps @ _COSINES.T / _SIDE
    return np.asarray(found.reshape(len(maps), -1), dtype=np.float32)


def _around_even(coefficients: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The means of a histogram's maps relative to an even histogram, so that unlike pictures are not all alike."""
    centred = coefficients.copy()
    centred[:, 0] -= centred[:, 0].mean()
    return centred


def _balanced(part: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Signed square root and unit length: no single strong coefficient decides, and every part counts."""
    rooted = (np.sign(part) * np.sqrt(np.abs(part))).ravel()
    return np.asarray(rooted / max(float(np.linalg.norm(rooted)), _WEAK_PART), dtype=np.float32)


def _lightness_levels(relative: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """How far each pixel belongs to each range of lightness, ``float32 [4, side, side]``."""
    distance = np.abs(relative - _LIGHTNESS_LEVELS[:, None, None]) / _LIGHTNESS_LEVEL_DISTANCE
    return np.maximum(0, 1 - distance)


def _hues(
    green_red: npt.NDArray[np.float32], blue_yellow: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """How far each pixel has each hue, and how far it has none, ``float32 [9, side, side]``."""
    chroma = np.hypot(green_red, blue_yellow)
    hues = _directions(green_red, blue_yellow, count=_HUES) * (chroma / (chroma + _COLOURED / 2))
    half = _COLOURED / 4
    return np.concatenate([hues, (half / (chroma + half))[None]])


def _edges(relative: npt.NDArray[np.float32], *, blur_px: float) -> npt.NDArray[np.float32]:
    """Strength of the edges in each direction, ``float32 [16, side, side]``; strong ones are held down."""
    blurred = cv2.GaussianBlur(relative, (0, 0), blur_px)
    across = np.asarray(cv2.Sobel(blurred, cv2.CV_32F, 1, 0) / 8, dtype=np.float32)
    down = np.asarray(cv2.Sobel(blurred, cv2.CV_32F, 0, 1) / 8, dtype=np.float32)
    strength = np.hypot(across, down)
    strength = strength / (strength + strength.mean() / 2 + _FLAT_EDGES)
    return np.asarray(_directions(across, down, count=_DIRECTIONS) * strength, dtype=np.float32)


def _directions(
    x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], *, count: int
) -> npt.NDArray[np.float32]:
    """How far vectors point in each of ``count`` directions, shared between the two nearest ones."""
    position = np.arctan2(y, x) * np.float32(count / (2 * np.pi))
    distance = np.abs(position[None] - np.arange(count, dtype=np.float32)[:, None, None]) % count
    return np.maximum(0, 1 - np.minimum(distance, count - distance))
