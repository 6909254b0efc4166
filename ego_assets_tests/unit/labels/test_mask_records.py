"""What is stored of the masks of a clip."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ego_assets.labels.mask_records import (
    TRACK_SCHEMA,
    RecordedMasks,
    _extents,
    categories_document,
    instance_palette,
    motion_compensated_iou,
    record_masks,
    write_verdicts,
)
from ego_assets.media.frame_archive import FrameArchive, FrameArchiveIndex
from ego_assets.media.rasters import decode_png
from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.documents import json_document
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.gates import GateOutcome
from ego_assets.schema.masks import MASK_CATEGORIES, MaskFrame, MaskInstance

WIDTH, HEIGHT = 96, 64


def picture(shift: int = 0) -> np.ndarray:
    texture = np.random.default_rng(1).integers(0, 255, (HEIGHT // 4, WIDTH // 2, 3), dtype=np.uint8)
    large = cv2.resize(texture, (2 * WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(large[:, shift : shift + WIDTH])


def frames(count: int) -> list[ClipFrame]:
    return [ClipFrame(3 * number, number * 100_000_000, picture(2 * number)) for number in range(count)]


def masks_of(frame: ClipFrame, ids: np.ndarray, **categories: str) -> MaskFrame:
    named = {int(name[1:]): category for name, category in categories.items()}
    return MaskFrame(
        frame_index=frame.frame_index,
        timestamp_ns=frame.timestamp_ns,
        instance_ids=ids.astype(np.uint16),
        instances=tuple(
            MaskInstance(
                instance_id=int(number),
                category=named.get(int(number), "object"),
                score=0.5,
                side="left" if named.get(int(number)) == "hand" else "",
            )
            for number in np.unique(ids)
            if number
        ),
    )


def two_things(frame: ClipFrame, *, second: int = 3) -> MaskFrame:
    ids = np.zeros((HEIGHT, WIDTH), np.uint16)
    ids[10:30, 20:60] = 1
    ids[40:, :] = second
    return masks_of(frame, ids, i1="hand")


def record(folder: Path, found: Sequence[MaskFrame], shown: Sequence[ClipFrame]) -> RecordedMasks:
    def track(stream: Iterator[ClipFrame]) -> Iterator[MaskFrame]:
        for masks, _ in zip(found, stream, strict=False):
            yield masks

    return record_masks(
        iter(shown),
        track,
        frame_index=[frame.frame_index for frame in shown],
        vocabulary=MASK_CATEGORIES,
        path=folder.joinpath,
    )


def stored(folder: Path) -> dict[int, np.ndarray]:
    with (folder / "masks.tar").open("rb") as file:
        archive = FrameArchive(file, FrameArchiveIndex.read(folder / "masks.parquet"))
        return {entry.frame_index: decode_png(archive.read(entry.frame_index)) for entry in archive}


def test_pixels_are_instance_ids_and_the_table_says_where_they_are(tmp_path: Path) -> None:
    shown = frames(3)
    recorded = record(tmp_path, [two_things(frame) for frame in shown], shown)
    ids = stored(tmp_path)
    assert list(ids) == [0, 3, 6] and ids[3].dtype == np.uint8 and recorded.bit_depth == 8
    assert np.array_equal(ids[3], two_things(shown[1]).instance_ids)
    table = pq.read_table(tmp_path / "tracks.parquet")
    assert table.schema == TRACK_SCHEMA
    rows = table.to_pylist()
    assert len(rows) == 6
    hand = rows[0]
    assert (hand["instance_id"], hand["category"], hand["side"], hand["frame_index"]) == (
        1,
        "hand",
        "left",
        0,
    )
    assert [hand[name] for name in ("left", "top", "right", "bottom")] == [20, 10, 60, 30]
    assert hand["area_share"] == pytest.approx(20 * 40 / (WIDTH * HEIGHT))
    assert recorded.counts["frames"] == 3 and recorded.counts["instances"] == 2
    assert recorded.counts["hand_frame_share"] == 1.0
    share = (20 * 40 + 24 * WIDTH) / (WIDTH * HEIGHT)
    assert recorded.counts["mean_segmented_share"] == pytest.approx(share, abs=1e-4)
    assert recorded.measurements.largest_share == pytest.approx([24 / HEIGHT] * 3)
    assert 0 < len(recorded.contact_sheet) < 50_000


def test_an_id_above_255_makes_the_whole_archive_16_bit(tmp_path: Path) -> None:
    shown = frames(3)
    found = [two_things(frame, second=3 if frame.frame_index < 6 else 700) for frame in shown]
    recorded = record(tmp_path, found, shown)
    ids = stored(tmp_path)
    assert recorded.bit_depth == 16 and {image.dtype for image in ids.values()} == {np.dtype(np.uint16)}
    for masks in found:
        assert np.array_equal(ids[masks.frame_index], masks.instance_ids)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "masks.parquet",
        "masks.tar",
        "tracks.parquet",
    ]


def test_the_sidecar_says_what_ids_mean(tmp_path: Path) -> None:
    shown = frames(4)
    found = [two_things(frame, second=3 if frame.frame_index < 6 else 4) for frame in shown]
    recorded = record(tmp_path, found, shown)
    document = categories_document(
        recorded,
        vocabulary=MASK_CATEGORIES,
        backend=BackendInfo(task="masks", backend="regions_flow", model="regions 1"),
        resolution=(WIDTH, HEIGHT),
        frames_per_second=5.0,
    )
    read = json.loads(json_document(document))
    assert read == document
    assert read["vocabulary"] == list(MASK_CATEGORIES) and read["bit_depth"] == 8
    assert read["backend"]["name"] == "regions_flow"
    hand = read["instances"]["1"]
    assert (hand["category"], hand["side"], hand["first_frame"], hand["last_frame"]) == ("hand", "left", 0, 9)
    assert (read["instances"]["3"]["last_frame"], read["instances"]["4"]["first_frame"]) == (3, 6)


def test_verdicts_have_a_row_per_frame(tmp_path: Path) -> None:
    shown = frames(2)
    recorded = record(tmp_path, [two_things(frame) for frame in shown], shown)
    verdicts = {"segmented_area": (GateOutcome.PASSED, GateOutcome.FAILED)}
    write_verdicts(recorded.measurements, verdicts, tmp_path / "verdicts.parquet")
    table = pq.read_table(tmp_path / "verdicts.parquet").to_pydict()
    assert table["frame_index"] == [0, 3] and table["segmented_area"] == ["passed", "failed"]
    assert table["consistency_iou"][0] is None and 0 <= table["consistency_iou"][1] <= 1


def wrong_category(shown: Sequence[ClipFrame]) -> Iterable[MaskFrame]:
    yield masks_of(shown[0], np.full((HEIGHT, WIDTH), 5), i5="spaceship")


def other_category_later(shown: Sequence[ClipFrame]) -> Iterable[MaskFrame]:
    yield masks_of(shown[0], np.full((HEIGHT, WIDTH), 5), i5="tool")
    yield masks_of(shown[1], np.full((HEIGHT, WIDTH), 5), i5="food")


def other_size(shown: Sequence[ClipFrame]) -> Iterable[MaskFrame]:
    yield masks_of(shown[0], np.full((HEIGHT // 2, WIDTH // 2), 5))


def other_frame(shown: Sequence[ClipFrame]) -> Iterable[MaskFrame]:
    yield masks_of(shown[1], np.full((HEIGHT, WIDTH), 5))


def too_few(shown: Sequence[ClipFrame]) -> Iterable[MaskFrame]:
    yield masks_of(shown[0], np.full((HEIGHT, WIDTH), 5))


@pytest.mark.parametrize("answer", [wrong_category, other_category_later, other_size, other_frame, too_few])
def test_answers_that_break_the_contract_are_refused(tmp_path: Path, answer: object) -> None:
    shown = frames(2)

    def track(stream: Iterator[ClipFrame]) -> Iterator[MaskFrame]:
        list(stream)
        yield from answer(shown)  # type: ignore[operator]

    with pytest.raises(ValueError, match="expected"):
        record_masks(
            iter(shown), track, frame_index=[0, 3], vocabulary=MASK_CATEGORIES, path=tmp_path.joinpath
        )
    assert not (tmp_path / "tracks.parquet").exists()


def test_a_backend_may_look_ahead(tmp_path: Path) -> None:
    shown = frames(5)

    def track(stream: Iterator[ClipFrame]) -> Iterator[MaskFrame]:
        for frame in list(stream):
            yield two_things(frame)

    recorded = record_masks(
        iter(shown),
        track,
        frame_index=[frame.frame_index for frame in shown],
        vocabulary=MASK_CATEGORIES,
        path=tmp_path.joinpath,
    )
    assert len(recorded.measurements) == 5


def test_a_clip_without_frames_leaves_an_empty_archive(tmp_path: Path) -> None:
    recorded = record(tmp_path, [], [])
    assert stored(tmp_path) == {} and recorded.counts["frames"] == 0
    assert pq.read_table(tmp_path / "tracks.parquet").num_rows == 0


def test_masks_that_move_with_the_picture_are_consistent_and_new_ids_are_not() -> None:
    before = np.ones((HEIGHT, WIDTH), np.uint16)
    before[:, 40:] = 2
    now = np.ones((HEIGHT, WIDTH), np.uint16)
    now[:, 36:] = 2
    assert motion_compensated_iou(before, now, picture(0), picture(4)) > 0.95
    assert motion_compensated_iou(before, now + 7, picture(0), picture(4)) == 0
    half = now.copy()
    half[: HEIGHT // 2] = 9
    assert 0.3 < motion_compensated_iou(before, half, picture(0), picture(4)) < 0.7


def test_unrelated_pictures_and_empty_masks_cannot_be_compared() -> None:
    ids = np.ones((HEIGHT, WIDTH), np.uint16)
    noise = np.random.default_rng(9).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    assert np.isnan(motion_compensated_iou(ids, ids, picture(), noise))
    assert np.isnan(motion_compensated_iou(0 * ids, 0 * ids, picture(), picture()))


@pytest.mark.parametrize("size", [(20, 320), (2, 2), (1, 50)])
def test_unrelated_pictures_of_any_size_are_never_called_consistent(size: tuple[int, int]) -> None:
    ids = np.ones(size, np.uint16)
    dark = np.random.default_rng(1).integers(0, 60, (*size, 3), dtype=np.uint8)
    light = np.random.default_rng(2).integers(160, 255, (*size, 3), dtype=np.uint8)
    assert np.isnan(motion_compensated_iou(ids, ids, dark, light))


def test_colours_of_ids_differ_from_their_neighbours() -> None:
    palette = instance_palette().astype(int)
    assert palette.shape == (256, 3) and not palette[0].any()
    assert (np.abs(np.diff(palette[1:], axis=0)).sum(axis=1) > 60).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_areas_and_boxes_of_any_map(height: int, width: int, seed: int) -> None:
    ids = np.random.default_rng(seed).integers(0, 4, (height, width)).astype(np.uint16)
    areas, boxes = _extents(ids)
    for number in np.unique(ids):
        rows, columns = np.nonzero(ids == number)
        assert areas[number] == rows.size
        assert boxes[number].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
