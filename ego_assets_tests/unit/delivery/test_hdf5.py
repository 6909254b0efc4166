"""HDF5 files of a delivery, read with h5py."""

from __future__ import annotations

import io
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from ego_assets.delivery.clip_source import DeliveredClip
from ego_assets.delivery.definition import DeliveryDefinition
from ego_assets.delivery.hdf5 import check, file_name, write
from ego_assets.delivery.journal import Journal
from ego_assets_tests.delivered_clips import FRAME_NS, STRIDE, depth_of, make_clip, mask_of, rgb_of

DEFINITION = DeliveryDefinition(formats=("hdf5",))


def written(folder: Path, *clips: DeliveredClip) -> list[Path]:
    write(folder, clips, definition=DEFINITION, journal=Journal(folder))
    return [folder / file_name(clip.clip_id) for clip in clips]


def test_a_row_per_step_with_everything_of_its_frame(tmp_path: Path) -> None:
    clip = make_clip(3, steps=4, split="train")
    [path] = written(tmp_path, clip)
    with h5py.File(path) as file:
        assert file["frame_index"][:].tolist() == [0, 6, 12, 18]
        assert file["timestamps_ns"][2] == 2 * STRIDE * FRAME_NS
        picture = np.asarray(Image.open(io.BytesIO(file["rgb"][2].tobytes())))
        assert np.abs(picture.astype(int) - rgb_of(3, 2)).max() < 25
        assert np.array_equal(file["depth"][2], depth_of(3, 2)) and file["depth"].dtype == np.uint16
        assert np.array_equal(file["mask"][2], mask_of(2))
        assert file["has_depth"][:].all() and file["has_mask"][:].all() and file["has_hands"][:].all()
        assert (file["caption"][3].decode(), file["action"][0].decode()) == ("It is put down.", "cooking")
        states = list(file["right_hand_state"].attrs["values"])
        assert states[file["right_hand_state"][0]] == "grasp"
        assert file["left_hand_state"][0] == -1
        assert file["right_contact_box_xyxy"][1].tolist() == [5, 10, 15, 20]
        assert np.isnan(file["left_hand_box_xyxy"][1]).all()
        assert file["right_landmarks_xy"].shape == (4, 21, 2)
        assert file["embedding"].shape == (768,)
        assert json.loads(file.attrs["metadata"])["clip_id"] == clip.clip_id
        assert json.loads(file.attrs["depth_reading"])["unit"] == "millimetre"
        assert file.attrs["split"] == "train"


def test_a_step_without_a_layer_says_so(tmp_path: Path) -> None:
    clip = make_clip(steps=3)
    for path in ("depth/frame_000006.png", "hand_object/frame_000006.json"):
        del clip.files.contents[path]  # type: ignore[attr-defined]
    [path] = written(tmp_path, clip)
    with h5py.File(path) as file:
        assert file["has_depth"][:].tolist() == file["has_hands"][:].tolist() == [True, False, True]
        assert not file["depth"][1].any()
        assert file["right_hand_state"][1] == -1 and np.isnan(file["right_hand_score"][1])


def test_a_clip_without_layers_has_no_empty_datasets(tmp_path: Path) -> None:
    [path] = written(tmp_path, make_clip(layers=("frames",)))
    with h5py.File(path) as file:
        assert set(file) == {"frame_index", "timestamps_ns", "rgb", "caption", "action"}


def test_equal_clips_give_equal_files(tmp_path: Path) -> None:
    [first], [second] = (written(tmp_path / name, make_clip()) for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_finished_clips_are_not_written_again(tmp_path: Path) -> None:
    clips = [make_clip(number) for number in range(2)]
    written(tmp_path, clips[0])
    before = len(clips[0].files.reads)  # type: ignore[attr-defined]
    written(tmp_path, *clips)
    assert len(clips[0].files.reads) == before  # type: ignore[attr-defined]


def test_rasters_of_two_sizes_in_one_clip_are_an_error(tmp_path: Path) -> None:
    clip = make_clip(steps=2)
    files = clip.files.contents  # type: ignore[attr-defined]
    small = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(small, "PNG")
    files["depth/frame_000006.png"] = small.getvalue()
    with pytest.raises(ValueError, match=r"depth/frame_000006\.png: expected \[48, 64\]"):
        written(tmp_path, clip)
    assert not list((tmp_path / "hdf5").iterdir())


def test_what_was_written_passes_its_check_and_damage_is_found(tmp_path: Path) -> None:
    clips = [make_clip(number) for number in range(2)]
    paths = written(tmp_path, *clips)
    expected = {clip.clip_id for clip in clips}
    assert check(tmp_path, expected_clips=expected) == []
    with h5py.File(paths[0], "a") as file:
        del file["caption"]
        file["caption"] = ["a"]
    paths[1].write_bytes(paths[1].read_bytes()[:500])
    problems = check(tmp_path, expected_clips={*expected, "x"})
    assert len(problems) == 3 and "caption" in "".join(problems) and "x is missing" in "".join(problems)
