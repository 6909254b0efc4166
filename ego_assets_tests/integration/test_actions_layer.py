"""The actions layer in the chain: from what the privacy pass measured and, where they are there, from hands."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow.parquet
import pytest

from ego_assets.assets import actions, blurred_video, clip_quality, raw_clip
from ego_assets.batching import essential_ancestors
from ego_assets.execution import ClipWork, LayerDraft, LayerFunction, LayerOutcome, LayerState, run_layer
from ego_assets.labels.hand_object import write_tracks
from ego_assets.media.motion_table import MOTION_FILE, read_motion
from ego_assets.media.timeline import read_timeline
from ego_assets.project import Project
from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.gates import GateOutcome
from ego_assets.schema.hands import HandObjectTracks, HandSide, HandTrack
from ego_assets.schema.ladder import Rung
from ego_assets.schema.layers import LayerSpec
from ego_assets.schema.motion import CameraMotion
from ego_assets.settings import Settings
from ego_assets_tests.clips import write_clip
from resources.platform import ProfileModels
from resources.profiles import load_profile
from resources.storage import StagedLayer

HANDS = LayerSpec(name="hand_object", group="enrich", description="", stage=3, inputs=("blurred_video",))


def privacy_without_detection(work: ClipWork, staged: StagedLayer) -> LayerDraft:
    return blurred_video.render(work, staged, detectors={}, leak_detectors={})


def grasping_hands(work: ClipWork, staged: StagedLayer) -> LayerDraft:
    """A right hand that holds something on every third frame of the proxy."""
    document = work.blurred().artifact
    motion, times = read_motion(work.store.read_bytes(document, MOTION_FILE))
    index = np.arange(0, motion.frame_count, 3, dtype=np.int64)
    count = index.size
    box = np.array([60, 50, 100, 90], np.float32)
    points = np.linspace(0, 30, 21, dtype=np.float32)[:, None] + box[:2]

    def track(side: HandSide, seen: bool) -> HandTrack:
        def rows(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            return np.tile(values if seen else np.full_like(values, np.nan), (count,) + (1,) * values.ndim)

        return HandTrack(
            side=side,
            visible=np.full(count, seen),
            boxes_xyxy=rows(box),
            scores=rows(np.array(0.9, np.float32)),
            landmarks_xy=rows(points),
            states=("grasp" if seen else None,) * count,
            state_scores=rows(np.array(0.8, np.float32)),
            contact_boxes_xyxy=rows(box + 10),
            contact_scores=rows(np.array(0.7, np.float32)),
        )

    assert document.resolution is not None
    tracks = HandObjectTracks(
        frame_index=index,
        timestamps_ns=times[index],
        resolution=document.resolution,
        left=track("left", False),
        right=track("right", True),
        other_hands=np.zeros(count, np.int64),
    )
    write_tracks(tracks, staged.path("hand_object.tar"), staged.path("hand_object.parquet"))
    return LayerDraft(resolution=document.resolution)


class FrameCounter:
    """A backend that looks at five frames a second and is sure of what it sees."""

    frames_per_second: float | None = 5.0
    labels = ("seen", "missed", "third", "fourth")
    info = BackendInfo(task="actions", backend="counter", model="none")

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken
        self.frames: list[tuple[int, tuple[int, int]]] = []

    def score(
        self,
        times_ns: npt.NDArray[np.int64],
        *,
        frames: Iterable[ClipFrame],
        hands: HandObjectTracks | None,
        motion: CameraMotion,
        timestamps_ns: npt.NDArray[np.int64],
        resolution: tuple[int, int],
    ) -> npt.NDArray[np.float32]:
        if self.broken:
            raise RuntimeError("out of memory")
        self.frames = [(frame.frame_index, frame.size) for frame in frames]
        return np.tile(np.array([0.8, 0.2, 0, 0], np.float32), (times_ns.size, 1))


class LadderOf(ProfileModels):
    """The profile's models with other attempts at actions."""

    def __init__(self, settings: Settings, recognizers: Sequence[FrameCounter]) -> None:
        super().__init__(profile=load_profile("local"), models_dir=settings.models)
        self.recognizers = recognizers

    def ladder(self, task: str) -> Sequence[Rung[Any]]:
        assert task == "actions"
        return tuple(
            Rung(name=f"counter {number}", open=lambda each=each: each, config={"number": number})
            for number, each in enumerate(self.recognizers)
        )


class Bench:
    """A project whose chain ends with actions."""

    def __init__(self, root: Path, *, hands: bool = False, **settings: Any) -> None:
        self.settings = Settings(data_dir=root / "data", free_disk_reserve_bytes=0, **settings)
        self.project = Project(self.settings)
        path = write_clip(root / "in" / "clip.mp4", frames=45)
        self.clip_id = self.project.register_and_take(path.parent, path, {}).clip_id
        self.chain: list[tuple[LayerSpec, LayerFunction]] = [
            (raw_clip.SPEC, raw_clip.make),
            (clip_quality.SPEC, clip_quality.make),
            (blurred_video.SPEC, privacy_without_detection),
            *([(HANDS, grasping_hands)] if hands else []),
            (actions.SPEC, actions.make),
        ]

    def run(self, recognizers: Sequence[FrameCounter] = ()) -> LayerOutcome:
        specs = {spec.name: spec for spec, _ in self.chain}
        for spec, make in self.chain:
            services = self.project.services_with_vault() if spec.reads_original else self.project.services
            if recognizers:
                services = replace(services, models=LadderOf(self.settings, recognizers))
            outcome = run_layer(
                spec,
                make,
                self.clip_id,
                services=services,
                run_id="test",
                log=logging.getLogger("test"),
                ancestors=essential_ancestors(spec.name, specs),
                sleep=lambda _: None,
            )
            assert outcome.state is LayerState.COMMITTED or spec.name == "actions", outcome.reason
        return outcome

    def read(self, layer: str, name: str) -> bytes:
        document = self.project.store.document(self.clip_id, layer)
        assert document is not None
        return self.project.store.read_bytes(document, name)


