"""The benchmarks measure what the pass does: the same copies, the same margin, areas that are counted once."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import numpy.typing as npt
import pytest

from ego_assets.media.encode import VideoWriter
from ego_assets.privacy.config import PrivacyConfig
from ego_assets.privacy.coverage import wilson_interval
from ego_assets.schema.detections import BackendInfo, Detections

CONFIG = PrivacyConfig()
BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
Image = npt.NDArray[np.uint8]


class Watcher:
    """Finds one box, given as shares of the picture, on every picture, and remembers how large each was."""

    def __init__(self, *box: float) -> None:
        self._box = box
        self.sizes: list[tuple[int, int]] = []

    @property
    def info(self) -> BackendInfo:
        return BackendInfo(task="any", backend="watcher", model="none")

    def detect(self, images: Sequence[Image], *, strict: bool = False) -> list[Detections]:
        self.sizes += [(image.shape[1], image.shape[0]) for image in images]
        return [
            Detections(
                np.array([self._box], np.float32) * np.array([*image.shape[1::-1]] * 2, np.float32),
                np.ones(1, np.float32),
            )
            for image in images
        ]


class RowsOnly:
    """Stands in for the reporter."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[float | None, float | None, str]] = {}

    def report(
        self,
        metric: str,
        value: float | None,
        unit: str,
        *,
        target: float | None = None,
        better: str = "lower",
        reason: str = "",
    ) -> None:
        self.rows[metric] = (value, target, reason)


@pytest.fixture
def material(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    # The benchmarks are programs: they find one another by their bare names.
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("_privacy_material")


@pytest.mark.parametrize(
    ("kind", "ordinary", "fine"),
    [
        ("faces", CONFIG.detection_max_side, CONFIG.fine_tile_side),
        ("text", CONFIG.text_max_side, CONFIG.text_fine_max_side),
        ("plates", CONFIG.text_max_side, CONFIG.text_fine_max_side),
    ],
)
def test_detectors_see_the_copies_of_the_pass(
    material: ModuleType, kind: str, ordinary: int, fine: int
) -> None:
    image = np.zeros((1080, 1920, 3), np.uint8)
    once, both = Watcher(0, 0, 0.1, 0.1), Watcher(0, 0, 0.1, 0.1)
    material.ordinary_look(image, {kind: once})
    material.fine_look(image, {kind: both})
    assert [max(size) for size in once.sizes] == [ordinary]
    assert sorted({max(size) for size in both.sizes}) == [ordinary, fine]


def test_redaction_has_the_margin_of_the_pass_whatever_the_kind(material: ModuleType) -> None:
    image = np.zeros((200, 400, 3), np.uint8)
    detectors = {"faces": Watcher(0.25, 0.25, 0.5, 0.5), "plates": Watcher(0, 0, 0.25, 0.5)}
    expected = [[100 - 20, 50 - 10, 200 + 20, 100 + 10], [0, 0, 100 + 20, 100 + 20]]
    for look in (material.ordinary_look, material.fine_look):
        assert look(image, detectors).tolist() == [pytest.approx(box) for box in expected]


def test_overlapping_regions_count_once(material: ModuleType) -> None:
    boxes = np.array([[0, 0, 50, 100], [25, 0, 75, 100]], np.float32)
    assert material.union_share(boxes, width=100, height=100) == pytest.approx(0.75)
    assert material.union_share(boxes[:0], width=100, height=100) == 0


def test_recall_is_reported_per_side_and_judged_for_ours(material: ModuleType) -> None:
    recall, reporter = material.Recall(), RowsOnly()
    truth = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32)
    recall.add(truth, {"": truth, ", other": truth[:1]})
    recall.add(truth, {"": truth * 2, ", other": truth})
    recall.report(reporter, "recall", target=0.9)
    low, high = wilson_interval(3, 4)
    value, target, reason = reporter.rows["recall, other"]
    assert (value, target) == (0.75, None)
    assert f"{low:.3f}-{high:.3f}" in reason and "n=4 in 2 pictures" in reason
    # Doubled, the first box still covers the first region, and the second box misses the second.
    assert reporter.rows["recall"][:2] == (0.75, 0.9)


def test_the_redacted_share_of_a_clip_is_that_of_its_tracks(material: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with VideoWriter(
        path, width=160, height=96, time_base=Fraction(1, 30), frame_rate=Fraction(30), threads=1
    ) as writer:
        picture = np.full((96, 160, 3), 90, np.uint8)
        for index in range(20):
            writer.write(av.VideoFrame.from_ndarray(picture, format="bgr24"), pts=index)
    passed = material.pass_over(
        path, {"faces": Watcher(0.4, 0.4, 0.6, 0.6), "plates": Watcher(0, 0, 0.2, 0.2)}
    )
    # Each side moves out by a fifth of 0.2 where it can.
    grown = 0.28 * 0.28
    assert passed.redacted_share(["faces"]) == pytest.approx(grown, rel=0.25)
    assert passed.redacted_share() == pytest.approx(
        passed.redacted_share(["faces"]) + passed.redacted_share(["plates"]), rel=1e-3
    )
    assert len(passed.redacted()) == 20
