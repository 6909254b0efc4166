"""``hand_object`` from a committed ``blurred_video`` to its artifact, with detectors that behave in every way."""

from __future__ import annotations

import io
import json
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from ego_assets.assets.hand_object import SPEC, deliver, make
from ego_assets.execution import ClipWork, LayerDraft, LayerOutcome, LayerState, Services, run_layer
from ego_assets.gates.hand_object import GATES
from ego_assets.labels.hand_object import read_tracks
from ego_assets.labels.hand_records import validate_record
from ego_assets.labels.hands import hand_box
from ego_assets.media.frame_archive import FrameArchiveIndex, read_member
from ego_assets.media.motion_table import MOTION_FILE, motion_table
from ego_assets.media.timeline import read_timeline
from ego_assets.schema.artifact import ArtifactDocument
from ego_assets.schema.clip import PRIVACY_LAYER, Clip
from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.gates import GateOutcome
from ego_assets.schema.hands import HandDetections, HandDetector
from ego_assets.schema.ladder import Rung
from ego_assets.schema.layers import COMPLETENESS_BITS, LayerSpec, RetryPolicySpec
from ego_assets.schema.motion import CameraMotion
from ego_assets.schema.vocabulary import PrivacyStatus, ReviewRisk
from ego_assets.settings import Settings
from ego_assets_tests.clips import write_clip
from resources.platform import build_resources

WIDTH, HEIGHT, FRAMES, RATE = 192, 108, 30, 15
LOG = logging.getLogger("test")
NO_WAIT = RetryPolicySpec(max_retries=0, delay_s=0.0)
BLURRED = LayerSpec(name=PRIVACY_LAYER, group="t", description="", stage=2, essential=True, retry=NO_WAIT)


@dataclass
class FakeDetector:
    """Shows a right hand that holds something from the middle of the clip on, or misbehaves as told."""

    name: str = "fake"
    behaviour: str = "good"
    seen: list[int] = field(default_factory=list)

    @property
    def info(self) -> BackendInfo:
        return BackendInfo(task="hands", backend=self.name, model="fake 1")

    def detect(self, frames: Iterable[ClipFrame]) -> Iterator[HandDetections]:
        for number, frame in enumerate(frames):
            self.seen.append(frame.frame_index)
            if self.behaviour == "raises" and number == 2:
                raise RuntimeError("the model fell over")
            hidden = {"blind": True, "gap": number == 4, "glimpse": number >= 5}
            if hidden.get(self.behaviour, False):
                yield HandDetections.empty()
            elif self.behaviour == "crowd":
                yield self._hands(frame, number, count=12)
            else:
                yield self._hands(frame, number)

    def _hands(self, frame: ClipFrame, number: int, *, count: int = 1) -> HandDetections:
        width, height = frame.size
        points = np.array([(0.0, 0.0), (-0.3, -0.3), (-0.5, -0.55), (-0.6, -0.8), (-0.55, -1.05)])
        fingers = [(c, r) for c in (-0.3, -0.1, 0.1, 0.3) for r in (-1.0, -1.2, -1.4, -1.5)]
        hand = np.concatenate([points, np.array(fingers)]) * 20
        rest = np.array([130.0, 95.0]) - max(0, 8 - number) * np.array([0.0, -3.0])
        hands = np.stack([hand + rest - (12.0 * place, 4.0 * place) for place in range(count)])
        return HandDetections(
            boxes_xyxy=np.stack([hand_box(each, width=width, height=height) for each in hands]).astype(
                np.float32
            ),
            scores=np.full(count, 0.9, np.float32),
            right_scores=np.full(count, 0.7, np.float32),
            landmarks_xy=hands.astype(np.float32),
            contact_scores=np.full(count, 0.95 if 8 <= number < 15 else 0.05, np.float32),
            contact_boxes_xyxy=np.tile(np.array([100, 40, 150, 80], np.float32), (count, 1)),
        )


@dataclass
class FakeModels:
    """Hands out the detectors as the rungs of the ladder."""

    detectors: Sequence[FakeDetector] = ()

    def ladder(self, task: str) -> Sequence[Rung[HandDetector]]:
        assert task == "hands"
        return [
            Rung(name=one.name, open=lambda one=one: one, config={"backend": one.name})  # type: ignore[misc]
            for one in self.detectors
        ]

    def frames_per_second(self, task: str) -> float | None:
        return 10.0

    def detector(self, task: str, *, leak_check: bool = False) -> Any:
        raise AssertionError("hands need no region detector")

    def settings(self, tasks: Iterable[str], *, leak_check: bool = False) -> Mapping[str, Mapping[str, Any]]:
        return {}


