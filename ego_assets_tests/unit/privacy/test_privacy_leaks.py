from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.gates.blurred_video import NO_LEAK, VideoFacts, judge_privacy
from ego_assets.media.decode import decode_frames
from ego_assets.media.encode import VideoWriter
from ego_assets.media.probe import probe
from ego_assets.media.timeline import read_timeline
from ego_assets.privacy.config import PrivacyConfig
from ego_assets.privacy.deidentify import PrivacyResult, deidentify
from ego_assets.privacy.frames import PrivacyPassFailed
from ego_assets.privacy.leaks import _MOST_DETAIL, _detail, find_leaks, leak_check_frames
from ego_assets.privacy.redaction import blurred
from ego_assets.privacy.tracking import RegionIndex
from ego_assets.schema.detections import BackendInfo, BgrImage, Detections
from ego_assets.schema.gates import GateOutcome
from ego_assets.schema.timeline import Timeline
from ego_assets.synth import textures

WIDTH, HEIGHT, FRAMES, SIDE = 192, 128, 120, 40


def write_clip(path: Path) -> Path:
    """A checkered green square, which stands for a face, in the middle of a grey picture."""
    image = np.full((HEIGHT, WIDTH, 3), 110, np.uint8)
    rows, columns = np.mgrid[:SIDE, :SIDE] // 5
    checks = np.where(((rows + columns) % 2)[..., None], (0, 255, 0), (0, 150, 0)).astype(np.uint8)
    image[40 : 40 + SIDE, 70 : 70 + SIDE] = checks
    with VideoWriter(
        path,
        width=WIDTH,
        height=HEIGHT,
        time_base=Fraction(1, 30),
        frame_rate=Fraction(30),
        crf=10,
    ) as writer:
        for index in range(FRAMES):
            writer.write(av.VideoFrame.from_ndarray(image, format="bgr24"), pts=index)
    return path


class Watcher:
    """Finds the square by its colour, unless it is blind to it."""

    def __init__(self, *, is_blind: bool = False) -> None:
        self.is_blind = is_blind
        self.strict_calls = 0

    @property
    def info(self) -> BackendInfo:
        return BackendInfo(task="faces", backend="watcher", model="watcher 1")

    def detect(self, images: Sequence[BgrImage], *, strict: bool = False) -> list[Detections]:
        self.strict_calls += strict
        return [Detections.empty() if self.is_blind else self._find(image) for image in images]

    def _find(self, image: BgrImage) -> Detections:
        blue, green, red = (image[..., channel].astype(int) for channel in range(3))
        rows, columns = np.nonzero((green - red > 60) & (green - blue > 60))
        if rows.size == 0:
            return Detections.empty()
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        return Detections(np.array([box], np.float32), np.array([0.9], np.float32))


class Restless(Watcher):
    """Finds something at another place whenever it looks, as if covering never helped."""

    def __init__(self) -> None:
        super().__init__()
        self._places = np.random.default_rng(0)

    def _find(self, image: BgrImage) -> Detections:
        left, top = self._places.integers(0, (image.shape[1] - 8, image.shape[0] - 8))
        return Detections(np.array([[left, top, left + 8, top + 8]], np.float32), np.array([0.9], np.float32))


def run(folder: Path, *, first: Watcher, second: Watcher) -> PrivacyResult:
    """The pass over the clip with one detector for the first pass and another one for the leak check."""
    clip = write_clip(folder / "clip.mp4")
    return deidentify(
        clip,
        probe=probe(clip),
        timeline=read_timeline(clip),
        video_path=folder / "video.mp4",
        proxy_path=folder / "proxy.mp4",
        detectors={"faces": first},
        leak_detectors={"faces": second},
        config=PrivacyConfig(encoder_threads=1, decoder_threads=1),
    )


def sharpest(video: Path) -> float:
    return max(float(np.ptp(frame.bgr()[..., 1])) for frame in decode_frames(video))


def verdict_on(result: PrivacyResult) -> GateOutcome:
    facts = VideoFacts(timestamps_ns=result.timeline.timestamps_ns)
    assert result.leak_check is not None
    verdicts = judge_privacy(
        original=facts,
        video=facts,
        proxy=facts,
        face_detections=0,
        face_frames_analysed=1,
        low_confidence_frames=0,
        leak_checked_frames=result.leak_check.examined_frames,
        leaks_repaired=len(result.leak_check.found),
        leaks_remaining=len(result.leak_check.remaining),
    )
    return next(verdict.outcome for verdict in verdicts if verdict.spec is NO_LEAK)


