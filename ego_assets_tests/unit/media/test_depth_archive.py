"""Depth maps as they are stored: values, numbers per map, and what the document says of them."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.media.depth_archive import (
    DepthArchive,
    cuts_at,
    depth_document,
    depth_values,
    picture_shift,
    write_depth_archive,
    write_map_verdicts,
)
from ego_assets.media.frame_archive import FrameArchiveIndex, FrameArchiveWriter, read_member
from ego_assets.media.rasters import decode_png, encode_png8, encode_png16
from ego_assets.schema.camera import PinholeCamera, Scale
from ego_assets.schema.depth import MEASURED_FROM, DepthFrame, DepthStatus, constant_confidence
from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.documents import json_document
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.gates import GateOutcome
from ego_assets.schema.motion import CameraMotion

WIDTH, HEIGHT = 161, 91
CAMERA = PinholeCamera(width=WIDTH, height=HEIGHT, fx=100, fy=100, cx=80, cy=45)
INFO = BackendInfo(task="depth", backend="fake", model="fake 1")


def frames(count: int, *, width: int = WIDTH, height: int = HEIGHT) -> list[ClipFrame]:
    rng = np.random.default_rng(3)
    texture = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
    return [ClipFrame(6 * number, 200_000_000 * number, np.roll(texture, number)) for number in range(count)]


def depth_of(
    frame: ClipFrame,
    value: float = 2.0,
    *,
    known: int = HEIGHT,
    measured: int = HEIGHT // 2,
    scale: Scale = Scale.METRIC,
    status: DepthStatus = "estimated",
    segment: int = 0,
) -> DepthFrame:
    """A flat map whose upper rows are known, and of those the upper ones measured."""
    width, height = frame.size
    depth = np.zeros((height, width), np.float32)
    confidence = np.zeros((height, width), np.uint8)
    depth[:known] = value
    confidence[:known] = 127
    confidence[: min(measured, known)] = 128
    return DepthFrame(
        frame_index=frame.frame_index,
        timestamp_ns=frame.timestamp_ns,
        depth=depth,
        confidence=confidence,
        scale=scale,
        status=status,
        segment=segment,
        camera_motion=0.25,
    )


def write(folder: Path, count: int, give: object, **options: object) -> DepthArchive:
    def estimate(stream: Iterator[ClipFrame]) -> Iterator[DepthFrame]:
        for number, frame in enumerate(stream):
            yield give(number, frame)  # type: ignore[operator]

    return write_depth_archive(
        frames(count),
        estimate,
        frame_index=np.arange(count, dtype=np.int64) * 6,
        path=folder.joinpath,
        **options,  # type: ignore[arg-type]
    )


def stored(folder: Path, kind: str, frame_index: int) -> np.ndarray:
    index = FrameArchiveIndex.read(folder / f"{kind}.parquet")
    with (folder / f"{kind}.tar").open("rb") as file:
        return decode_png(read_member(file, index.entry(frame_index)))


@given(st.lists(st.floats(0, 200, width=32), min_size=1, max_size=40))
def test_what_is_known_stays_known_and_what_is_not_stays_zero(values: list[float]) -> None:
    depth = np.array([values], np.float32)
    found = depth_values(depth)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found > 0, depth > 0)
    inside = (depth > 0.001) & (depth < 65)
    np.testing.assert_allclose(found[inside] / 1000, depth[inside], atol=0.00051)
    assert (found[depth > 65.6] == 65535).all()


def test_maps_are_stored_in_thousandths_with_their_confidence(tmp_path: Path) -> None:
    archive = write(tmp_path, 3, lambda number, frame: depth_of(frame, 1.2345 + number, known=60))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "confidence.parquet",
        "confidence.tar",
        "depth.parquet",
        "depth.tar",
    ]
    depth, confidence = stored(tmp_path, "depth", 6), stored(tmp_path, "confidence", 6)
    assert depth.dtype == np.uint16 and depth.shape == (HEIGHT, WIDTH)
    assert (depth[:60] == 2234).all() and (depth[60:] == 0).all()
    assert (confidence[:45] == 128).all() and (confidence[45:60] == 127).all()
    found = archive.measurements
    assert found.frame_index.tolist() == [0, 6, 12]
    assert found.timestamps_ns.tolist() == [0, 200_000_000, 400_000_000]
    np.testing.assert_allclose(found.measured_share, 45 / HEIGHT)
    np.testing.assert_allclose(found.completed_share, 15 / HEIGHT)
    np.testing.assert_allclose(found.change, [np.nan, 1, 1], rtol=1e-5)
    np.testing.assert_allclose(found.median, [1.2345, 2.2345, 3.2345], rtol=1e-5)
    assert found.scale is Scale.METRIC
    assert archive.counts == pytest.approx(
        {
            "frames": 3,
            "frames_without_parallax": 0,
            "failed_frames": 0,
            "valid_share": 60 / HEIGHT,
            "measured_share": 45 / HEIGHT,
            "completed_share": 15 / HEIGHT,
        }
    )


def test_equal_maps_give_equal_bytes(tmp_path: Path) -> None:
    sheets = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        sheets.append(write(tmp_path / name, 3, lambda _, frame: depth_of(frame)).contact_sheet)
    assert sheets[0] == sheets[1]
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def test_threads_write_what_one_thread_would(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    depths = rng.uniform(0.4, 9, (24, HEIGHT, WIDTH)).astype(np.float32)

    def give(number: int, frame: ClipFrame) -> DepthFrame:
        confidence = np.full((HEIGHT, WIDTH), 128 + number % 3, np.uint8)
        return replace(depth_of(frame), depth=depths[number], confidence=confidence)

    archive = write(tmp_path, 24, give)
    alone = frames(24)
    for kind in ("depth", "confidence"):
        with FrameArchiveWriter(tmp_path / "alone.tar", tmp_path / "alone.parquet") as writer:
            for number, frame in enumerate(alone):
                found = give(number, frame)
                png = (
                    encode_png16(depth_values(found.depth))
                    if kind == "depth"
                    else encode_png8(found.confidence)
                )
                writer.add(frame.frame_index, frame.timestamp_ns, png, extension="png")
        for suffix in (".tar", ".parquet"):
            written = (tmp_path / f"{kind}{suffix}").read_bytes()
            assert written == (tmp_path / f"alone{suffix}").read_bytes()
    sample = depths[:, ::4, ::4].reshape(24, -1)
    np.testing.assert_array_equal(archive.measurements.median, np.percentile(sample, 50, axis=1))
    np.testing.assert_allclose(
        archive.measurements.change[1:], np.abs(np.diff(sample, axis=0)).mean(axis=1), rtol=1e-6
    )


def test_one_confidence_for_all_pixels_is_stored_as_if_written_out(tmp_path: Path) -> None:
    for name, confidence in (
        ("constant", constant_confidence(HEIGHT, WIDTH)),
        ("written out", np.full((HEIGHT, WIDTH), MEASURED_FROM, np.uint8)),
    ):
        (tmp_path / name).mkdir()
        depth = np.full((HEIGHT, WIDTH), 2, np.float32)
        archive = write(
            tmp_path / name,
            3,
            lambda _, frame, depth=depth, confidence=confidence: replace(
                depth_of(frame), depth=depth, confidence=confidence
            ),
        )
        assert (archive.measurements.measured_share == 1).all()
        assert (archive.measurements.completed_share == 0).all()
    for file in (tmp_path / "constant").iterdir():
        assert file.read_bytes() == (tmp_path / "written out" / file.name).read_bytes(), file.name


def test_a_map_says_what_it_knows_and_nothing_else() -> None:
    whole = np.full((3, 4), 2, np.float32)
    hole = whole.copy()
    hole[1, 1] = 0
    (frame,) = frames(1, width=4, height=3)
    given = replace(depth_of(frame), depth=whole, confidence=constant_confidence(3, 4))
    assert given.constant_confidence == MEASURED_FROM
    assert replace(given, confidence=np.full((3, 4), 9, np.uint8)).constant_confidence is None
    nothing = replace(given, depth=whole * 0, confidence=constant_confidence(3, 4, 0))
    assert nothing.constant_confidence == 0
    for depth, confidence in (
        (hole, constant_confidence(3, 4)),
        (hole, np.full((3, 4), 9, np.uint8)),
        (whole, constant_confidence(3, 4, 0)),
        (whole * 0, constant_confidence(3, 4)),
    ):
        with pytest.raises(ValueError, match="exactly where depth is known"):
            replace(given, depth=depth, confidence=confidence)
    for wrong in (np.nan, np.inf, -1):
        bad = whole.copy()
        bad[2, 3] = wrong
        with pytest.raises(ValueError, match="finite values of 0 or more"):
            replace(given, depth=bad)


def test_no_thread_is_left_where_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(FrameArchiveWriter, "add", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, 30, lambda _, frame: depth_of(frame))
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("depth-")]
    assert list(tmp_path.iterdir()) == []


def test_single_wrong_pixels_are_not_the_maximum(tmp_path: Path) -> None:
    def with_outlier(_: int, frame: ClipFrame) -> DepthFrame:
        found = depth_of(frame)
        depth = found.depth.copy()
        depth[0, 0] = 5000
        return DepthFrame(
            frame_index=found.frame_index,
            timestamp_ns=found.timestamp_ns,
            depth=depth,
            confidence=found.confidence,
            scale=found.scale,
        )

    # One wrong pixel in 961 of the sample would move the percentile; among the pixels of a proxy it does not.
    big = frames(1, width=640, height=360)
    archive = write_depth_archive(
        big,
        lambda stream: (with_outlier(0, frame) for frame in stream),
        frame_index=np.zeros(1, np.int64),
        path=tmp_path.joinpath,
    )
    assert archive.measurements.maximum[0] == pytest.approx(2.0)


def test_a_few_known_pixels_are_found_wherever_they_lie(tmp_path: Path) -> None:
    def one_pixel(_: int, frame: ClipFrame) -> DepthFrame:
        depth = np.zeros((HEIGHT, WIDTH), np.float32)
        depth[1, 1] = 3
        return DepthFrame(
            frame_index=frame.frame_index,
            timestamp_ns=frame.timestamp_ns,
            depth=depth,
            confidence=(depth > 0).astype(np.uint8),
            scale=Scale.METRIC,
        )

    found = write(tmp_path, 2, one_pixel).measurements
    assert found.valid_share[0] == pytest.approx(1 / (WIDTH * HEIGHT)) and found.maximum[0] == 3
    # Too little in common to be compared.
    assert np.isnan(found.change).all()


def test_maps_of_two_segments_are_not_compared(tmp_path: Path) -> None:
    archive = write(
        tmp_path,
        4,
        lambda number, frame: depth_of(frame, 1 + number, scale=Scale.UNKNOWN, segment=number // 2),
    )
    assert np.isnan(archive.measurements.change).tolist() == [True, False, True, False]
    assert archive.measurements.scale is Scale.UNKNOWN
    document = depth_document(
        archive.measurements,
        camera=CAMERA,
        backend=INFO,
        is_dense=False,
        frames_per_second=5.0,
        baseline_m=None,
    )
    assert document["scale"] == "unknown" and "median" in document["unit"] and "first map" in document["unit"]
    first, second = document["segments"]
    assert (first["first_frame_index"], first["last_frame_index"], first["frames"]) == (0, 6, 2)
    assert (second["start_ns"], second["end_ns"]) == (400_000_000, 600_000_000)


def test_the_document_says_how_to_read_a_map(tmp_path: Path) -> None:
    archive = write(tmp_path, 2, lambda _, frame: depth_of(frame))
    document = depth_document(
        archive.measurements,
        camera=CAMERA,
        backend=INFO,
        is_dense=True,
        frames_per_second=None,
        baseline_m=0.1,
    )
    told = json.loads(json_document(document))
    assert told == document
    assert told["unit"] == "millimetre" == told["segments"][0]["unit"]
    assert told["invalid_value"] == 0 and told["largest_value"] == 65535
    assert told["resolution"] == [WIDTH, HEIGHT]
    assert told["camera"] == {"fx": 100, "fy": 100, "cx": 80, "cy": 45, "source": "assumed"}
    assert told["backend"]["backend"] == "fake" and told["is_dense"] is True
    assert told["statuses"] == {"estimated": 2, "no_parallax": 0, "failed": 0}


def test_a_clip_without_parallax_claims_nothing(tmp_path: Path) -> None:
    archive = write(tmp_path, 3, lambda _, frame: depth_of(frame, known=0, status="no_parallax"))
    assert archive.counts == {"frames": 3, "frames_without_parallax": 3, "failed_frames": 0}
    assert archive.measurements.scale is Scale.UNKNOWN
    assert np.isnan(archive.measurements.maximum).all() and not stored(tmp_path, "depth", 12).any()


def test_verdicts_are_a_table_without_nan(tmp_path: Path) -> None:
    archive = write(tmp_path, 2, lambda number, frame: depth_of(frame, known=HEIGHT * number))
    verdicts = {"not_empty": (GateOutcome.FAILED, GateOutcome.PASSED)}
    write_map_verdicts(archive.measurements, verdicts, tmp_path / "verdicts.parquet")
    table = pq.read_table(tmp_path / "verdicts.parquet").to_pydict()
    assert table["frame_index"] == [0, 6] and table["timestamp_ns"] == [0, 200_000_000]
    assert table["not_empty"] == ["failed", "passed"]
    assert table["maximum"] == [None, 2.0] and table["change"] == [None, None]
    assert table["valid_share"] == pytest.approx([0, 1]) and table["camera_motion"] == [0.25, 0.25]


def test_the_picture_shows_frames_and_depth_within_its_limit(tmp_path: Path) -> None:
    archive = write(tmp_path, 9, lambda number, frame: depth_of(frame, 1 + number))
    assert len(archive.contact_sheet) <= 50_000
    sheet = cv2.imdecode(np.frombuffer(archive.contact_sheet, np.uint8), cv2.IMREAD_COLOR)
    # Six pairs in two columns.
    assert sheet.shape[1] / sheet.shape[0] == pytest.approx(4 * 16 / (3 * 9), rel=0.1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("skips", "expected the depth of frame 6, got that of frame 12"),
        ("stops", "expected 3 depth maps, got 1"),
        ("repeats", "expected the depth of frame 6, got that of frame 0"),
        ("shrinks", r"expected \[91, 161\], got \[45, 80\]"),
        ("goes on", "expected the depth of frame None, got that of frame 18"),
    ],
)
def test_a_backend_that_breaks_its_promise_leaves_no_files(tmp_path: Path, wrong: str, said: str) -> None:
    def estimate(stream: Iterator[ClipFrame]) -> Iterator[DepthFrame]:
        for number, frame in enumerate(stream):
            if wrong == "skips" and number == 1:
                continue
            if wrong == "stops" and number == 1:
                return
            if wrong == "shrinks":
                frame = ClipFrame(frame.frame_index, frame.timestamp_ns, frame.image[:45, :80])
            yield depth_of(frame)
            if wrong == "repeats":
                yield depth_of(frame)
        if wrong == "goes on":
            yield depth_of(ClipFrame(18, 600_000_000, frame.image))

    with pytest.raises(ValueError, match=said):
        write_depth_archive(frames(3), estimate, frame_index=np.array([0, 6, 12]), path=tmp_path.joinpath)
    assert list(tmp_path.iterdir()) == []


def test_no_frame_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        write_depth_archive([], lambda stream: [], frame_index=np.zeros(0, np.int64), path=tmp_path.joinpath)


def test_the_shift_of_the_picture_is_a_share_of_its_width() -> None:
    positions = np.cumsum(np.full((13, 2), (3.0, 4.0)), axis=0)
    is_cut = np.zeros(13, np.bool_)
    is_cut[8] = True
    motion = CameraMotion(positions_xy=positions, change=np.zeros(13, np.float32), is_cut=is_cut)
    shift = picture_shift(motion, np.array([0, 6, 12]), width=100)
    np.testing.assert_allclose(shift, [np.nan, 0.3, np.nan])
    assert np.isnan(picture_shift(None, np.array([0, 6, 12]), width=100)).all()
    # A motion that does not reach the end of the clip is not used.
    assert np.isnan(picture_shift(motion, np.array([0, 6, 13]), width=100)).all()


def test_cuts_are_the_first_frames_of_a_list_after_them() -> None:
    is_cut = np.zeros(10, np.bool_)
    is_cut[[0, 4, 5, 9]] = True
    motion = replace(CameraMotion.still(10), is_cut=is_cut)
    assert cuts_at(motion, np.array([0, 3, 6, 9])) == {6, 9}
    assert cuts_at(motion, np.array([1, 2, 3])) == frozenset()
    assert cuts_at(motion, np.array([3, 4, 12])) == {4}, "frames without a motion begin nothing"
    assert cuts_at(motion, np.array([], np.int64)) == frozenset()


def test_the_motion_reaches_the_measurements(tmp_path: Path) -> None:
    motion = CameraMotion(
        positions_xy=np.arange(26, dtype=np.float64).reshape(13, 2) * [WIDTH / 100, 0],
        change=np.zeros(13, np.float32),
        is_cut=np.zeros(13, np.bool_),
    )
    archive = write(tmp_path, 3, lambda _, frame: depth_of(frame), motion=motion)
    np.testing.assert_allclose(archive.measurements.picture_shift, [np.nan, 0.12, 0.12])


def test_the_index_reads_as_any_frame_archive(tmp_path: Path) -> None:
    write(tmp_path, 2, lambda _, frame: depth_of(frame))
    index = FrameArchiveIndex.read(io.BytesIO((tmp_path / "confidence.parquet").read_bytes()))
    assert index.names == ("frame_000000.png", "frame_000006.png")


def test_the_camera_a_backend_corrected_is_the_one_that_counts(tmp_path: Path) -> None:
    corrected = PinholeCamera(width=WIDTH, height=HEIGHT, fx=90, fy=90, cx=50, cy=40, source="estimated")

    def give(number: int, frame: ClipFrame) -> DepthFrame:
        return replace(depth_of(frame, 1.0), camera=corrected if number else None)

    assert write(tmp_path, 2, give).camera == corrected
    assert write(tmp_path, 2, lambda number, frame: depth_of(frame, 1.0)).camera is None
