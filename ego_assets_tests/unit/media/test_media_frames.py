from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.media.decode import decode_frames
from ego_assets.media.encode import VideoWriter
from ego_assets.media.frame_archive import FrameArchive, FrameArchiveIndex
from ego_assets.media.frames import ExtractedFrames, LosslessOptions, extract_frames
from ego_assets.media.timeline import read_timeline
from ego_assets.schema.timeline import Timeline

MakeClip = Callable[..., Path]
Image = npt.NDArray[np.uint8]


def extract(video: Path, *, lossless_fps: float = 0.0, **options: object) -> ExtractedFrames:
    folder = video.parent
    lossless = None
    if lossless_fps:
        lossless = LosslessOptions(
            archive=folder / "png.tar", index=folder / "png.parquet", frames_per_second=lossless_fps
        )
    return extract_frames(
        video,
        archive=folder / "jpg.tar",
        index=folder / "jpg.parquet",
        lossless=lossless,
        **options,  # type: ignore[arg-type]
    )


def stored(folder: Path, kind: str) -> dict[int, bytes]:
    """Content of an archive by frame."""
    index = FrameArchiveIndex.read(folder / f"{kind}.parquet")
    with (folder / f"{kind}.tar").open("rb") as file:
        archive = FrameArchive(file, index)
        return {entry.frame_index: archive.read(entry.frame_index) for entry in archive}


def picture(content: bytes, flags: int = cv2.IMREAD_UNCHANGED) -> Image:
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    assert decoded is not None
    return np.asarray(decoded)


def write_pictures(path: Path, pictures: Sequence[Image], *, rate: int) -> Path:
    height, width = pictures[0].shape[:2]
    with VideoWriter(
        path, width=width, height=height, time_base=Fraction(1, 90_000), frame_rate=Fraction(rate)
    ) as writer:
        for index, rgb in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            writer.write(frame.reformat(format="yuv420p"), timestamp_ns=round(index * 1e9 / rate))
    return path


@given(
    rate=st.sampled_from(
        [Fraction(15), Fraction(24000, 1001), Fraction(30), Fraction(30000, 1001), Fraction(60)]
    ),
    count=st.integers(1, 400),
    start=st.integers(0, 10**9),
    finer=st.fractions(1, 4),
)
def test_a_grid_at_least_as_fine_as_the_video_takes_every_frame(
    rate: Fraction, count: int, start: int, finer: Fraction
) -> None:
    stamps = np.array([start + int(10**9 * i / rate) for i in range(count)], np.int64)
    timeline = Timeline(timestamps_ns=stamps, frame_rate=rate, time_base=Fraction(1, 90_000))
    assert np.array_equal(timeline.frames_at_rate(rate * finer), np.arange(count))


@given(count=st.integers(1, 400), rate=st.integers(1, 30))
def test_a_coarser_grid_keeps_its_distance(count: int, rate: int) -> None:
    stamps = np.array([round(10**9 * i / 30) for i in range(count)], np.int64)
    timeline = Timeline(timestamps_ns=stamps, frame_rate=Fraction(30), time_base=Fraction(1, 90_000))
    taken = stamps[timeline.frames_at_rate(rate)]
    grid = np.arange(taken.size) * 1e9 / rate
    assert np.abs(taken - grid).max() <= 1e9 / 60 + 1
    assert stamps[-1] - taken[-1] < 1e9 / rate


@pytest.mark.parametrize(
    ("frames_per_second", "expected"),
    [(30.0, list(range(20))), (240.0, list(range(20))), (10.0, [0, 3, 6, 9, 12, 15, 18]), (0.5, [0])],
)
def test_frames_are_taken_at_the_rate(
    make_clip: MakeClip, frames_per_second: float, expected: list[int]
) -> None:
    video = make_clip(frames=20)
    result = extract(video, frames_per_second=frames_per_second)
    files = stored(video.parent, "jpg")
    assert list(files) == expected
    assert result.frame_count == result.expected_count == len(expected)
    assert (result.lossless_count, result.undecodable_frames, result.size) == (0, (), (64, 48))
    for index, content in files.items():
        assert abs(int(picture(content)[24, 32, 0]) - (20 + 3 * index - 16) * 255 / 219) < 3, "wrong frame"


