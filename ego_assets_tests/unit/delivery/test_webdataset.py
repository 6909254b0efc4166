"""WebDataset shards, read with nothing but the standard library and Pillow."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ego_assets.delivery.clip_source import DeliveredClip
from ego_assets.delivery.definition import DeliveryDefinition
from ego_assets.delivery.journal import Journal
from ego_assets.delivery.webdataset import INDEX, MIXED_CLIPS, check, write
from ego_assets_tests.delivered_clips import FRAME_NS, STRIDE, depth_of, make_clip, mask_of

DEFINITION = DeliveryDefinition(formats=("webdataset",), seed=3)
SMALL = DeliveryDefinition(formats=("webdataset",), seed=3, shard_bytes=1_000_000)


def samples_of(folder: Path) -> dict[str, dict[str, bytes]]:
    """Members by sample, over all shards in the order of their names."""
    found: dict[str, dict[str, bytes]] = defaultdict(dict)
    for shard in sorted((folder / "webdataset").glob("*.tar")):
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                key, _, name = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None and name not in found[key]
                found[key][name] = file.read()
    return found


def written(folder: Path, clips: list[DeliveredClip], definition: DeliveryDefinition = DEFINITION) -> Any:
    journal = Journal(folder)
    write(folder, clips, definition=definition, journal=journal)
    return json.loads((folder / INDEX).read_text())


def test_a_sample_holds_everything_of_its_frame(tmp_path: Path) -> None:
    written(tmp_path, [make_clip(0), make_clip(1, layers=("frames",))])
    samples = samples_of(tmp_path)
    assert len(samples) == 8
    first = make_clip(0)
    sample = samples[f"{first.clip_id}_{2 * STRIDE:06d}"]
    assert sorted(sample) == [
        "caption.txt", "depth.png", "hands.json", "mask.png", "metadata.json", "rgb.jpg",
    ]  # fmt: skip
    assert sample["rgb.jpg"] == first.files.read(f"rgb/frame_{2 * STRIDE:06d}.jpg"), "copied, not encoded"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(sample["depth.png"]))), depth_of(0, 2))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(sample["mask.png"]))), mask_of(2))
    said = json.loads(sample["metadata.json"])
    assert (said["frame_index"], said["timestamp_ns"], said["step"]) == (12, 12 * FRAME_NS, 2)
    assert said["depth"]["unit"] == "millimetre" and said["categories"] == {"1": "object", "2": "hand"}
    assert sample["caption.txt"] == b"It is put down."
    bare = samples[f"{make_clip(1).clip_id}_000000"]
    assert sorted(bare) == ["metadata.json", "rgb.jpg"]


def test_shards_are_cut_at_their_size_and_hold_one_split_each(tmp_path: Path) -> None:
    clips = [make_clip(number, steps=30, split="train" if number % 3 else "test") for number in range(6)]
    index = written(tmp_path, clips, SMALL)
    assert len(index["shards"]) > 2
    splits = {clip.clip_id: clip.split for clip in clips}
    for shard in index["shards"]:
        assert (
            (tmp_path / "webdataset" / shard["name"]).stat().st_size == shard["bytes"] <= 1_010_240 + 10_240
        )
        assert {splits[clip_id] for clip_id in shard["clips"]} == {shard["split"]}
        assert shard["name"].startswith(shard["split"])
    assert sum(shard["samples"] for shard in index["shards"]) == index["samples"] == 180
    assert len(samples_of(tmp_path)) == 180


def test_all_samples_of_a_shard_have_the_same_members(tmp_path: Path) -> None:
    late = make_clip(2)
    captions = json.loads(late.files.read("captions.json"))
    captions["captions"] = captions["captions"][1:]
    late.files.contents["captions.json"] = json.dumps(captions).encode()  # type: ignore[attr-defined]
    index = written(tmp_path, [make_clip(0, layers=("frames",)), make_clip(1), late])
    assert [shard["name"] for shard in index["shards"]] == ["all-000000.tar", "all-000001.tar"]
    assert len(index["shards"][0]["members"]) > len(index["shards"][1]["members"]) == 2
    for shard in index["shards"]:
        with tarfile.open(tmp_path / "webdataset" / shard["name"], "r:") as tar:
            found = [name.partition(".") for name in tar.getnames()]
        for key in {key for key, _, _ in found}:
            assert {name for start, _, name in found if start == key} == set(shard["members"])
    empty = samples_of(tmp_path)[f"{late.clip_id}_000000"]
    assert empty["caption.txt"] == b"", "no caption covers it"


def test_the_order_is_mixed_and_that_of_the_seed(tmp_path: Path) -> None:
    clips = [make_clip(number, steps=6) for number in range(4)]
    written(tmp_path / "a", clips)
    written(tmp_path / "b", list(reversed(clips)))
    written(tmp_path / "c", clips, DeliveryDefinition(formats=("webdataset",), seed=4))
    first, second, third = (list(samples_of(tmp_path / name)) for name in "abc")
    assert first == second
    assert first != third and sorted(first) == sorted(third)
    assert first != sorted(first)
    neighbours = [one.partition("_")[0] == two.partition("_")[0] for one, two in itertools.pairwise(first)]
    assert sum(neighbours) < len(neighbours) / 2


def test_writing_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def clips() -> list[DeliveredClip]:
        return [make_clip(number, steps=60) for number in range(4)]

    whole = written(tmp_path / "whole", clips(), SMALL)
    assert len(whole["shards"]) > 2

    broken = clips()
    reads = 0

    def failing(read: Callable[[str], bytes]) -> Callable[[str], bytes]:
        def count(path: str) -> bytes:
            nonlocal reads
            reads += path.startswith("rgb/")
            if reads > 150:
                raise OSError(28, "No space left on device")
            return read(path)

        return count

    for clip in broken:
        monkeypatch.setattr(clip.files, "read", failing(clip.files.read))
    with pytest.raises(OSError, match="No space"):
        written(tmp_path / "resumed", broken, SMALL)
    finished = Journal(tmp_path / "resumed").entries
    left = sorted(path.name for path in (tmp_path / "resumed" / "webdataset").iterdir())
    assert left == sorted(Path(name).name for name in finished), "nothing half-written has a name"
    assert 0 < len(finished) < len(whole["shards"])

    again = clips()
    assert written(tmp_path / "resumed", again, SMALL) == whole
    read_again = sum(path.startswith("rgb/") for clip in again for path in clip.files.reads)
    assert read_again < 240, "finished shards are not read again"


def test_memory_holds_the_steps_of_few_clips(tmp_path: Path) -> None:
    """Clips are asked for their steps when their turn comes."""
    clips = [make_clip(number, steps=2) for number in range(2 * MIXED_CLIPS)]
    asked: list[int] = []

    class Watched(DeliveredClip):
        def steps(self) -> Any:
            asked.append(len(list((tmp_path / "webdataset").glob("*"))))
            return super().steps()

    watched = [Watched(**{name: getattr(clip, name) for name in clip.__dataclass_fields__}) for clip in clips]
    written(tmp_path, watched)
    assert asked[:MIXED_CLIPS] == [0] * MIXED_CLIPS and asked[MIXED_CLIPS:] == [1] * MIXED_CLIPS


def test_what_was_written_passes_its_check(tmp_path: Path) -> None:
    clips = [make_clip(number) for number in range(3)]
    written(tmp_path, clips)
    expected = {clip.clip_id for clip in clips}
    assert check(tmp_path, expected_clips=expected) == []
    assert "missing" in check(tmp_path, expected_clips={*expected, "x"})[0]
    assert "unexpected" in check(tmp_path, expected_clips=set(list(expected)[1:]))[0]


@pytest.mark.parametrize("damage", ["cut", "emptied", "no index", "swapped"])
def test_damage_is_found(tmp_path: Path, damage: str) -> None:
    clips = [make_clip(number, split=split) for number, split in enumerate(("train", "test"))]
    written(tmp_path, clips)
    shard = tmp_path / "webdataset" / "train-000000.tar"
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:3000])
    elif damage == "emptied":
        shard.write_bytes(b"")
    elif damage == "no index":
        (tmp_path / INDEX).unlink()
    else:
        shard.write_bytes((tmp_path / "webdataset" / "test-000000.tar").read_bytes())
    assert check(tmp_path, expected_clips={clip.clip_id for clip in clips})
