"""``depth_maps`` from a committed ``blurred_video`` to its artifact, with estimators that behave in every way."""

from __future__ import annotations

import io
import json
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ego_assets.assets.depth_maps import SPEC, deliver, make
from ego_assets.execution import ClipWork, LayerDraft, LayerOutcome, LayerState, Services, run_layer
from ego_assets.media.frame_archive import FrameArchiveIndex, read_member
from ego_assets.media.motion_table import MOTION_FILE, motion_table
from ego_assets.media.rasters import decode_png
from ego_assets.media.timeline import read_timeline
from ego_assets.schema.artifact import ArtifactDocument
from ego_assets.schema.camera import CameraTrajectory, PinholeCamera, Scale
from ego_assets.schema.clip import PRIVACY_LAYER, Clip
from ego_assets.schema.depth import DepthEstimator, DepthFrame
from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.gates import GateOutcome
from ego_assets.schema.ladder import Rung
from ego_assets.schema.layers import COMPLETENESS_BITS, LayerSpec, RetryPolicySpec
from ego_assets.schema.motion import CameraMotion
from ego_assets.schema.vocabulary import LocationType, PrivacyStatus, ReviewRisk
from ego_assets.settings import Settings
from ego_assets_tests.clips import write_clip
from resources.platform import build_resources

WIDTH, HEIGHT, FRAMES, RATE = 192, 108, 15, 15
#: The frame on which a second scene begins; every third frame is sampled.
CUT = 7
LOG = logging.getLogger("test")
NO_WAIT = RetryPolicySpec(max_retries=0, delay_s=0.0)
BLURRED = LayerSpec(name=PRIVACY_LAYER, group="t", description="", stage=2, essential=True, retry=NO_WAIT)
NEIGHBOUR = LayerSpec(
    name="frames", group="t", description="", stage=3, inputs=(PRIVACY_LAYER,), retry=NO_WAIT
)