def test_without_hands_the_layer_says_so(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    outcome = bench.run()
    assert outcome.state is LayerState.COMMITTED and outcome.is_complete
    outcomes = {gate.spec.name: gate.outcome for gate in outcome.gates}
    assert outcomes["segments"] is GateOutcome.PASSED
    assert outcomes["confidence"] is GateOutcome.WARNED
    found = json.loads(bench.read("actions", "actions.json"))
    assert found["hands"] is False and found["rate_hz"] == 1
    assert len(found["steps"]) == 3
    assert found["known_labels"] == 5
    assert all(step["idle"] < 0.5 for step in found["steps"])
    assert found["segments"][0]["start_ns"] == 0 and found["segments"][-1]["end_s"] == pytest.approx(
        3.0, abs=0.01
    )
    picture = bench.read("actions", "timeline.png")
    assert len(picture) < 50_000 and outcome.pictures == {"activities": picture}
    assert cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR) is not None
    (member,) = actions.deliver(bench.project.store.document(bench.clip_id, "actions"), lambda name: b"")  # type: ignore[arg-type]
    assert (member.path, member.layer, member.file) == ("actions.json", "actions", "actions.json")


def test_with_hands_they_decide(tmp_path: Path) -> None:
    bench = Bench(tmp_path, hands=True)
    outcome = bench.run()
    assert outcome.state is LayerState.COMMITTED
    found = json.loads(bench.read("actions", "actions.json"))
    assert found["hands"] is True
    assert {segment["label"] for segment in found["segments"]} <= {"manipulating", "carrying"}
    assert outcome.document is not None and set(outcome.document.inputs) == {"blurred_video", "hand_object"}


def test_only_the_labels_asked_for(tmp_path: Path) -> None:
    bench = Bench(tmp_path, action_labels="idle, walking")
    bench.run()
    found = json.loads(bench.read("actions", "actions.json"))
    assert found["labels"] == ["walking", "idle"]
    assert set(found["steps"][0]) == {"time_ns", "walking", "idle"}


def test_a_label_that_does_not_exist_is_told_with_those_that_do(tmp_path: Path) -> None:
    outcome = Bench(tmp_path, action_labels="idle,dancing").run()
    assert outcome.state is LayerState.POSTPONED
    assert "'dancing'" in outcome.reason and "looking around" in outcome.reason


def test_a_backend_that_wants_frames_gets_them_at_its_rate(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    backend = FrameCounter()
    outcome = bench.run([FrameCounter(broken=True), backend])
    assert outcome.state is LayerState.COMMITTED
    assert [frame for frame, _ in backend.frames] == list(range(0, 45, 3))
    assert {size for _, size in backend.frames} == {(192, 108)}
    assert outcome.document is not None
    assert [attempt["refused"] for attempt in outcome.document.attempts] == ["RuntimeError: out of memory"]
    assert outcome.document.config["number"] == 1
    found = json.loads(bench.read("actions", "actions.json"))
    assert [segment["label"] for segment in found["segments"]] == ["seen"]


def test_the_privacy_pass_stores_how_the_camera_moved_and_nothing_else_of_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run()
    data = bench.read("blurred_video", MOTION_FILE)
    motion, times = read_motion(data)
    (tmp_path / "proxy.mp4").write_bytes(bench.read("blurred_video", "proxy.mp4"))
    assert np.abs(times - read_timeline(tmp_path / "proxy.mp4").timestamps_ns).max() < 1_000_000
    # The pattern moves up and to the left by a pixel a frame, and jumps back after 32.
    assert np.median(np.diff(motion.positions_xy, axis=0), axis=0) == pytest.approx([-1, -1], abs=0.2)
    document = bench.project.store.document(bench.clip_id, "blurred_video")
    assert document is not None
    assert {entry.name for entry in document.files} == {
        "video.mp4",
        "proxy.mp4",
        "pii_report.json",
        "tracks.parquet",
        MOTION_FILE,
        "contact_sheet.jpg",
    }
    again = pyarrow.parquet.read_table(pyarrow.BufferReader(data))
    assert again.column_names == [
        "frame_index",
        "timestamp_ns",
        "x_px",
        "y_px",
        "change",
        "is_cut",
        "unseen",
    ]


def test_a_rendering_from_before_the_table_existed_is_told_apart(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    def older(work: ClipWork, staged: StagedLayer) -> LayerDraft:
        draft = privacy_without_detection(work, staged)
        staged.path(MOTION_FILE).unlink()
        return draft

    bench.chain[2] = (blurred_video.SPEC, older)
    outcome = bench.run()
    assert outcome.state is LayerState.GIVEN_UP and "--layer blurred_video --again" in outcome.reason
