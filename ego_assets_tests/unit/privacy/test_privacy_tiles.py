from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.privacy.coverage import covered_share
from ego_assets.privacy.tiles import detect_tiled, merge_detections, tile_windows
from ego_assets.schema.detections import BackendInfo, BgrImage, Detections, iou_matrix


class PaintedSquares:
    """Finds each painted colour: the box of its visible pixels, with a score that grows with their number."""

    info = BackendInfo(task="faces", backend="painted", model="none")

    def __init__(self) -> None:
        self.strict: list[bool] = []
        self.sizes: list[tuple[int, int]] = []

    def detect(self, images: Sequence[BgrImage], *, strict: bool = False) -> list[Detections]:
        self.strict.append(strict)
        self.sizes.extend((image.shape[1], image.shape[0]) for image in images)
        return [self._one(image) for image in images]

    def _one(self, image: BgrImage) -> Detections:
        boxes = []
        for colour in np.unique(image[..., 0]):
            if colour:
                rows, columns = np.nonzero(image[..., 0] == colour)
                boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        array = np.array(boxes, np.float32).reshape(-1, 4)
        areas = (array[:, 2:] - array[:, :2]).prod(axis=1)
        return Detections(array, (areas / (areas + 50)).astype(np.float32))


def painted(width: int, height: int, boxes: Sequence[tuple[int, int, int, int]]) -> BgrImage:
    image = np.zeros((height, width, 3), np.uint8)
    for number, (left, top, right, bottom) in enumerate(boxes, start=1):
        image[top:bottom, left:right] = number
    return image


@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    tile_side=st.integers(8, 500),
    overlap=st.floats(0, 0.9),
)
def test_windows_cover_every_pixel_and_overlap_as_asked(
    width: int, height: int, tile_side: int, overlap: float
) -> None:
    windows = tile_windows(width, height, tile_side=tile_side, overlap=overlap)
    covered = np.zeros((height, width), bool)
    for left, top, right, bottom in windows:
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        assert (right - left, bottom - top) == (min(tile_side, width), min(tile_side, height))
        covered[top:bottom, left:right] = True
    assert covered.all()
    for axis in (0, 1):
        starts = sorted({window[axis] for window in windows})
        # Starts are rounded to whole pixels, hence the two.
        for start, following in itertools.pairwise(starts):
            assert start + tile_side - following >= tile_side * overlap - 2


def test_a_1080p_frame_takes_two_windows_of_full_height() -> None:
    assert tile_windows(1920, 1080, tile_side=1080, overlap=0.2) == [(0, 0, 1080, 1080), (840, 0, 1920, 1080)]


@given(data=st.data(), strict=st.booleans())
def test_a_region_smaller_than_the_overlap_is_found_whole_and_once(data: st.DataObject, strict: bool) -> None:
    width, height = data.draw(st.integers(60, 200)), data.draw(st.integers(60, 200))
    size = data.draw(st.integers(3, 12))
    left, top = data.draw(st.integers(0, width - size)), data.draw(st.integers(0, height - size))
    box = (left, top, left + size, top + size)
    detector = PaintedSquares()
    # 0.4 of 48 is 19 pixels: more than the region and the strip at the edge where boxes may be cut.
    found = detect_tiled(detector, painted(width, height, [box]), tile_side=48, overlap=0.4, strict=strict)
    assert found.boxes_xyxy.tolist() == [list(box)]
    assert detector.strict == [strict]
    assert max(max(size) for size in detector.sizes) <= 48


@given(data=st.data())
def test_no_pixel_of_any_region_is_lost_however_large(data: st.DataObject) -> None:
    width, height = 150, 110
    left, top = data.draw(st.integers(0, 140)), data.draw(st.integers(0, 100))
    right, bottom = data.draw(st.integers(left + 4, width)), data.draw(st.integers(top + 4, height))
    found = detect_tiled(
        PaintedSquares(), painted(width, height, [(left, top, right, bottom)]), tile_side=50, overlap=0.2
    )
    truth = np.array([[left, top, right, bottom]], np.float32)
    # Pieces of the same region that overlap by little replace one another, so a rim may go.
    assert covered_share(truth, found.boxes_xyxy)[0] >= 0.5
    assert len(found) >= 1


