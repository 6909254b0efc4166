"""The Parquet files of a delivery, read with nothing but pyarrow and Pillow."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from ego_assets.delivery.clip_source import DeliveredClip
from ego_assets.delivery.definition import DeliveryDefinition
from ego_assets.delivery.huggingface import ROWS_PER_GROUP, check, write
from ego_assets.delivery.journal import Journal
from ego_assets_tests.delivered_clips import depth_of, make_clip, mask_of

DEFINITION = DeliveryDefinition(formats=("hf",))
SMALL = DeliveryDefinition(formats=("hf",), shard_bytes=1_000_000)


def written(folder: Path, clips: list[DeliveredClip], definition: DeliveryDefinition = DEFINITION) -> Any:
    return write(folder, clips, definition=definition, journal=Journal(folder))


def rows(folder: Path, pattern: str = "data/*.parquet") -> list[dict[str, Any]]:
    return [row for path in sorted((folder / "hf").glob(pattern)) for row in pq.read_table(path).to_pylist()]


def test_a_row_per_step_with_its_pictures(tmp_path: Path) -> None:
    clip = make_clip(2, steps=4)
    written(tmp_path, [clip])
    third = rows(tmp_path)[2]
    assert (third["clip_id"], third["step"], third["frame_index"]) == (clip.clip_id, 2, 12)
    assert third["rgb"]["bytes"] == clip.files.read("rgb/frame_000012.jpg"), "copied, not encoded"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(third["depth"]["bytes"]))), depth_of(2, 2))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(third["mask"]["bytes"]))), mask_of(2))
    assert (third["right_hand_state"], third["left_hand_state"]) == ("grasp", None)
    assert json.loads(third["hands"])["frame_index"] == 12
    assert (third["caption"], third["action"]) == ("It is put down.", None)


def test_pictures_are_declared_as_such(tmp_path: Path) -> None:
    written(tmp_path, [make_clip()])
    schema = pq.read_schema(tmp_path / "hf" / "data" / "train-00000.parquet")
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == schema.names
    assert {name for name, kind in features.items() if kind["_type"] == "Image"} == {
        "rgb", "depth", "confidence", "mask",
    }  # fmt: skip


def test_the_card_names_the_files_of_every_split(tmp_path: Path) -> None:
    clips = [make_clip(number, split=split) for number, split in enumerate(("train", "train", "test"))]
    written(tmp_path, clips)
    head = yaml.safe_load((tmp_path / "hf" / "README.md").read_text().split("---")[1])
    configs = {config["config_name"]: config for config in head["configs"]}
    assert configs["steps"]["default"] is True
    for config in configs.values():
        found = {
            entry["split"]: [path.name for path in (tmp_path / "hf").glob(entry["path"])]
            for entry in config["data_files"]
        }
        assert set(found) == {"train", "test"} and all(found.values())
    by_split = {row["clip_id"] for row in rows(tmp_path, "data/test-*.parquet")}
    assert by_split == {clips[2].clip_id}
    listed = rows(tmp_path, "clips/train.parquet")
    assert [row["clip_id"] for row in listed] == [clips[0].clip_id, clips[1].clip_id]
    assert json.loads(listed[0]["depth_reading"])["unit"] == "millimetre"


def test_files_are_cut_between_clips_and_rows_in_small_groups(tmp_path: Path) -> None:
    clips = [make_clip(number, steps=150) for number in range(4)]
    counts = written(tmp_path, clips, SMALL)
    paths = sorted((tmp_path / "hf" / "data").iterdir())
    assert len(paths) == counts["files"] > 1 and counts["samples"] == 600
    for path in paths:
        metadata = pq.read_metadata(path)
        assert all(metadata.row_group(n).num_rows <= ROWS_PER_GROUP for n in range(metadata.num_row_groups))
    seen = [
        {row["clip_id"] for row in pq.read_table(path, columns=["clip_id"]).to_pylist()} for path in paths
    ]
    assert sum(len(part) for part in seen) == 4, "no clip is in two files"


def test_finished_files_are_not_written_again(tmp_path: Path) -> None:
    clips = [make_clip(number) for number in range(2)]
    written(tmp_path, clips)
    again = [make_clip(number) for number in range(2)]
    written(tmp_path, again)
    assert not any(path.startswith("rgb/") for clip in again for path in clip.files.reads)  # type: ignore[attr-defined]


def test_layers_that_a_clip_lacks_are_empty(tmp_path: Path) -> None:
    written(tmp_path, [make_clip(steps=1, layers=("frames",))])
    [row] = rows(tmp_path)
    assert row["depth"] is row["mask"] is row["hands"] is row["caption"] is None
    assert rows(tmp_path, "clips/*.parquet")[0]["depth_reading"] is None


def test_nothing_says_where_a_clip_came_from(tmp_path: Path) -> None:
    written(tmp_path, [make_clip()])
    for path in (tmp_path / "hf").rglob("*"):
        if path.is_file():
            assert b"secret_upload_name" not in path.read_bytes()


@pytest.mark.parametrize("damage", ["cut", "clips", "rows"])
def test_damage_is_found(tmp_path: Path, damage: str) -> None:
    clips = [make_clip(number) for number in range(2)]
    written(tmp_path, clips)
    expected = {clip.clip_id for clip in clips}
    assert check(tmp_path, expected_clips=expected) == []
    assert "missing" in check(tmp_path, expected_clips={*expected, "x"})[0]
    data = tmp_path / "hf" / "data" / "train-00000.parquet"
    if damage == "cut":
        data.write_bytes(data.read_bytes()[:-100])
    elif damage == "clips":
        (tmp_path / "hf" / "clips" / "train.parquet").unlink()
    else:
        pq.write_table(pq.read_table(data).slice(1), data)
    assert check(tmp_path, expected_clips=expected)