@dataclass
class FakeEstimator:
    """Gives every frame a slanted plane, or misbehaves as told."""

    name: str = "fake"
    behaviour: str = "good"
    scale: Scale = Scale.METRIC
    is_dense: bool = False
    depth_m: float = 2.0
    known_share: float = 0.9
    heard: list[tuple[PinholeCamera, float | None, frozenset[int]]] = field(default_factory=list)
    heard_locations: list[LocationType] = field(default_factory=list)

    @property
    def info(self) -> BackendInfo:
        return BackendInfo(task="depth", backend=self.name, model="fake 1")

    def estimate(
        self,
        frames: Iterable[ClipFrame],
        *,
        camera: PinholeCamera,
        poses: CameraTrajectory | None = None,
        baseline_m: float | None = None,
        cuts: frozenset[int] = frozenset(),
        location: LocationType = LocationType.OTHER,
    ) -> Iterator[DepthFrame]:
        self.heard.append((camera, baseline_m, cuts))
        self.heard_locations.append(location)
        for number, frame in enumerate(frames):
            if self.behaviour == "raises" and number == 2:
                raise RuntimeError("the model fell over")
            if self.behaviour == "drops" and number == 2:
                continue
            yield self._map(frame)

    def _map(self, frame: ClipFrame) -> DepthFrame:
        width, height = frame.size
        depth = np.zeros((height, width), np.float32)
        confidence = np.zeros((height, width), np.uint8)
        if self.behaviour not in ("empty", "static"):
            rows = round(height * self.known_share)
            depth[:rows] = np.linspace(0.5, 1.5, rows, dtype=np.float32)[:, None] * self.depth_m
            confidence[:rows] = 60
            confidence[: rows // 2] = 200
        return DepthFrame(
            frame_index=frame.frame_index,
            timestamp_ns=frame.timestamp_ns,
            depth=depth,
            confidence=confidence,
            scale=self.scale,
            status="no_parallax" if self.behaviour == "static" else "estimated",
            camera_motion=0.0 if self.behaviour == "static" else 0.1,
        )


@dataclass
class FakeModels:
    """Hands out the estimators as the rungs of the ladder."""

    estimators: Sequence[FakeEstimator] = ()

    def ladder(self, task: str) -> Sequence[Rung[DepthEstimator]]:
        assert task == "depth"
        return [
            Rung(name=one.name, open=lambda one=one: one, config={"backend": one.name})  # type: ignore[misc]
            for one in self.estimators
        ]

    def frames_per_second(self, task: str) -> float | None:
        return 5.0

    def detector(self, task: str, *, leak_check: bool = False) -> Any:
        raise AssertionError("depth needs no detector")

    def settings(self, tasks: Iterable[str], *, leak_check: bool = False) -> Mapping[str, Mapping[str, Any]]:
        return {}

    def give_back_memory(self, *, keep_networks: bool) -> None:
        pass


@dataclass
class Bench:
    """A real store and database that hold one de-identified clip with one more layer."""

    services: Services
    models: FakeModels
    clip_id: str

    def run(self, *estimators: FakeEstimator, **options: Any) -> LayerOutcome:
        self.models.estimators = estimators
        return self.run_any(SPEC, make, **options)

    def run_any(self, spec: LayerSpec, function: Any, **options: Any) -> LayerOutcome:
        waits: list[float] = []
        outcome = run_layer(
            spec,
            function,
            self.clip_id,
            services=self.services,
            run_id="run",
            log=LOG,
            ancestors=(),
            sleep=waits.append,
            **options,
        )
        self.waits = waits
        return outcome

    def document(self, layer: str = "depth_maps") -> ArtifactDocument:
        document = self.services.store.document(self.clip_id, layer)
        assert document is not None
        return document

    def read(self, name: str) -> bytes:
        return self.services.store.read_bytes(self.document(), name)

    @property
    def has_bit(self) -> bool:
        clip = self.services.database.clip(self.clip_id)
        return bool(clip.completeness >> COMPLETENESS_BITS["depth_maps"] & 1)

    @property
    def reviews(self) -> list[Any]:
        return [item for item in self.services.database.review_items() if item.layer == "depth_maps"]


def _make_blurred(work: ClipWork, staged: Any) -> LayerDraft:
    path = write_clip(staged.path("proxy.mp4"), frames=FRAMES, width=WIDTH, height=HEIGHT, rate=RATE)
    size = (WIDTH, HEIGHT)
    is_cut = np.zeros(FRAMES, np.bool_)
    is_cut[CUT] = True
    table = motion_table(
        replace(CameraMotion.still(FRAMES), is_cut=is_cut),
        read_timeline(path).timestamps_ns,
        measured_on=size,
        resolution=size,
    )
    pq.write_table(table, staged.path(MOTION_FILE))
    return LayerDraft(clip_updates={"privacy_status": PrivacyStatus.BLURRED}, resolution=size)


def _make_neighbour(work: ClipWork, staged: Any) -> LayerDraft:
    staged.path("frames.txt").write_text("frames")
    return LayerDraft()


@pytest.fixture
def make_bench(tmp_path: Path) -> Callable[..., Bench]:
    def build(**settings: Any) -> Bench:
        configured = Settings(data_dir=tmp_path / "data", free_disk_reserve_bytes=0, **settings)
        resources = build_resources(configured)
        models = FakeModels()
        clip_id = str(uuid.UUID(int=1, version=4))
        services = Services(
            settings=configured,
            database=resources["database"].get(),
            store=resources["store"].get(),
            models=models,
        )
        services.database.add_clip(Clip(clip_id=clip_id, source_name="clip.mp4"))
        bench = Bench(services, models, clip_id)
        for spec, function in ((BLURRED, _make_blurred), (NEIGHBOUR, _make_neighbour)):
            assert bench.run_any(spec, function).state is LayerState.COMMITTED
        return bench

    return build


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


def verdicts(outcome: LayerOutcome) -> dict[str, GateOutcome]:
    return {verdict.spec.name: verdict.outcome for verdict in outcome.gates}


PASSED = {name: GateOutcome.PASSED for name in ("completed", "not_empty", "validity", "range")}


def test_metric_depth_is_stored_in_millimetres_and_judged(bench: Bench) -> None:
    outcome = bench.run(FakeEstimator())
    assert outcome.state is LayerState.COMMITTED
    # The fake says that the camera moves by 10 cm, so that nothing can be said about stillness.
    assert verdicts(outcome) == PASSED | {"stability": GateOutcome.NOT_EVALUATED}
    assert bench.has_bit and bench.reviews == []
    document = bench.document()
    assert document.attempts == () and document.resolution == (WIDTH, HEIGHT)
    assert document.backends[0].backend == "fake"
    assert document.counts["frames"] == 5
    assert document.counts["valid_share"] == pytest.approx(0.9, abs=0.01)
    assert document.counts["measured_share"] + document.counts["completed_share"] == pytest.approx(
        document.counts["valid_share"]
    )
    index = FrameArchiveIndex.read(io.BytesIO(bench.read("depth.parquet")))
    assert index.frame_indices.tolist() == [0, 3, 6, 9, 12]
    depth = decode_png(read_member(io.BytesIO(bench.read("depth.tar")), index.entry(3)))
    assert depth.dtype == np.uint16 and depth.shape == (HEIGHT, WIDTH)
    assert depth[0, 0] == 1000 and depth[96, 0] == 3000 and depth[-1, 0] == 0
    sure = FrameArchiveIndex.read(io.BytesIO(bench.read("confidence.parquet")))
    confidence = decode_png(read_member(io.BytesIO(bench.read("confidence.tar")), sure.entry(3)))
    assert confidence.dtype == np.uint8 and sorted(np.unique(confidence)) == [0, 60, 200]
    told = json.loads(bench.read("depth.json"))
    assert told["scale"] == "metric" and told["unit"] == "millimetre"
    assert told["resolution"] == [WIDTH, HEIGHT] and told["camera"]["source"] == "assumed"
    assert told["statuses"] == {"estimated": 5, "no_parallax": 0, "failed": 0}
    table = pq.read_table(io.BytesIO(bench.read("verdicts.parquet"))).to_pydict()
    assert table["frame_index"] == [0, 3, 6, 9, 12] and table["range"] == ["passed"] * 5
    # The blurred video says that the picture stood still, on all frames but the first.
    assert table["picture_shift"] == [None, 0, 0, None, 0], "unknown across the cut"
    assert len(bench.read("contact_sheet.jpg")) < 50_000


def test_relative_depth_leaves_metric_gates_and_the_bit_open(bench: Bench) -> None:
    outcome = bench.run(FakeEstimator(scale=Scale.UNKNOWN, depth_m=1.0))
    assert outcome.state is LayerState.COMMITTED
    assert verdicts(outcome) == PASSED | {
        "range": GateOutcome.NOT_EVALUATED,
        "stability": GateOutcome.NOT_EVALUATED,
    }
    assert not bench.has_bit and bench.reviews == []
    told = json.loads(bench.read("depth.json"))
    assert told["scale"] == "unknown" and "median" in told["unit"]


def test_an_empty_first_attempt_is_recorded_and_the_second_counts(bench: Bench) -> None:
    outcome = bench.run(FakeEstimator("first", "empty"), FakeEstimator("second"))
    assert outcome.state is LayerState.COMMITTED and bench.has_bit
    document = bench.document()
    assert [attempt["attempt"] for attempt in document.attempts] == ["first"]
    assert "all zero" in document.attempts[0]["refused"]
    assert document.backends[0].backend == "second" and document.config["attempt"] == {"backend": "second"}
    assert json.loads(bench.read("depth.json"))["backend"]["backend"] == "second"


@pytest.mark.parametrize("behaviour", ["raises", "drops"])
def test_a_backend_that_breaks_on_one_frame_is_followed_by_the_next(bench: Bench, behaviour: str) -> None:
    outcome = bench.run(FakeEstimator("first", behaviour), FakeEstimator("second"))
    assert outcome.state is LayerState.COMMITTED and bench.has_bit
    (attempt,) = bench.document().attempts
    said = "RuntimeError: the model fell over" if behaviour == "raises" else "frame 6, got that of frame 9"
    assert said in attempt["refused"]
    assert bench.document().counts["frames"] == 5


def test_after_three_bad_attempts_the_layer_is_given_up_and_reviewed(bench: Bench) -> None:
    outcome = bench.run(*(FakeEstimator(f"try {number}", "empty") for number in range(4)))
    assert outcome.state is LayerState.GIVEN_UP and outcome.lets_clip_pass
    assert verdicts(outcome)["not_empty"] is GateOutcome.FAILED and not bench.has_bit
    assert [attempt["attempt"] for attempt in bench.document().attempts] == ["try 0", "try 1", "try 2"]
    (review,) = bench.reviews
    assert review.risk is ReviewRisk.NORMAL and "all zero" in review.reason


def test_depth_that_is_too_far_away_is_refused(bench: Bench) -> None:
    outcome = bench.run(FakeEstimator("far", depth_m=30.0), FakeEstimator("near"))
    assert verdicts(outcome)["range"] is GateOutcome.PASSED
    assert "outside" in bench.document().attempts[0]["refused"]


def test_outdoors_the_estimator_hears_of_it_and_far_things_are_plausible(bench: Bench) -> None:
    bench.services.database.update_clip(bench.clip_id, location_type=LocationType.OUTDOOR)
    estimator = FakeEstimator("street", depth_m=30.0, is_dense=True)
    outcome = bench.run(estimator)
    assert estimator.heard_locations == [LocationType.OUTDOOR]
    assert verdicts(outcome)["range"] is GateOutcome.PASSED and bench.document().attempts == ()
    assert bench.document().config["location"] == "outdoor"
    assert set(pq.read_table(io.BytesIO(bench.read("verdicts.parquet")))["range"].to_pylist()) == {"passed"}


def test_a_backend_that_only_raises_leaves_nothing(bench: Bench) -> None:
    outcome = bench.run(FakeEstimator("only", "raises"))
    assert outcome.state is LayerState.GIVEN_UP and outcome.document is None
    assert bench.services.store.document(bench.clip_id, "depth_maps") is None
    # The same clip would fall over again: it is not tried a second time.
    assert bench.waits == [] and len(bench.reviews) == 1


def test_a_static_camera_is_no_failure(bench: Bench) -> None:
    second = FakeEstimator("second")
    outcome = bench.run(FakeEstimator("first", "static"), second)
    assert outcome.state is LayerState.COMMITTED
    judged = verdicts(outcome)
    assert judged.pop("completed") is GateOutcome.PASSED
    assert set(judged.values()) == {GateOutcome.NOT_EVALUATED}
    assert not bench.has_bit and bench.reviews == [] and second.heard == []
    assert bench.document().counts["frames_without_parallax"] == 5
    assert "valid_share" not in bench.document().counts
    assert all("parallax" in verdict.message for verdict in outcome.gates[1:])


def test_a_dense_backend_that_sees_too_little_is_replaced_or_reviewed(bench: Bench) -> None:
    few = FakeEstimator("few", is_dense=True, known_share=0.6)
    outcome = bench.run(few, FakeEstimator("all", is_dense=True, known_share=1.0))
    assert verdicts(outcome)["validity"] is GateOutcome.PASSED
    assert "60%" not in outcome.reason and "know less than 85%" in bench.document().attempts[0]["refused"]
    outcome = bench.run(few)
    assert outcome.state is LayerState.COMMITTED and bench.has_bit
    assert verdicts(outcome)["validity"] is GateOutcome.FAILED
    assert [review.risk for review in bench.reviews] == [ReviewRisk.NORMAL]


def test_other_layers_keep_their_versions_and_equal_depth_keeps_its_own(bench: Bench) -> None:
    before = {name: bench.document(name).data_version for name in (PRIVACY_LAYER, "frames")}
    bench.run(FakeEstimator())
    first = bench.document().data_version
    bench.run(FakeEstimator())
    assert bench.document().data_version == first
    bench.run(FakeEstimator(depth_m=3.0))
    assert bench.document().data_version != first
    assert {name: bench.document(name).data_version for name in before} == before


def test_the_estimator_hears_of_the_baseline_and_the_camera(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(depth_baseline_m=0.05)
    estimator = FakeEstimator()
    bench.run(estimator)
    ((camera, baseline_m, cuts),) = estimator.heard
    # The first sampled frame after the cut.
    assert cuts == {9}
    assert (camera.width, camera.height, baseline_m) == (WIDTH, HEIGHT, 0.05)
    assert json.loads(bench.read("depth.json"))["baseline_m"] == 0.05


def test_the_delivery_holds_maps_confidence_and_what_they_mean(bench: Bench) -> None:
    bench.run(FakeEstimator())
    members = {member.path: member for member in deliver(bench.document(), bench.read)}
    assert set(members) == {
        *(f"depth/frame_{index:06d}.png" for index in (0, 3, 6, 9, 12)),
        *(f"depth/confidence/frame_{index:06d}.png" for index in (0, 3, 6, 9, 12)),
        "depth/depth.json",
        "depth/verdicts.parquet",
    }
    member = members["depth/frame_000012.png"]
    assert member.size is not None
    data = bench.read(member.file)[member.offset : member.offset + member.size]
    assert decode_png(data).max() == 3000
