"""The stored motion of the camera: what comes back, in which pixels, and what is refused."""

from __future__ import annotations

import io
import json

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.media.motion_table import MOTION_SCHEMA, motion_table, read_motion
from ego_assets.schema.errors import ArtifactCorrupted
from ego_assets.schema.motion import CameraMotion


def some_motion(count: int, seed: int = 0) -> tuple[CameraMotion, npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    motion = CameraMotion(
        positions_xy=rng.normal(0, 100, (count, 2)).cumsum(axis=0),
        change=rng.uniform(0, 2, count).astype(np.float32),
        is_cut=rng.random(count) < 0.2,
        unseen=rng.random(count) < 0.2,
    )
    return motion, np.cumsum(rng.integers(0, 50_000_000, count))


def stored(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


@given(count=st.integers(0, 40), seed=st.integers(0, 99))
def test_what_is_stored_in_its_own_pixels_comes_back_exactly(count: int, seed: int) -> None:
    motion, times = some_motion(count, seed)
    table = motion_table(motion, times, measured_on=(640, 360), resolution=(640, 360))
    again, times_again = read_motion(stored(table))
    assert np.array_equal(again.positions_xy, motion.positions_xy)
    assert np.array_equal(again.change, motion.change)
    assert np.array_equal(again.is_cut, motion.is_cut)
    assert np.array_equal(again.unseen, motion.unseen)
    assert times_again.dtype == np.int64 and np.array_equal(times_again, times)


def test_shifts_are_stored_in_pixels_of_the_proxy() -> None:
    motion, times = some_motion(5)
    table = motion_table(motion, times, measured_on=(1920, 1080), resolution=(1280, 720))
    assert table.column_names == ["frame_index", "timestamp_ns", "x_px", "y_px", "change", "is_cut", "unseen"]
    assert table["frame_index"].to_pylist() == [0, 1, 2, 3, 4]
    assert json.loads(table.schema.metadata[b"resolution"]) == [1280, 720]
    assert np.allclose(table["x_px"].to_numpy(), motion.positions_xy[:, 0] / 1.5)
    smaller, _ = read_motion(stored(table), resolution=(320, 90))
    assert np.allclose(smaller.positions_xy, motion.positions_xy / [6.0, 12.0])
    assert np.array_equal(smaller.change, motion.change)


def test_nothing_but_numbers_of_the_whole_picture_is_stored() -> None:
    motion, times = some_motion(100)
    table = motion_table(motion, times, measured_on=(640, 360), resolution=(640, 360))
    assert table.nbytes <= 100 * (4 * 8 + 4 + 1), "one row of six numbers for each frame"


@pytest.mark.parametrize("sizes", [{"measured_on": (0, 360)}, {"resolution": (640, 0)}])
def test_a_size_without_pixels_is_refused(sizes: dict[str, tuple[int, int]]) -> None:
    motion, times = some_motion(3)
    with pytest.raises(ValueError, match="expected 1 pixel or more"):
        motion_table(motion, times, **{"measured_on": (640, 360), "resolution": (640, 360), **sizes})


def test_times_of_another_clip_are_refused() -> None:
    motion, times = some_motion(3)
    with pytest.raises(ValueError, match=r"timestamps_ns: expected \[3\], got \[2\]"):
        motion_table(motion, times[:2], measured_on=(640, 360), resolution=(640, 360))


def test_files_that_are_no_such_table_are_refused() -> None:
    motion, times = some_motion(3)
    table = motion_table(motion, times, measured_on=(640, 360), resolution=(640, 360))
    good = stored(table)
    bad = (
        b"",
        good[: len(good) // 2],
        stored(table.drop_columns(["change"])),
        stored(table.replace_schema_metadata(None)),
        stored(table.replace_schema_metadata({"resolution": "wide"})),
        stored(table.set_column(2, "x_px", pa.array([0.0, float("nan"), 0.0]))),
    )
    for data in bad:
        with pytest.raises(ArtifactCorrupted, match="make blurred_video again"):
            read_motion(data)
    assert read_motion(good)[0].frame_count == 3
    assert MOTION_SCHEMA.names == table.column_names
