"""Recall on images of text and number plates, and how much is redacted where there is none.

A region counts as covered when at least 90 % of its upright box lies under the redaction: the detections with each side
moved out by 20 %, as in the pass.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from _harness import Reporter, cpu_seconds

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ego_assets.schema.detections import RegionDetector

TESTDATA = Path(os.environ.get("EGO_TESTDATA", Path(__file__).resolve().parents[2] / "shared" / "testdata"))

TEXT_TARGET = 0.95
PLATES_TARGET = 0.95
COVERED = 0.9
INDICATIVE_BELOW = 200

#: Longer sides in pixels of the copies that the pass examines.
ORDINARY_SIDE = 640
FINE_SIDE = 1600
PLATES_SIDE = 960

#: First-person clips without readable text, plates or both in most frames.
NEEDLESS_TARGET_PERCENT = 2.0
FRAMES_PER_CLIP = 6
QUICK_FRAMES_PER_CLIP = 2


class Labelled(NamedTuple):
    """A picture and the upright boxes that must be covered."""

    image: Any
    boxes_xyxy: Any


Look = Callable[[Any], "npt.NDArray[np.float32]"]


def run(reporter: Reporter, *, quick: bool, clip: Path | None) -> None:
    """Report recall, needless area and cost; ``clip`` plays no part."""
    from ego_assets.schema.errors import EgoAssetsError

    try:
        from resources.profiles import build_detector, load_profile

        profile = load_profile("local")
        text, plates = (build_detector(profile, task) for task in ("text", "plates"))
    except (EgoAssetsError, ImportError) as error:
        reporter.report("text recall, ordinary and fine look", None, "share", reason=str(error))
        reporter.report("plate recall", None, "share", reason=str(error))
        return
    text_looks: dict[str, Look] = {
        "ordinary look": lambda image: boxes_at(text, image, ORDINARY_SIDE),
        "fine look": lambda image: boxes_at(text, image, FINE_SIDE),
        "ordinary and fine look": lambda image: both(
            boxes_at(text, image, ORDINARY_SIDE), boxes_at(text, image, FINE_SIDE)
        ),
    }
    for name, look in text_looks.items():
        target = TEXT_TARGET if "fine" in name else None
        report_recall(reporter, f"text recall, ICDAR 2015, {name}", icdar_pictures, look, target=target)
    folders: dict[str, Callable[[], Iterator[Labelled]]] = {
        "EU": lambda: openalpr_pictures("openalpr_eu"),
        "US": lambda: openalpr_pictures("openalpr_us"),
        "alpr-unconstrained": unconstrained_pictures,
        "all sets": lambda: (
            picture
            for pictures in (
                openalpr_pictures("openalpr_eu"),
                openalpr_pictures("openalpr_us"),
                unconstrained_pictures(),
            )
            for picture in pictures
        ),
    }
    for name, pictures in folders.items():
        report_recall(
            reporter,
            f"plate recall, {name}",
            pictures,
            lambda image: boxes_at(plates, image, PLATES_SIDE),
            target=PLATES_TARGET,
        )
    report_needless_area(reporter, {"text": text, "plates": plates}, quick=quick)
    report_cost(reporter, text, plates)


def report_recall(
    reporter: Reporter,
    metric: str,
    pictures: Callable[[], Iterator[Labelled]],
    look: Look,
    *,
    target: float | None,
) -> None:
    """One row: covered boxes of all, with n and the 95 % Wilson interval."""
    import numpy as np

    from ego_assets.privacy.coverage import covered_share, wilson_interval
    from ego_assets.privacy.redaction import expand_boxes

    covered = total = images = 0
    for picture in pictures():
        images += 1
        height, width = picture.image.shape[:2]
        redaction = expand_boxes(look(picture.image), margin=0.2, width=width, height=height)
        shares = covered_share(picture.boxes_xyxy.astype(np.float32), redaction)
        covered += int((shares >= COVERED).sum())
        total += len(shares)
    if total == 0:
        reporter.report(
            metric,
            None,
            "share",
            target=target,
            better="higher",
            reason=f"no labelled pictures in {TESTDATA}",
        )
        return
    low, high = wilson_interval(covered, total)
    reason = f"n {total} in {images} pictures, 95 % Wilson interval {low:.3f} to {high:.3f}"
    reason += ", indicative" if total < INDICATIVE_BELOW else ""
    reporter.report(metric, covered / total, "share", target=target, better="higher", reason=reason)


def report_needless_area(reporter: Reporter, detectors: dict[str, RegionDetector], *, quick: bool) -> None:
    """Redacted share of frames of first-person clips, little of which is text: an upper bound of the needless part."""
    import cv2
    import numpy as np

    from ego_assets.privacy.panels import grow_to_panels
    from ego_assets.privacy.redaction import expand_boxes

    sums = dict.fromkeys((*detectors, "text and screens"), 0.0)
    largest = dict.fromkeys(sums, 0.0)
    frames = 0
    for image in clip_frames(QUICK_FRAMES_PER_CLIP if quick else FRAMES_PER_CLIP):
        small = cv2.resize(image, None, fx=(scale := scale_to(image, PLATES_SIDE)), fy=scale, interpolation=3)
        height, width = small.shape[:2]
        found = {kind: detector.detect([small])[0] for kind, detector in detectors.items()}
        boxes = {kind: detections.boxes_xyxy for kind, detections in found.items()}
        boxes["text and screens"] = both(boxes["text"], grow_to_panels(small, found["text"]).boxes_xyxy)
        frames += 1
        for kind, regions in boxes.items():
            mask = np.zeros((height, width), dtype=bool)
            grown = expand_boxes(regions, margin=0.2, width=width, height=height)
            for left, top, right, bottom in grown.astype(int):
                mask[top:bottom, left:right] = True
            sums[kind] += float(mask.mean())
            largest[kind] = max(largest[kind], float(mask.mean()))
    for kind, total in sums.items():
        metric = f"redacted area on first-person clips, {kind}"
        if frames == 0:
            reporter.report(
                metric, None, "percent", target=NEEDLESS_TARGET_PERCENT, reason=f"no clips in {TESTDATA}"
            )
            continue
        reason = (
            f"{frames} frames, labels that are really there included, worst frame {100 * largest[kind]:.1f}"
        )
        reporter.report(
            metric, 100 * total / frames, "percent", target=NEEDLESS_TARGET_PERCENT, reason=reason
        )


def report_cost(reporter: Reporter, text: RegionDetector, plates: RegionDetector) -> None:
    """CPU seconds of one look at each size of the pass."""
    import numpy as np

    from ego_assets.privacy.panels import grow_to_panels

    picture = np.random.default_rng(0).integers(0, 255, (1080, 1920, 3)).astype(np.uint8)
    looks: dict[str, Callable[[], object]] = {
        f"text look at {ORDINARY_SIDE}": lambda: boxes_at(text, picture, ORDINARY_SIDE),
        f"text look at {FINE_SIDE}": lambda: boxes_at(text, picture, FINE_SIDE),
        f"plate look at {PLATES_SIDE}": lambda: boxes_at(plates, picture, PLATES_SIDE),
    }
    for name, look in looks.items():
        look()
        reporter.report(name, min(cpu_seconds(look) for _ in range(3)), "CPU seconds")
    page, lines = page_with_lines()
    grow_to_panels(page, lines)
    seconds = min(cpu_seconds(lambda: grow_to_panels(page, lines)) for _ in range(5))
    reporter.report("growing 12 lines to their panel", seconds, "CPU seconds", target=0.005)


def page_with_lines() -> tuple[Any, Any]:
    """A sheet with twelve lines on a grey ground, and the lines' boxes."""
    import numpy as np

    from ego_assets.schema.detections import Detections

    page = np.full((544, 960, 3), 110, np.uint8)
    page[60:500, 300:660] = 235
    tops = 80 + 34 * np.arange(12)
    for top in tops:
        page[top : top + 16, 330:630:6] = 30
    boxes = np.stack([np.full(12, 328), tops - 2, np.full(12, 632), tops + 18], axis=1).astype(np.float32)
    return page, Detections(boxes, np.ones(12, np.float32))


