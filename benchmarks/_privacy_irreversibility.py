"""Whether a redacted face can be told from others, without a face recogniser.

Every face of a gallery is shown at a size before a textured background, redacted as the privacy pass does it, and
compared with all originals. The right one should be the best match as often as one drawn by lot. Matchers know
exactly where the face was and have the very picture that was redacted, which is more than anybody gets who has
another photograph of the person.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import av
import cv2
import numpy as np
import numpy.typing as npt
from skimage import data

from ego_assets.media.decode import decode_frames
from ego_assets.media.encode import VideoWriter
from ego_assets.privacy.config import PrivacyConfig
from ego_assets.privacy.redaction import RedactionMethod, RedactionStyle, plane_samples, redact_frame

if TYPE_CHECKING:
    from _harness import Reporter

Gray = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

#: Sides in pixels of the faces: from 24 to half the height of a 4K picture.
FACE_SIZES = (24, 48, 96, 240, 540, 1080)
#: Sizes that are also compared after H.264 coding.
CODED_SIZES = (48, 240)
#: Sizes at which half of the face lies beyond the picture's edge, which makes its region a tall one.
CLIPPED_SIZES = (96, 240)
#: Side in samples at which faces are compared.
_GRID = 32
#: A rate above this quantile of what lots give is not chance any more.
CHANCE_QUANTILE = 0.999


@dataclass(frozen=True, kw_only=True)
class Identification:
    """How often the right original was the best match.

    Attributes:
        hits: Right ones; of several equally good matches each counts its share.
        trials: Comparisons.
        gallery: Faces to choose from.
        mean_rank: Mean share of the other faces that matched better: 0 always found, 0.5 chance.
    """

    hits: float
    trials: int
    gallery: int
    mean_rank: float

    @property
    def limit(self) -> int:
        """Hits that lots exceed in one case of a thousand."""
        chance, total = 1 / self.gallery, 0.0
        for hits in range(self.trials + 1):
            total += math.comb(self.trials, hits) * chance**hits * (1 - chance) ** (self.trials - hits)
            if total >= CHANCE_QUANTILE:
                return hits
        return self.trials


def packaged_faces(count: int) -> list[Gray]:
    """The portrait and the first face crops that scikit-image ships, ``uint8 [h, w]``."""
    astronaut = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2GRAY)[60:180, 165:285]
    return [astronaut, *(data.lfw_subset()[: count - 1] * 255).astype(np.uint8)]


def annotated_faces(folder: Path) -> list[Gray]:
    """Square cuts around the annotated faces of the shared material; empty where it is absent."""
    boxes: list[tuple[Path, Sequence[float]]] = []
    for part, name in (("mmpose_wflw", "test_wflw.json"), ("mmpose_300w", "test_300w.json")):
        listing = folder / part / name
        if listing.is_file():
            content = json.loads(listing.read_text())
            files = {image["id"]: image["file_name"] for image in content["images"]}
            boxes += [(folder / part / files[a["image_id"]], a["bbox"]) for a in content["annotations"]]
    by_eye = folder / "aria2_gt_by_eye.json"
    if by_eye.is_file():
        faces = json.loads(by_eye.read_text())["aria2_face.png"]["faces"]
        boxes += [(folder / "aria2_face.png", box) for box in faces]
    cuts = []
    for path, (left, top, width, height) in boxes:
        picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if picture is not None:
            area = picture[max(0, int(top)) : int(top + height), max(0, int(left)) : int(left + width)]
            cuts.append(np.asarray(cv2.resize(area, (128, 128), interpolation=cv2.INTER_AREA)))
    return cuts


def shown_and_redacted(
    faces: Sequence[Gray],
    *,
    size: int,
    style: RedactionStyle | None,
    clipped_share: float = 0.0,
    coded: bool = False,
    seed: int = 0,
    same_background: bool = False,
) -> Floats:
    """What a matcher gets to see of each face, ``float64 [N, 32, 32]``.

    Args:
        faces: The faces, ``uint8 [h, w]``.
        size: Side in pixels at which they are shown.
        style: How they are redacted; ``None`` leaves them as they are.
        clipped_share: Share of the face's width beyond the left edge of the picture.
        coded: Compare after H.264 coding with the settings of the privacy pass.
        seed: Of the backgrounds.
        same_background: All faces before one background.
    """
    margin = size // 4 + 8
    side = 2 * ((size + 2 * margin) // 2)
    cut = 2 * round((margin + clipped_share * size) / 2) if clipped_share else 0
    top, left, right = margin, max(0, margin - cut), margin - cut + size
    box = np.array([[margin - cut, top, right, top + size]], dtype=np.float32)
    frames = []
    for index, face in enumerate(faces):
        picture = _background(side, np.random.default_rng([seed, 0 if same_background else index]))
        picture[top : top + size, margin : margin + size] = cv2.resize(face, (size, size))
        frame = _gray_frame(picture[:, cut:])
        if style is not None:
            redact_frame(frame, box, rotation_deg=0, style=style)
        frames.append(frame)
    lumas = _coded_lumas(frames) if coded else [plane_samples(frame.planes[0]) for frame in frames]
    return np.array([_sampled(luma[top : top + size, left:right]) for luma in lumas])


def originals(faces: Sequence[Gray], *, clipped_share: float = 0.0) -> Floats:
    """What a redacted face is compared with, ``float64 [N, 32, 32]``."""
    return np.array([_sampled(face[:, round(clipped_share * face.shape[1]) :]) for face in faces])


def correlation(views: Floats, templates: Floats) -> Floats:
    """Normalised cross-correlation of every view with every template, ``float64 [N, M]``."""
    return _normalised(views) @ _normalised(templates).T


def low_pass_correlation(views: Floats, templates: Floats) -> Floats:
    """The same with templates whose detail finer than a fifth of the face is removed."""
    smooth = np.array(
        [cv2.GaussianBlur(t, (0, 0), _GRID / 5, borderType=cv2.BORDER_REPLICATE) for t in templates]
    )
    return correlation(views, smooth)


def mutual_information(views: Floats, templates: Floats) -> Floats:
    """Bits that the values of a view tell about those of a template, ``float64 [N, M]``."""
    ranks = np.argsort(np.argsort(templates.reshape(len(templates), -1), axis=1, kind="stable"), axis=1)
    levels = ranks * 8 // ranks.shape[1]
    one_hot = (levels.T[:, :, None] == np.arange(8)).astype(np.float32).reshape(levels.shape[1], -1)
    scores = np.zeros((len(views), len(templates)))
    for index, view in enumerate(views):
        values = np.unique(np.rint(view), return_inverse=True)[1].reshape(-1)
        values = values * 15 // max(15, int(values.max()))
        counts = np.eye(16, dtype=np.float32)[values].T @ one_hot
        joint = counts.reshape(16, len(templates), 8).transpose(1, 0, 2).astype(np.float64) / values.size
        independent = joint.sum(axis=2, keepdims=True) * joint.sum(axis=1, keepdims=True)
        ratio = np.divide(joint, independent, out=np.ones_like(joint), where=joint > 0)
        scores[index] = (joint * np.log2(ratio)).sum(axis=(1, 2))
    return scores


def brightness(views: Floats, templates: Floats) -> Floats:
    """Closeness in mean brightness, which blurring keeps, ``float64 [N, M]``."""
    return -np.abs(views.mean(axis=(1, 2))[:, None] - templates.mean(axis=(1, 2))[None])


def distance(views: Floats, templates: Floats) -> Floats:
    """Closeness sample by sample, not normalised, ``float64 [N, M]``."""
    return -np.square(views[:, None] - templates[None]).mean(axis=(2, 3))


#: Matchers by structure, which must not do better than lots.
MATCHERS: dict[str, Callable[[Floats, Floats], Floats]] = {
    "correlation": correlation,
    "low-pass correlation": low_pass_correlation,
    "mutual information": mutual_information,
}
#: Matchers by absolute brightness, which blur and pixelate keep.
BRIGHTNESS_MATCHERS: dict[str, Callable[[Floats, Floats], Floats]] = {
    "distance": distance,
    "mean brightness": brightness,
}


def identified(scores: Floats) -> Identification:
    """Judge scores ``[N, N]`` whose right matches lie on the diagonal."""
    rounded = np.round(scores, 6)
    own = np.diagonal(rounded)[:, None]
    best = rounded == rounded.max(axis=1, keepdims=True)
    others = len(scores) - 1
    better, equal = (rounded > own).sum(axis=1), (rounded == own).sum(axis=1) - 1
    return Identification(
        hits=float((np.diagonal(best) / best.sum(axis=1)).sum()),
        trials=len(scores),
        gallery=len(scores),
        mean_rank=float(((better + equal / 2) / others).mean()),
    )


def pooled(results: Sequence[Identification]) -> Identification:
    """Several results on galleries of one size as one."""
    trials = sum(result.trials for result in results)
    return Identification(
        hits=sum(result.hits for result in results),
        trials=trials,
        gallery=results[0].gallery,
        mean_rank=sum(result.mean_rank * result.trials for result in results) / trials,
    )


def identify(
    faces: Sequence[Gray],
    *,
    size: int,
    style: RedactionStyle | None,
    clipped_share: float = 0.0,
    coded: bool = False,
) -> dict[str, Identification]:
    """Results of all matchers at one size; ``same redaction`` redacts the originals alike before comparing."""
    views = shown_and_redacted(faces, size=size, style=style, clipped_share=clipped_share, coded=coded)
    templates = originals(faces, clipped_share=clipped_share)
    alike = shown_and_redacted(
        faces, size=size, style=style, clipped_share=clipped_share, coded=coded, seed=1
    )
    results = {
        name: identified(matcher(views, templates))
        for name, matcher in {**MATCHERS, **BRIGHTNESS_MATCHERS}.items()
    }
    return {**results, "same redaction": identified(correlation(views, alike))}


def run(reporter: Reporter, *, quick: bool, clip: Path | None) -> None:
    """Report, per method and matcher, how often the right face is found over all sizes."""
    from _privacy_material import TESTDATA, no_material

    faces = packaged_faces(40 if quick else 101)
    real = annotated_faces(TESTDATA / "privacy_faces_plates")
    faces += real
    sizes = FACE_SIZES[::2] if quick else FACE_SIZES
    cases: dict[str, list[dict[str, float | bool]]] = {
        "whole faces": [{"size": size} for size in sizes],
        "after H.264": [{"size": size, "coded": True} for size in CODED_SIZES],
        "clipped by the edge": [{"size": size, "clipped_share": 0.5} for size in CLIPPED_SIZES],
    }
    for method in (None, *get_args(RedactionMethod)):
        style = PrivacyConfig(method=method).style if method else None
        for case, settings in cases.items():
            results = [identify(faces, style=style, **chosen) for chosen in settings]  # type: ignore[arg-type]
            for matcher in results[0]:
                found = pooled([result[matcher] for result in results])
                judged = method is not None and (method == "solid" or matcher not in BRIGHTNESS_MATCHERS)
                reporter.report(
                    f"irreversibility, {method or 'not redacted'}, {case}: right face found by {matcher}",
                    found.hits / found.trials,
                    f"share of {found.trials} trials, chance {1 / found.gallery:.4f}, mean rank "
                    f"{found.mean_rank:.3f} (chance 0.5)",
                    target=found.limit / found.trials if judged else None,
                )
    # Before a background that the matcher knows, what is left of a face is its mean brightness in 8 bits.
    for method in get_args(RedactionMethod):
        known = [
            shown_and_redacted(
                faces, size=size, style=PrivacyConfig(method=method).style, same_background=True
            )
            for size in CODED_SIZES
        ]
        found = pooled([identified(brightness(views, views)) for views in known])
        reporter.report(
            f"irreversibility, {method}, before a known background: right face found by mean brightness",
            found.hits / found.trials,
            f"share of {found.trials} trials, chance {1 / found.gallery:.4f}",
        )
    if not real:
        reporter.report(
            "irreversibility, faces of the shared material",
            None,
            "faces",
            reason=no_material(),
        )


@lru_cache(maxsize=1)
def _gravel() -> Gray:
    return np.asarray(data.gravel())


def _background(side: int, generator: np.random.Generator) -> Gray:
    row, column = generator.integers(0, 256, 2)
    texture = cv2.resize(_gravel()[row : row + 256, column : column + 256], (side, side))
    return np.clip(texture.astype(np.int64) + generator.integers(-40, 60), 0, 255).astype(np.uint8)


def _gray_frame(luma: Gray) -> av.VideoFrame:
    frame = av.VideoFrame(luma.shape[1], luma.shape[0], "yuv420p")
    plane_samples(frame.planes[0])[:] = luma
    for plane in frame.planes[1:]:
        plane_samples(plane)[:] = 128
    return frame


def _coded_lumas(frames: Sequence[av.VideoFrame]) -> list[Gray]:
    config = PrivacyConfig()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "faces.mp4")
        with VideoWriter(
            path,
            width=frames[0].width,
            height=frames[0].height,
            time_base=Fraction(1, 30),
            frame_rate=Fraction(30),
            crf=config.video_crf,
            preset=config.preset,
            threads=1,
        ) as writer:
            for index, frame in enumerate(frames):
                writer.write(frame, pts=index)
        return [frame.luma().copy() for frame in decode_frames(path)]


def _sampled(area: Gray) -> Floats:
    return np.asarray(cv2.resize(area, (_GRID, _GRID), interpolation=cv2.INTER_AREA), dtype=np.float64)


def _normalised(pictures: Floats) -> Floats:
    flat = pictures.reshape(len(pictures), -1)
    centred = flat - flat.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 1e-9)
