"""Duplicates found among altered copies, by the similarity of clip embeddings, against clips that are no copies.

Every copy is decoded, altered and encoded anew. Similarities are those of the local backend, whose vectors are made as
the layer makes them: five frames and their normalised mean.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
from _harness import Better, Reporter, cpu_seconds
from _privacy_material import TESTDATA, no_material

from ego_assets.labels.appearance import NEAR_DUPLICATE_SIMILARITY, SPACE, describe
from ego_assets.labels.embeddings import embed_frames, uniform_frames
from ego_assets.media.decode import decode_frames
from ego_assets.media.encode import VideoWriter
from ego_assets.media.sampling import sample_frames
from ego_assets.media.timeline import read_timeline
from ego_assets.schema.detections import BgrImage
from ego_assets.synth import SceneSpec, render_clip
from ego_assets.synth.spec import CameraMotion, Location
from resources.models.embeddings import AppearanceEmbedder

_FOLDERS = ("ego_video", "gopro_imu", "neg_quality_video")
#: Clips are taken into memory at this rate, size and length.
_RATE = 15.0
_MAX_SIDE = 480
_MAX_DURATION_S = 10.0
#: Below this length a clip cannot be trimmed by a second and stay itself.
_TRIMMABLE_S = 4.0
#: Constant rate factors of x264: an ordinary copy, and one at a very low bit rate.
_ORDINARY, _LOW = 23, 38

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Footage:
    """A clip in memory: pictures at 15 frames a second."""

    name: str
    pictures: Sequence[BgrImage]

    @property
    def duration_s(self) -> float:
        return len(self.pictures) / _RATE


@dataclass(frozen=True)
class Alteration:
    """How a copy differs."""

    change: Callable[[BgrImage], BgrImage] = lambda image: image
    crf: int = _ORDINARY
    cut_start_s: float = 0.0
    cut_end_s: float = 0.0


def run(reporter: Reporter, *, quick: bool, clip: Path | None) -> None:
    synthetic = render_footage(quick=quick)
    measure(reporter, "synthetic clips", synthetic)
    same_room(reporter, synthetic)
    paths = [path for folder in _FOLDERS for path in sorted((TESTDATA / folder).glob("*.mp4"))]
    if paths:
        if quick:
            paths = paths[::6]
        footage = [load(path) for path in ([clip] if clip else []) + paths]
        measure(reporter, "real clips", footage)
        two_halves(reporter, footage)
    else:
        reporter.report(
            "real clips: copies found", None, "share of copies", better="higher", reason=no_material()
        )
    cost(reporter)


def alterations() -> Mapping[str, Alteration]:
    return {
        "encoded at a very low bit rate, half the size": Alteration(half_the_size, crf=_LOW),
        "cropped by 5 % at one corner": Alteration(lambda image: cropped(image, 0.05)),
        "cropped by 10 % at one corner": Alteration(lambda image: cropped(image, 0.10)),
        "cropped by 15 % at one corner": Alteration(lambda image: cropped(image, 0.15)),
        "cropped by 10 % at every side": Alteration(lambda image: cropped(image, 0.1, every_side=True)),
        "darker by 30 %": Alteration(lambda image: scaled(image, 0.7)),
        "brighter by 30 %": Alteration(lambda image: scaled(image, 1.3)),
        "a second missing at the start": Alteration(cut_start_s=1.0),
        "a second missing at the end": Alteration(cut_end_s=1.0),
        "cropped by 10 %, brighter, a second missing, low bit rate": Alteration(
            lambda image: scaled(cropped(image, 0.1), 1.2), crf=_LOW, cut_start_s=1.0
        ),
    }


def measure(reporter: Reporter, material: str, footage: Sequence[Footage]) -> None:
    """Recall by alteration, false positives among different clips, and the area under the curve."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        originals = {item.name: embed(item, Alteration(), folder) for item in footage}
        copies = {
            kind: {
                item.name: embed(item, alteration, folder)
                for item in footage
                if item.duration_s >= _TRIMMABLE_S or not (alteration.cut_start_s or alteration.cut_end_s)
            }
            for kind, alteration in alterations().items()
        }
        mirrored = {item.name: embed(item, Alteration(mirror), folder) for item in footage}
    true = {
        kind: [float(vector @ originals[name]) for name, vector in vectors.items()]
        for kind, vectors in copies.items()
    }
    false = [
        float(originals[first] @ originals[second]) for first, second in itertools.combinations(originals, 2)
    ]
    # A copy of one clip against another clip: more pairs, of the same clips.
    crossed = [
        float(vector @ originals[other])
        for vectors in copies.values()
        for name, vector in vectors.items()
        for other in originals
        if other != name
    ]
    everything = [value for values in true.values() for value in values]
    for kind, values in [*true.items(), ("all of these", everything)]:
        report_share(reporter, f"{material}: copies found, {kind}", values, better="higher")
    mirror_values = [float(vector @ originals[name]) for name, vector in mirrored.items()]
    report_share(reporter, f"{material}: mirrored copies found (not meant to be)", mirror_values)
    for kind, values in (("different clips", false), ("copies of different clips", crossed)):
        report_share(reporter, f"{material}: {kind} taken for copies", values)
    reporter.report(
        f"{material}: area under the ROC curve",
        float(np.mean(np.array(everything)[:, None] > np.array(crossed))),
        "share of pairs",
        better="higher",
        reason=f"{len(everything)} copies, {len(crossed)} pairs of a copy and another of {len(footage)} clips",
    )
    for limit in (0.001, 0.01):
        threshold = float(np.quantile(crossed, 1 - limit))
        reporter.report(
            f"{material}: copies found at a false-positive rate of {limit}",
            float(np.mean(np.array(everything) > threshold)),
            "share of copies",
            better="higher",
            reason=f"threshold {threshold:.3f}, n={len(everything)}",
        )