def scale_to(image: Any, side: int) -> float:
    """Factor by which a picture shrinks to a longer side; it is never enlarged."""
    return min(1.0, side / max(image.shape[:2]))


def boxes_at(detector: RegionDetector, image: Any, side: int) -> npt.NDArray[np.float32]:
    """What a detector finds on a copy with this longer side, in pixels of the picture."""
    import cv2

    scale = scale_to(image, side)
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image
    (found,) = detector.detect([small])
    return found.scaled(image.shape[1] / small.shape[1], image.shape[0] / small.shape[0]).boxes_xyxy


def both(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The boxes of two looks."""
    import numpy as np

    return np.concatenate([first, second])


def icdar_pictures() -> Iterator[Labelled]:
    """ICDAR 2015 pictures with the upright hulls of the lines that are not marked ignore."""
    folder = TESTDATA / "text_screens" / "icdar15_toy"
    labels = folder / "textdet_test.json"
    if not labels.is_file():
        return
    for entry in json.loads(labels.read_text())["data_list"]:
        polygons = [line["polygon"] for line in entry["instances"] if not line["ignore"]]
        yield labelled(folder / Path(entry["img_path"]).name, [hull(points) for points in polygons])


def openalpr_pictures(folder: str) -> Iterator[Labelled]:
    """Pictures of cars with left, top, width and height of each plate."""
    for path in sorted((TESTDATA / "privacy_faces_plates" / folder).glob("*.txt")):
        rows = [line.split("\t") for line in path.read_text().splitlines() if line.strip()]
        sides = [[float(value) for value in row[1:5]] for row in rows]
        boxes = [(left, top, left + width, top + height) for left, top, width, height in sides]
        yield labelled(path.with_name(rows[0][0]), boxes)


def unconstrained_pictures() -> Iterator[Labelled]:
    """Pictures of cars with the corners of each plate as shares of the picture: four x, then four y."""
    for path in sorted((TESTDATA / "privacy_faces_plates" / "alpr_unconstrained").glob("*.txt")):
        picture = labelled(path.with_suffix(".jpg"), [])
        height, width = picture.image.shape[:2]
        boxes = []
        for line in path.read_text().splitlines():
            values = [float(value) for value in line.split(",")[1:9]]
            points = [v for x, y in zip(values[:4], values[4:], strict=True) for v in (x * width, y * height)]
            boxes.append(hull(points))
        yield labelled(path.with_suffix(".jpg"), boxes)


def hull(points: Sequence[float]) -> tuple[float, float, float, float]:
    """The upright box of x, y, x, y, ..."""
    return min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])


def labelled(path: Path, boxes: Sequence[tuple[float, float, float, float]]) -> Labelled:
    import cv2
    import numpy as np

    return Labelled(cv2.imread(str(path)), np.array(boxes, dtype=np.float32).reshape(-1, 4))


def clip_frames(per_clip: int) -> Iterator[Any]:
    """Frames spread over each first-person clip."""
    import numpy as np

    from ego_assets.media.decode import decode_frames

    for path in sorted((TESTDATA / "ego_video").glob("*.mp4")):
        frames = [frame.index for frame in decode_frames(path)]
        wanted = np.unique(np.linspace(0, len(frames) - 1, per_clip + 2).astype(int)[1:-1])
        for frame in decode_frames(path):
            if frame.index in wanted:
                yield frame.bgr(max_side=1920)
