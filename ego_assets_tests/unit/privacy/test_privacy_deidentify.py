from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from ego_assets.media.decode import DecodedFrame, decode_frames
from ego_assets.media.encode import VideoWriter
from ego_assets.media.probe import probe
from ego_assets.media.timeline import read_timeline
from ego_assets.privacy.config import PrivacyConfig
from ego_assets.privacy.deidentify import PrivacyResult, deidentify
from ego_assets.privacy.frames import PrivacyPassFailed
from ego_assets.privacy.redaction import RedactionStyle, redact_frame
from ego_assets.privacy.render import proxy_size_for
from ego_assets.schema.detections import BackendInfo, BgrImage, Detections, RegionDetector
from ego_assets.schema.errors import MediaError

WIDTH, HEIGHT, FRAMES = 192, 128, 24
#: A checkered square, which stands for a face, moves over a flat ground.
SQUARE = 40


class GreenFinder:
    """Finds the square by its colour, so that its answers are exact at every scale and rotation."""

    def __init__(self, *, fail_from_call: int | None = None, answer: Detections | None = None) -> None:
        self.calls = 0
        self.sizes: list[tuple[int, ...]] = []
        self._fail_from_call = fail_from_call
        self._answer = answer

    @property
    def info(self) -> BackendInfo:
        return BackendInfo(task="faces", backend="green", model="green 1")

    def detect(self, images: Sequence[BgrImage], *, strict: bool = False) -> list[Detections]:
        self.calls += 1
        if self._fail_from_call is not None and self.calls >= self._fail_from_call:
            raise RuntimeError("out of memory")
        if self._answer is not None:
            return [self._answer for _ in images]
        return [self._find(image) for image in images]

    def _find(self, image: BgrImage) -> Detections:
        self.sizes.append(image.shape)
        blue, green, red = (image[..., channel].astype(int) for channel in range(3))
        rows, columns = np.nonzero((green - red > 60) & (green - blue > 60))
        if rows.size == 0:
            return Detections.empty()
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        return Detections(np.array([box], np.float32), np.array([0.9], np.float32))


def left_at(frame: int) -> int:
    return 12 + 4 * frame


def picture(frame: int) -> npt.NDArray[np.uint8]:
    image = np.full((HEIGHT, WIDTH, 3), 110, np.uint8)
    rows, columns = np.mgrid[:SQUARE, :SQUARE] // 5
    checks = np.where(((rows + columns) % 2)[..., None], (0, 255, 0), (0, 150, 0)).astype(np.uint8)
    image[40 : 40 + SQUARE, left_at(frame) : left_at(frame) + SQUARE] = checks
    return image


def write_clip(
    path: Path,
    *,
    rotation_deg: int = 0,
    ticks: Callable[[int], int] = lambda index: 1001 * index,
    picture_of: Callable[[int], npt.NDArray[np.uint8]] = picture,
    frames: int = FRAMES,
    pixel_format: str = "yuv420p",
) -> Path:
    first = picture_of(0)
    with VideoWriter(
        path,
        width=first.shape[1],
        height=first.shape[0],
        time_base=Fraction(1, 30000),
        frame_rate=Fraction(30000, 1001),
        rotation_deg=rotation_deg,
        crf=10,
    ) as writer:
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture_of(index), format="bgr24").reformat(
                format=pixel_format
            )
            writer.write(frame, pts=ticks(index))
    return path


