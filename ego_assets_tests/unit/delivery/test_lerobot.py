"""LeRobot datasets of a delivery, read with nothing but pyarrow and PyAV; the package itself reads them elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from ego_assets.delivery import lerobot
from ego_assets.delivery.clip_source import DeliveredClip
from ego_assets.delivery.definition import DeliveryDefinition
from ego_assets.delivery.journal import Journal
from ego_assets.delivery.lerobot import STATE_NAMES, VIDEO_KEY, check, write
from ego_assets_tests.delivered_clips import FRAME_NS, HEIGHT, STRIDE, WIDTH, make_clip, rgb_of

VIDEO = f"videos/{VIDEO_KEY}/chunk-000/file-000.mp4"


def written(folder: Path, *clips: DeliveredClip) -> dict[str, int]:
    definition = DeliveryDefinition(formats=("lerobot",))
    return dict(write(folder, clips, definition=definition, journal=Journal(folder)))


def info(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "meta" / "info.json").read_text())
    return found


def table(root: Path, pattern: str) -> list[dict[str, Any]]:
    return [row for path in sorted(root.glob(pattern)) for row in pq.read_table(path).to_pylist()]


def pictures(path: Path) -> list[Any]:
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def test_rows_pictures_and_episodes_belong_together(tmp_path: Path) -> None:
    clips = [make_clip(number, steps=5 + number) for number in range(3)]
    assert written(tmp_path, *clips) == {"datasets": 1, "episodes": 3, "samples": 18}
    root = tmp_path / "lerobot"
    rows, episodes, frames = table(root, "data/*/*"), table(root, "meta/episodes/*/*"), pictures(root / VIDEO)
    assert len(rows) == len(frames) == info(root)["total_frames"] == 18
    assert [row["index"] for row in rows] == list(range(18))
    for number, (clip, episode) in enumerate(zip(clips, episodes, strict=True)):
        assert episode["clip_id"] == clip.clip_id
        own = rows[episode["dataset_from_index"] : episode["dataset_to_index"]]
        assert [row["frame_index"] for row in own] == list(range(5 + number))
        assert {row["episode_index"] for row in own} == {number}
        for row in own:
            time_s = episode[f"videos/{VIDEO_KEY}/from_timestamp"] + row["timestamp"]
            shown_s, shown = frames[row["index"]]
            assert shown_s == pytest.approx(time_s, abs=1e-5)
            wanted = rgb_of(number, row["frame_index"]).astype(int)
            assert np.abs(shown.astype(int) - wanted).mean() < 8
        assert own[2]["observation.timestamp_ns"] == 2 * STRIDE * FRAME_NS
        assert own[2]["observation.video_frame"] == 2 * STRIDE


def test_the_state_is_that_of_the_hands(tmp_path: Path) -> None:
    written(tmp_path, make_clip(0, steps=2), make_clip(1, steps=2, layers=("frames",)))
    rows = table(tmp_path / "lerobot", "data/*/*")
    state = dict(zip(STATE_NAMES, rows[0]["observation.state"], strict=True))
    assert state["left_visible"] == 0 and not any(
        value for name, value in state.items() if "left_" in name[:5]
    )
    assert (state["right_visible"], state["right_grasp"], state["right_free"]) == (1, 1, 0)
    assert state["right_box_left"] == pytest.approx(20 / WIDTH)
    assert state["right_box_bottom"] == pytest.approx(40 / HEIGHT)
    assert state["right_wrist_y"] == pytest.approx(30 / HEIGHT)
    assert not any(rows[2]["observation.state"]), "a clip without the layer"
    features = info(tmp_path / "lerobot")["features"]
    assert features["observation.state"]["shape"] == [len(STATE_NAMES)]


def test_tasks_are_numbered_and_splits_are_ranges_of_episodes(tmp_path: Path) -> None:
    clips = [
        make_clip(0, split="test", activity="cleaning"),
        make_clip(1, split="train", layers=("frames",), activity=""),
        make_clip(2, split="train"),
    ]
    written(tmp_path, *clips)
    root = tmp_path / "lerobot"
    tasks = {row["task_index"]: row["task"] for row in table(root, "meta/tasks.parquet")}
    assert sorted(tasks.values()) == ["cleaning", "cooking", "unknown"]
    rows = table(root, "data/*/*")
    assert [tasks[row["task_index"]] for row in rows if row["episode_index"] == 0] == ["unknown"] * 4
    assert tasks[rows[-1]["task_index"]] == "cleaning", "no segment: what the collector said"
    assert info(root)["splits"] == {"train": "0:2", "test": "2:3"}
    pandas_index = json.loads(pq.read_schema(root / "meta" / "tasks.parquet").metadata[b"pandas"])
    assert pandas_index["index_columns"] == ["task"]


def test_statistics_are_those_of_all_rows(tmp_path: Path) -> None:
    clips = [make_clip(number, steps=3 + 4 * number) for number in range(3)]
    written(tmp_path, *clips)
    root = tmp_path / "lerobot"
    found = json.loads((root / "meta" / "stats.json").read_text())
    states = np.array([row["observation.state"] for row in table(root, "data/*/*")], np.float64)
    for measure in ("min", "max", "mean", "std"):
        expected = getattr(states, measure)(axis=0)
        assert np.allclose(found["observation.state"][measure], expected, atol=1e-6), measure
    assert found["observation.state"]["count"] == [21]
    colours = found[VIDEO_KEY]
    assert np.shape(colours["mean"]) == (3, 1, 1)
    assert 0 <= np.min(colours["min"]) < np.max(colours["max"]) <= 1


def test_clips_of_another_rate_or_size_are_a_dataset_of_their_own(tmp_path: Path) -> None:
    slow = make_clip(5, steps=2)
    slow.metadata["time_grid"]["rate_hz"] = 2.0  # type: ignore[index]
    counts = written(tmp_path, make_clip(0), make_clip(1), slow)
    assert counts == {"datasets": 2, "episodes": 3, "samples": 10}
    other = tmp_path / "lerobot" / "other" / f"2hz_{WIDTH}x{HEIGHT}"
    assert (info(tmp_path / "lerobot")["fps"], info(other)["fps"]) == (5, 2)
    assert info(other)["total_episodes"] == 1
    assert check(tmp_path, expected_clips={make_clip(number).clip_id for number in (0, 1, 5)}) == []


def test_files_stay_short_and_writing_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lerobot, "_LONGEST_FILE_S", 2.0)
    monkeypatch.setattr(lerobot, "FILES_PER_CHUNK", 2)
    clips = [make_clip(number, steps=6) for number in range(4)]
    broken = make_clip(3, steps=6)
    broken.files.contents["rgb/frame_000012.jpg"] = b"no jpeg"  # type: ignore[attr-defined]
    with pytest.raises(av.FFmpegError):
        written(tmp_path, *clips[:3], broken)
    root = tmp_path / "lerobot"
    assert not (root / "meta" / "info.json").exists(), "it does not look whole"
    kept = {path: path.stat().st_ino for path in root.rglob("*.mp4")}
    assert len(kept) == 3
    written(tmp_path, *clips)
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.mp4"))
    assert [name.removeprefix(f"videos/{VIDEO_KEY}") for name in files] == [
        f"/chunk-00{chunk}/file-00{file}.mp4" for chunk in (0, 1) for file in (0, 1)
    ]
    assert all(path.stat().st_ino == inode for path, inode in kept.items())
    episodes = table(root, "meta/episodes/*/*")
    assert [episode[f"videos/{VIDEO_KEY}/from_timestamp"] for episode in episodes] == [0.0] * 4
    assert [episode["dataset_from_index"] for episode in episodes] == [0, 6, 12, 18]
    assert check(tmp_path, expected_clips={clip.clip_id for clip in clips}) == []


@pytest.mark.parametrize("damage", ["video", "rows", "episodes"])
def test_damage_is_found(tmp_path: Path, damage: str) -> None:
    clips = [make_clip(number) for number in range(2)]
    written(tmp_path, *clips)
    root = tmp_path / "lerobot"
    path = {
        "video": root / VIDEO,
        "rows": next(root.glob("data/*/*")),
        "episodes": next(root.glob("meta/ep*/*/*")),
    }[damage]
    if damage == "video":
        path.write_bytes(path.read_bytes()[:200])
    else:
        pq.write_table(pq.read_table(path).slice(1), path)
    assert check(tmp_path, expected_clips={clip.clip_id for clip in clips})
