"""Rendered files hold what their ground truth says."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from ego_assets.schema.timeline import Timeline
from ego_assets.synth import (
    LOCATION_METADATA,
    DemoClip,
    GroundTruth,
    GroundTruthUnreadable,
    SceneSpec,
    demo,
    demo_clips,
    demo_specs,
    render_clip,
)
from ego_assets.synth.render import _recorded
from ego_assets.synth.scene import Scene

SMALL = SceneSpec(width=160, height=120, duration_s=0.5)


def decoded(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def timestamps_ns(frames: list[av.VideoFrame]) -> list[int]:
    return [round(frame.pts * frame.time_base * 1_000_000_000) for frame in frames]


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"frame_rate": Fraction(30000, 1001), "dropped_frames": (0, 5)},
        {"variable_rate": True, "start_offset_s": 0.75},
        {"audio": True, "start_offset_s": 0.4},
    ],
)
def test_time_stamps_are_those_in_the_file(tmp_path: Path, suffix: str, changes: dict[str, object]) -> None:
    spec = replace(SMALL, **changes)  # type: ignore[arg-type]
    path = tmp_path / f"clip.{suffix}"
    truth = render_clip(spec, path)
    frames = decoded(path)
    assert timestamps_ns(frames) == truth.timestamps_ns.tolist()
    assert truth.frame_count == spec.nominal_frame_count - len(spec.dropped_frames)
    assert truth.imu_timestamps_ns[0] == round(spec.start_offset_s * 1e9)


def test_dropped_frames_leave_a_gap_and_a_variable_rate_varies(tmp_path: Path) -> None:
    def timeline(spec: SceneSpec) -> Timeline:
        stamps = render_clip(spec, tmp_path / "clip.mp4").timestamps_ns
        return Timeline(stamps.copy(), spec.frame_rate, Fraction(1, 90_000))

    longer = replace(SMALL, duration_s=1.0)
    intervals = np.diff(timeline(replace(longer, dropped_frames=(10, 11))).timestamps_ns)
    assert np.flatnonzero(np.rint(intervals * 30 / 1e9) == 3).tolist() == [9]
    assert np.count_nonzero(np.rint(intervals * 30 / 1e9) == 1) == 26
    assert timeline(replace(longer, variable_rate=True)).is_variable
    assert not timeline(longer).is_variable


@pytest.mark.parametrize("rotation_deg", [0, 90, 180, 270])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_the_display_matrix_turns_the_picture_upright(tmp_path: Path, rotation_deg: int, suffix: str) -> None:
    path = tmp_path / f"clip.{suffix}"
    truth = render_clip(replace(SMALL, rotation_deg=rotation_deg), path)
    frame = decoded(path)[4]
    # FFmpeg reports the counter-clockwise turn.
    assert -frame.rotation % 360 == rotation_deg
    picture = np.rot90(frame.to_ndarray(format="bgr24"), k=-rotation_deg // 90)
    assert picture.shape == (120, 160, 3)
    expected = _recorded(truth.image_bgr(4), SMALL)
    assert cv2.PSNR(np.ascontiguousarray(picture), expected) > 27


def test_odd_dimensions_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    render_clip(replace(SMALL, width=161, height=121, duration_s=0.1), path)
    frame = decoded(path)[0]
    assert (frame.width, frame.height) == (161, 121)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_sound_and_personal_metadata_are_there_only_on_request(tmp_path: Path, suffix: str) -> None:
    def contents(spec: SceneSpec) -> tuple[str, int, bytes]:
        path = tmp_path / f"clip.{suffix}"
        render_clip(spec, path)
        with av.open(str(path)) as container:
            metadata = {key.lower(): value for key, value in container.metadata.items()}
            return json.dumps(metadata), len(container.streams.audio), path.read_bytes()

    metadata, sound_tracks, raw = contents(replace(SMALL, audio=True, location_metadata=True))
    assert sound_tracks == 1
    assert LOCATION_METADATA["location"] in metadata
    assert LOCATION_METADATA["artist"] in metadata
    assert LOCATION_METADATA["creation_time"][:10] in metadata
    metadata, sound_tracks, raw = contents(SMALL)
    assert sound_tracks == 0
    assert LOCATION_METADATA["location"].encode() not in raw
    assert LOCATION_METADATA["artist"].encode() not in raw


def test_the_sound_lasts_as_long_as_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    render_clip(replace(SMALL, duration_s=1.0, audio=True), path)
    with av.open(str(path)) as container:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert samples.size / 48_000 == pytest.approx(1.0, abs=0.1)
    assert samples.std() > 0.02


def test_equal_specs_give_equal_bytes_and_other_seeds_other_pictures(tmp_path: Path) -> None:
    spec = replace(SMALL, faces=1, text_panels=1, variable_rate=True)
    first, again, other = (tmp_path / f"{name}.mp4" for name in ("first", "again", "other"))
    truth = render_clip(spec, first)
    assert render_clip(spec, again).boxes == truth.boxes
    render_clip(replace(spec, seed=1), other)
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()


def test_progress_counts_every_frame(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    render_clip(
        replace(SMALL, dropped_frames=(3,)), tmp_path / "clip.mp4", progress=lambda *c: calls.append(c)
    )
    assert calls == [(done, 14) for done in range(1, 15)]


def test_other_containers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.mp4"):
        render_clip(SMALL, tmp_path / "clip.avi")


def test_ground_truth_survives_saving(tmp_path: Path) -> None:
    truth = render_clip(
        replace(SMALL, faces=1, text_panels=1, frame_rate=Fraction(24)), tmp_path / "clip.mp4"
    )
    truth.save(tmp_path / "truth")
    loaded = GroundTruth.load(tmp_path / "truth")
    assert loaded.spec == truth.spec
    assert loaded.boxes == truth.boxes
    assert loaded.right_hand_state == truth.right_hand_state
    for name in (
        "timestamps_ns",
        "T_world_camera",
        "intrinsics",
        "imu_timestamps_ns",
        "angular_velocity_rad_s",
        "linear_acceleration_m_s2",
    ):
        stored, original = getattr(loaded, name), getattr(truth, name)
        assert stored.dtype == original.dtype
        np.testing.assert_array_equal(stored, original)
    np.testing.assert_array_equal(loaded.depth_mm(3), truth.depth_mm(3))
    assert loaded.depth_mm(3).dtype == np.uint16
    assert {box.kind for box in loaded.boxes_at(3, "face", "hand_left")} <= {"face", "hand_left"}
    assert set(loaded.boxes_at(3)) == {box for box in truth.boxes if box.frame_index == 3}


@pytest.mark.parametrize("damage", ["missing", "truncated_document", "truncated_arrays", "other_fields"])
def test_damaged_ground_truth_is_explained(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "truth"
    render_clip(replace(SMALL, duration_s=0.1), tmp_path / "clip.mp4").save(folder)
    document, arrays = folder / "ground_truth.json", folder / "ground_truth.npz"
    if damage == "missing":
        document.unlink()
    elif damage == "truncated_document":
        document.write_bytes(document.read_bytes()[:-20])
    elif damage == "truncated_arrays":
        arrays.write_bytes(arrays.read_bytes()[:100])
    else:
        document.write_text("{}")
    with pytest.raises(GroundTruthUnreadable, match="render the clip again"):
        GroundTruth.load(folder)


def test_frames_outside_the_clip_are_refused(tmp_path: Path) -> None:
    truth = render_clip(replace(SMALL, duration_s=0.1), tmp_path / "clip.mp4")
    with pytest.raises(IndexError, match="0 to 2, got 3"):
        truth.depth_mm(3)


# ---------------------------------------------------------------------- demo


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {
        name: replace(spec, width=160, height=90, duration_s=0.2)
        for name, spec in demo_specs(quick=True).items()
    }
    monkeypatch.setattr(demo, "demo_specs", lambda *, quick: small)


@pytest.mark.usefixtures("small_demo")
def test_demo_clips_are_rendered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    clips = demo_clips(tmp_path / "demo", quick=True, progress=lambda *c: calls.append(c))
    assert [clip.name for clip in clips] == ["good", "people_and_text", "dark_and_blurred"]
    assert calls[-1] == (18, 18)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert sorted(path.name for path in (tmp_path / "demo").glob("*.mp4")) == sorted(
        c.path.name for c in clips
    )

    rendered: list[str] = []

    def counted(spec: SceneSpec, path: Path, **options: object) -> GroundTruth:
        rendered.append(path.parent.name)
        return render_clip(spec, path)

    monkeypatch.setattr(demo, "render_clip", counted)
    again = demo_clips(tmp_path / "demo", quick=True)
    assert rendered == []
    assert [clip.ground_truth.boxes for clip in again] == [clip.ground_truth.boxes for clip in clips]

    clips[0].path.unlink()
    (tmp_path / "demo" / "ground_truth" / "people_and_text" / "ground_truth.npz").write_bytes(b"")
    demo_clips(tmp_path / "demo", quick=True)
    assert rendered == ["good", "people_and_text"]


@pytest.mark.usefixtures("small_demo")
def test_an_interrupted_demo_leaves_no_half_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(spec: SceneSpec, path: Path, **options: object) -> GroundTruth:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(demo, "render_clip", interrupted)
        with pytest.raises(KeyboardInterrupt):
            demo_clips(tmp_path, quick=True)
    assert list(tmp_path.glob("*.mp4")) == []
    clips: list[DemoClip] = demo_clips(tmp_path, quick=True)
    assert all(len(decoded(clip.path)) == clip.ground_truth.frame_count for clip in clips)


@pytest.mark.usefixtures("small_demo")
def test_sidecars_name_everything_a_collector_says(tmp_path: Path) -> None:
    for clip in demo_clips(tmp_path, quick=True):
        assert set(clip.sidecar) == {
            "collector_id",
            "recording_date",
            "source_camera",
            "location_type",
            "activity_category",
            "consent_scope",
            "licence",
        }
        assert json.loads(clip.path.with_suffix(".json").read_text()) == dict(clip.sidecar)


@pytest.mark.parametrize("quick", [False, True])
def test_demo_pictures_are_sharp_or_dark_as_their_names_say(quick: bool) -> None:
    # Collection guide: a frame is blurred when the variance of its Laplacian is below 100.
    for name, spec in demo_specs(quick=quick).items():
        scene = Scene(spec)
        for time_s in (0.1, 0.7 * spec.duration_s):
            grey = cv2.cvtColor(_recorded(scene.frame(time_s, 0).rendering.image, spec), cv2.COLOR_BGR2GRAY)
            sharpness = cv2.Laplacian(grey, cv2.CV_64F).var()
            if name == "dark_and_blurred":
                assert sharpness < 50
                assert grey.mean() < 30
            else:
                assert sharpness > 200
                assert 80 < grey.mean() < 175
                assert np.mean(grey > 250) < 0.02