def run(
    clip: Path,
    folder: Path,
    *,
    detectors: dict[str, RegionDetector] | None = None,
    config: PrivacyConfig | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PrivacyResult:
    with clip.open("rb") as source:
        return deidentify(
            source,
            probe=probe(clip),
            timeline=read_timeline(clip),
            video_path=folder / "video.mp4",
            proxy_path=folder / "proxy.mp4",
            detectors=detectors or {"faces": GreenFinder()},
            config=config or PrivacyConfig(encoder_threads=1, decoder_threads=1),
            progress=progress,
        )


def texture(clip: Path) -> list[float]:
    """How strongly the checks stand out on each frame: the range of the green channel."""
    return [float(np.ptp(frame.bgr(upright=False)[..., 1])) for frame in decode_frames(clip)]


@pytest.mark.parametrize("rotation_deg", [0, 90, 180, 270])
def test_no_frame_shows_the_region(tmp_path: Path, rotation_deg: int) -> None:
    clip = write_clip(tmp_path / "clip.mp4", rotation_deg=rotation_deg)
    result = run(clip, tmp_path)
    assert min(texture(clip)) > 100
    assert max(texture(tmp_path / "video.mp4")) < 60
    assert max(texture(tmp_path / "proxy.mp4")) < 60
    assert result.timeline.frame_count == FRAMES
    assert len(result.tracks) == 1
    (track,) = result.tracks
    width, height = (HEIGHT, WIDTH) if rotation_deg in (90, 270) else (WIDTH, HEIGHT)
    assert result.report.resolution == (width, height)
    assert np.all(track.boxes_xyxy[:, 2] <= width) and np.all(track.boxes_xyxy[:, 3] <= height)


@pytest.mark.parametrize("rotation_deg", [0, 90])
def test_outputs_keep_time_stamps_size_and_orientation(tmp_path: Path, rotation_deg: int) -> None:
    def ticks(index: int) -> int:
        return 500 + 1001 * index + 7 * (index % 3)

    clip = write_clip(tmp_path / "clip.mp4", rotation_deg=rotation_deg, ticks=ticks)
    result = run(clip, tmp_path, config=PrivacyConfig(proxy_short_side=64, proxy_gop=5, encoder_threads=1))
    original, video, proxy = (probe(tmp_path / f"{name}.mp4") for name in ("clip", "video", "proxy"))
    assert (video.coded_width, video.coded_height) == (WIDTH, HEIGHT)
    assert video.rotation_deg == original.rotation_deg == rotation_deg
    assert proxy.rotation_deg == 0
    expected = (64, 96) if rotation_deg == 90 else (96, 64)
    assert (proxy.coded_width, proxy.coded_height) == result.proxy_size == expected
    stamps = read_timeline(clip).timestamps_ns
    for name in ("video", "proxy"):
        assert np.array_equal(read_timeline(tmp_path / f"{name}.mp4").timestamps_ns, stamps)
    with av.open(str(tmp_path / "proxy.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    keyframes = [index for index, packet in enumerate(packets) if packet.is_keyframe]
    assert max(np.diff(keyframes)) <= 5
    assert all(packet.pts == packet.dts for packet in packets)


@pytest.mark.parametrize("rotation_deg", [90, 180, 270])
def test_the_proxy_is_upright(tmp_path: Path, rotation_deg: int) -> None:
    def corner(_: int) -> npt.NDArray[np.uint8]:
        image = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
        image[:32, :48] = (200, 40, 40)
        return image

    clip = write_clip(tmp_path / "clip.mp4", rotation_deg=rotation_deg, picture_of=corner, frames=3)
    run(clip, tmp_path)
    shown = next(iter(decode_frames(clip))).bgr(upright=True)
    proxy = next(iter(decode_frames(tmp_path / "proxy.mp4"))).bgr(upright=False)
    assert proxy.shape == shown.shape
    assert np.abs(proxy.astype(int) - shown).mean() < 3


def test_what_is_not_covered_stays_as_it_was(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    run(clip, tmp_path)
    pairs = zip(decode_frames(clip), decode_frames(tmp_path / "video.mp4"), strict=True)
    for original, redacted in pairs:
        difference = np.abs(original.bgr().astype(int) - redacted.bgr())
        assert difference[:24].max() <= 12


def test_redaction_does_not_leak_into_the_frames_that_follow(tmp_path: Path) -> None:
    """The decoder predicts later frames from earlier ones: blurring must not touch its copies."""
    stripes = np.random.default_rng(3).integers(60, 200, (HEIGHT, WIDTH, 1), dtype=np.uint8).repeat(3, axis=2)
    clip = write_clip(tmp_path / "clip.mp4", picture_of=lambda index: stripes, frames=12)
    untouched = [frame.luma().copy() for frame in decode_frames(clip, threads=1, prefetch=0)]
    for frame in decode_frames(clip, threads=1, prefetch=0):
        assert np.array_equal(frame.luma(), untouched[frame.index])
        box = np.array([[20, 40, 60, 80]], np.float32)
        redact_frame(frame.frame, box, rotation_deg=0, style=RedactionStyle())
        assert not np.array_equal(frame.luma(), untouched[frame.index])


def test_the_report_counts_and_the_sheet_is_small(tmp_path: Path) -> None:
    finder = GreenFinder()
    clip = write_clip(tmp_path / "clip.mp4")
    result = run(
        clip,
        tmp_path,
        detectors={"faces": finder, "text": GreenFinder(answer=Detections.empty())},
        config=PrivacyConfig(leak_looks_per_s=0),
    )
    faces = result.report.kinds["faces"]
    assert faces.detections == faces.examined_frames == finder.calls
    assert faces.detections_per_minute == pytest.approx(60)
    assert result.report.kinds["text"].detections == 0
    assert result.report.frame_count == FRAMES
    assert result.report.redacted_frames == FRAMES
    grown = (SQUARE * 1.4) ** 2 / (WIDTH * HEIGHT)
    assert 0.8 * grown < result.report.redacted_share < 3 * grown
    assert result.contact_sheet[:2] == b"\xff\xd8"
    assert len(result.contact_sheet) <= 50_000


def test_detectors_share_one_downscaled_upright_copy(tmp_path: Path) -> None:
    finder = GreenFinder()
    clip = write_clip(tmp_path / "clip.mp4", rotation_deg=90)
    run(
        clip,
        tmp_path,
        detectors={"faces": finder},
        config=PrivacyConfig(detection_max_side=96, leak_looks_per_s=0),
    )
    # The ordinary look sees the copy; the fine one the whole picture, which fits into one tile.
    assert set(finder.sizes) == {(96, 64, 3), (WIDTH, HEIGHT, 3)}


def test_progress_counts_both_passes(tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    clip = write_clip(tmp_path / "clip.mp4")
    run(clip, tmp_path, progress=lambda done, total: heard.append((done, total)))
    assert heard == [(done, 2 * FRAMES) for done in range(1, 2 * FRAMES + 1)]


def test_a_failing_detector_leaves_nothing_behind(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    with pytest.raises(
        PrivacyPassFailed, match=r"faces detector 'green' failed on frame \d+ .*out of memory"
    ):
        run(clip, tmp_path, detectors={"faces": GreenFinder(fail_from_call=3)})
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_an_answer_that_is_not_finite_fails_the_clip(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    answer = Detections(np.array([[0, 0, np.nan, 5]], np.float32), np.array([0.9], np.float32))
    with pytest.raises(PrivacyPassFailed, match="finite"):
        run(clip, tmp_path, detectors={"faces": GreenFinder(answer=answer)})
    assert not (tmp_path / "video.mp4").exists()


def test_an_error_while_rendering_leaves_nothing_behind(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4")

    def interrupt(done: int, total: int) -> None:
        if done == FRAMES + 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(clip, tmp_path, progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_an_error_after_rendering_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(images: Sequence[BgrImage]) -> bytes:
        raise ValueError("no room")

    monkeypatch.setattr("ego_assets.privacy.deidentify.contact_sheet", broken)
    clip = write_clip(tmp_path / "clip.mp4")
    with pytest.raises(ValueError, match="no room"):
        run(clip, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_frames_beyond_the_time_line_fail_the_clip(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    short = write_clip(tmp_path / "short.mp4", frames=FRAMES - 3)
    with pytest.raises(PrivacyPassFailed, match="time line ends"):
        deidentify(
            clip,
            probe=probe(clip),
            timeline=read_timeline(short),
            video_path=tmp_path / "video.mp4",
            proxy_path=tmp_path / "proxy.mp4",
            detectors={"faces": GreenFinder()},
        )
    assert not (tmp_path / "video.mp4").exists() and not (tmp_path / "proxy.mp4").exists()


def test_the_last_frame_is_examined_when_the_clip_ends_early(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=8)
    longer = write_clip(tmp_path / "longer.mp4")
    finder = GreenFinder()
    result = deidentify(
        clip,
        probe=probe(clip),
        timeline=read_timeline(longer),
        video_path=tmp_path / "video.mp4",
        proxy_path=tmp_path / "proxy.mp4",
        detectors={"faces": finder},
        config=PrivacyConfig(faces_min_per_s=1, faces_present_per_s=1, faces_max_per_s=1, leak_looks_per_s=0),
    )
    (track,) = result.tracks
    observed = track.frame_indices[track.observed]
    assert (observed[0], observed[-1]) == (0, 7)


def test_passes_that_disagree_fail_the_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []

    def decode_less_at_first(source: object, **options: object) -> Iterator[DecodedFrame]:
        passes.append(1)
        for frame in decode_frames(clip, threads=1):
            if frame.index < FRAMES - 4:
                yield frame

    monkeypatch.setattr("ego_assets.privacy.examine.decode_frames", decode_less_at_first)
    clip = write_clip(tmp_path / "clip.mp4")
    with pytest.raises(PrivacyPassFailed, match=f"{FRAMES - 4} frames when it was examined and {FRAMES}"):
        run(clip, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_another_picture_size_than_probed_fails_the_clip(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    turned = write_clip(tmp_path / "turned.mp4", rotation_deg=90)
    with pytest.raises(MediaError, match="Cut the recording"):
        deidentify(
            clip,
            probe=probe(turned),
            timeline=read_timeline(clip),
            video_path=tmp_path / "video.mp4",
            proxy_path=tmp_path / "proxy.mp4",
            detectors={"faces": GreenFinder()},
        )


def test_a_clip_of_one_frame_and_one_without_regions(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=1)
    assert run(clip, tmp_path).timeline.frame_count == 1
    empty = run(clip, tmp_path, detectors={"faces": GreenFinder(answer=Detections.empty())})
    assert empty.tracks == ()
    assert empty.report.redacted_share == 0


def test_a_thousand_regions(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, [WIDTH - 8, HEIGHT - 8], (1000, 2))
    answer = Detections(np.hstack([corners, corners + 6]).astype(np.float32), np.full(1000, 0.9, np.float32))
    clip = write_clip(tmp_path / "clip.mp4", frames=2)
    result = run(clip, tmp_path, detectors={"faces": GreenFinder(answer=answer)})
    assert len(result.tracks) == 1000
    assert result.report.redacted_share > 0.9


def test_no_detector_is_refused(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=1)
    with pytest.raises(ValueError, match="at least one"):
        deidentify(
            clip,
            probe=probe(clip),
            timeline=read_timeline(clip),
            video_path=tmp_path / "video.mp4",
            proxy_path=tmp_path / "proxy.mp4",
            detectors={},
        )


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1920, 1080), (1280, 720)), ((1080, 1920), (720, 1280)), ((641, 361), (640, 360)), ((1, 9), (2, 8))],
)
def test_proxy_size(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert proxy_size_for(*size, short_side=720) == expected
