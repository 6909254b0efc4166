"""One delivery, opened by those who will open it: each package in an environment that has it, the hub out of reach."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ego_assets_tests.consumers.conftest import DeliveredVersion
from ego_assets_tests.consumers.truth import CLIPS, HEIGHT, WIDTH

SCRIPTS = Path(__file__).with_name("scripts")
#: Largest difference of a picture's mean between two JPEG decoders, and after H.264 coded it anew; levels of 255.
DECODERS, CODED_ANEW = 0.5, 4.0

Consume = Callable[..., Any]


@pytest.fixture(scope="session")
def consume(tmp_path_factory: pytest.TempPathFactory) -> Consume:
    """Runs a script in an environment and gives what it prints."""
    caches = tmp_path_factory.mktemp("caches")

    def run(python: Path, script: str, *arguments: object) -> Any:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(caches),
            "HF_LEROBOT_HOME": str(caches / "lerobot"),
            "TORCH_HOME": str(caches / "torch"),
            "NO_PROXY": "127.0.0.1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        done = subprocess.run(
            [python, SCRIPTS / script, *map(str, arguments)], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


def check(
    found: Mapping[str, Mapping[str, Any]],
    truth: Mapping[str, Mapping[str, Any]],
    *,
    fields: tuple[str, ...],
    levels: float = DECODERS,
) -> None:
    """Compare samples: all of them there, each of these fields right."""
    assert found.keys() == truth.keys()
    for key, expected in truth.items():
        for field in fields:
            if field == "rgb":
                assert found[key]["rgb"] == pytest.approx(expected["rgb"], abs=levels), key
            else:
                assert found[key][field] == expected[field], (key, field)


EVERYTHING = ("rgb", "depth", "mask", "hands", "caption", "timestamp_ns", "clip_id")


def test_the_delivery_is_worth_opening(delivery: DeliveredVersion) -> None:
    samples = delivery.truth.samples.values()
    assert len(delivery.truth.split) == CLIPS
    assert set(delivery.truth.split.values()) == {"train", "validation", "test"}
    # Comparing digests says little when all pictures are alike.
    assert len({sample["depth"] for sample in samples}) > len(samples) / 2
    assert len({sample["mask"] for sample in samples}) > len(samples) / 2
    assert any(sample["caption"] for sample in samples)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("where", ["folder", "http"])
def test_webdataset_loads_batches(
    consume: Consume,
    delivery: DeliveredVersion,
    address: str,
    consumers_python: Path,
    where: str,
    split: str,
) -> None:
    if where == "http" and split != "train":
        pytest.skip("one split says enough")
    root = address if where == "http" else delivery.folder
    found = consume(consumers_python, "read_webdataset.py", root, split)
    check(found["samples"], delivery.truth.of_split(split), fields=EVERYTHING)
    assert found["shapes"] == [[HEIGHT, WIDTH, 3]]
    assert found["expected"] == len(delivery.truth.samples)


@pytest.mark.parametrize("how", ["download", "stream"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_datasets_4_opens_it_without_code(
    consume: Consume, delivery: DeliveredVersion, consumers_python: Path, split: str, how: str
) -> None:
    found = consume(consumers_python, "read_datasets.py", delivery.folder, split, how)
    check(found["samples"], delivery.truth.of_split(split), fields=EVERYTHING)
    clips = [clip_id for clip_id, its in delivery.truth.split.items() if its == split]
    assert found["units"] == dict.fromkeys(clips, delivery.truth.depth_unit)
    assert found["version"].startswith("4.")


def test_datasets_4_does_not_take_one_delivery_for_another(
    consume: Consume, delivery: DeliveredVersion, other: DeliveredVersion, consumers_python: Path
) -> None:
    for one in (delivery, other):
        found = consume(consumers_python, "read_datasets.py", one.folder, "train", "download")
        check(found["samples"], one.truth.of_split("train"), fields=("clip_id", "depth"))


@pytest.mark.parametrize("how", ["download", "stream"])
def test_datasets_3_opens_it_with_the_script(
    consume: Consume, delivery: DeliveredVersion, datasets3_python: Path, how: str
) -> None:
    found = consume(datasets3_python, "read_datasets_script.py", delivery.folder, "train", how)
    check(found["samples"], delivery.truth.of_split("train"), fields=EVERYTHING)
    assert found["version"].startswith("3.")


def test_lerobot_trains_on_it(consume: Consume, delivery: DeliveredVersion, consumers_python: Path) -> None:
    found = consume(consumers_python, "read_lerobot.py", delivery.folder)
    samples = found["samples"]
    check(
        samples,
        delivery.truth.samples,
        fields=("rgb", "caption", "timestamp_ns", "clip_id"),
        levels=CODED_ANEW,
    )
    right = found["state_names"].index("right_visible")
    for key, sample in samples.items():
        assert sample["shape"] == [3, HEIGHT, WIDTH]
        seen = delivery.truth.samples[key]["hands"]["right_hand_bbox"] is not None
        assert sample["state"][right] == float(seen), key
        assert sample["task"] in found["tasks"]
    assert found["episodes"] == CLIPS
    # The splits are ranges of episodes that cover all of them.
    ends = sorted(tuple(map(int, span.split(":"))) for span in found["splits"].values())
    assert [begin for begin, _ in ends] == [0, *(end for _, end in ends[:-1])]
    assert ends[-1][1] == CLIPS
    names = found["state_names"]
    (key,) = [name for name in found["past"] if name != "observation.state"]
    assert found["past"] == {key: [2, 3, HEIGHT, WIDTH], "observation.state": [3, len(names)]}
    assert found["moved"] > 0
    assert found["subset"] == [0, 2]
    per_clip = len(delivery.truth.samples) // CLIPS
    assert found["subset_steps"] == 2 * per_clip
    means = [sample["rgb"] for sample in samples.values()]
    for channel, mean in enumerate(found["stats"]["mean"]):
        expected = sum(sample[channel] for sample in means) / len(means)
        assert 255 * mean == pytest.approx(expected, abs=CODED_ANEW)


def test_h5py_reads_it(consume: Consume, delivery: DeliveredVersion, consumers_python: Path) -> None:
    found = consume(consumers_python, "read_hdf5.py", delivery.folder)["samples"]
    check(
        found, delivery.truth.samples, fields=("rgb", "depth", "mask", "caption", "timestamp_ns", "clip_id")
    )
    assert {sample["clip_id"]: sample["split"] for sample in found.values()} == delivery.truth.split


def test_plain_python_reads_it(consume: Consume, delivery: DeliveredVersion, consumers_python: Path) -> None:
    found = consume(consumers_python, "read_plain.py", delivery.folder)
    check(found["samples"], delivery.truth.samples, fields=("rgb", "depth", "mask", "hands", "timestamp_ns"))
    check(found["shards"], delivery.truth.samples, fields=("rgb", "depth", "mask"))
    assert found["folders"] == dict.fromkeys(delivery.truth.split, True)
    videos = {row["video_id"].partition("_")[0]: row for row in found["videos"]}
    assert videos.keys() == delivery.truth.split.keys()
    # EgoVid-5M has no test split of its own kind: the column says what the delivery says.
    assert {clip_id: row["split"] for clip_id, row in videos.items()} == delivery.truth.split


def test_pandas_reads_the_manifest(
    consume: Consume, delivery: DeliveredVersion, consumers_python: Path
) -> None:
    found = consume(consumers_python, "read_pandas.py", delivery.folder)
    assert sorted(found["clips"]) == sorted(delivery.truth.split)
    assert found["split"] == delivery.truth.split
    assert found["steps"] == len(delivery.truth.samples)
    assert set(found["collectors"].values()) == {1}
    assert found["missing"] == []


@pytest.mark.parametrize("where", ["folder", "http"])
def test_the_sdk_reads_it(
    consume: Consume, delivery: DeliveredVersion, address: str, consumers_python: Path, where: str
) -> None:
    root = address if where == "http" else delivery.folder
    found = consume(consumers_python, "read_sdk.py", delivery.folder, root, 2)
    truth = delivery.truth.samples
    check(found["samples"], truth, fields=EVERYTHING)
    check(
        found["clips"],
        {key: truth[key] for key in found["clips"]},
        fields=("rgb", "depth", "mask", "hands"),
    )
    assert {key.partition("_")[0] for key in found["clips"]} == delivery.truth.split.keys()
    assert {sample["unit"] for sample in found["clips"].values()} == {delivery.truth.depth_unit}
    check(found["tensors"], delivery.truth.of_split("train"), fields=("rgb", "depth"))
