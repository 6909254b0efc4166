"""The SDK on local deliveries: clips with all their layers, streams from clips and from shards, what is damaged."""

from __future__ import annotations

import functools
import gzip
import json
import pickle
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ego_assets.delivery.egodata import Dataset, EgoDataError
from ego_assets_tests.delivered_clips import FRAME_NS, STRIDE, clip_id_of, depth_of, make_clip, mask_of
from ego_assets_tests.delivered_folders import write_correction, write_delivery

CLIPS = [
    make_clip(0, split="train", steps=5),
    make_clip(1, split="train", activity="typing"),
    make_clip(2, split="test"),
    make_clip(3, split="train", layers=("frames", "hand_object")),
]
STEPS = 5 + 4 + 4 + 4


@pytest.fixture(scope="module")
def deliveries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same clips in each format, and in shards of a few samples."""
    root = tmp_path_factory.mktemp("deliveries")
    for name in ("folder", "archive", "webdataset"):
        write_delivery(root / name, CLIPS, formats=(name,))
    return root


def key_of(step: dict[str, Any]) -> tuple[str, int]:
    return step["clip_id"], step["frame_index"]


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_a_clip_has_all_its_layers(deliveries: Path, form: str) -> None:
    with Dataset(deliveries / form).load_clip(clip_id_of(0)) as clip:
        assert (len(clip), clip.info["split"], clip.clip_id) == (5, "train", clip_id_of(0))
        assert clip.frame_index.tolist() == [0, 6, 12, 18, 24]
        assert clip.timestamps_ns[2] == 12 * FRAME_NS
        assert (clip.rgb[3].shape, clip.rgb[3].dtype) == ((48, 64, 3), np.uint8)
        assert clip.depth[2].dtype == np.uint16
        assert np.array_equal(clip.depth[2], depth_of(0, 2)), "16 bits, exactly"
        assert (clip.depth_info["unit"], clip.depth_info["scale"]) == ("millimetre", "metric")
        assert (clip.confidence[0].dtype, int(clip.confidence[0][0, 0])) == (np.uint8, 200)
        assert np.array_equal(clip.mask[-1], mask_of(4)), "ids, not colours"
        assert clip.categories == {"1": "object", "2": "hand"}
        assert clip.hands[1]["right_hand_state"] == "grasp"
        assert clip.captions[0]["text"] == "A hand holds an object."
        assert clip.actions[0]["label"] == "cooking"
        assert clip.table("embedding.parquet")["vector"][0].as_py() == [0.5] * 768
        assert clip.table("kinematics.parquet", None) is None
        assert clip.metadata["camera"]["width"] == 64
        assert len(clip.rgb[1:3]) == 2


def test_pictures_between_the_steps_stay_reachable(tmp_path: Path) -> None:
    """Where the metadata state each layer's own frames."""
    clip = make_clip(0)
    write_delivery(tmp_path, [clip], formats=("folder",))
    path = tmp_path / clip.clip_id / "metadata.json"
    metadata = json.loads(path.read_text())
    own = metadata["time_grid"]
    metadata["layers"] = {"frames": {"time_grid": own}}
    metadata["time_grid"] = {
        **own, "frame_index": own["frame_index"][::2], "timestamps_ns": own["timestamps_ns"][::2],
    }  # fmt: skip
    path.write_text(json.dumps(metadata))
    loaded = Dataset(tmp_path).load_clip(clip.clip_id)
    assert (len(loaded.rgb), len(loaded.all_frames["rgb"])) == (2, 4)
    assert loaded.all_frames["rgb"].timestamps_ns.tolist() == own["timestamps_ns"]
    assert np.array_equal(loaded.all_frames["rgb"][2], loaded.rgb[1])
    assert len(loaded.all_frames["depth"]) == 2, "what states nothing has the clip's steps"


def test_streams_from_clips_archives_and_shards_say_the_same(deliveries: Path) -> None:
    found = {}
    for form in ("folder", "archive", "webdataset"):
        steps = {key_of(step): step for step in Dataset(deliveries / form).stream()}
        assert len(steps) == STEPS
        found[form] = steps
    for key, one in found["folder"].items():
        for other in (found["archive"][key], found["webdataset"][key]):
            assert one.keys() == other.keys()
            for name in one.keys() - {"metadata"}:
                assert np.array_equal(one[name], other[name]), name
            for said in ("camera", "frame_index", "clip_id"):
                assert one["metadata"][said] == other["metadata"][said]
            if "depth" in one:
                assert one["metadata"]["depth"]["unit"] == other["metadata"]["depth"]["unit"] == "millimetre"
                assert one["metadata"]["categories"] == other["metadata"]["categories"]
    step = found["webdataset"][clip_id_of(0), 2 * STRIDE]
    assert (step["step"], step["timestamp_ns"], step["action"]) == (2, 12 * FRAME_NS, "cooking")
    assert step["caption"] == "A hand holds an object."
    assert found["webdataset"][clip_id_of(0), 4 * STRIDE]["action"] == ""


