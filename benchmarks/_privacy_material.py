"""What the privacy benchmarks share: material, the looks and tracks of the pass, deface, and what counts as covered."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np
import numpy.typing as npt
from _harness import Reporter

from ego_assets.media.decode import DecodedFrame
from ego_assets.media.probe import probe
from ego_assets.media.timeline import read_timeline
from ego_assets.privacy.config import PrivacyConfig
from ego_assets.privacy.coverage import covered_share, wilson_interval
from ego_assets.privacy.examine import Examination, examine, look_at_image
from ego_assets.privacy.looks import FrameView, detect_at
from ego_assets.privacy.redaction import expand_boxes
from ego_assets.privacy.tracking import RegionIndex, Track, build_tracks

if TYPE_CHECKING:
    from ego_assets.schema.detections import BgrImage, RegionDetector

TESTDATA = Path(os.environ.get("EGO_TESTDATA", Path(__file__).resolve().parents[2] / "shared" / "testdata"))

#: Share of a true box that must lie under redaction.
COVERED_SHARE = 0.9
#: Fewer regions than this give an indication, no more.
INDICATIVE_BELOW = 200
#: deface's default threshold, and its mask scale of 1.3 as a margin. Its ellipse is counted as the whole box.
DEFACE_THRESHOLD = 0.2
DEFACE_MARGIN = 0.3

CONFIG = PrivacyConfig()

Boxes = npt.NDArray[np.float32]
#: Picture -> what is redacted there, margin included, xyxy in its pixels.
Finder = Callable[["BgrImage"], Boxes]


def no_material() -> str:
    """Why a row has no value."""
    return f"no real material in {TESTDATA} (EGO_TESTDATA)"


def redaction(boxes: Boxes, *, width: int, height: int) -> Boxes:
    """What the pass covers for some regions: each side moved out by its margin."""
    return expand_boxes(boxes, margin=CONFIG.box_margin, width=width, height=height)


def fine_look(image: BgrImage, detectors: Mapping[str, RegionDetector]) -> Boxes:
    """What the fine look of the pass redacts, whatever it takes it for."""
    found = look_at_image(image, detectors=detectors, config=CONFIG)
    boxes = [detections.boxes_xyxy for detections in found.values()]
    return redaction(np.concatenate(boxes), width=image.shape[1], height=image.shape[0])


def ordinary_look(image: BgrImage, detectors: Mapping[str, RegionDetector]) -> Boxes:
    """What the detectors find on the downscaled copies of the pass, as redacted."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24")
    view = FrameView(DecodedFrame(0, 0, frame, 0))
    boxes = [
        detect_at(
            detector,
            kind,
            view,
            max_side=CONFIG.detection_max_side if kind == "faces" else CONFIG.text_max_side,
        ).boxes_xyxy
        for kind, detector in detectors.items()
    ]
    return redaction(np.concatenate(boxes), width=image.shape[1], height=image.shape[0])


def deface_finder() -> Finder | None:
    """The detector of deface with its defaults; ``None`` where it is not installed."""
    try:
        from deface.centerface import CenterFace
    except ImportError:
        return None
    networks: dict[tuple[int, ...], CenterFace] = {}

    def find(image: BgrImage) -> Boxes:
        # OpenCV's network answers wrongly once it is shown a picture of another size.
        if image.shape not in networks:
            networks.clear()
            networks[image.shape] = CenterFace(backend="opencv")
        # The program reads its frames as RGB.
        found, _ = networks[image.shape](np.ascontiguousarray(image[..., ::-1]), threshold=DEFACE_THRESHOLD)
        boxes = np.asarray(found, dtype=np.float32)[:, :4].reshape(-1, 4)
        return expand_boxes(boxes, margin=DEFACE_MARGIN, width=image.shape[1], height=image.shape[0])

    return find


def read_image(path: Path) -> BgrImage:
    """A picture, ``uint8 [height, width, 3]``, BGR."""
    image = cv2.imread(str(path))
    if image is None:
        raise FileNotFoundError(path)
    return np.asarray(image, dtype=np.uint8)


def union_share(boxes: Boxes, *, width: int, height: int) -> float:
    """Share of the picture under the union of the boxes."""
    return float(covered_share(np.array([[0, 0, width, height]], np.float32), boxes)[0])


@dataclass
class Recall:
    """Regions of one set: how many there are, in how many pictures, and how many each side covered."""

    regions: int = 0
    pictures: int = 0
    covered: dict[str, int] = field(default_factory=dict)

    def add(self, truth: Boxes, redacted: Mapping[str, Boxes]) -> None:
        """Count the regions of one picture; ``redacted`` by side."""
        self.regions += len(truth)
        self.pictures += 1
        for side, boxes in redacted.items():
            hits = int((covered_share(truth, boxes) >= COVERED_SHARE).sum())
            self.covered[side] = self.covered.get(side, 0) + hits

    def report(
        self, reporter: Reporter, metric: str, *, how: str = "", target: float | None = None, ours: str = ""
    ) -> None:
        """One row per side, named after the metric; the target is that of ``ours``."""
        for side, covered in self.covered.items():
            low, high = wilson_interval(covered, self.regions)
            notes = [
                f"n={self.regions} in {self.pictures} pictures",
                f"{covered} covered",
                f"95 % Wilson interval {low:.3f}-{high:.3f}",
            ]
            if self.regions < INDICATIVE_BELOW:
                notes.append(f"indicative: n below {INDICATIVE_BELOW}")
            if how:
                notes.append(how)
            reporter.report(
                metric + side,
                covered / self.regions if self.regions else None,
                "share",
                target=target if side == ours else None,
                better="higher",
                reason="; ".join(notes),
            )


@dataclass(frozen=True, kw_only=True)
class Passed:
    """What the first pass and the tracks give for one clip."""

    examination: Examination
    tracks: Mapping[str, Sequence[Track]]
    width: int
    height: int

    def redacted(self, kinds: Iterable[str] | None = None) -> list[Boxes]:
        """What is redacted on each frame, of all kinds or of some."""
        chosen = self.tracks if kinds is None else kinds
        index = RegionIndex(track for kind in chosen for track in self.tracks[kind])
        return [
            redaction(index.boxes_at(frame), width=self.width, height=self.height)
            for frame in range(self.examination.timeline.frame_count)
        ]

    def redacted_share(self, kinds: Iterable[str] | None = None) -> float:
        """Mean share of the picture that is redacted."""
        shares = [union_share(boxes, width=self.width, height=self.height) for boxes in self.redacted(kinds)]
        return float(np.mean(shares))


def pass_over(path: Path, detectors: Mapping[str, RegionDetector]) -> Passed:
    """The first pass over a clip and its tracks, as the privacy pass makes them; nothing is rendered."""
    found = probe(path)
    examination = examine(path, probe=found, timeline=read_timeline(path), detectors=detectors, config=CONFIG)
    tracks = {
        kind: build_tracks(
            looks,
            kind=kind,
            timestamps_ns=examination.timeline.timestamps_ns,
            width=found.width,
            height=found.height,
            config=CONFIG,
            camera=examination.camera,
        )
        for kind, looks in examination.looks.items()
    }
    return Passed(examination=examination, tracks=tracks, width=found.width, height=found.height)
