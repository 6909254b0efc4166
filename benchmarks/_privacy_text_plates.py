"""Recall on images of text and number plates, and how much is redacted where there is none.

A region counts as covered when at least 90 % of its upright box lies under redaction: what the fine look of the pass
finds, or its ordinary look alone, each side moved out by 20 %. Text may be covered as text or as a screen, a plate as
either of them as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import _privacy_needless
import numpy as np
from _harness import Reporter, cpu_seconds
from _privacy_cost import detectors
from _privacy_material import (
    CONFIG,
    TESTDATA,
    Boxes,
    Recall,
    fine_look,
    no_material,
    ordinary_look,
    read_image,
    redaction,
    union_share,
)

from ego_assets.media.decode import decode_frames
from ego_assets.media.timeline import read_timeline
from ego_assets.privacy.examine import look_at_image
from ego_assets.privacy.panels import grow_to_panels
from ego_assets.schema.detections import BgrImage, Detections, RegionDetector
from ego_assets.schema.errors import EgoAssetsError

TEXT_TARGET = 0.95
PLATES_TARGET = 0.95
FINE = ", fine look"
ORDINARY = ", ordinary look only"

NEEDLESS_TARGET_PERCENT = 2.0
FRAMES_PER_CLIP = 6
QUICK_FRAMES_PER_CLIP = 2
#: With ``--quick`` only one of so many pictures of cars is looked at.
QUICK_EVERY = 4


class Labelled(NamedTuple):
    """A picture and the upright boxes that must be covered."""

    image: BgrImage
    boxes_xyxy: Boxes


def run(reporter: Reporter, *, quick: bool, clip: Path | None) -> None:
    """Report recall, needless area and cost; ``clip`` plays no part."""
    try:
        found = detectors(threads=1)
    except EgoAssetsError as error:
        for metric in ("text recall, ICDAR 2015", "plate recall, all sets"):
            reporter.report(metric + FINE, None, "share", reason=str(error))
        return
    text, both = {"text": found["text"]}, {kind: found[kind] for kind in ("text", "plates")}
    report_recall(
        reporter, "text recall, ICDAR 2015", {"": icdar_pictures}, text, target=TEXT_TARGET, every=1
    )
    plates = {
        ", EU": lambda: openalpr_pictures("openalpr_eu"),
        ", US": lambda: openalpr_pictures("openalpr_us"),
        ", alpr-unconstrained": unconstrained_pictures,
    }
    report_recall(
        reporter,
        "plate recall",
        plates,
        both,
        target=PLATES_TARGET,
        every=QUICK_EVERY if quick else 1,
        together=", all sets",
    )
    report_needless_area(reporter, both, quick=quick)
    _privacy_needless.run(reporter, quick=quick, clip=clip)
    report_cost(reporter, both)


def report_recall(
    reporter: Reporter,
    metric: str,
    sets: Mapping[str, Callable[[], Iterator[Labelled]]],
    using: Mapping[str, RegionDetector],
    *,
    target: float,
    every: int,
    together: str = "",
) -> None:
    """Two rows per set, and two of all sets together where they have a name."""
    total = Recall()
    for name, pictures in sets.items():
        count = Recall()
        for index, (image, truth) in enumerate(pictures()):
            if index % every == 0:
                redacted = {FINE: fine_look(image, using), ORDINARY: ordinary_look(image, using)}
                count.add(truth, redacted)
                total.add(truth, redacted)
        if count.regions == 0:
            reporter.report(
                metric + name + FINE, None, "share", target=target, better="higher", reason=no_material()
            )
        count.report(reporter, metric + name, target=target, ours=FINE)
    if together:
        total.report(reporter, metric + together, target=target, ours=FINE)


def report_needless_area(reporter: Reporter, using: Mapping[str, RegionDetector], *, quick: bool) -> None:
    """Redacted share of frames of first-person clips, little of which is text: an upper bound of the needless part."""
    shares: dict[str, list[float]] = {kind: [] for kind in ("text", "screens", "plates", "all of them")}
    for image in clip_frames(QUICK_FRAMES_PER_CLIP if quick else FRAMES_PER_CLIP, every=3 if quick else 1):
        height, width = image.shape[:2]
        looked = look_at_image(image, detectors=using, config=CONFIG)
        boxes = {kind: detections.boxes_xyxy for kind, detections in looked.items()}
        boxes["all of them"] = np.concatenate(list(boxes.values()))
        for kind, regions in boxes.items():
            covered = redaction(regions, width=width, height=height)
            shares[kind].append(union_share(covered, width=width, height=height))
    for kind, values in shares.items():
        metric = f"redacted area on first-person clips, {kind}"
        target = NEEDLESS_TARGET_PERCENT
        if not values:
            reporter.report(metric, None, "percent", target=target, reason=no_material())
            continue
        reason = f"{len(values)} frames, labels that are really there included, worst {100 * max(values):.1f}"
        reporter.report(metric, 100 * float(np.mean(values)), "percent", target=target, reason=reason)


def report_cost(reporter: Reporter, both: Mapping[str, RegionDetector]) -> None:
    """CPU seconds of one look of the pass at 1080p: text, screens and plates, and text alone."""
    picture = np.random.default_rng(0).integers(0, 255, (1080, 1920, 3)).astype(np.uint8)
    text = {"text": both["text"]}
    looks: dict[str, Callable[[], object]] = {
        "ordinary look for text and plates": lambda: ordinary_look(picture, both),
        "fine look for text, screens and plates": lambda: fine_look(picture, both),
        "fine look for text and screens": lambda: fine_look(picture, text),
    }
    for name, look in looks.items():
        look()
        reporter.report(name, min(cpu_seconds(look) for _ in range(3)), "CPU seconds")
    page, lines = page_with_lines()
    grow_to_panels(page, lines)
    seconds = min(cpu_seconds(lambda: grow_to_panels(page, lines)) for _ in range(5))
    reporter.report("growing 12 lines to their panel", seconds, "CPU seconds", target=0.005)


def page_with_lines() -> tuple[BgrImage, Detections]:
    """A sheet with twelve lines on a grey ground, and the lines' boxes."""
    page = np.full((544, 960, 3), 110, np.uint8)
    page[60:500, 300:660] = 235
    tops = 80 + 34 * np.arange(12)
    for top in tops:
        page[top : top + 16, 330:630:6] = 30
    boxes = np.stack([np.full(12, 328), tops - 2, np.full(12, 632), tops + 18], axis=1).astype(np.float32)
    return page, Detections(boxes, np.ones(12, np.float32))


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
        image = read_image(path.with_suffix(".jpg"))
        height, width = image.shape[:2]
        boxes = []
        for line in path.read_text().splitlines():
            values = [float(value) for value in line.split(",")[1:9]]
            points = [v for x, y in zip(values[:4], values[4:], strict=True) for v in (x * width, y * height)]
            boxes.append(hull(points))
        yield Labelled(image, np.array(boxes, np.float32).reshape(-1, 4))


def hull(points: Sequence[float]) -> tuple[float, float, float, float]:
    """The upright box of x, y, x, y, ..."""
    return min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])


def labelled(path: Path, boxes: Sequence[tuple[float, float, float, float]]) -> Labelled:
    return Labelled(read_image(path), np.array(boxes, np.float32).reshape(-1, 4))


def clip_frames(per_clip: int, *, every: int) -> Iterator[BgrImage]:
    """Frames spread over one first-person clip of ``every``."""
    for path in sorted((TESTDATA / "ego_video").glob("*.mp4"))[::every]:
        last = read_timeline(path).frame_count - 1
        wanted = set(np.linspace(0, last, per_clip + 2).astype(int)[1:-1].tolist())
        for frame in decode_frames(path):
            if frame.index in wanted:
                yield frame.bgr(max_side=1920)
            if frame.index >= max(wanted):
                break
