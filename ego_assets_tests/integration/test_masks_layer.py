"""``masks`` from a committed ``blurred_video`` to its artifact and its place in a delivery."""

from __future__ import annotations

import io
import json
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ego_assets.assets.masks import SPEC, deliver, make
from ego_assets.choosing import clips_where
from ego_assets.delivery.card import models_section
from ego_assets.execution import ClipWork, LayerDraft, LayerOutcome, LayerState, Services, run_layer
from ego_assets.labels.hand_object import write_tracks
from ego_assets.media.frame_archive import FrameArchiveIndex, read_member
from ego_assets.media.motion_table import MOTION_FILE, motion_table
from ego_assets.media.rasters import decode_png
from ego_assets.media.timeline import read_timeline
from ego_assets.schema.artifact import ArtifactDocument
from ego_assets.schema.clip import PRIVACY_LAYER, Clip
from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.gates import GateOutcome
from ego_assets.schema.hands import HandObjectTracks, HandSide, HandTrack
from ego_assets.schema.ladder import Rung
from ego_assets.schema.layers import COMPLETENESS_BITS, LayerSpec, RetryPolicySpec
from ego_assets.schema.masks import MaskFrame, MaskInstance
from ego_assets.schema.motion import CameraMotion
from ego_assets.schema.vocabulary import PrivacyStatus, ReviewRisk
from ego_assets.settings import Settings
from ego_assets_tests.clips import write_clip
from resources.platform import build_resources
from resources.profiles import build_ladder, load_profile

WIDTH, HEIGHT, FRAMES, RATE = 192, 108, 15, 15
COVERED = [0, 3, 6, 9, 12]
#: A new scene begins between two frames that the layer looks at.
FIRST_AFTER_CUT = 7
NO_WAIT = RetryPolicySpec(max_retries=0, delay_s=0.0)
BLURRED = LayerSpec(name=PRIVACY_LAYER, group="t", description="", stage=2, essential=True, retry=NO_WAIT)
HANDS = LayerSpec(
    name="hand_object", group="t", description="", stage=3, inputs=(PRIVACY_LAYER,), retry=NO_WAIT
)


