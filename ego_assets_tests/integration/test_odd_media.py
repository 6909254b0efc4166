"""The privacy pass and the quality gates on odd files, against what was meant and FFmpeg's own numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from ego_assets.gates.clip_quality import judge_quality
from ego_assets.media.decode import VideoReader
from ego_assets.media.probe import probe
from ego_assets.media.timeline import read_timeline
from ego_assets.privacy.config import PrivacyConfig
from ego_assets.privacy.deidentify import PrivacyResult, deidentify
from ego_assets.quality.assessment import QualityAssessor, QualityReport
from ego_assets.schema.detections import BackendInfo, BgrImage, Detections
from ego_assets.schema.gates import GateOutcome
from ego_assets_tests.odd_media import (
    ODD_CLIPS,
    OddClip,
    corner_colours,
    expected_colours,
    odd_clip,
    shown_number,
)

CONFIG = PrivacyConfig(
    method="solid", encoder_threads=1, decoder_threads=1, preset="ultrafast", proxy_short_side=90
)


class RedPatchDetector:
    """Takes the red patch in the upper left corner, and nothing anywhere else, for a face."""

    info = BackendInfo(task="faces", backend="red", model="red")

    def detect(self, images: Sequence[BgrImage], *, strict: bool = False) -> list[Detections]:
        return [self._detect(image) for image in images]

    def _detect(self, image: BgrImage) -> Detections:
        height, width = image.shape[:2]
        blue, green, red = np.moveaxis(image.astype(int), 2, 0)
        rows, columns = np.nonzero((red > 130) & (green < 90) & (blue < 90))
        if rows.size < 20:
            return Detections.empty()
        left, top, right, bottom = columns.min(), rows.min(), columns.max(), rows.max()
        assert right < width * 0.3 and bottom < height * 0.35, "the marked corner is not where it belongs"
        box = np.array([[left, top, (left + right) / 2, (top + bottom) / 2]], np.float32)
        return Detections(box, np.array([0.9], np.float32))


@dataclass(frozen=True)
class Passed:
    """What the privacy pass made of a file."""

    clip: OddClip
    result: PrivacyResult
    video: Path
    proxy: Path


@pytest.fixture(scope="module", params=ODD_CLIPS)
def passed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Passed:
    clip = odd_clip(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    with clip.path.open("rb") as original:
        result = deidentify(
            original,
            probe=probe(original),
            timeline=read_timeline(original),
            video_path=folder / "video.mp4",
            proxy_path=folder / "proxy.mp4",
            detectors={"faces": RedPatchDetector()},
            config=CONFIG,
        )
    return Passed(clip, result, folder / "video.mp4", folder / "proxy.mp4")


def pictures_of(path: Path) -> tuple[list[BgrImage], list[Fraction]]:
    """All pictures as FFmpeg decodes them, turned as their display matrix says, and their times in seconds."""
    pictures, times = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            picture = frame.reformat(format="bgr24").to_ndarray()
            pictures.append(np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90))))
            times.append(frame.pts * frame.time_base)
    return pictures, times


@pytest.mark.parametrize("which", ["video", "proxy"])
def test_every_frame_comes_out_in_order_upright_covered_and_in_its_colours(
    passed: Passed, which: str
) -> None:
    pictures, _ = pictures_of(getattr(passed, which))
    assert [shown_number(picture) for picture in pictures] == list(passed.clip.numbers)
    found = np.mean([corner_colours(picture) for picture in pictures], axis=0)
    allowed = passed.clip.tolerance + (10 if which == "proxy" else 4)
    assert np.abs(found[1:] - expected_colours()[1:]).max() <= allowed, found.round()
    covered = np.array([picture[4:8, 4:8].mean(axis=(0, 1)) for picture in pictures])
    # A number that blinks looks like motion on some frames that no detector saw, and the cover follows it there.
    assert np.quantile(np.abs(covered - 128), 0.9) < 14, (
        "the region that was found is not where it was covered"
    )


def test_every_time_stamp_is_kept(passed: Passed) -> None:
    timeline = read_timeline(passed.clip.path)
    # MP4 cannot hold a time stamp twice: a repeated one moves by one tick.
    repeated = np.concatenate([[False], np.diff(timeline.timestamps_ns) == 0])
    for path in (passed.video, passed.proxy):
        _, times = pictures_of(path)
        stamps = np.array([round(time * 1_000_000_000) for time in times])
        moved = stamps - timeline.timestamps_ns
        assert (moved[~repeated] == 0).all()
        tick_ns = float(timeline.time_base) * 1e9
        assert (moved[repeated] <= repeated.sum() * tick_ns + 1).all()
        assert (np.diff(stamps) > 0).all()
    assert passed.result.timeline.timestamps_ns.tolist() == timeline.timestamps_ns.tolist()


def test_shape_of_pixels_is_kept(passed: Passed) -> None:
    aspects = []
    for path in (passed.clip.path, passed.video, passed.proxy):
        with av.open(str(path)) as container:
            stream = max(container.streams.video, key=lambda s: s.width)
            aspects.append(stream.sample_aspect_ratio or Fraction(1))
    assert aspects[0] == aspects[1] == aspects[2]


def test_nothing_but_the_picture_comes_out(passed: Passed) -> None:
    for path in (passed.video, passed.proxy):
        with av.open(str(path)) as container:
            assert [stream.type for stream in container.streams] == ["video"]


def report_of(path: Path) -> QualityReport:
    timeline = read_timeline(path)
    assessor = QualityAssessor(timeline, probe(path))
    with VideoReader(path) as reader:
        for frame in reader.frames():
            assessor.add(frame.index, frame.timestamp_ns, frame.luma())
    return assessor.finish(decode_errors=reader.frames_lost)


@pytest.mark.parametrize("name", ODD_CLIPS)
def test_a_good_file_is_whole(name: str) -> None:
    report = report_of(odd_clip(name).path)
    verdicts = {verdict.spec.name: verdict for verdict in judge_quality(report)}
    for gate in ("parse", "completeness"):
        assert verdicts[gate].outcome is GateOutcome.PASSED, verdicts[gate].message
    assert report.decoded_frame_count == report.expected_frame_count == len(odd_clip(name).numbers)
    assert report.gap_frame_count == 0
    assert report.duplicate_count == (2 if name == "repeats_stamps" else 0)
    assert report.stepped_back_count == {
        "jumps_back": 12,
        "jumps_back_b_frames": 8,
        "one_stamp_jumps_back": 1,
    }.get(name, 0)
    message = verdicts["completeness"].message
    assert ("clock was set back" in message) == (report.stepped_back_count > 0)
    assert ("repeat the time stamp" in message) == (report.duplicate_count > 0)


def test_exposure_knows_the_range_of_values() -> None:
    """The same pictures are equally bright, whether luma spans 16-235 or 0-255, in 8 bits or 10."""
    luma = {
        name: np.mean(report_of(odd_clip(name).path).exposure.mean_luma)
        for name in ("hevc_10_bit", "full_range", "full_range_10_bit", "4_2_2", "bt_601")
    }
    assert max(luma.values()) - min(luma.values()) < 2, luma


def test_sound_that_goes_on_after_the_picture_is_kept_whole(tmp_path: Path) -> None:
    clip = odd_clip("longer_sound")
    video = tmp_path / "video.mp4"
    deidentify(
        clip.path,
        probe=probe(clip.path),
        timeline=read_timeline(clip.path),
        video_path=video,
        proxy_path=None,
        detectors={},
        already_deidentified=True,
        config=PrivacyConfig(encoder_threads=1, preset="ultrafast", audio="keep"),
    )
    pictures, times = pictures_of(video)
    assert [shown_number(picture) for picture in pictures] == list(clip.numbers)
    assert times == list(clip.times_s or ())
    sound_s = []
    for path in (clip.path, video):
        with av.open(str(path)) as container:
            sound_s.append(
                [packet.pts * packet.time_base for packet in container.demux(audio=0) if packet.size]
            )
    assert sound_s[1] == sound_s[0]
    assert sound_s[0][-1] > 2.4
