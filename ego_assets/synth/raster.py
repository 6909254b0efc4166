"""Draws textured rectangles in 3-D with exact depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.synth.textures import Texture

FloatArray = npt.NDArray[np.float64]

#: Nothing nearer than this is drawn.
NEAR_M = 0.05

_SUBPIXEL_BITS = 4


@dataclass(frozen=True, eq=False, kw_only=True)
class Quad:
    """A window of a textured parallelogram in the world, seen from its front only.

    Attributes:
        origin: Upper left corner of the whole texture, ``float64 [3]``, metres.
        edge_u: From there to the upper right corner.
        edge_v: From there to the lower left corner.
        texture: What is painted on it.
        window: The part that is drawn, as fractions of the edges: left, top, right, bottom.
        group: Name of the moving object that it belongs to; empty where it stands still.
    """

    origin: FloatArray
    edge_u: FloatArray
    edge_v: FloatArray
    texture: Texture
    window: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    group: str = ""

    def corners(self, rectangle: tuple[float, float, float, float] | None = None) -> FloatArray:
        """World corners of ``rectangle`` (default: the window), ``float64 [4, 3]``.

        They go clockwise from the upper left.
        """
        left, top, right, bottom = self.window if rectangle is None else rectangle
        fractions = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
        return self.origin + fractions @ np.stack([self.edge_u, self.edge_v])


@dataclass(frozen=True, eq=False)
class Rendering:
    """One picture and what each of its pixels shows.

    Attributes:
        image: ``uint8 [h, w, 3]``, BGR.
        inverse_depth: ``float32 [h, w]``, 1 / distance along the optical axis in 1/m; 0 where nothing is.
        owner: ``int16 [h, w]``, index of the quad that is seen; -1 where nothing is, other negative values
            are given by whoever draws on top.
    """

    image: npt.NDArray[np.uint8]
    inverse_depth: npt.NDArray[np.float32]
    owner: npt.NDArray[np.int16]


class Rasterizer:
    """Draws the quads of one scene for a pinhole camera; pixel centres lie on whole numbers."""

    def __init__(self, quads: Sequence[Quad], *, width: int, height: int, intrinsics: FloatArray) -> None:
        self._quads = tuple(quads)
        self._width, self._height = width, height
        self._intrinsics = intrinsics
        self._corners = np.stack([quad.corners() for quad in self._quads])
        self._origins = np.stack([quad.origin for quad in self._quads])
        self._edges = np.stack([np.stack([quad.edge_u, quad.edge_v]) for quad in self._quads])
        focal_x, focal_y = intrinsics[0, 0], intrinsics[1, 1]
        centre_x, centre_y = intrinsics[0, 2], intrinsics[1, 2]
        self._rays_from_pixels = np.linalg.inv(intrinsics)
        self._columns = ((np.arange(width) - centre_x) / focal_x).astype(np.float32)
        self._rows = ((np.arange(height) - centre_y) / focal_y).astype(np.float32)
        # Half-spaces n.x >= 0 through the camera that hold everything within one pixel of the picture.
        right, bottom = (width - centre_x) / focal_x, (height - centre_y) / focal_y
        left, top = (-1 - centre_x) / focal_x, (-1 - centre_y) / focal_y
        self._frustum = np.array([[1, 0, -left], [-1, 0, right], [0, 1, -top], [0, -1, bottom]], np.float64)

    def render(self, pose: FloatArray, offsets: dict[str, FloatArray]) -> Rendering:
        """Draw all quads as seen from ``pose`` (``T_world_camera``).

        ``offsets`` shifts moving groups, in metres; groups that are not named stay.
        """
        rendering = Rendering(
            np.zeros((self._height, self._width, 3), np.uint8),
            np.zeros((self._height, self._width), np.float32),
            np.full((self._height, self._width), -1, np.int16),
        )
        shift = np.stack([offsets.get(quad.group, np.zeros(3)) for quad in self._quads])
        rotation, position = pose[:3, :3], pose[:3, 3]
        corners = (self._corners + shift[:, None] - position) @ rotation
        origins = (self._origins + shift - position) @ rotation
        edges = self._edges @ rotation
        texture_from_image, normals, determinants = self._plane_homographies(origins, edges)
        outside = np.any(np.all(corners @ self._frustum.T < 0, axis=1), axis=1)
        outside |= np.all(corners[:, :, 2] < NEAR_M, axis=1)
        # The determinant is negative behind a quad and zero when it is seen edge-on.
        outside |= determinants < 1e-9
        # Nearest first, so that what is hidden is found out before it is painted.
        for index in np.argsort(np.linalg.norm(corners.mean(axis=1), axis=1), kind="stable"):
            if not outside[index]:
                normal = normals[index] / determinants[index]
                self._draw(int(index), corners[index], normal, texture_from_image[index], rendering)
        return rendering

    def _plane_homographies(
        self, origins: FloatArray, edges: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """For each quad the map from pixels to fractions of its edges, and its normal and determinant.

        A pixel's ray meets the plane where ``[edge_u edge_v origin] (s, t, 1)`` is parallel to it. A
        homography has no scale, so that the adjugate serves as the inverse.
        """
        edge_u, edge_v = edges[:, 0], edges[:, 1]
        normals = np.cross(edge_u, edge_v)
        adjugates = np.stack([np.cross(edge_v, origins), np.cross(origins, edge_u), normals], axis=1)
        determinants = np.einsum("ni,ni->n", normals, origins)
        return adjugates @ self._rays_from_pixels, normals, determinants

    def _draw(
        self,
        index: int,
        corners: FloatArray,
        normal: FloatArray,
        texture_from_image: FloatArray,
        rendering: Rendering,
    ) -> None:
        """Draw one quad that lies on the plane ``normal . point = 1`` in camera axes."""
        polygon = clip_polygon(corners, self._frustum)
        if len(polygon) < 3:
            return
        pixels = project(polygon, self._intrinsics)
        left, top = np.maximum(np.floor(pixels.min(axis=0)).astype(int), 0)
        right = min(int(np.ceil(pixels[:, 0].max())) + 1, self._width)
        bottom = min(int(np.ceil(pixels[:, 1].max())) + 1, self._height)
        if right <= left or bottom <= top:
            return
        mask = polygon_mask(pixels - [left, top], right - left, bottom - top)
        # On a plane, 1 / depth is linear in the pixel coordinates.
        slope_x, slope_y, constant = (np.float32(value) for value in normal)
        inverse = (slope_x * self._columns[left:right])[None, :] + (
            slope_y * self._rows[top:bottom] + constant
        )[:, None]
        window = (slice(top, bottom), slice(left, right))
        mask &= cv2.compare(inverse, rendering.inverse_depth[window], cv2.CMP_GT).astype(np.uint8)
        box_x, box_y, box_width, box_height = cv2.boundingRect(mask)
        if box_width == 0:
            return
        inner = (slice(box_y, box_y + box_height), slice(box_x, box_x + box_width))
        mask, inverse = mask[inner], inverse[inner]
        left, top = left + box_x, top + box_y
        window = (slice(top, top + box_height), slice(left, left + box_width))

        texture = self._quads[index].texture
        texture_from_image = texture_from_image @ _shift(left, top)
        level = self._level(texture, texture_from_image, pixels - [left, top])
        texels = texture.levels[level]
        size = (box_width, box_height)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        if texture.cutout is not None:
            solid = cv2.warpPerspective(
                texture.cutout,
                _fractions_to_texels(texture.cutout.shape) @ texture_from_image,
                size,
                flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
            )
            mask = cv2.bitwise_and(mask, solid).astype(np.uint8)
        painted = cv2.warpPerspective(
            texels,
            _fractions_to_texels(texels.shape) @ texture_from_image,
            size,
            flags=flags,
            borderMode=cv2.BORDER_REPLICATE,
        )
        cv2.copyTo(painted, mask, rendering.image[window])
        cv2.copyTo(inverse, mask, rendering.inverse_depth[window])
        np.copyto(rendering.owner[window], index, where=mask.view(np.bool_))

    @staticmethod
    def _level(texture: Texture, texture_from_image: FloatArray, pixels: FloatArray) -> int:
        """The resolution whose texels are about as large as the pixels in the middle of the polygon."""
        middle = pixels.mean(axis=0)
        points = middle + np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        mapped = np.concatenate([points, np.ones((3, 1))], axis=1) @ texture_from_image.T
        fractions = mapped[:, :2] / mapped[:, 2:]
        height, width = texture.levels[0].shape[:2]
        steps = (fractions[1:] - fractions[0]) * [width, height]
        area = abs(float(steps[0, 0] * steps[1, 1] - steps[0, 1] * steps[1, 0]))
        return int(np.clip(np.floor(np.log2(max(area, 1e-6)) / 2 + 0.3), 0, len(texture.levels) - 1))


def clip_polygon(corners: FloatArray, planes: FloatArray) -> FloatArray:
    """The part of a convex polygon in front of the camera and inside all half-spaces, ``float64 [N, 3]``."""
    polygon = _clip_by(corners, corners[:, 2] - NEAR_M)
    for plane in planes:
        if len(polygon) < 3:
            break
        polygon = _clip_by(polygon, polygon @ plane)
    return polygon


def _clip_by(polygon: FloatArray, inside: FloatArray) -> FloatArray:
    if np.all(inside >= 0):
        return polygon
    kept = []
    for index in range(len(polygon)):
        following = (index + 1) % len(polygon)
        if inside[index] >= 0:
            kept.append(polygon[index])
        if (inside[index] >= 0) != (inside[following] >= 0):
            share = inside[index] / (inside[index] - inside[following])
            kept.append(polygon[index] + share * (polygon[following] - polygon[index]))
    return np.array(kept).reshape(-1, 3)


def project(points: FloatArray, intrinsics: FloatArray) -> FloatArray:
    """Pixels of points in camera axes, ``float64 [N, 2]``."""
    projected = points @ intrinsics.T
    return np.asarray(projected[:, :2] / projected[:, 2:])


def polygon_mask(pixels: FloatArray, width: int, height: int) -> npt.NDArray[np.uint8]:
    """1 inside a convex polygon, ``uint8 [height, width]``."""
    mask = np.zeros((height, width), np.uint8)
    points = np.rint(pixels * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    cv2.fillConvexPoly(mask, points, (1,), cv2.LINE_8, _SUBPIXEL_BITS)
    return mask


def _shift(left: float, top: float) -> FloatArray:
    return np.array([[1.0, 0.0, left], [0.0, 1.0, top], [0.0, 0.0, 1.0]])


def _fractions_to_texels(shape: tuple[int, ...]) -> FloatArray:
    height, width = shape[:2]
    return np.array([[width, 0.0, -0.5], [0.0, height, -0.5], [0.0, 0.0, 1.0]])
