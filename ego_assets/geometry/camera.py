"""Intrinsics of a clip's camera: those of its sidecar, or an assumed field of view."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from ego_assets.schema.camera import PinholeCamera
from ego_assets.schema.vocabulary import SourceCamera

#: Field of view across the longer side, in degrees, that is assumed where a sidecar gives no intrinsics. GoPro: the
#: "linear" lens at 16:9 (GoPro, digital lens tables: about 87). Aria: a fisheye of 110 degrees whose middle has the
#: focal length of a pinhole of about 98 (Project Aria, 610 of 1408 pixels). RealSense D455: 90 (Intel, data sheet of
#: the D400 series, colour sensor). Other: half way between a phone's main camera (about 65) and an action camera.
ASSUMED_FIELD_OF_VIEW_DEG: Mapping[SourceCamera, float] = MappingProxyType(
    {
        SourceCamera.GOPRO_HERO12: 87.0,
        SourceCamera.GOPRO_HERO13: 87.0,
        SourceCamera.ARIA: 98.0,
        SourceCamera.REALSENSE_D455: 90.0,
        SourceCamera.OTHER: 75.0,
    }
)

#: Sizes whose proportions differ by less than this share belong to the same picture.
_SAME_PROPORTIONS = 0.02


def camera_for(
    clip_intrinsics: Mapping[str, Any] | None, source_camera: SourceCamera, width: int, height: int
) -> PinholeCamera:
    """The camera of a clip, for upright pictures of a size.

    Args:
        clip_intrinsics: What the sidecar says: ``fx``, ``fy``, ``cx`` and ``cy``, or a camera matrix as ``K`` or
            ``matrix`` (three rows, or nine values), with ``width`` and ``height`` of the picture they belong to. Where
            the size is missing, the principal point is taken for its middle. Values for the picture lying on its side
            are turned. Values that are incomplete, or belong to a picture of other proportions, are not used.
        source_camera: What the assumption is made for where there are no usable intrinsics.
        width: Width in pixels.
        height: Height in pixels.

    Returns:
        The camera; its ``source`` says whether the sidecar was used.
    """
    given = _from_sidecar(clip_intrinsics) if clip_intrinsics else None
    if given is not None:
        if _same_proportions(given.width / given.height, width / height):
            return given.scaled(width, height)
        if _same_proportions(given.height / given.width, width / height):
            return _turned(given).scaled(width, height)
    field_of_view = math.radians(ASSUMED_FIELD_OF_VIEW_DEG[source_camera])
    focal = max(width, height) / 2 / math.tan(field_of_view / 2)
    return PinholeCamera(
        width=width,
        height=height,
        fx=focal,
        fy=focal,
        cx=(width - 1) / 2,
        cy=(height - 1) / 2,
        source="assumed",
    )


def _from_sidecar(intrinsics: Mapping[str, Any]) -> PinholeCamera | None:
    values = {key: _number(intrinsics.get(key)) for key in ("fx", "fy", "cx", "cy")}
    matrix = intrinsics.get("K", intrinsics.get("matrix"))
    if matrix is not None:
        try:
            entries = np.asarray(matrix, dtype=np.float64).reshape(3, 3)
        except (ValueError, TypeError):
            return None
        values = {"fx": entries[0, 0], "fy": entries[1, 1], "cx": entries[0, 2], "cy": entries[1, 2]}
    fx, fy, cx, cy = (float(values[key]) for key in ("fx", "fy", "cx", "cy"))
    width, height = (
        _number(intrinsics.get("width", 2 * cx + 1)),
        _number(intrinsics.get("height", 2 * cy + 1)),
    )
    if not (np.isfinite([fx, fy, cx, cy, width, height]).all() and min(fx, fy, width, height) >= 1):
        return None
    return PinholeCamera(
        width=round(width), height=round(height), fx=fx, fy=fy, cx=cx, cy=cy, source="sidecar"
    )


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value)


def _same_proportions(a: float, b: float) -> bool:
    return abs(a / b - 1) < _SAME_PROPORTIONS


def _turned(camera: PinholeCamera) -> PinholeCamera:
    """The camera of the picture turned by a quarter.

    Which way is not known, so the principal point only changes places.
    """
    return PinholeCamera(
        width=camera.height,
        height=camera.width,
        fx=camera.fy,
        fy=camera.fx,
        cx=camera.cy,
        cy=camera.cx,
        source=camera.source,
    )