@dataclass
class Bench:
    """A real store and database that hold one de-identified clip."""

    services: Services
    models: FakeModels
    clip_id: str

    def run(self, *detectors: FakeDetector) -> LayerOutcome:
        self.models.detectors = detectors
        return self.run_any(SPEC, make)

    def run_any(self, spec: LayerSpec, function: Any) -> LayerOutcome:
        return run_layer(
            spec,
            function,
            self.clip_id,
            services=self.services,
            run_id="run",
            log=LOG,
            ancestors=(),
            sleep=lambda seconds: None,
        )

    def document(self) -> ArtifactDocument:
        document = self.services.store.document(self.clip_id, "hand_object")
        assert document is not None
        return document

    def read(self, name: str) -> bytes:
        return self.services.store.read_bytes(self.document(), name)

    @property
    def has_bit(self) -> bool:
        clip = self.services.database.clip(self.clip_id)
        return bool(clip.completeness >> COMPLETENESS_BITS["hand_object"] & 1)

    @property
    def reviews(self) -> list[Any]:
        return [item for item in self.services.database.review_items() if item.layer == "hand_object"]


@pytest.fixture
def make_bench(tmp_path: Path) -> Callable[..., Bench]:
    def build(*, frames: int = FRAMES, activity: str = "cooking", cut: int | None = None) -> Bench:
        def make_blurred(work: ClipWork, staged: Any) -> LayerDraft:
            path = write_clip(staged.path("proxy.mp4"), frames=frames, width=WIDTH, height=HEIGHT, rate=RATE)
            still = CameraMotion.still(frames)
            cuts = np.arange(frames) == cut
            motion = CameraMotion(positions_xy=still.positions_xy, change=still.change, is_cut=cuts)
            size = (WIDTH, HEIGHT)
            table = motion_table(motion, read_timeline(path).timestamps_ns, measured_on=size, resolution=size)
            pq.write_table(table, staged.path(MOTION_FILE))
            return LayerDraft(clip_updates={"privacy_status": PrivacyStatus.BLURRED}, resolution=size)

        configured = Settings(data_dir=tmp_path / "data", free_disk_reserve_bytes=0)
        resources = build_resources(configured)
        models = FakeModels()
        clip_id = str(uuid.UUID(int=1, version=4))
        services = Services(
            settings=configured,
            database=resources["database"].get(),
            store=resources["store"].get(),
            models=models,
        )
        services.database.add_clip(Clip(clip_id=clip_id, source_name="clip.mp4", activity_category=activity))
        bench = Bench(services, models, clip_id)
        assert bench.run_any(BLURRED, make_blurred).state is LayerState.COMMITTED
        return bench

    return build


def verdicts(outcome: LayerOutcome) -> dict[str, GateOutcome]:
    return {verdict.spec.name: verdict.outcome for verdict in outcome.gates}


PASSED = {
    name: GateOutcome.PASSED for name in ("completed", "schema", "boxes_inside", "states", "hands_visible")
}


