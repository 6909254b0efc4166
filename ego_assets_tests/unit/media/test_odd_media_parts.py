"""The parts that odd media rest on: display matrices, clocks that are set back, HDR brightness, limits of MP4."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.media.encode import VideoWriter
from ego_assets.media.orientation import Orientation
from ego_assets.media.pictures import PictureNormaliser, has_full_range
from ego_assets.media.timeline import OrderCheck, StampRepair
from ego_assets.quality.completeness import count_gap_frames
from ego_assets.schema.errors import MediaError
from ego_assets_tests.odd_media import HLG, PQ, Look, coded_frame


class FakeStream:
    """As much of a stream as the order of time stamps needs: 10 ticks a frame."""

    guessed_rate = average_rate = Fraction(30)
    time_base = Fraction(1, 300)

    class codec_context:  # noqa: N801 - named as in PyAV
        reorder_depth = 0


def stream_with(reorder_depth: int) -> VideoStream:
    class Context(FakeStream.codec_context):
        pass

    Context.reorder_depth = reorder_depth
    stream = FakeStream()
    stream.codec_context = Context  # type: ignore[misc]
    return cast("VideoStream", stream)


def repaired(stamps: list[int]) -> list[int]:
    repair = StampRepair(stream_with(0))
    return [repair.repaired(stamp) for stamp in stamps]


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([0, 10, 20, 30], [0, 10, 20, 30]),
        ([0, 10, 10, 20], [0, 10, 10, 20]),
        # One wrong stamp moves one frame.
        ([0, 10, 20, 5, 40, 50], [0, 10, 20, 30, 40, 50]),
        # A clock that starts anew goes on, and keeps its own intervals.
        ([0, 10, 20, 0, 10, 25], [0, 10, 20, 30, 40, 55]),
        # Set back twice.
        ([0, 10, 5, 15, 0, 10], [0, 10, 20, 30, 40, 50]),
    ],
)
def test_a_clock_that_is_set_back(stamps: list[int], expected: list[int]) -> None:
    assert repaired(stamps) == expected


@given(st.lists(st.integers(-(2**40), 2**40), max_size=30))
def test_repaired_stamps_never_step_back(stamps: list[int]) -> None:
    result = repaired(stamps)
    assert result == sorted(result)
    assert repaired(sorted(stamps)) == sorted(stamps), "what ascends is left alone"


@given(st.permutations(range(4)).map(list), st.integers(0, 3))
def test_reordering_within_the_codecs_depth_is_no_step_back(order: list[int], depth: int) -> None:
    check = OrderCheck(stream_with(depth))
    for stamp in order:
        check.add(stamp)
    preceded_by_later = max(sum(earlier > stamp for earlier in order[:i]) for i, stamp in enumerate(order))
    assert check.stepped_back == (preceded_by_later > depth)


@pytest.mark.parametrize(
    ("matrix", "mirrored", "rotation_deg"),
    [
        ((1, 0, 0, 1), False, 0),
        ((0, 1, -1, 0), False, 90),
        ((-1, 0, 0, -1), False, 180),
        ((0, -1, 1, 0), False, 270),
        ((-1, 0, 0, 1), True, 0),
        ((0, -1, -1, 0), True, 90),
        ((1, 0, 0, -1), True, 180),
        ((0, 1, 1, 0), True, 270),
        ((0, 0, 0, 0), False, 0),
    ],
)
def test_display_matrix(matrix: tuple[int, int, int, int], mirrored: bool, rotation_deg: int) -> None:
    a, b, c, d = (value << 16 for value in matrix)
    found = Orientation.from_display_matrix((a, b, 0, c, d, 0, 0, 0, 1 << 30))
    assert found == Orientation(mirrored, rotation_deg)
    if a * d - b * c:
        # A point mirrored and then turned lies where the matrix puts it.
        x, y = (-3, 5) if mirrored else (3, 5)
        for _ in range(rotation_deg // 90):
            x, y = -y, x
        assert (x, y) == (3 * matrix[0] + 5 * matrix[2], 3 * matrix[1] + 5 * matrix[3])


def grey(transfer: int, level: float) -> float:
    """Brightness from 0 to 255 that a grey of an HDR picture comes out with."""
    look = Look(
        pixel_format="yuv420p10le",
        matrix=9,
        transfer=transfer,
        draw=lambda _, width, height: np.full((height, width, 3), level),
    )
    ((_, made),) = PictureNormaliser().add(0, coded_frame(0, look))
    assert made.format.name == "yuv420p"
    assert (made.colorspace, made.color_primaries, made.color_trc, made.color_range) == (1, 1, 1, 1)
    return float(made.reformat(format="bgr24").to_ndarray().mean())


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_hdr_greys_keep_their_brightness_on_a_screen(transfer: int) -> None:
    levels = [0.1, 0.25, 0.5, 0.75, 0.95]
    assert [grey(transfer, level) for level in levels] == pytest.approx(
        [255 * level for level in levels], abs=10
    )


@pytest.mark.parametrize(
    ("look", "full"),
    [
        (Look(), False),
        (Look(pixel_format="yuvj420p", full_range=True), True),
        (Look(pixel_format="yuv420p10le", full_range=True), True),
        # Mapped to limited range whatever it was.
        (Look(pixel_format="yuv420p10le", matrix=9, transfer=PQ, full_range=True), False),
    ],
)
def test_range_of_what_the_reader_gives(look: Look, full: bool) -> None:
    assert has_full_range(coded_frame(0, look)) is full


@pytest.mark.parametrize(("width", "matrix"), [(1280, 1), (640, 2)])
def test_hd_without_a_stated_matrix_is_bt_709_as_in_players(width: int, matrix: int) -> None:
    frame = av.VideoFrame(width, 64, "yuv420p")
    frame.colorspace = 2
    ((_, made),) = PictureNormaliser().add(0, frame)
    assert made.colorspace == matrix


def test_repeated_stamps_fill_the_gap_beside_them() -> None:
    def gaps(*frames: int) -> int:
        steps = np.array([*range(20), *(20 + frame for frame in frames), *range(40, 60)], np.int64)
        return count_gap_frames(steps * 33_333_333)

    steady = list(range(20))
    assert gaps(*steady) == 0
    assert gaps(*steady[:5], *steady[7:]) == 2
    assert gaps(*steady[:5], 4, 4, *steady[7:]) == 0
    assert gaps(*steady[:5], 7, *steady[7:]) == 1
    assert gaps(*steady[:5], *steady[7:15], 14, *steady[15:]) == 2, "a repetition elsewhere fills nothing"


def test_mp4_refuses_a_gap_that_its_clock_cannot_count(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with (
        pytest.raises(MediaError, match="time stamp") as caught,
        VideoWriter(
            path, width=192, height=108, time_base=Fraction(1, 10**9), frame_rate=Fraction(30)
        ) as writer,
    ):
        for second in range(0, 12, 3):
            writer.write(coded_frame(0, Look()), timestamp_ns=second * 10**9)
    assert caught.value.code == "not_encodable"
    assert not path.exists()


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with VideoWriter(
        path,
        width=192,
        height=108,
        time_base=Fraction(1, 15360),
        frame_rate=Fraction(30),
        pixel_aspect=(16, 15),
    ) as writer:
        writer.write(coded_frame(0, Look()), pts=0)
    with av.open(str(path)) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(16, 15)
    with pytest.raises(ValueError, match="pixel_aspect"):
        VideoWriter(
            path,
            width=2,
            height=2,
            time_base=Fraction(1, 30),
            frame_rate=Fraction(30),
            pixel_aspect=(0, 1),
        )
