"""The time steps of a delivered clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.delivery.grid import common_grid, read_grids
from ego_assets.delivery.metadata import TimeGrid
from ego_assets.media.frame_archive import FrameArchiveWriter

FRAME_NS = 33_333_333


def grid(name: str, frames: list[int]) -> TimeGrid:
    index = np.array(frames, np.int64)
    return TimeGrid(name=name, rate_hz=0.0, frame_index=index, timestamps_ns=index * FRAME_NS)


def test_steps_are_the_frames_that_all_layers_have() -> None:
    found = common_grid(
        {
            "frames": grid("frames", list(range(31))),
            "hand_object": grid("hand_object", list(range(0, 31, 3))),
            "depth_maps": grid("depth_maps", list(range(0, 31, 6))),
        }
    )
    assert found.frame_index.tolist() == list(range(0, 31, 6))
    assert found.timestamps_ns.tolist() == [frame * FRAME_NS for frame in range(0, 31, 6)]
    assert found.rate_hz == pytest.approx(5.0, abs=0.001)
    assert found.name == "frames, hand_object, depth_maps"


def test_layers_without_a_common_frame_leave_the_pictures_and_say_so() -> None:
    found = common_grid({"frames": grid("frames", [0, 2, 4]), "masks": grid("masks", [1, 3])})
    assert found.frame_index.tolist() == [0, 2, 4]
    assert "masks" in found.name and "nothing in common" in found.name


def test_a_clip_without_pictures_has_no_steps() -> None:
    found = common_grid({"masks": grid("masks", [1, 3])})
    assert found.frame_index.size == 0 and found.name == "no pictures"


@given(st.lists(st.sets(st.integers(0, 40), min_size=1), min_size=1, max_size=4))
def test_every_step_is_in_every_layer(layers: list[set[int]]) -> None:
    names = ("frames", "depth_maps", "masks", "hand_object")
    grids = {name: grid(name, sorted(frames)) for name, frames in zip(names, layers, strict=False)}
    found = set(common_grid(grids).frame_index.tolist())
    assert found == (set.intersection(*layers) or layers[0])


def test_grids_are_read_from_the_indexes(tmp_path: Path) -> None:
    with FrameArchiveWriter(tmp_path / "depth.tar", tmp_path / "depth.parquet") as archive:
        for frame in (0, 6, 12):
            archive.add(frame, frame * FRAME_NS, b"x", extension="png")
    asked: list[tuple[str, str]] = []

    def read(layer: str, file: str) -> bytes:
        asked.append((layer, file))
        return (tmp_path / file).read_bytes()

    found = read_grids({"depth_maps", "captions"}, read)
    assert asked == [("depth_maps", "depth.parquet")]
    assert found["depth_maps"].frame_index.tolist() == [0, 6, 12]
    assert found["depth_maps"].rate_hz == pytest.approx(5.0, abs=0.001)
