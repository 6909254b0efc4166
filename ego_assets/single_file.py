"""The privacy pass for one file, and the detectors for single pictures: without a project."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ego_assets.schema.errors import ConfigurationError, EgoAssetsError, MediaError
from ego_assets.schema.progress import ProgressCallback, ignore_progress

if TYPE_CHECKING:
    from ego_assets.privacy.deidentify import PrivacyResult
    from ego_assets.privacy.report import PiiReport
    from ego_assets.schema.detections import BgrImage
    from ego_assets.schema.gates import GateResult
    from ego_assets.schema.vocabulary import AudioPolicy, RedactionMethod
    from ego_assets.settings import Settings

_WORKSHOP_PREFIX = ".ego-assets-blur-"

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
    redaction: RedactionMethod,
    audio: AudioPolicy,
    plates: bool = True,
    report: Path | None = None,
    overwrite: bool = False,
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
        report: Where the PII report is written, also when the result is refused.
        overwrite: Replace ``target`` and ``report`` where they exist.
        progress: Called with frames done and in total.

    Raises:
        ConfigurationError: A path is wrong, or the profile lacks a backend.
        NotReleased: The result failed a blocking gate; nothing was written but the report.
        EgoAssetsError: The file cannot be read or de-identified; nothing was written.
    """
    from ego_assets.assets.blurred_video import judge
    from ego_assets.media.probe import probe
    from ego_assets.media.timeline import read_timeline
    from ego_assets.privacy.config import PrivacyConfig
    from ego_assets.privacy.deidentify import deidentify
    from resources.platform import open_models

    _check_paths(source, target, report, overwrite=overwrite)
    tasks = TASKS if plates else TASKS[:2]
    models = open_models(settings.profile, settings.models)
    config = PrivacyConfig(method=redaction, audio=audio)
    timeline = read_timeline(source)
    with _workshop(target.parent) as folder:
        unfinished = folder / "video.mp4"
        result = deidentify(
            source,
            probe=probe(source),
            timeline=timeline,
            video_path=unfinished,
            proxy_path=None,
            detectors={task: models.detector(task) for task in tasks},
            leak_detectors={task: models.detector(task, leak_check=True) for task in tasks},
            config=config,
            detector_settings=models.settings(tasks),
            leak_settings=models.settings(tasks, leak_check=True),
            progress=progress,
        )
        verdicts = tuple(judge(result, original=timeline, video=unfinished, proxy=None, config=config))
        if report is not None:
            report.write_text(result.report.to_json())
        if failed := [verdict.message for verdict in verdicts if verdict.blocks]:
            raise NotReleased(
                f"{source.name} was not released, and no video was written. {' '.join(failed)}{_places(result)}"
            )
        unfinished.replace(target)
    return BlurredFile(path=target, report=result.report, verdicts=verdicts)


def _places(result: PrivacyResult) -> str:
    """Where the finished video leaks, in words."""
    leaks = result.leak_check.remaining if result.leak_check is not None else ()
    found = [
        f"{leak.kind} on frame {leak.frame_index} at {[round(side) for side in leak.box_xyxy]}"
        for leak in leaks
    ]
    return (
        f" In the clear: {'; '.join(found)}. Try another profile, or cut these frames out." if found else ""
    )


@contextmanager
def _workshop(parent: Path) -> Iterator[Path]:
    """A folder beside the result that nobody else may read: what lies there was not judged yet.

    It is on the same file system, so that the result is renamed into place in one step. What killed runs left is
    removed; the lock tells it from the folder of a run that goes on.
    """
    for left in parent.glob(f"{_WORKSHOP_PREFIX}*"):
        with suppress(OSError), _locked(left):
            shutil.rmtree(left)
    folder = Path(tempfile.mkdtemp(prefix=_WORKSHOP_PREFIX, dir=parent))
    try:
        with _locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the only lock on a folder; ``BlockingIOError`` where another process does."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def detect_in_image(path: Path, *, settings: Settings) -> dict[str, Any]:
    """Everything the privacy pass would cover in one picture, as JSON-serialisable values.

    Args:
        path: A picture that OpenCV reads; its EXIF orientation is obeyed.
        settings: For the profile and the folder of models.

    Returns:
        ``path``, ``width``, ``height`` and, for each of ``faces``, ``text``, ``screens`` and ``plates``, a list of
        ``box_xyxy`` (pixels of the upright picture, without the margin that redaction adds) and ``score``.

    Raises:
        MediaError: The file is no picture.
    """
    from ego_assets.privacy.config import PrivacyConfig
    from ego_assets.privacy.examine import look_at_image
    from resources.platform import open_models

    models = open_models(settings.profile, settings.models)
    image = _read_image(path)
    detectors = {task: models.detector(task) for task in TASKS}
    found = look_at_image(image, detectors=detectors, config=PrivacyConfig())
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


def _check_paths(source: Path, target: Path, report: Path | None, *, overwrite: bool) -> None:
    if not source.is_file():
        raise ConfigurationError(f"{source} is not a file. Give the path of one video.")
    if target.suffix.lower() != ".mp4":
        raise ConfigurationError(f"{target}: the result is an MP4 file. Give it a name that ends in .mp4.")
    written = [target] if report is None else [target, report]
    for path in written:
        if not path.parent.is_dir():
            raise ConfigurationError(f"The folder {path.parent} does not exist. Make it first.")
        if path.resolve() == source.resolve() or (path.exists() and path.samefile(source)):
            raise ConfigurationError(f"{path} is the original itself. Give the result another name.")
        if path.is_dir():
            raise ConfigurationError(f"{path} is a folder. Give the name of a file.")
        if path.exists() and not overwrite:
            raise ConfigurationError(f"{path} exists. Choose another name, or replace it with --overwrite.")
    if report is not None and report.resolve() == target.resolve():
        raise ConfigurationError(f"{report}: video and report need names of their own.")


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
