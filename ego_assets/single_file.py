"""The privacy pass for one file, and the detectors for single pictures: without a project."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ego_assets.schema.errors import ConfigurationError, EgoAssetsError, MediaError
from ego_assets.schema.progress import ProgressCallback, ignore_progress

if TYPE_CHECKING:
    from ego_assets.privacy.config import PrivacyConfig
    from ego_assets.privacy.report import PiiReport
    from ego_assets.schema.detections import BgrImage, RegionDetector
    from ego_assets.schema.gates import GateResult
    from ego_assets.settings import Settings

#: Kinds that `blur` and `detect` look for.
TASKS = ("faces", "text", "plates")


class NotReleased(EgoAssetsError):
    """The pass was run, but its result failed a blocking gate and was removed."""


@dataclass(frozen=True, kw_only=True)
class BlurredFile:
    """What one run of :func:`blur_file` made.

    Attributes:
        path: The de-identified video.
        report: The PII report.
        verdicts: Verdicts of the gates, as for ``blurred_video``.
    """

    path: Path
    report: PiiReport
    verdicts: tuple[GateResult, ...]


def blur_file(
    source: Path,
    target: Path,
    *,
    settings: Settings,
    redaction: Literal["blur", "pixelate", "solid"],
    audio: Literal["drop", "keep"],
    plates: bool = True,
    progress: ProgressCallback = ignore_progress,
) -> BlurredFile:
    """Write a de-identified copy of one video: the very pass of ``blurred_video``, gates included.

    Nothing is seen at ``target`` before the result has passed its blocking gates.

    Args:
        source: The video.
        target: The file to write; its folder must exist.
        settings: For the profile and the folder of models.
        redaction: How regions are made unrecognisable.
        audio: Whether the sound stays.
        plates: Whether number plates are looked for.
        progress: Called with frames done and in total.

    Raises:
        ConfigurationError: A path is wrong, or the profile lacks a backend.
        NotReleased: The result failed a blocking gate; nothing was written.
        EgoAssetsError: The file cannot be read or de-identified; nothing was written.
    """
    from ego_assets.assets.blurred_video import judge
    from ego_assets.media.probe import probe
    from ego_assets.media.timeline import read_timeline
    from ego_assets.privacy.config import PrivacyConfig
    from ego_assets.privacy.deidentify import deidentify

    _check_paths(source, target)
    tasks = TASKS if plates else TASKS[:2]
    detectors, leak_detectors = _detectors(settings, tasks), _detectors(settings, tasks, leak_check=True)
    config = PrivacyConfig(method=redaction, audio=audio)
    timeline = read_timeline(source)
    # Hidden, in the same folder: renaming it into place is one step.
    unfinished = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:8]}.mp4")
    try:
        result = deidentify(
            source,
            probe=probe(source),
            timeline=timeline,
            video_path=unfinished,
            proxy_path=None,
            detectors=detectors,
            leak_detectors=leak_detectors,
            config=config,
            progress=progress,
        )
        verdicts = tuple(judge(result, original=timeline, video=unfinished, proxy=None, config=config))
        failed = [verdict.message for verdict in verdicts if verdict.blocks]
        if failed:
            raise NotReleased(f"{source.name} was not released, and nothing was written. {' '.join(failed)}")
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return BlurredFile(path=target, report=result.report, verdicts=verdicts)


def detect_in_image(path: Path, *, settings: Settings, config: PrivacyConfig | None = None) -> dict[str, Any]:
    """Everything the privacy pass would cover in one picture, as JSON-serialisable values.

    Args:
        path: A picture that OpenCV reads; its EXIF orientation is obeyed.
        settings: For the profile and the folder of models.
        config: Scales of the looks.

    Returns:
        ``path``, ``width``, ``height`` and, for each of ``faces``, ``text``, ``screens`` and ``plates``, a list of
        ``box_xyxy`` (pixels of the upright picture, without the margin that redaction adds) and ``score``.

    Raises:
        MediaError: The file is no picture.
    """
    from ego_assets.privacy.config import PrivacyConfig
    from ego_assets.privacy.examine import look_at_image

    image = _read_image(path)
    found = look_at_image(image, detectors=_detectors(settings, TASKS), config=config or PrivacyConfig())
    return {
        "path": str(path),
        "width": image.shape[1],
        "height": image.shape[0],
        **{
            kind: [
                {"box_xyxy": [round(float(side), 1) for side in box], "score": round(float(score), 3)}
                for box, score in zip(detections.boxes_xyxy, detections.scores, strict=True)
            ]
            for kind, detections in found.items()
        },
    }


def _detectors(
    settings: Settings, tasks: tuple[str, ...], *, leak_check: bool = False
) -> Mapping[str, RegionDetector]:
    from resources.platform import open_models

    models = open_models(settings.profile, settings.models)
    return {task: models.detector(task, leak_check=leak_check) for task in tasks}


def _check_paths(source: Path, target: Path) -> None:
    if not source.is_file():
        raise ConfigurationError(f"{source} is not a file. Give the path of one video.")
    if target.suffix.lower() != ".mp4":
        raise ConfigurationError(f"{target}: the result is an MP4 file. Give it a name that ends in .mp4.")
    if not target.parent.is_dir():
        raise ConfigurationError(f"The folder {target.parent} does not exist. Make it first.")
    if target.exists() and target.samefile(source):
        raise ConfigurationError(f"{target} is the original itself. Give the result another name.")


def _read_image(path: Path) -> BgrImage:
    import cv2
    import numpy as np

    if not path.is_file():
        raise ConfigurationError(f"{path} is not a file. Give paths of pictures.")
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if path.stat().st_size else None
    if image is None:
        raise MediaError(
            "not_a_picture", f"{path.name} is no picture that can be read. Convert it to JPEG or PNG."
        )
    return np.asarray(image, dtype=np.uint8)
