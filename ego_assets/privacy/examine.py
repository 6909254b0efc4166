"""Letting detectors look at a clip, each on the frames that its schedule gives it."""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import av
import numpy as np
import numpy.typing as npt

from ego_assets.media.decode import DecodedFrame, decode_frames
from ego_assets.media.source import MediaSource
from ego_assets.privacy.config import PrivacyConfig
from ego_assets.privacy.frames import checked_frames
from ego_assets.privacy.looks import FrameView, detect_at
from ego_assets.privacy.motion import MotionMeter
from ego_assets.privacy.panels import grow_to_panels
from ego_assets.privacy.schedule import Look, LookSchedule
from ego_assets.privacy.tracking import FrameDetections
from ego_assets.schema.detections import BgrImage, Detections, RegionDetector
from ego_assets.schema.media import MediaProbe
from ego_assets.schema.motion import CameraMotion
from ego_assets.schema.progress import ProgressCallback, ignore_progress
from ego_assets.schema.timeline import Timeline

#: Examined frames by kind, in ascending order; boxes in pixels of the upright full-size picture.
Looks = Mapping[str, Sequence[FrameDetections]]


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What the first pass over a clip found.

    Attributes:
        looks: Examined frames by kind. ``screens`` come with ``text``: no detector of their own looks for them.
        timeline: Time stamps of the frames that were decoded.
        camera: How the camera moved.
    """

    looks: Looks
    timeline: Timeline
    camera: CameraMotion


def examine(
    source: MediaSource,
    *,
    probe: MediaProbe,
    timeline: Timeline,
    detectors: Mapping[str, RegionDetector],
    config: PrivacyConfig,
    strict: bool = False,
    progress: ProgressCallback = ignore_progress,
) -> Examination:
    """Let each detector look at the frames that the schedule gives it.

    Args:
        source: The original.
        probe: Its probe.
        timeline: Its time stamps.
        detectors: Detectors by kind: ``faces``, ``text``, ``plates``.
        config: Rates and scales.
        strict: Use the detectors' lower thresholds.
        progress: Called with frames done and in total.

    Raises:
        PrivacyPassFailed: A detector failed, or the clip has more frames than its time line.
        MediaError: The picture's size or rotation changes.
    """
    # Plates are looked for where text is: they are text, and backends that use the same network need it once.
    plates_with_text = "text" in detectors and "plates" in detectors
    schedule = LookSchedule(
        [kind for kind in detectors if not (plates_with_text and kind == "plates")],
        config=config,
        frame_rate=timeline.frame_rate,
        picture_size=(probe.width, probe.height),
    )
    meter = MotionMeter()
    looks: dict[str, list[FrameDetections]] = {kind: [] for kind in kinds_of(detectors)}
    timestamps_ns = array("q")

    def look(frame: DecodedFrame, due: Mapping[str, Look], *, focused: bool = True) -> None:
        view = FrameView(frame)
        for kind, depth in due.items():
            parts = schedule.focus(kind) if focused and depth == "ordinary" else ()
            for found_kind, found in _look(view, kind, detectors[kind], depth, config, strict, parts).items():
                looks[found_kind].append(found)
            schedule.found(kind, looks[kind][-1].detections)
            if plates_with_text and kind == "text":
                looks["plates"].append(
                    _look(view, "plates", detectors["plates"], depth, config, strict)["plates"]
                )

    last: DecodedFrame | None = None
    for frame in checked_frames(decode_frames(source, threads=config.decoder_threads), probe, timeline):
        if due := schedule.due(frame.index, frame.timestamp_ns, meter.measure(frame)):
            look(frame, due)
        last = frame
        timestamps_ns.append(frame.timestamp_ns)
        progress(frame.index + 1, timeline.frame_count)
    if last is not None and (owed := schedule.owed_at_end()):
        # What was in focus at the last look may have moved since.
        look(last, owed, focused=False)
    decoded = dataclasses.replace(timeline, timestamps_ns=np.array(timestamps_ns, np.int64))
    return Examination(looks=looks, timeline=decoded, camera=meter.camera_motion())


def detectors_for(kinds: Iterable[str]) -> tuple[str, ...]:
    """The tasks of the detectors that find these kinds."""
    return tuple(dict.fromkeys("text" if kind == "screens" else kind for kind in kinds))


def kinds_of(detectors: Mapping[str, RegionDetector]) -> tuple[str, ...]:
    """The kinds of regions that these detectors find: ``text`` brings ``screens`` along."""
    return (*detectors, *(("screens",) if "text" in detectors else ()))


def _look(
    view: FrameView,
    kind: str,
    detector: RegionDetector,
    depth: Look,
    config: PrivacyConfig,
    strict: bool,
    parts: Iterable[npt.NDArray[np.float32]] = (),
) -> dict[str, FrameDetections]:
    """What one detector finds on one frame, by kind; ``parts`` of the frame are looked at finely in any case."""
    index = view.frame.index
    is_face = kind == "faces"
    side = config.detection_max_side if is_face else config.text_max_side
    fine_side = config.fine_max_side if is_face else config.text_fine_max_side
    ordinary = detect_at(detector, kind, view, max_side=side, strict=strict)
    wholes = (None,) if depth == "fine" and max(view.width, view.height) > side else ()
    fine = [
        detect_at(
            detector,
            kind,
            view,
            max_side=fine_side,
            tile_side=config.fine_tile_side if is_face else None,
            part_xyxy=part,
            strict=strict,
        )
        for part in (*parts, *wholes)
    ]
    found = FrameDetections.combined(index, ordinary=ordinary, fine=fine, look=depth)
    if kind != "text":
        return {kind: found}
    image = view.image(config.text_max_side)
    scale_x, scale_y = image.shape[1] / view.width, image.shape[0] / view.height
    screens = grow_to_panels(image, found.detections.scaled(scale_x, scale_y))
    return {"text": found, "screens": FrameDetections(index, screens.scaled(1 / scale_x, 1 / scale_y), depth)}


def look_at_image(
    image: BgrImage, *, detectors: Mapping[str, RegionDetector], config: PrivacyConfig
) -> dict[str, Detections]:
    """What the fine look of the pass finds in one picture, by kind, in its pixels.

    Args:
        image: ``uint8 [height, width, 3]``, BGR, upright.
        detectors: Detectors by kind.
        config: Scales.
    """
    frame = DecodedFrame(0, 0, av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24"), 0)
    view = FrameView(frame)
    found: dict[str, Detections] = {}
    for kind, detector in detectors.items():
        looked = _look(view, kind, detector, "fine", config, strict=False)
        found |= {found_kind: entry.detections for found_kind, entry in looked.items()}
    return found
