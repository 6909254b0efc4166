import io
import json
import os
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from ego_assets.quality.assessment import (
    QualityAssessor,
    QualityConfig,
    QualityReport,
    is_full_range,
    sampling_step,
)
from ego_assets.quality.plots import quality_plot
from ego_assets.schema.media import MediaProbe
from ego_assets.schema.timeline import Timeline

RNG = np.random.default_rng(3)
TEXTURE = RNG.integers(40, 200, (120, 160), dtype=np.uint8)


def probe(duration_s, *, pixel_format="yuv420p", rotation_deg=0):
    return MediaProbe(
        container="mp4", codec="h264", pixel_format=pixel_format, bit_depth=8, coded_width=160, coded_height=120,
        rotation_deg=rotation_deg, frame_rate=Fraction(30), declared_duration_s=duration_s,
        declared_frame_count=None, size_bytes=1,
    )  # fmt: skip


def assess(frames, *, listed=None, duration_s=None, decode_errors=0, **options):
    listed = len(frames) if listed is None else listed
    stamps = np.array([round(i * 1e9 / 30) for i in range(listed)], dtype=np.int64)
    assessor = QualityAssessor(
        Timeline(stamps, Fraction(30), Fraction(1, 30)), probe(duration_s), QualityConfig(), **options
    )
    for index, luma in enumerate(frames):
        assessor.add(index, int(stamps[index]), luma)
    return assessor.finish(decode_errors)


@pytest.mark.parametrize(
    ("frames", "every", "step"),
    [(9000, 30, 30), (150, 30, 30), (121, 30, 30), (120, 30, 15), (60, 30, 10), (29, 30, 6), (5, 30, 1), (1, 30, 1),
     (0, 30, 1), (60, 5, 5), (12, 5, 1)],
)  # fmt: skip
def test_sampling_step(frames, every, step):
    assert sampling_step(frames, every) == step
    assert every % step == 0


def test_the_guides_frames_are_sampled():
    report = assess([TEXTURE] * 200)
    assert report.blur.frame_index.tolist() == [0, 30, 60, 90, 120, 150, 180]
    assert report.exposure.frame_index.tolist() == list(range(0, 200, 5))
    assert report.blur.timestamps_ns[1] == 1_000_000_000


def test_the_first_decoded_frame_is_sampled_even_if_earlier_ones_are_lost():
    assessor = QualityAssessor(Timeline(np.arange(90, dtype=np.int64), Fraction(30), Fraction(1)), probe(3.0))
    assessor.add(7, 7, TEXTURE)
    assert assessor.finish(0).blur.frame_index.tolist() == [7]


def test_wants_tells_which_frames_are_looked_at():
    assessor = QualityAssessor(
        Timeline(np.arange(300, dtype=np.int64), Fraction(30), Fraction(1)), probe(10.0)
    )
    looked_at = []
    for index in range(40):
        stamp_ns = round(index * 1e9 / 90)
        if assessor.wants(index, stamp_ns):
            looked_at.append(index)
            assessor.add(index, stamp_ns, TEXTURE)
        else:
            assessor.add(index, stamp_ns, None)
    # Every fifth frame for the exposure, and fifteen a second, every sixth of 90, for the motion.
    assert looked_at == sorted({*range(0, 40, 5), *range(0, 40, 6)})
    with pytest.raises(ValueError, match="frame 40, which is sampled"):
        assessor.add(40, round(40 * 1e9 / 90), None)


