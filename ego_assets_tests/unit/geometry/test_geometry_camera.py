from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.geometry.camera import ASSUMED_FIELD_OF_VIEW_DEG, camera_for
from ego_assets.schema.vocabulary import SourceCamera

GUIDE = {"fx": 1712.4, "fy": 1700.0, "cx": 1920.0, "cy": 1080.0, "width": 3840, "height": 2160}


def test_sidecar_values_are_scaled_to_the_picture() -> None:
    camera = camera_for(GUIDE, SourceCamera.OTHER, 1280, 720)
    assert camera.source == "sidecar"
    assert (camera.fx, camera.fy) == pytest.approx((570.8, 566.667), rel=1e-4)
    assert (camera.cx, camera.cy) == pytest.approx((639.667, 359.667), abs=0.01)


@pytest.mark.parametrize("key", ["K", "matrix"])
def test_a_matrix_says_the_same_as_its_values(key: str) -> None:
    matrix = [[1712.4, 0, 1920.0], [0, 1700.0, 1080.0], [0, 0, 1]]
    size = {"width": 3840, "height": 2160}
    wanted = camera_for(GUIDE, SourceCamera.OTHER, 1280, 720)
    assert camera_for({key: matrix, **size}, SourceCamera.OTHER, 1280, 720) == wanted
    assert camera_for({key: np.ravel(matrix).tolist(), **size}, SourceCamera.OTHER, 1280, 720) == wanted


def test_values_of_a_picture_on_its_side_are_turned() -> None:
    camera = camera_for(GUIDE, SourceCamera.OTHER, 720, 1280)
    assert camera.source == "sidecar"
    assert camera.fx == pytest.approx(1700.0 / 3)
    assert camera.fy == pytest.approx(1712.4 / 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"fx": 500.0},
        {**GUIDE, "fx": "500"},
        {**GUIDE, "fx": -1.0},
        {**GUIDE, "fy": math.nan},
        {**GUIDE, "height": 2880},
        {"K": [[1, 2], [3, 4]]},
        {"K": "wide"},
    ],
)
def test_values_that_cannot_be_used_leave_the_assumption(wrong: dict[str, object]) -> None:
    assert camera_for(wrong, SourceCamera.OTHER, 1280, 720) == camera_for(None, SourceCamera.OTHER, 1280, 720)


@given(
    source=st.sampled_from(list(SourceCamera)),
    width=st.integers(16, 4000),
    height=st.integers(16, 4000),
)
def test_the_assumed_field_of_view_spans_the_longer_side(
    source: SourceCamera, width: int, height: int
) -> None:
    camera = camera_for(None, source, width, height)
    assert camera.source == "assumed"
    seen = math.degrees(2 * math.atan(max(width, height) / 2 / camera.fx))
    assert seen == pytest.approx(ASSUMED_FIELD_OF_VIEW_DEG[source])