def same_room(reporter: Reporter, footage: Sequence[Footage]) -> None:
    """Two recordings in one room that are no copies of each other: the camera moves otherwise."""
    values = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, item in enumerate(footage):
            other = render(scene(number, camera_motion="look_around"), folder)
            first, second = (embed(each, Alteration(), folder) for each in (item, other))
            values.append(float(first @ second))
    report_share(reporter, "synthetic clips: other recordings in the same room taken for copies", values)


def two_halves(reporter: Reporter, footage: Sequence[Footage]) -> None:
    """The first and second half of a recording: the same place, other pictures."""
    values = []
    with tempfile.TemporaryDirectory() as name:
        for item in footage:
            middle = len(item.pictures) // 2
            halves = [item.pictures[:middle], item.pictures[middle:]]
            first, second = (embed(Footage(item.name, half), Alteration(), Path(name)) for half in halves)
            values.append(float(first @ second))
    report_share(reporter, "real clips: halves of one recording taken for copies", values)


def report_share(
    reporter: Reporter, metric: str, values: Sequence[float], *, better: Better = "lower"
) -> None:
    """Share of similarities from the threshold on, with their spread."""
    array = np.array(values)
    low, middle, high = np.quantile(array, [0, 0.5, 1])
    reporter.report(
        metric,
        float(np.mean(array >= NEAR_DUPLICATE_SIMILARITY)),
        "share",
        better=better,
        reason=(
            f"n={array.size}, {SPACE}, threshold {NEAR_DUPLICATE_SIMILARITY}; similarity {low:.3f} to {high:.3f}, "
            f"median {middle:.3f}"
        ),
    )


def cost(reporter: Reporter) -> None:
    """What one picture costs."""
    picture = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), dtype=np.uint8)
    describe(picture)
    spent = cpu_seconds(lambda: [describe(picture) for _ in range(20)])
    reporter.report("descriptor of one 1280x720 picture", spent / 20 * 1000, "CPU milliseconds")


def embed(footage: Footage, alteration: Alteration, folder: Path) -> Vector:
    """Encode an altered copy, and embed it as the layer does."""
    first = round(alteration.cut_start_s * _RATE)
    last = len(footage.pictures) - round(alteration.cut_end_s * _RATE)
    path = folder / "copy.mp4"
    pictures = [alteration.change(picture) for picture in footage.pictures[first:last]]
    height, width = (side // 2 * 2 for side in pictures[0].shape[:2])
    with VideoWriter(
        path,
        width=width,
        height=height,
        time_base=Fraction(1, 15360),
        frame_rate=Fraction(_RATE),
        crf=alteration.crf,
    ) as writer:
        for index, picture in enumerate(pictures):
            image = np.ascontiguousarray(picture[:height, :width])
            frame = av.VideoFrame.from_ndarray(image, format="bgr24").reformat(format="yuv420p")
            writer.write(frame, timestamp_ns=round(index * 1e9 / _RATE))
    sampled = sample_frames(path, frames_per_second=None)
    frames = list(sampled.stream(indices=uniform_frames(sampled.timeline).tolist()))
    return embed_frames(AppearanceEmbedder(), frames).vector


def load(path: Path) -> Footage:
    """The beginning of a clip."""
    indices = read_timeline(path).frames_at_rate(_RATE)[: round(_MAX_DURATION_S * _RATE)].tolist()
    pictures = [frame.bgr(max_side=_MAX_SIDE) for frame in decode_frames(path, indices=indices)]
    return Footage(path.stem, pictures)


def render_footage(*, quick: bool) -> list[Footage]:
    with tempfile.TemporaryDirectory() as name:
        return [render(scene(number), Path(name)) for number in range(2 if quick else 9)]


def scene(number: int, *, camera_motion: CameraMotion = "walk") -> SceneSpec:
    rooms: tuple[Location, ...] = ("kitchen", "office", "workshop")
    return SceneSpec(
        seed=number,
        width=480,
        height=270,
        frame_rate=Fraction(round(_RATE)),
        duration_s=4.0,
        location=rooms[number % len(rooms)],
        camera_motion=camera_motion,
    )


def render(spec: SceneSpec, folder: Path) -> Footage:
    path = folder / "scene.mp4"
    render_clip(spec, path)
    return Footage(f"scene {spec.seed}", load(path).pictures)


def cropped(image: BgrImage, share: float, *, every_side: bool = False) -> BgrImage:
    top, left = round(image.shape[0] * share), round(image.shape[1] * share)
    return image[top:-top, left:-left] if every_side else image[top:, left:]


def scaled(image: BgrImage, factor: float) -> BgrImage:
    return np.clip(image * np.float32(factor), 0, 255).astype(np.uint8)


def half_the_size(image: BgrImage) -> BgrImage:
    return np.asarray(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def mirror(image: BgrImage) -> BgrImage:
    return np.ascontiguousarray(image[:, ::-1])