def test_the_layer_stores_what_the_guide_asks_for(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    outcome = bench.run(FakeDetector())
    assert outcome.state is LayerState.COMMITTED and verdicts(outcome) == PASSED
    assert bench.has_bit and bench.reviews == []
    document = bench.document()
    assert document.attempts == () and document.resolution == (WIDTH, HEIGHT)
    assert document.backends[0].backend == "fake" and document.config["frames_per_second"] == 10.0
    assert document.counts["frames"] == 20 and document.counts["hand_share"] == 1.0
    index = FrameArchiveIndex.read(io.BytesIO(bench.read("hand_object.parquet")))
    archive = io.BytesIO(bench.read("hand_object.tar"))
    records = [json.loads(read_member(archive, entry)) for entry in index]
    assert len(records) == 20 and all(validate_record(record) == [] for record in records)
    assert [record["right_hand_state"] for record in records][9:14] == ["grasp"] * 5
    assert all(record["left_hand_state"] is None for record in records)
    tracks = read_tracks(bench.read)
    assert tracks.frame_index.tolist() == index.frame_indices.tolist()
    assert tracks.timestamps_ns.tolist() == index.timestamps_ns.tolist()
    assert {"pre-grasp", "grasp"} <= set(tracks.right.states)
    table = pq.read_table(io.BytesIO(bench.read("verdicts.parquet"))).to_pydict()
    assert table["frame_index"] == tracks.frame_index.tolist()
    for gate in GATES:
        first, *rest = table[gate.name]
        assert set(rest) == {"passed"}
        # The first frame has none before it to step from.
        assert first == ("not_evaluated" if gate.name == "states" else "passed")
    assert all(table["has_hand"])
    sheet = bench.read("contact_sheet.jpg")
    picture = cv2.imdecode(np.frombuffer(sheet, np.uint8), cv2.IMREAD_COLOR)
    assert len(sheet) < 50_000 and picture is not None and picture.std() > 5


def test_the_delivery_holds_one_record_per_frame(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    bench.run(FakeDetector())
    members = deliver(bench.document(), bench.read)
    paths = [member.path for member in members]
    assert paths[0] == "hand_object/frame_000000.json" and paths[-1] == "hand_object/verdicts.parquet"
    assert len(paths) == 21
    first = members[0]
    data = bench.read(first.file)[first.offset : first.offset + (first.size or 0)]
    assert json.loads(data)["frame_index"] == 0


def test_a_clip_without_hands_is_complete_and_no_failure(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(activity="walking")
    outcome = bench.run(FakeDetector(behaviour="blind"))
    assert outcome.state is LayerState.COMMITTED and bench.has_bit and bench.reviews == []
    assert verdicts(outcome) == PASSED | {
        "states": GateOutcome.NOT_EVALUATED,
        "hands_visible": GateOutcome.NOT_EVALUATED,
    }
    assert read_tracks(bench.read).right.states == (None,) * 20
    assert len(bench.read("contact_sheet.jpg")) > 0


def test_few_hands_where_many_are_expected_lead_to_another_attempt(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench()
    outcome = bench.run(FakeDetector("first", "blind"), FakeDetector("second"))
    assert verdicts(outcome) == PASSED
    document = bench.document()
    assert document.backends[0].backend == "second"
    assert [attempt["attempt"] for attempt in document.attempts] == ["first"]
    assert "0%" in document.attempts[0]["refused"]


def test_where_no_attempt_finds_enough_hands_the_best_one_stands_and_a_person_is_asked(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench()
    outcome = bench.run(
        FakeDetector("first", "blind"), FakeDetector("second", "glimpse"), FakeDetector("third", "blind")
    )
    assert outcome.state is LayerState.COMMITTED and bench.has_bit
    assert verdicts(outcome)["hands_visible"] is GateOutcome.WARNED
    document = bench.document()
    assert document.backends[0].backend == "second" and len(document.attempts) == 3
    # The files are those of the attempt that stands.
    assert read_tracks(bench.read).right.visible.sum() == 5
    assert document.counts["hand_share"] == pytest.approx(0.25)
    (item,) = bench.reviews
    assert item.risk is ReviewRisk.NORMAL and "25%" in item.reason


def test_few_hands_outlive_a_later_attempt_that_falls_over(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    outcome = bench.run(FakeDetector("first", "glimpse"), FakeDetector("second", "raises"))
    assert outcome.state is LayerState.COMMITTED and bench.has_bit and len(bench.reviews) == 1
    assert bench.document().backends[0].backend == "first"
    assert read_tracks(bench.read).right.visible.sum() == 5
    assert [attempt["attempt"] for attempt in bench.document().attempts] == ["first", "second"]


def test_a_model_that_falls_over_is_replaced_or_given_up(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    outcome = bench.run(FakeDetector("first", "raises"), FakeDetector("second"))
    assert verdicts(outcome) == PASSED
    assert bench.document().attempts[0]["refused"] == "RuntimeError: the model fell over"
    other = bench.run(FakeDetector("first", "raises"))
    assert other.state is LayerState.GIVEN_UP and other.lets_clip_pass
    assert len(bench.reviews) == 1


def test_many_hands_leave_two_to_the_wearer(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    outcome = bench.run(FakeDetector(behaviour="crowd"))
    assert verdicts(outcome)["schema"] is GateOutcome.PASSED
    tracks = read_tracks(bench.read)
    assert (tracks.left.visible.astype(int) + tracks.right.visible + tracks.other_hands >= 10).all()


def test_one_frame(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(frames=1)
    outcome = bench.run(FakeDetector())
    assert outcome.state is LayerState.COMMITTED and bench.has_bit
    assert verdicts(outcome)["states"] is GateOutcome.NOT_EVALUATED
    assert read_tracks(bench.read).right.states == ("free",)


@pytest.mark.parametrize(("cut", "visible"), [(None, True), (7, False)])
def test_no_hand_is_carried_over_a_cut_of_the_video(
    make_bench: Callable[..., Bench], cut: int | None, visible: bool
) -> None:
    bench = make_bench(cut=cut)
    bench.run(FakeDetector(behaviour="gap"))
    tracks = read_tracks(bench.read)
    # The fifth covered frame shows no hand; the cut at video frame 7 comes right behind it.
    assert tracks.frame_index[4] < 7 <= tracks.frame_index[5]
    assert bool(tracks.right.visible[4]) is visible


def test_equal_clips_give_equal_versions(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    first = bench.run(FakeDetector()).document
    second = bench.run(FakeDetector()).document
    assert first is not None and second is not None
    assert first.data_version == second.data_version