@dataclass
class FakeTracker:
    """Two instances in every frame, and a hand where the hand layer has one; or misbehaves as told."""

    behaviour: str = "good"
    category_info: BackendInfo | None = None
    vocabularies: list[Sequence[str]] = field(default_factory=list)
    cuts: list[frozenset[int]] = field(default_factory=list)

    @property
    def info(self) -> BackendInfo:
        return BackendInfo(task="masks", backend=self.behaviour, model="fake 1")

    def track(
        self,
        frames: Iterable[ClipFrame],
        *,
        hands: HandObjectTracks | None = None,
        vocabulary: Sequence[str] = (),
        cuts: frozenset[int] = frozenset(),
    ) -> Iterator[MaskFrame]:
        self.vocabularies.append(vocabulary)
        self.cuts.append(cuts)
        for number, frame in enumerate(frames):
            if self.behaviour == "raises" and number == 2:
                raise RuntimeError("the model fell over")
            yield self._masks(frame, hands)

    def _masks(self, frame: ClipFrame, hands: HandObjectTracks | None) -> MaskFrame:
        width, height = frame.size
        ids = np.zeros((height, width), np.uint16)
        second = "spaceship" if self.behaviour == "invents" else "object"
        categories = {3: "object", 4: second}
        if self.behaviour == "blob":
            ids[:] = 3
        elif self.behaviour != "empty":
            ids[:, : width // 2], ids[:, width // 2 :] = 3, 4
            place = None if hands is None else hands.position(frame.frame_index)
            if hands is not None and place is not None:
                left, top, right, bottom = hands.right.boxes_xyxy[place].astype(int)
                ids[top:bottom, left:right] = 2
                categories[2] = "hand"
        return MaskFrame(
            frame_index=frame.frame_index,
            timestamp_ns=frame.timestamp_ns,
            instance_ids=ids,
            instances=tuple(
                MaskInstance(
                    instance_id=number,
                    category=categories[number],
                    score=0.7,
                    side="right" if number == 2 else "",
                )
                for number in np.unique(ids).tolist()
                if number
            ),
        )


@dataclass
class FakeModels:
    """Hands out the trackers as the rungs of the ladder."""

    rungs: Sequence[Rung[Any]] = ()

    def ladder(self, task: str) -> Sequence[Rung[Any]]:
        assert task == "masks"
        return self.rungs

    def frames_per_second(self, task: str) -> float | None:
        return 5.0

    def detector(self, task: str, *, leak_check: bool = False) -> Any:
        raise AssertionError("masks need no detector")

    def settings(self, tasks: Iterable[str], *, leak_check: bool = False) -> Mapping[str, Mapping[str, Any]]:
        return {}

    def give_back_memory(self, *, keep_networks: bool) -> None:
        pass


def tracks() -> HandObjectTracks:
    """A right hand that holds something in every covered frame."""
    count = len(COVERED)

    def track(side: HandSide, visible: bool) -> HandTrack:
        box = np.array([120, 60, 144, 90] if visible else [np.nan] * 4, np.float32)
        return HandTrack(
            side=side,
            visible=np.full(count, visible),
            boxes_xyxy=np.tile(box, (count, 1)),
            scores=np.full(count, 0.9 if visible else np.nan, np.float32),
            landmarks_xy=np.full((count, 21, 2), np.nan, np.float32),
            states=("grasp" if visible else None,) * count,
            state_scores=np.full(count, 0.9 if visible else np.nan, np.float32),
            contact_boxes_xyxy=np.full((count, 4), np.nan, np.float32),
            contact_scores=np.full(count, 0.9 if visible else np.nan, np.float32),
        )

    return HandObjectTracks(
        frame_index=np.array(COVERED, np.int64),
        timestamps_ns=np.array(COVERED, np.int64) * 66_666_667,
        resolution=(WIDTH, HEIGHT),
        left=track("left", False),
        right=track("right", True),
        other_hands=np.zeros(count, np.int64),
    )


def _make_blurred(work: ClipWork, staged: Any) -> LayerDraft:
    path, size = staged.path("proxy.mp4"), (WIDTH, HEIGHT)
    write_clip(path, frames=FRAMES, width=WIDTH, height=HEIGHT, rate=RATE)
    still = CameraMotion.still(FRAMES)
    motion = CameraMotion(
        positions_xy=still.positions_xy, change=still.change, is_cut=np.arange(FRAMES) == FIRST_AFTER_CUT
    )
    table = motion_table(motion, read_timeline(path).timestamps_ns, measured_on=size, resolution=size)
    pq.write_table(table, staged.path(MOTION_FILE))
    return LayerDraft(clip_updates={"privacy_status": PrivacyStatus.BLURRED}, resolution=(WIDTH, HEIGHT))


def _make_hands(work: ClipWork, staged: Any) -> LayerDraft:
    write_tracks(tracks(), staged.path("hand_object.tar"), staged.path("hand_object.parquet"))
    return LayerDraft(resolution=(WIDTH, HEIGHT))


@dataclass
class Bench:
    """A real store and database that hold one de-identified clip."""

    services: Services
    models: FakeModels
    clip_id: str

    def run(self, *trackers: FakeTracker) -> LayerOutcome:
        def opened(tracker: FakeTracker) -> FakeTracker:
            return tracker

        self.models.rungs = [
            Rung(name=one.behaviour, open=partial(opened, one), config={"backend": one.behaviour})
            for one in trackers
        ]
        return self.run_any(SPEC, make)

    def run_any(self, spec: LayerSpec, function: Any) -> LayerOutcome:
        return run_layer(
            spec,
            function,
            self.clip_id,
            services=self.services,
            run_id="run",
            log=logging.getLogger("test"),
            ancestors=(),
            sleep=lambda seconds: None,
        )

    def document(self) -> ArtifactDocument:
        document = self.services.store.document(self.clip_id, "masks")
        assert document is not None
        return document

    def read(self, name: str) -> bytes:
        return self.services.store.read_bytes(self.document(), name)

    def masks(self) -> dict[int, Any]:
        index = FrameArchiveIndex.read(io.BytesIO(self.read("masks.parquet")))
        file = io.BytesIO(self.read("masks.tar"))
        return {entry.frame_index: decode_png(read_member(file, entry)) for entry in index}

    @property
    def has_bit(self) -> bool:
        clip = self.services.database.clip(self.clip_id)
        return bool(clip.completeness >> COMPLETENESS_BITS["masks"] & 1)

    @property
    def reviews(self) -> list[Any]:
        return [item for item in self.services.database.review_items() if item.layer == "masks"]


@pytest.fixture
def make_bench(tmp_path: Path) -> Callable[..., Bench]:
    def build(*, hands: bool = True, activity: str = "", **settings: Any) -> Bench:
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
        clip = Clip(clip_id=clip_id, source_name="clip.mp4", activity_category=activity)
        services.database.add_clip(clip)
        bench = Bench(services, models, clip_id)
        layers = [(BLURRED, _make_blurred)] + ([(HANDS, _make_hands)] if hands else [])
        for spec, function in layers:
            assert bench.run_any(spec, function).state is LayerState.COMMITTED
        return bench

    return build


def verdicts(outcome: LayerOutcome) -> dict[str, GateOutcome]:
    return {verdict.spec.name: verdict.outcome for verdict in outcome.gates}


def test_masks_are_stored_judged_and_delivered(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    outcome = bench.run(FakeTracker())
    assert outcome.state is LayerState.COMMITTED and set(verdicts(outcome).values()) == {GateOutcome.PASSED}
    assert bench.has_bit and bench.reviews == []
    document = bench.document()
    assert document.resolution == (WIDTH, HEIGHT) and document.attempts == ()
    assert [info.backend for info in document.backends] == ["good"]
    assert document.counts["frames"] == 5 and document.counts["instances"] == 3
    assert document.counts["hand_frame_share"] == 1.0 and document.counts["mean_segmented_share"] == 1.0
    assert set(document.inputs) == {PRIVACY_LAYER, "hand_object"}
    masks = bench.masks()
    assert list(masks) == COVERED and set(np.unique(masks[3])) == {2, 3, 4}
    categories = json.loads(bench.read("categories.json"))
    assert (
        categories["instances"]["2"]["category"] == "hand" and categories["instances"]["2"]["side"] == "right"
    )
    assert pq.read_table(io.BytesIO(bench.read("tracks.parquet"))).num_rows == 15
    assert pq.read_table(io.BytesIO(bench.read("verdicts.parquet")))["frame_index"].to_pylist() == COVERED
    picture = outcome.pictures["frames with masks"]
    assert picture.startswith(b"\xff\xd8") and len(picture) < 50_000
    members = deliver(document, bench.read)
    assert [member.path for member in members] == [
        *(f"segmentation/frame_{index:06d}.png" for index in COVERED),
        "segmentation/categories.json",
        "segmentation/tracks.parquet",
        "segmentation/verdicts.parquet",
    ]
    data = bench.read("masks.tar")
    first = members[0]
    assert first.size is not None
    assert np.array_equal(decode_png(data[first.offset : first.offset + first.size]), masks[0])


def test_without_the_hand_layer_nobody_says_that_hands_are_missing(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(hands=False)
    outcome = bench.run(FakeTracker())
    found = verdicts(outcome)
    assert found["hand_presence"] is found["hand_area"] is GateOutcome.NOT_EVALUATED
    assert outcome.state is LayerState.COMMITTED and bench.has_bit


@pytest.mark.parametrize(
    ("activity", "expected"), [("cooking", GateOutcome.PASSED), ("walking", GateOutcome.NOT_EVALUATED)]
)
def test_clip_and_frames_say_the_same_about_hands(
    make_bench: Callable[..., Bench], activity: str, expected: GateOutcome
) -> None:
    bench = make_bench(activity=activity)
    outcome = bench.run(FakeTracker())
    frames = pq.read_table(io.BytesIO(bench.read("verdicts.parquet")))["hand_presence"].to_pylist()
    assert verdicts(outcome)["hand_presence"] is expected and set(frames) == {expected.value}


def test_the_model_that_named_the_instances_is_delivered_with_its_licence(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench()
    words = BackendInfo(
        task="embeddings",
        backend="words",
        model="Words 1",
        weights_sha256="7" * 64,
        licence="research only",
    )
    assert bench.run(FakeTracker(category_info=words)).state is LayerState.COMMITTED
    document = bench.document()
    assert [info.backend for info in document.backends] == ["good", "words"] and words in document.backends
    delivered = {"backends": [asdict(backend) for backend in document.backends]}
    card = models_section([{"masks": delivered}])
    assert "| masks | Words 1 | research only | `777777777777` |" in card
    # The tracker alone made the layer.
    assert [clip.clip_id for clip in chosen(bench, "backend('masks') == 'good'")] == [bench.clip_id]


def chosen(bench: Bench, text: str) -> list[Clip]:
    database = bench.services.database
    return clips_where(
        text, database.clips(), layers=["masks"], database=database, store=bench.services.store
    )


@pytest.mark.parametrize("first", ["blob", "empty", "raises", "invents"])
def test_the_next_attempt_makes_good_what_the_first_could_not(
    make_bench: Callable[..., Bench], first: str
) -> None:
    bench = make_bench()
    outcome = bench.run(FakeTracker(first), FakeTracker())
    assert outcome.state is LayerState.COMMITTED
    document = bench.document()
    assert [attempt["attempt"] for attempt in document.attempts] == [first]
    assert document.attempts[0]["refused"] and document.backends[0].backend == "good"
    assert set(np.unique(bench.masks()[0])) == {2, 3, 4}


@pytest.mark.parametrize(("behaviour", "gate"), [("blob", "largest_instance"), ("empty", "segmented_area")])
def test_what_no_attempt_can_segment_is_given_up_and_the_clip_goes_on(
    make_bench: Callable[..., Bench], behaviour: str, gate: str
) -> None:
    bench = make_bench()
    outcome = bench.run(*[FakeTracker(behaviour)] * 3)
    assert outcome.state is LayerState.GIVEN_UP and outcome.lets_clip_pass
    assert verdicts(outcome)[gate] is GateOutcome.FAILED
    assert not bench.has_bit and [item.risk for item in bench.reviews] == [ReviewRisk.NORMAL]
    assert len(bench.document().attempts) == 3


def test_the_vocabulary_and_the_cuts_reach_the_backend(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(mask_vocabulary="object, hand, gadget")
    tracker = FakeTracker()
    bench.run(tracker)
    assert tracker.vocabularies == [("object", "hand", "gadget")]
    assert tracker.cuts == [frozenset({9})]
    assert json.loads(bench.read("categories.json"))["vocabulary"] == ["object", "hand", "gadget"]


def test_the_local_profile_segments_a_clip(make_bench: Callable[..., Bench]) -> None:
    pytest.importorskip("mediapipe", reason="the local backend needs mediapipe")
    bench = make_bench()
    bench.models.rungs = build_ladder(load_profile("local"), "masks")
    outcome = bench.run_any(SPEC, make)
    assert outcome.state is LayerState.COMMITTED, outcome.reason
    categories = json.loads(bench.read("categories.json"))
    assert {item["category"] for item in categories["instances"].values()} <= {"hand", "object", "person"}
    [backend] = bench.document().backends
    assert backend.backend == "regions_flow" and backend.weights_sha256