def test_what_the_first_detector_never_sees_is_covered_to_the_end(tmp_path: Path) -> None:
    first, second = Watcher(is_blind=True), Watcher()
    result = run(tmp_path, first=first, second=second)
    assert result.leak_check is not None
    assert result.leak_check.found and not result.leak_check.remaining
    assert first.strict_calls and second.strict_calls, "the repair looks with the lower thresholds"
    assert sharpest(tmp_path / "clip.mp4") > 100
    # On every frame, also far from the frames on which the leak was found.
    assert sharpest(tmp_path / "video.mp4") < 60 and sharpest(tmp_path / "proxy.mp4") < 60
    assert verdict_on(result) is GateOutcome.PASSED


def test_a_clip_without_leaks_is_rendered_once(tmp_path: Path) -> None:
    detector = Watcher()
    result = run(tmp_path, first=detector, second=detector)
    assert result.leak_check is not None and result.leak_check.examined_frames
    assert not result.leak_check.found and not result.leak_check.remaining
    assert not detector.strict_calls


def test_a_leak_that_remains_fails_the_gate(tmp_path: Path) -> None:
    result = run(tmp_path, first=Watcher(is_blind=True), second=Restless())
    assert result.leak_check is not None and result.leak_check.remaining
    assert verdict_on(result) is GateOutcome.FAILED
    assert NO_LEAK.blocking


def test_regions_that_were_not_covered_after_all_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rendering that does nothing must not pass because of what was planned."""
    monkeypatch.setattr("ego_assets.privacy.render.redact_frame", lambda *_, **__: [])
    with pytest.raises(PrivacyPassFailed, match="still shows detail"):
        run(tmp_path, first=Watcher(), second=Watcher())
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_clip_that_nobody_looked_at_is_not_judged() -> None:
    facts = VideoFacts(timestamps_ns=np.zeros(1, np.int64))
    verdicts = judge_privacy(
        original=facts,
        video=facts,
        proxy=None,
        face_detections=0,
        face_frames_analysed=0,
        low_confidence_frames=0,
        leak_checked_frames=None,
        leaks_repaired=0,
        leaks_remaining=0,
    )
    assert {v.spec.name: v.outcome for v in verdicts}["no_leak"] is GateOutcome.NOT_EVALUATED


@pytest.mark.parametrize("side", [24, 60, 300, 600, 1080])
def test_a_face_shows_detail_at_every_size_and_a_covered_one_none(side: int) -> None:
    picture = textures.installed_picture("astronaut.png")
    left, top, right, bottom = (int(value) for value in textures.PORTRAIT_FACE_XYXY)
    face = cv2.cvtColor(picture[top:bottom, left:right], cv2.COLOR_BGR2GRAY)
    area = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
    assert _detail(area) > 2 * _MOST_DETAIL
    assert _detail(blurred(area, sigma=max(30.0, 0.75 * side))) < 1


def portrait_video(path: Path) -> Path:
    """The portrait of scikit-image's wheel, still."""
    picture = textures.installed_picture("astronaut.png")
    with VideoWriter(
        path,
        width=picture.shape[1],
        height=picture.shape[0],
        time_base=Fraction(1, 10),
        frame_rate=Fraction(10),
    ) as writer:
        for index in range(10):
            writer.write(av.VideoFrame.from_ndarray(picture, format="bgr24"), pts=index)
    return path


def test_the_shipped_detector_catches_a_planted_face(tmp_path: Path) -> None:
    from resources.profiles import build_backend, load_profile

    leaks = find_leaks(
        portrait_video(tmp_path / "video.mp4"),
        frames=[3, 8],
        detectors={"faces": build_backend(load_profile("local"), "faces", leak_check=True)},
        regions=RegionIndex([]),
        config=PrivacyConfig(),
    )
    assert sorted({leak.frame_index for leak in leaks}) == [3, 8]
    for leak in leaks:
        centre = np.array(textures.PORTRAIT_FACE_XYXY).reshape(2, 2).mean(axis=0)
        assert leak.box_xyxy[0] < centre[0] < leak.box_xyxy[2]


def timeline_of(frames: int) -> Timeline:
    return Timeline(
        timestamps_ns=np.arange(frames, dtype=np.int64) * 33_366_667,
        frame_rate=Fraction(30000, 1001),
        time_base=Fraction(1, 30000),
    )


@given(
    frames=st.integers(1, 200),
    step=st.integers(1, 12),
    looks_per_s=st.sampled_from([0.5, 1.0, 3.0, 40.0]),
)
def test_the_frames_are_spread_and_away_from_the_first_looks(
    frames: int, step: int, looks_per_s: float
) -> None:
    examined = set(range(0, frames, step))
    chosen = leak_check_frames(timeline_of(frames), examined=examined, looks_per_s=looks_per_s)
    assert chosen.size >= 1
    assert np.all(np.diff(chosen) > 0) and chosen[0] >= 0 and chosen[-1] < frames
    longest = np.diff(np.concatenate([[-1], chosen, [frames]])).max()
    assert longest <= 2 * max(1, np.ceil(30 / looks_per_s)) + 2
    if step > 2 and frames > 2 * step and looks_per_s <= 3:
        assert not examined & set(chosen.tolist())
