from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ego_assets.privacy.coverage import covered_share
from ego_assets.privacy.panels import grow_to_panels
from ego_assets.schema.detections import Detections

Image = npt.NDArray[np.uint8]
WIDTH, HEIGHT = 960, 540


def background(seed: int = 0) -> Image:
    """A shaded wall with some grain."""
    shade = np.linspace(90, 130, WIDTH)[None, :, None] + np.random.default_rng(seed).normal(
        0, 3, (HEIGHT, WIDTH, 3)
    )
    return np.clip(shade, 0, 255).astype(np.uint8)


def found(*boxes: tuple[float, float, float, float]) -> Detections:
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.full(len(boxes), 0.8, np.float32))


def write(image: Image, text: str, left: int, bottom: int, colour: int = 20) -> tuple[float, ...]:
    cv2.putText(image, text, (left, bottom), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (colour,) * 3, 2)
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.8, 2)
    return (left - 4, bottom - height - 4, left + width + 4, bottom + 6)


def iou(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    overlap = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(overlap / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - overlap))


@pytest.mark.parametrize(("paper", "ink"), [(235, 20), (25, 230)])
@pytest.mark.parametrize("angle_deg", [0, 10])
def test_a_page_and_a_dark_screen_are_covered_whole(paper: int, ink: int, angle_deg: float) -> None:
    image = background()
    corners = cv2.boxPoints(((480, 270), (300, 200), angle_deg))
    cv2.fillConvexPoly(image, np.rint(corners).astype(np.int32), (paper,) * 3)
    line = write(image, "Account 20417", 380, 250, ink)
    panels = grow_to_panels(image, found(line))
    truth = np.concatenate([corners.min(axis=0), corners.max(axis=0)]).astype(np.float32)
    assert len(panels) == 1
    assert iou(panels.boxes_xyxy[0], truth) > 0.85


def test_a_screen_that_shows_a_picture_is_found_by_its_outline() -> None:
    image = background()
    rng = np.random.default_rng(1)
    cv2.rectangle(image, (300, 150), (660, 390), (10, 10, 10), -1)
    picture = cv2.resize(rng.integers(60, 250, (4, 6, 3)).astype(np.uint8), (340, 220))
    image[160:380, 310:650] = picture
    line = write(image, "Good morning", 400, 270, 255)
    panels = grow_to_panels(image, found(line))
    assert len(panels) == 1
    assert covered_share(np.array([[310, 160, 650, 380]], np.float32), panels.boxes_xyxy).min() > 0.9


def test_a_wall_with_a_word_is_not_a_panel() -> None:
    image = background()
    assert len(grow_to_panels(image, found(write(image, "EXIT", 450, 270)))) == 0


def test_lines_set_close_are_covered_together_where_no_panel_is_found() -> None:
    image = background()
    lines = [write(image, f"paragraph line {row}", 380, 200 + 26 * row) for row in range(4)]
    panels = grow_to_panels(image, found(*lines))
    assert len(panels) == 1
    truth = np.array([[lines[0][0], lines[0][1], lines[-1][2], lines[-1][3]]], np.float32)
    assert iou(panels.boxes_xyxy[0], truth[0]) > 0.9


def test_words_far_apart_are_not_joined() -> None:
    image = background()
    lines = [write(image, "A", 60 + 280 * column, 120 + 140 * column) for column in range(3)]
    assert len(grow_to_panels(image, found(*lines))) == 0


def test_a_page_held_close_may_fill_the_picture() -> None:
    image = background()
    cv2.rectangle(image, (180, 20), (780, 520), (235, 235, 235), -1)
    lines = [write(image, "a long line of a printed letter", 230, 80 + 45 * row) for row in range(9)]
    panels = grow_to_panels(image, found(*lines))
    assert len(panels) == 1
    assert iou(panels.boxes_xyxy[0], np.array([180, 20, 780, 520], np.float32)) > 0.85


def test_two_blocks_on_one_page_give_one_panel() -> None:
    image = background()
    cv2.rectangle(image, (330, 130), (630, 410), (235, 235, 235), -1)
    lines = [write(image, "Name", 360, 180), write(image, "Signature", 440, 370)]
    assert len(grow_to_panels(image, found(*lines))) == 1


def test_no_text_no_panels() -> None:
    assert len(grow_to_panels(background(), Detections.empty())) == 0


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.floats(0, 950), st.floats(0, 530), st.floats(0.5, 400), st.floats(0.5, 200)), max_size=6
    ),
    st.sampled_from([(540, 960), (33, 65), (700, 300)]),
)
def test_panels_are_boxes_within_the_picture(
    items: list[tuple[float, float, float, float]], size: tuple[int, int]
) -> None:
    height, width = size
    boxes = [
        (x, y, min(x + w, width), min(y + h, height)) for x, y, w, h in items if x < width and y < height
    ]
    image = np.random.default_rng(3).integers(0, 255, (height, width, 3)).astype(np.uint8)
    panels = grow_to_panels(image, found(*boxes)).boxes_xyxy
    assert np.all(panels[:, 2:] > panels[:, :2])
    assert panels.min(initial=0) >= -0.01
    assert panels[:, 2].max(initial=0) <= width + 0.5 and panels[:, 3].max(initial=0) <= height + 0.5
