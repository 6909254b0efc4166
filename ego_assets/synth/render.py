"""Writes a synthetic clip as a video file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.schema.hands import HandSide, HandState
from ego_assets.schema.progress import ProgressCallback, ignore_progress
from ego_assets.schema.timeline import NANOSECONDS
from ego_assets.synth.ground_truth import IMU_RATE_HZ, GroundTruth
from ego_assets.synth.scene import FrameBox, Scene
from ego_assets.synth.spec import SceneSpec

#: Seconds per tick of the video stream; Matroska counts whole milliseconds.
_TIME_BASES = {".mp4": Fraction(1, 90_000), ".mov": Fraction(1, 90_000), ".mkv": Fraction(1, 1000)}

#: Even a lens in focus is not perfectly sharp; this also softens the stairs of drawn edges.
_LENS_SIGMA_PX = 0.45

#: Colour of what lies over a covered lens: skin with light shining through.
_COVER_BGR = (45, 60, 120)
#: Radius and softness of a smudge, as shares of the longer side.
_SMUDGE_RADIUS_SHARE = 0.15
_SMUDGE_SIGMA_SHARE = 0.012

# Equal pictures shall give equal bytes: a fixed number of threads does not depend on the machine's cores, and
# x264's macroblock tree reads memory that it has not written unless the width is a multiple of 128.
_ENCODER_THREADS = 4
_ENCODER_OPTIONS = {"crf": "18", "preset": "veryfast", "mbtree": "0"}

_AUDIO_RATE_HZ = 48_000
_AUDIO_BLOCK = 1024

#: Invented; a position in the middle of the Atlantic.
LOCATION_METADATA = {
    "location": "+25.0000-045.0000/",
    "creation_time": "2031-02-03T04:05:06.000000Z",
    "artist": "A. Example",
    "comment": "recorded at 25.0000 N 45.0000 W",
}

_CODED_FROM_UPRIGHT = {
    90: cv2.ROTATE_90_COUNTERCLOCKWISE,
    180: cv2.ROTATE_180,
    270: cv2.ROTATE_90_CLOCKWISE,
}


def render_clip(spec: SceneSpec, path: Path, *, progress: ProgressCallback = ignore_progress) -> GroundTruth:
    """Render a clip as H.264 and return what is true of it.

    Args:
        spec: What to show.
        path: File to write; its folder exists, its name ends in ``.mp4``, ``.mov`` or ``.mkv``.
        progress: Told after every frame.

    Returns:
        The ground truth; its time stamps are those a reader of the file gets.

    Raises:
        ValueError: The name has another ending.
        SceneDataMissing: The pictures the scene is made of are not installed.
    """
    time_base = _TIME_BASES.get(path.suffix.lower())
    if time_base is None:
        raise ValueError(f"path: expected a name ending in one of {sorted(_TIME_BASES)}, got {path.name!r}")
    ticks = _presentation_ticks(spec, time_base)
    timestamps_ns = np.array([round(tick * time_base * NANOSECONDS) for tick in ticks], np.int64)
    times_s = timestamps_ns / NANOSECONDS - spec.start_offset_s
    scene = Scene(spec)
    boxes: list[FrameBox] = []
    states: dict[HandSide, list[HandState]] = {"left": [], "right": []}
    with _ClipFile.create(path, spec, time_base) as clip:
        for index, (tick, time_s) in enumerate(zip(ticks, times_s, strict=True)):
            frame = scene.frame(float(time_s), index)
            clip.write_picture(_recorded(frame.rendering.image, spec, float(time_s)), tick)
            boxes.extend(frame.boxes)
            for side, state in frame.hand_states.items():
                states[side].append(state)
            progress(index + 1, len(ticks))

    samples = int(spec.duration_s * IMU_RATE_HZ) + 1
    imu_ns = np.arange(samples, dtype=np.int64) * (NANOSECONDS // IMU_RATE_HZ)
    imu_times_s = imu_ns / NANOSECONDS
    return GroundTruth(
        spec=spec,
        timestamps_ns=timestamps_ns,
        boxes=tuple(boxes),
        T_world_camera=scene.trajectory.poses(times_s),
        intrinsics=scene.intrinsics,
        imu_timestamps_ns=imu_ns + round(spec.start_offset_s * NANOSECONDS),
        angular_velocity_rad_s=scene.trajectory.angular_velocity_rad_s(imu_times_s),
        linear_acceleration_m_s2=scene.trajectory.linear_acceleration_m_s2(imu_times_s),
        left_hand_state=tuple(states["left"]),
        right_hand_state=tuple(states["right"]),
    )


def _presentation_ticks(spec: SceneSpec, time_base: Fraction) -> list[int]:
    """Presentation times of the frames that are written, in ticks."""
    count = spec.nominal_frame_count
    interval_s = float(1 / spec.frame_rate)
    if spec.variable_rate:
        generator = np.random.default_rng([spec.seed, 3])
        intervals = generator.uniform(0.6, 1.4, size=count)
        # The first frame keeps its place and the clip its duration.
        starts = np.concatenate([[0.0], np.cumsum(intervals)[:-1]]) * (count / float(intervals.sum()))
        times_s = [float(start) * interval_s for start in starts]
        exact = [Fraction(time_s) for time_s in times_s]
    else:
        exact = [number / spec.frame_rate for number in range(count)]
    dropped = set(spec.dropped_frames)
    offset = Fraction(spec.start_offset_s)
    return [round((offset + time) / time_base) for number, time in enumerate(exact) if number not in dropped]


def _recorded(image: npt.NDArray[np.uint8], spec: SceneSpec, time_s: float = 0.0) -> npt.NDArray[np.uint8]:
    """The picture as the camera stores it: out of focus, covered, under-exposed and turned as the spec says."""
    sigma = float(np.hypot(_LENS_SIGMA_PX, spec.blur_sigma_px))
    recorded = cv2.GaussianBlur(image, (0, 0), sigma)
    if spec.smudge_xy is not None:
        recorded = _smudged(np.asarray(recorded, np.uint8), spec.smudge_xy)
    if spec.covered_s is not None and spec.covered_s[0] <= time_s < spec.covered_s[1]:
        # What lies on the lens is too near for any detail; some of the room's light comes through at its edges.
        light = cv2.resize(cv2.resize(recorded, (3, 3), interpolation=cv2.INTER_AREA), recorded.shape[1::-1])
        recorded = cv2.addWeighted(light, 0.25, np.full_like(light, _COVER_BGR), 0.75, 0)
    if spec.brightness != 1.0:
        recorded = cv2.convertScaleAbs(recorded, alpha=spec.brightness)
    if spec.rotation_deg:
        recorded = cv2.rotate(recorded, _CODED_FROM_UPRIGHT[spec.rotation_deg])
    return np.ascontiguousarray(recorded, dtype=np.uint8)


def _smudged(image: npt.NDArray[np.uint8], middle_xy: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """The picture through a lens with a greasy spot: soft in one place, with a gradual edge."""
    height, width = image.shape[:2]
    side = max(width, height)
    y, x = np.ogrid[:height, :width]
    away = np.hypot(x - middle_xy[0] * width, y - middle_xy[1] * height) / (_SMUDGE_RADIUS_SHARE * side)
    weight = np.clip(2 * (1 - away), 0, 1)[..., None]
    soft = cv2.GaussianBlur(image, (0, 0), _SMUDGE_SIGMA_SHARE * side)
    return np.asarray(np.rint(image + weight * (soft.astype(np.float32) - image)), dtype=np.uint8)


@dataclass(eq=False)
class _ClipFile:
    """An open container with one video stream and perhaps a sound track."""

    container: av.container.OutputContainer
    video: av.VideoStream
    time_base: Fraction
    audio: av.AudioStream | None
    sound: Iterator[av.AudioFrame]

    @classmethod
    def create(cls, path: Path, spec: SceneSpec, time_base: Fraction) -> _ClipFile:
        # The default time scale of the movie header would round a late start to milliseconds.
        options = {} if path.suffix.lower() == ".mkv" else {"movie_timescale": str(time_base.denominator)}
        container = av.open(str(path), "w", options=options)
        if spec.location_metadata:
            container.metadata.update(LOCATION_METADATA)
        video = container.add_stream("libx264", rate=spec.frame_rate, options=dict(_ENCODER_OPTIONS))
        turned = spec.rotation_deg in (90, 270)
        video.width, video.height = (spec.height, spec.width) if turned else (spec.width, spec.height)
        even = spec.width % 2 == 0 and spec.height % 2 == 0
        video.pix_fmt = "yuv420p" if even else "yuv444p"
        video.gop_size = max(1, round(float(spec.frame_rate)))
        video.time_base = time_base
        video.codec_context.time_base = time_base
        video.codec_context.thread_count = _ENCODER_THREADS
        if spec.rotation_deg:
            video.set_display_rotation(-spec.rotation_deg)
        audio = None
        if spec.audio:
            audio = container.add_stream("aac", rate=_AUDIO_RATE_HZ)
            audio.codec_context.layout = "mono"
        return cls(container, video, time_base, audio, _sound(spec))

    def __enter__(self) -> _ClipFile:
        return self

    def __exit__(self, *failure: object) -> None:
        try:
            if failure[0] is None:
                self._finish()
        finally:
            self.container.close()

    def write_picture(self, picture: npt.NDArray[np.uint8], tick: int) -> None:
        frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
        frame.pts, frame.time_base = tick, self.time_base
        self.container.mux(self.video.encode(frame))
        self._write_sound(until=tick * self.time_base)

    def _write_sound(self, until: Fraction | None) -> None:
        if self.audio is None:
            return
        for block in self.sound:
            self.container.mux(self.audio.encode(block))
            assert block.pts is not None and block.time_base is not None
            if until is not None and block.pts * block.time_base >= until:
                break

    def _finish(self) -> None:
        self._write_sound(until=None)
        self.container.mux(self.video.encode(None))
        if self.audio is not None:
            self.container.mux(self.audio.encode(None))


def _sound(spec: SceneSpec) -> Iterator[av.AudioFrame]:
    """A hum that rises and falls like syllables, in blocks, over the length of the clip."""
    generator = np.random.default_rng([spec.seed, 4])
    first = round(spec.start_offset_s * _AUDIO_RATE_HZ)
    for start in range(0, round(spec.duration_s * _AUDIO_RATE_HZ), _AUDIO_BLOCK):
        times_s = (start + np.arange(_AUDIO_BLOCK)) / _AUDIO_RATE_HZ
        loudness = 0.15 * (1 + np.sin(2 * np.pi * 3.5 * times_s)) / 2
        wave = sum(np.sin(2 * np.pi * 140 * harmonic * times_s) / harmonic for harmonic in (1, 2, 3, 5))
        samples = (loudness * (wave + 0.1 * generator.standard_normal(_AUDIO_BLOCK))).astype(np.float32)
        block = av.AudioFrame.from_ndarray(samples[None, :], format="fltp", layout="mono")
        block.sample_rate = _AUDIO_RATE_HZ
        block.pts, block.time_base = first + start, Fraction(1, _AUDIO_RATE_HZ)
        yield block
