from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest

from ego_assets.privacy.config import PrivacyConfig
from ego_assets.privacy.report import PiiReport, build_report, tracks_table
from ego_assets.privacy.tracking import FrameDetections, build_tracks
from ego_assets.schema.detections import BackendInfo, Detections
from ego_assets.schema.media import MediaProbe, StreamInfo

FACES = BackendInfo(task="faces", backend="fake", model="fake 1")
STAMPS = np.arange(300, dtype=np.int64) * 33_333_333


def detections(count: int, score: float) -> Detections:
    boxes = np.array([[40.0 * i, 10, 40.0 * i + 20, 30] for i in range(count)], np.float32).reshape(-1, 4)
    return Detections(boxes, np.full(count, score, np.float32))


def report(examined: list[FrameDetections]) -> PiiReport:
    config = PrivacyConfig(low_confidence_score=0.5)
    tracks = build_tracks(examined, kind="faces", timestamps_ns=STAMPS, width=640, height=360, config=config)
    return build_report(
        examined={"faces": examined},
        tracks=tracks,
        detectors={"faces": FACES},
        detector_settings={"faces": {"score_threshold": 0.2}},
        probe=MediaProbe(
            container="mp4",
            codec="h264",
            pixel_format="yuv420p",
            bit_depth=8,
            coded_width=640,
            coded_height=360,
            rotation_deg=0,
            frame_rate=Fraction(30),
            declared_duration_s=10.0,
            declared_frame_count=300,
            size_bytes=1,
            other_streams=(StreamInfo(index=1, kind="data", codec="gpmd", handler="GoPro MET"),),
            metadata_keys=("location",),
        ),
        frame_count=300,
        duration_s=10.0,
        redacted_share=0.01,
        redacted_frames=12,
        config=config,
    )


@pytest.mark.parametrize("looks", [10, 50, 100])
def test_looking_more_often_does_not_inflate_the_density(looks: int) -> None:
    frames = np.linspace(0, 299, looks).astype(int)
    found = report([FrameDetections(int(index), detections(2, 0.9)) for index in frames])
    assert found.kinds["faces"].detections == 2 * looks
    assert found.kinds["faces"].detections_per_minute == pytest.approx(120)
    assert found.kinds["faces"].tracks == 2


def test_low_confidence_frames_are_listed() -> None:
    examined = [
        FrameDetections(0, detections(1, 0.9)),
        FrameDetections(6, detections(2, 0.3)),
        FrameDetections(12, Detections.empty()),
    ]
    assert report(examined).low_confidence_frames == (6,)


def test_a_weak_sighting_of_a_region_that_was_seen_clearly_is_no_doubt() -> None:
    examined = [
        FrameDetections(0, detections(1, 0.9)),
        FrameDetections(6, detections(1, 0.3)),
        FrameDetections(12, detections(1, 0.8)),
    ]
    assert report(examined).low_confidence_frames == ()


def test_the_document_is_json_and_names_what_was_removed() -> None:
    document = json.loads(report([FrameDetections(0, detections(1, 0.9))]).to_json())
    assert document["removed_streams"] == [{"codec": "gpmd", "handler": "", "index": 1, "kind": "data"}]
    assert document["removed_metadata_keys"] == ["location"]
    assert document["kinds"]["faces"]["detector"]["backend"] == "fake"
    assert document["kinds"]["faces"]["settings"] == {"score_threshold": 0.2}
    assert document["config"]["box_margin"] == 0.2


def test_where_nobody_looked_nothing_was_doubtful() -> None:
    empty = PiiReport(
        kinds={}, frame_count=0, duration_s=0, resolution=(2, 2), redacted_share=0, redacted_frames=0
    )
    assert empty.low_confidence_frames == ()


def test_the_table_has_one_row_for_each_covered_frame() -> None:
    examined = [FrameDetections(index, detections(2, 0.75)) for index in (0, 6)]
    tracks = build_tracks(
        examined, kind="faces", timestamps_ns=STAMPS, width=640, height=360, config=PrivacyConfig()
    )
    table = tracks_table(tracks, STAMPS)
    assert table.num_rows == sum(track.frame_indices.size for track in tracks)
    rows = table.filter(np.array(table["track_id"]) == 2).to_pylist()
    assert rows[0] == {
        "track_id": 2,
        "kind": "faces",
        "frame_index": 0,
        "timestamp_ns": 0,
        "left": 40.0,
        "top": 10.0,
        "right": 60.0,
        "bottom": 30.0,
        "score": 0.75,
        "observed": True,
    }
    assert rows[3]["timestamp_ns"] == 99_999_999
    assert not rows[3]["observed"]


def test_the_table_of_no_tracks_has_the_same_columns() -> None:
    tracks = build_tracks(
        [FrameDetections(0, detections(1, 0.9))],
        kind="text",
        timestamps_ns=STAMPS,
        width=640,
        height=360,
        config=PrivacyConfig(),
    )
    assert tracks_table([], STAMPS).schema == tracks_table(tracks, STAMPS).schema