def test_sharp_blurred_dark_and_bright_clips_are_told_apart():
    soft = cv2.GaussianBlur(TEXTURE, (0, 0), 6)
    sharp, blurred = assess([TEXTURE] * 60), assess([soft] * 60)
    assert (sharp.blurred_share, blurred.blurred_share) == (0.0, 1.0)
    assert (sharp.badly_exposed_share, blurred.badly_exposed_share) == (0.0, 0.0)
    dark, bright = assess([TEXTURE // 8 + 10] * 60), assess([np.full_like(TEXTURE, 236)] * 60)
    assert (dark.under_exposed_share, dark.over_exposed_share) == (1.0, 0.0)
    assert (bright.under_exposed_share, bright.over_exposed_share) == (0.0, 1.0)


def test_shares_count_sampled_frames():
    soft = cv2.GaussianBlur(TEXTURE, (0, 0), 6)
    report = assess([soft] * 100 + [TEXTURE] * 200)
    assert report.blurred_share == pytest.approx(4 / 10)


def test_limited_range_is_judged_as_the_gray_picture_that_the_guide_measures():
    gray = cv2.GaussianBlur(RNG.integers(0, 256, (120, 160), dtype=np.uint8), (0, 0), 1.2)
    coded = np.rint(16 + gray * (219 / 255)).astype(np.uint8)
    expected = cv2.Laplacian(gray, cv2.CV_64F).var()
    assert assess([coded] * 5).blur.native[0] == pytest.approx(expected, rel=0.03)
    assert assess([gray] * 5, full_range=True).blur.native[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("pixel_format", "full"),
    [
        ("yuv420p", False),
        ("yuvj420p", True),
        ("nv12", False),
        ("gray", True),
        ("rgb24", True),
        ("p010le", False),
    ],
)
def test_full_range_by_pixel_format(pixel_format, full):
    assert is_full_range(pixel_format) is full


def test_large_frames_have_another_value_at_the_working_scale():
    large = cv2.GaussianBlur(RNG.integers(0, 256, (720, 1280), dtype=np.uint8), (0, 0), 2)
    report = assess([large] * 5)
    assert report.blur.working_scale[0] > 1.5 * report.blur.native[0]
    small = assess([TEXTURE] * 5)
    assert small.blur.working_scale.tolist() == small.blur.native.tolist()


def test_lost_frames_and_decode_errors_are_missing_frames():
    assert assess([TEXTURE] * 58, listed=60, duration_s=2.0).missing_share == pytest.approx(2 / 60)
    assert assess([TEXTURE] * 58, listed=58, decode_errors=2).missing_share == pytest.approx(2 / 60)
    assert assess([TEXTURE] * 60, duration_s=36_000.0).missing_share > 0.999
    assert assess([TEXTURE] * 60, duration_s=2.0).missing_share == 0


def test_nothing_decoded_is_reported_not_raised():
    report = assess([], listed=60, duration_s=2.0)
    assert report.missing_share == 1
    assert report.blurred_share is report.badly_exposed_share is None
    assert json.loads(report.to_json())["summary"]["blur_median"] is None
    assert len(quality_plot(report)) < 50_000
    assert assess([]).missing_share == 1


def test_frames_must_come_in_order():
    assessor = QualityAssessor(Timeline(np.arange(9, dtype=np.int64), Fraction(30), Fraction(1)), probe(None))
    assessor.add(3, 3, TEXTURE)
    with pytest.raises(ValueError, match="more than 3"):
        assessor.add(3, 3, TEXTURE)


def test_the_report_survives_storage():
    report = assess([TEXTURE, TEXTURE // 2] * 30, duration_s=2.0)
    restored = QualityReport.from_json(report.to_json())
    assert restored.to_json() == report.to_json()
    assert restored.blurred_share == report.blurred_share
    np.testing.assert_array_equal(restored.exposure.dark_share, report.exposure.dark_share)
    np.testing.assert_array_equal(restored.view.shake, report.view.shake)
    np.testing.assert_array_equal(restored.tiles.detail, report.tiles.detail)
    newer = report.to_json().replace('"format": 2', '"format": 99')
    with pytest.raises(ValueError, match="upgrade"):
        QualityReport.from_json(newer)


def test_a_report_of_the_first_format_is_read_without_what_it_did_not_measure():
    old = json.loads(assess([TEXTURE] * 60).to_json())
    for name in ("view", "tiles"):
        del old[name]
    del old["config"]["focal_share"]
    old["format"] = 1
    restored = QualityReport.from_json(json.dumps(old))
    assert restored.view.shake.size == restored.tiles.looks == 0
    assert restored.blurred_share == 0


def test_samples_cannot_be_changed_or_be_uneven():
    report = assess([TEXTURE] * 10)
    with pytest.raises(ValueError, match="read-only"):
        report.blur.native[0] = 0
    with pytest.raises(ValueError, match="native: expected"):
        type(report.blur)(frame_index=[0, 1], timestamps_ns=[0, 1], native=[1.0], working_scale=[1.0, 2.0])


@pytest.mark.parametrize("wrong", [{"blur_every": 0}, {"exposure_every": 0}, {"blurred_below": 0.0}])
def test_config_is_validated(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        QualityConfig(**wrong)


def test_the_plot_is_small_and_shows_no_picture():
    plots = []
    for seed in (1, 2):
        shuffled = np.random.default_rng(seed).permutation(TEXTURE.ravel()).reshape(TEXTURE.shape)
        frames = [shuffled] * 600
        report = assess(frames)
        fixed = QualityReport.from_json(report.to_json())
        plots.append(quality_plot(fixed))
    assert all(len(plot) < 50_000 for plot in plots)
    with Image.open(io.BytesIO(plots[0])) as image:
        assert image.size == (800, 680)


def test_a_long_clip_keeps_the_plot_small():
    noise = [RNG.integers(0, 256, (8, 8), dtype=np.uint8) for _ in range(50)]
    assert len(quality_plot(assess(noise * 200))) < 50_000


def decode_and_assess(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        listed = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
        base = stream.time_base
        rate = stream.average_rate
        declared = float(stream.duration * base) if stream.duration else None
    stamps = np.array(sorted(round(pts * base * 1_000_000_000) for pts in listed), dtype=np.int64)
    assessor = QualityAssessor(Timeline(stamps, rate, base), probe(declared))
    with av.open(str(path)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            plane = frame.planes[0]
            luma = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]
            assessor.add(index, int(stamps[index]), luma)
    return assessor.finish(0)


def write_clip(path, images, *, dropped=()):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for index, image in enumerate(images):
            if index in dropped:
                continue
            frame = av.VideoFrame.from_ndarray(np.repeat(image[..., None], 3, axis=2), format="bgr24")
            frame.pts, frame.time_base = index, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_an_encoded_clip_and_one_with_dropped_frames(tmp_path):
    images = [np.roll(TEXTURE, i, axis=1) for i in range(60)]
    write_clip(tmp_path / "whole.mp4", images)
    write_clip(tmp_path / "dropped.mp4", images, dropped={10, 11, 30, 45})
    whole, dropped = decode_and_assess(tmp_path / "whole.mp4"), decode_and_assess(tmp_path / "dropped.mp4")
    assert (whole.decoded_frame_count, whole.expected_frame_count) == (60, 60)
    assert (dropped.decoded_frame_count, dropped.expected_frame_count, dropped.gap_frame_count) == (56, 60, 4)


TESTDATA = Path(os.environ.get("EGO_TESTDATA", Path(__file__).parents[4] / "shared" / "testdata"))


@pytest.mark.testdata
@pytest.mark.skipif(not (TESTDATA / "neg_quality_video").is_dir(), reason=f"no real footage at {TESTDATA}")
def test_real_clips_at_the_ends_of_the_range():
    dark = decode_and_assess(TESTDATA / "neg_quality_video" / "FEQ-gdkTN4Q_000008_000018.mp4")
    good = decode_and_assess(TESTDATA / "neg_quality_video" / "17734.mp4")
    assert dark.under_exposed_share == 1.0
    assert dark.blurred_share == 1.0
    assert good.badly_exposed_share == 0.0
    assert good.blurred_share == 0.0
    assert good.missing_share <= 0.005
    assert dark.missing_share <= 0.005