@pytest.mark.parametrize("form", ["folder", "webdataset"])
def test_conditions_and_fields_choose_the_steps(deliveries: Path, form: str) -> None:
    dataset = Dataset(deliveries / form)
    assert Counter(s["clip_id"] for s in dataset.stream(split="train", activity="cooking")) == {
        clip_id_of(0): 5, clip_id_of(3): 4,
    }  # fmt: skip
    assert {s["clip_id"] for s in dataset.stream(complete=["depth", "segmentation"], split="train")} == {
        clip_id_of(0), clip_id_of(1),
    }  # fmt: skip
    steps = list(dataset.stream(fields=["rgb", "depth"], split="train"))
    assert len(steps) == 9 and not any({"mask", "hands"} & step.keys() for step in steps)
    assert list(dataset.stream(activity="none")) == []
    assert len(list(dataset.stream(collector_id=["c001", "c002"], split=None))) == STEPS
    with pytest.raises(ValueError, match="colector"):
        dataset.stream(colector="c001")


def test_batches_stack_what_has_one_shape(deliveries: Path) -> None:
    batches = list(Dataset(deliveries / "webdataset").stream(batch=4, split="test"))
    assert len(batches) == 1
    [batch] = batches
    assert (batch["rgb"].shape, batch["depth"].shape, batch["depth"].dtype) == (
        (4, 48, 64, 3),
        (4, 48, 64),
        np.uint16,
    )
    assert batch["frame_index"].tolist() == sorted(batch["frame_index"].tolist()) or batch["step"].shape == (
        4,
    )
    assert isinstance(batch["caption"], list) and isinstance(batch["hands"][0], dict)
    mixed = list(Dataset(deliveries / "folder").stream(batch=6))
    assert [len(batch["clip_id"]) for batch in mixed] == [6, 6, 5]
    assert mixed[-1]["depth"][-1] is None, "a clip without depth"


@settings(max_examples=40, deadline=None)
@given(
    form=st.sampled_from(["folder", "webdataset"]),
    readers=st.integers(1, 7),
    shuffle=st.sampled_from([0, 1, 3, 100]),
    seeds=st.lists(st.integers(0, 99), min_size=7, max_size=7),
)
def test_readers_get_every_step_once_together(
    deliveries: Path, form: str, readers: int, shuffle: int, seeds: list[int]
) -> None:
    dataset = cached(deliveries / form)
    parts = [
        [key_of(s) for s in dataset.stream(part=(n, readers), shuffle=shuffle, seed=seeds[n], fields=["rgb"])]
        for n in range(readers)
    ]
    counts = Counter(key for part in parts for key in part)
    assert len(counts) == STEPS and set(counts.values()) == {1}


@functools.cache
def cached(folder: Path) -> Dataset:
    return Dataset(folder)


def test_the_seed_decides_the_order(deliveries: Path) -> None:
    dataset = Dataset(deliveries / "webdataset")

    def order(**options: Any) -> list[tuple[str, int]]:
        return [key_of(step) for step in dataset.stream(**options)]

    assert order() == order()
    assert order(shuffle=100, seed=1) == order(shuffle=100, seed=1)
    assert order(shuffle=100, seed=1) != order(shuffle=100, seed=2)
    assert sorted(order(shuffle=100, seed=1)) == sorted(order())