def test_a_picture_smaller_than_a_window_is_looked_at_once() -> None:
    detector = PaintedSquares()
    found = detect_tiled(detector, painted(40, 30, [(0, 0, 9, 9)]), tile_side=64, overlap=0.2)
    assert detector.sizes == [(40, 30)]
    assert found.boxes_xyxy.tolist() == [[0, 0, 9, 9]]


def test_of_a_region_cut_by_a_window_only_the_whole_view_stays() -> None:
    # Windows 0-50 and 40-90: the second one shows the whole region, the first a strip of it.
    found = detect_tiled(PaintedSquares(), painted(90, 50, [(44, 10, 64, 30)]), tile_side=50, overlap=0.2)
    assert found.boxes_xyxy.tolist() == [[44, 10, 64, 30]]


def detections(*rows: tuple[float, float, float, float, float]) -> Detections:
    array = np.array(rows, np.float32).reshape(-1, 5)
    return Detections(array[:, :4], array[:, 4])


def test_the_stronger_of_two_views_stays_and_strongest_comes_first() -> None:
    merged = merge_detections(
        [detections((0, 0, 10, 10, 0.5), (50, 50, 60, 60, 0.7)), detections((2, 2, 12, 12, 0.9))], iou=0.3
    )
    assert merged.boxes_xyxy.tolist() == [[2, 2, 12, 12], [50, 50, 60, 60]]
    assert merged.scores.tolist() == pytest.approx([0.9, 0.7])


def test_of_a_part_and_the_whole_the_whole_stays_with_the_better_score() -> None:
    merged = merge_detections([detections((0, 0, 10, 10, 0.4)), detections((0, 0, 10, 5, 0.8))], iou=0.9)
    assert merged.boxes_xyxy.tolist() == [[0, 0, 10, 10]]
    assert merged.scores.tolist() == pytest.approx([0.8])


def test_a_small_face_before_a_large_one_stays() -> None:
    merged = merge_detections([detections((0, 0, 100, 100, 0.9), (20, 20, 40, 40, 0.8))], iou=0.3)
    assert len(merged) == 2


@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 60), st.integers(0, 60), st.integers(1, 40), st.integers(1, 40), st.integers(1, 99)
        ),
        max_size=12,
    ),
    iou=st.floats(0.1, 0.9),
)
def test_merging_keeps_the_strongest_hides_no_region_and_is_final(
    rows: list[tuple[int, int, int, int, int]], iou: float
) -> None:
    found = detections(*[(x, y, x + w, y + h, score / 100) for x, y, w, h, score in rows])
    half = len(found) // 2
    parts = [
        Detections(found.boxes_xyxy[:half], found.scores[:half]),
        Detections(found.boxes_xyxy[half:], found.scores[half:]),
    ]
    merged = merge_detections(parts, iou=iou)
    assert np.all(np.diff(merged.scores) <= 0)
    assert len(merged) <= len(found)
    if len(found):
        assert merged.scores[0] == found.scores.max()
        # Every box still touches what stands for its region, and no two that stay are one region.
        assert np.all(iou_matrix(found.boxes_xyxy, merged.boxes_xyxy).max(axis=1) > 0)
        between = iou_matrix(merged.boxes_xyxy, merged.boxes_xyxy) - 2 * np.eye(len(merged))
        assert between.max() <= iou
    again = merge_detections([merged], iou=iou)
    assert again.boxes_xyxy.tolist() == merged.boxes_xyxy.tolist()


def test_nothing_merges_to_nothing() -> None:
    assert len(merge_detections([], iou=0.5)) == 0
    assert len(merge_detections([Detections.empty()], iou=0.5)) == 0


@pytest.mark.parametrize(
    "options",
    [{"tile_side": 0, "overlap": 0.2}, {"tile_side": 8, "overlap": 0.95}, {"tile_side": 8, "overlap": -0.1}],
)
def test_impossible_windows_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        tile_windows(100, 100, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("iou", [0.0, 1.5])
def test_an_impossible_overlap_is_refused(iou: float) -> None:
    with pytest.raises(ValueError, match="iou"):
        merge_detections([], iou=iou)