def test_the_index_holds_the_time_stamps_of_the_video(make_clip: MakeClip) -> None:
    stamps = [0, 500, 1100, 1500, 2300, 2600]
    video = make_clip(pts=[90 * stamp // 10 for stamp in stamps], time_base=Fraction(1, 90_000))
    extract(video, frames_per_second=240.0)
    index = FrameArchiveIndex.read(video.parent / "jpg.parquet")
    timeline = read_timeline(video)
    assert np.array_equal(index.timestamps_ns, timeline.timestamps_ns[index.frame_indices])
    assert len(index) == len(stamps)


@pytest.fixture
def smooth_clip(tmp_path: Path) -> Path:
    """Fifteen frames at 15 frames/s of a picture without hard edges, which move."""
    across, down = np.meshgrid(np.arange(240), np.arange(108))
    light = 110 + 50 * np.sin(across / 9) * np.cos(down / 7)
    picture = np.stack([light + across / 8, light, light - down / 4], axis=2)
    views = [picture[:, index : index + 192].astype(np.uint8) for index in range(15)]
    return write_pictures(tmp_path / "clip.mp4", views, rate=15)


def test_jpeg_frames_are_visually_lossless(smooth_clip: Path) -> None:
    extract(smooth_clip)
    files = stored(smooth_clip.parent, "jpg")
    for index, frame in enumerate(decode_frames(smooth_clip)):
        error = picture(files[index]).astype(float) - frame.bgr()
        assert 10 * np.log10(255**2 / np.mean(error**2)) > 40


def test_the_lossless_subsample_has_sixteen_bits(smooth_clip: Path) -> None:
    result = extract(smooth_clip, lossless_fps=5.0)
    files = stored(smooth_clip.parent, "png")
    assert result.lossless_count == 5 and list(files) == [0, 3, 6, 9, 12]
    assert result.frame_count == 15
    for frame in decode_frames(smooth_clip):
        if frame.index in files:
            deep = picture(files[frame.index])
            assert (str(deep.dtype), deep.shape) == ("uint16", (108, 192, 3))
            assert len(np.unique(deep)) > 1000, "eight bits in sixteen are eight bits"
            difference = np.abs(deep / 257 - frame.bgr())
            assert difference.max() < 3 and difference.mean() < 1


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [((0, 1, -1, 0), (0, -1)), ((-1, 0, 0, -1), (-1, -1)), ((0, -1, 1, 0), (-1, 0))],
    ids=["90", "180", "270"],
)
def test_frames_are_upright(
    tmp_path: Path,
    set_display_matrix: Callable[..., None],
    matrix: tuple[int, int, int, int],
    corner: tuple[int, int],
) -> None:
    coded = np.zeros((48, 64, 3), np.uint8)
    coded[:16, :16] = 255
    video = write_pictures(tmp_path / "clip.mp4", [coded] * 3, rate=30)
    set_display_matrix(video, *matrix)
    result = extract(video, lossless_fps=5.0)
    turned = matrix[0] == 0
    assert result.size == ((48, 64) if turned else (64, 48))
    for kind, white in (("jpg", 255), ("png", 65535)):
        [image, *_] = map(picture, stored(tmp_path, kind).values())
        assert image.shape[:2] == result.size[::-1]
        rows = slice(0, 12) if corner[0] == 0 else slice(-12, None)
        columns = slice(0, 12) if corner[1] == 0 else slice(-12, None)
        assert image[rows, columns].mean() > 0.9 * white
        assert image.mean() < 0.2 * white, "the mark is in one corner only"


def test_the_archive_is_a_plain_tar(make_clip: MakeClip) -> None:
    video = make_clip(frames=7)
    extract(video)
    with tarfile.open(video.parent / "jpg.tar") as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == [f"frame_{index:06d}.jpg" for index in range(7)]
        content = {}
        for index, member in enumerate(members):
            file = archive.extractfile(member)
            assert file is not None
            content[index] = file.read()
    assert content == stored(video.parent, "jpg")


def test_the_contact_sheet_stays_small_whatever_it_shows(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (9, 360, 640, 3), dtype=np.uint8)
    result = extract(write_pictures(tmp_path / "noise.mp4", list(noise), rate=10))
    assert 0 < len(result.contact_sheet) < 50_000
    assert picture(result.contact_sheet).shape[2] == 3
    assert result.checked_count == 8


def test_progress_ends_with_all_frames(make_clip: MakeClip) -> None:
    heard: list[tuple[int, int]] = []
    extract(make_clip(frames=6), progress=lambda done, total: heard.append((done, total)))
    assert heard[-1] == (6, 6) and heard == sorted(heard)


def test_equal_videos_give_equal_archives(make_clip: MakeClip, tmp_path: Path) -> None:
    video = make_clip(frames=5)
    extract(video, lossless_fps=5.0)
    names = ("jpg.tar", "jpg.parquet", "png.tar", "png.parquet")
    first = [(tmp_path / name).read_bytes() for name in names]
    os.utime(video, (0, 0))
    extract(video, lossless_fps=5.0)
    assert [(tmp_path / name).read_bytes() for name in names] == first


def test_what_fails_leaves_no_archive(make_clip: MakeClip) -> None:
    video = make_clip(frames=6)

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        extract(video, lossless_fps=5.0, progress=stop)
    assert [path.name for path in video.parent.iterdir()] == [video.name]