@pytest.mark.parametrize("place", ["beside", "above"])
def test_withdrawn_clips_are_left_out_with_a_warning(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "v0002"
    write_delivery(folder, CLIPS, version="v0002")
    listed = folder if place == "beside" else tmp_path
    write_correction(listed / "corrections.parquet", clip_id_of(1), version="v0003")
    with pytest.warns(UserWarning, match=clip_id_of(1)):
        dataset = Dataset(folder)
    assert len(dataset) == 3
    assert clip_id_of(1) not in {step["clip_id"] for step in dataset.stream()}
    with pytest.raises(KeyError):
        dataset.load_clip(clip_id_of(1))
    assert len(Dataset(folder, include_withdrawn=True)) == 4
    write_correction(listed / "corrections.parquet", clip_id_of(1), version="v0002")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(Dataset(folder)) == 4, "this version is corrected already"
        write_correction(listed / "corrections.parquet", clip_id_of(1), version="v0003", action="replaced")
        assert len(Dataset(folder)) == 4


def test_clips_recalled_from_an_earlier_delivery_are_left_out(tmp_path: Path) -> None:
    write_delivery(tmp_path, CLIPS, formats=("folder",))
    (tmp_path / "RECALLED.json").write_text(json.dumps({"recalled": [{"clip_id": clip_id_of(0)}]}))
    with pytest.warns(UserWarning, match="1 clips were withdrawn"):
        assert len(Dataset(tmp_path)) == 3


def test_damaged_shards_are_named(tmp_path: Path) -> None:
    write_delivery(tmp_path, CLIPS[:1], formats=("webdataset",))
    [shard] = (tmp_path / "webdataset").glob("*.tar")
    whole = shard.read_bytes()
    dataset = Dataset(tmp_path)
    for broken in (whole[:5000], b"", b"\xff" * 2048, whole[:600] + bytes(100) + whole[700:]):
        shard.write_bytes(broken)
        with pytest.raises(EgoDataError, match="copy it again"):
            list(dataset.stream())
    shard.unlink()
    with pytest.raises(EgoDataError, match=r"train-000000\.tar is not there"):
        list(dataset.stream())


def test_damaged_archives_and_files_are_named(tmp_path: Path) -> None:
    write_delivery(tmp_path, CLIPS[:1], formats=("archive",))
    archive = tmp_path / f"{clip_id_of(0)}.tar.gz"
    whole = archive.read_bytes()
    flipped = bytearray(gzip.decompress(whole))
    flipped[3000] ^= 1
    packed = gzip.compress(bytes(flipped))
    wrong_checksum = packed[:-8] + whole[-8:]
    for broken in (whole[:-100], b"", b"no gzip", wrong_checksum):
        archive.write_bytes(broken)
        with pytest.raises(EgoDataError, match="copy it again"):
            Dataset(tmp_path).load_clip(clip_id_of(0))
    write_delivery(tmp_path / "folder", CLIPS[:1], formats=("folder",))
    loaded = Dataset(tmp_path / "folder").load_clip(clip_id_of(0))
    files = tmp_path / "folder" / clip_id_of(0)
    (files / "depth" / "frame_000006.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (files / "rgb" / "frame_000006.jpg").unlink()
    with pytest.raises(EgoDataError, match=r"frame_000006\.png is damaged"):
        loaded.depth[1]
    with pytest.raises(EgoDataError, match=r"frame_000006\.jpg is not there"):
        loaded.rgb[1]
    (files / "captions.json").write_text("<html>")
    with pytest.raises(EgoDataError, match=r"captions\.json is damaged"):
        Dataset(tmp_path / "folder").load_clip(clip_id_of(0))


def test_newer_formats_ask_for_a_newer_file(tmp_path: Path) -> None:
    write_delivery(tmp_path, CLIPS[:1])
    index = tmp_path / "webdataset" / "index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "format": 9}))
    with pytest.raises(EgoDataError, match="format 9"):
        Dataset(tmp_path).stream()
    path = tmp_path / clip_id_of(0) / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 9}))
    with pytest.raises(EgoDataError, match="format 9"):
        Dataset(tmp_path).load_clip(clip_id_of(0))
    (tmp_path / "manifest.parquet").write_bytes(b"no parquet")
    with pytest.raises(EgoDataError, match=r"manifest\.parquet is damaged"):
        Dataset(tmp_path)


def test_a_dataset_can_be_pickled(deliveries: Path) -> None:
    again = pickle.loads(pickle.dumps(Dataset(deliveries / "webdataset")))
    assert len(list(again.stream(split="test"))) == 4


ALONE = """
import sys

class Only:
    allowed = {"numpy", "pyarrow", "PIL", "egodata", *sys.stdlib_module_names}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in self.allowed:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Only())
sys.path.insert(0, sys.argv[1])
import egodata

for root in sys.argv[2:]:
    dataset = egodata.Dataset(root)
    batches = list(dataset.stream(batch=4, shuffle=10))
    print(len(dataset), sum(len(batch["clip_id"]) for batch in batches))
    try:
        dataset.as_torch().__iter__()
    except ModuleNotFoundError as error:
        assert "torch" in str(error)
"""


def test_the_sdk_needs_nothing_but_numpy_pyarrow_and_pillow(deliveries: Path) -> None:
    roots = [str(deliveries / form) for form in ("folder", "archive", "webdataset")]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, roots[0], *roots],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.split()) == (0, ["4", str(STEPS)] * 3), done.stderr


def test_fields_that_do_not_exist_are_named(tmp_path: Path) -> None:
    write_delivery(tmp_path, [make_clip()])
    with pytest.raises(ValueError, match=r"fields: expected some of \['rgb', .*got \['zz'\]"):
        next(Dataset(tmp_path).stream(fields=["zz"]))
    [step, *_] = Dataset(tmp_path).stream(fields="rgb")
    assert "rgb" in step and "depth" not in step
