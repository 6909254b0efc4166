import numpy as np
import pytest

from ego_assets.gates import blurred_video, frames, manifest
from ego_assets.gates.blurred_video import VideoFacts, judge_privacy
from ego_assets.gates.frames import judge_frames
from ego_assets.gates.manifest import judge_score

STAMPS = np.arange(0, 30 * 33_333_333, 33_333_333, dtype=np.int64)
ORIGINAL = VideoFacts(timestamps_ns=STAMPS, stream_kinds=("video", "audio"), metadata_keys=("location",))
BLURRED = VideoFacts(timestamps_ns=STAMPS, metadata_keys=("encoder", "handler_name"))


def privacy(**changes):
    values = {
        "original": ORIGINAL, "video": BLURRED, "proxy": BLURRED, "face_detections": 0, "face_frames_analysed": 60,
        "low_confidence_frames": 0, "leak_checked_frames": 5, "leaks_repaired": 0, "leaks_remaining": 0,
    }  # fmt: skip
    return {found.spec.name: found for found in judge_privacy(**{**values, **changes})}


def facts(**changes):
    return VideoFacts(**{"timestamps_ns": STAMPS, **changes})


def test_a_clean_privacy_pass_passes():
    assert {found.outcome.value for found in privacy().values()} == {"passed"}
    assert list(privacy()) == [gate.name for gate in blurred_video.GATES]


@pytest.mark.parametrize("which", ["video", "proxy"])
@pytest.mark.parametrize(
    ("made", "said"),
    [
        (facts(timestamps_ns=STAMPS[:-1]), "29 frames instead of 30"),
        (facts(timestamps_ns=STAMPS + 1_000_000), "time stamps are off by up to 1 ms"),
        (facts(stream_kinds=("video", "audio")), "streams video, audio"),
        (facts(stream_kinds=()), "streams none"),
        (facts(metadata_keys=("location", "encoder")), "metadata left: location"),
    ],
)
def test_whatever_is_left_of_the_original_blocks(which, made, said):
    found = privacy(**{which: made})["deidentified"]
    assert found.blocks
    assert f"{which}: {said}" in found.message


def test_sound_that_the_settings_keep_is_allowed_in_the_video_only():
    with_sound = facts(stream_kinds=("video", "audio"))
    assert not privacy(video=with_sound, audio_kept=True)["deidentified"].blocks
    assert privacy(video=with_sound, proxy=with_sound, audio_kept=True)["deidentified"].blocks
    assert privacy(video=facts(stream_kinds=("video", "data")), audio_kept=True)["deidentified"].blocks


@pytest.mark.parametrize(
    ("checked", "remaining", "outcome"), [(12, 0, "passed"), (12, 1, "failed"), (None, 0, "not_evaluated")]
)
def test_a_leak_that_remains_blocks(checked, remaining, outcome):
    found = privacy(leak_checked_frames=checked, leaks_remaining=remaining)["no_leak"]
    assert found.outcome.value == outcome
    assert found.blocks == (outcome == "failed")


def test_rounding_of_time_stamps_is_tolerated():
    assert not privacy(video=facts(timestamps_ns=STAMPS + 33_000))["deidentified"].blocks


def test_an_original_without_frames_is_never_deidentified():
    empty = facts(timestamps_ns=STAMPS[:0])
    assert privacy(original=empty, video=empty, proxy=empty)["deidentified"].blocks


@pytest.mark.parametrize(
    ("detections", "analysed", "outcome", "per_minute"),
    [(50, 60, "passed", 50), (51, 60, "warned", 51), (250, 300, "passed", 50), (9, 10, "warned", 54)],
)
def test_density_does_not_depend_on_how_often_faces_are_searched(detections, analysed, outcome, per_minute):
    found = privacy(face_detections=detections, face_frames_analysed=analysed)["pii_density"]
    assert (found.outcome.value, found.value) == (outcome, pytest.approx(per_minute))


def test_density_is_not_judged_where_nothing_was_searched():
    assert privacy(face_frames_analysed=0)["pii_density"].outcome.value == "not_evaluated"


def test_unsure_detections_are_pointed_out():
    found = privacy(low_confidence_frames=3)["low_confidence"]
    assert found.outcome.value == "warned"
    assert "3 frame" in found.message


def extracted(**changes):
    values = {"expected_count": 400, "extracted_count": 400, "checked_count": 5, "undecodable_frames": []}
    return {found.spec.name: found for found in judge_frames(**{**values, **changes})}


@pytest.mark.parametrize(
    ("count", "blocks"), [(400, False), (398, False), (397, True), (403, True), (0, True)]
)
def test_frame_count(count, blocks):
    assert extracted(extracted_count=count)["frame_count"].blocks is blocks


def test_an_empty_grid_fails():
    assert extracted(expected_count=0, extracted_count=0)["frame_count"].blocks


def test_undecodable_images_block_and_unchecked_ones_are_not_passed():
    broken = extracted(undecodable_frames=[12])["decodable"]
    assert broken.blocks
    assert "frame 12" in broken.message
    assert extracted(checked_count=0)["decodable"].outcome.value == "not_evaluated"
    assert [gate.name for gate in frames.GATES] == list(extracted())


@pytest.mark.parametrize(
    ("value", "confidence", "low", "outcome"),
    [
        (0.4, 1.0, None, "passed"),
        (0.39, 1.0, None, "warned"),
        (0.6, 1.0, 0.7, "warned"),
        (None, 0.0, None, "not_evaluated"),
        (0.9, 0.0, None, "not_evaluated"),
    ],
)
def test_score_gate(value, confidence, low, outcome):
    (found,) = judge_score(value, confidence=confidence, parts={"blur": 0.2, "exposure": 0.9}, low_score=low)
    assert found.outcome.value == outcome
    assert not found.blocks
    assert found.spec.name == manifest.SCORE.name
    if outcome == "warned":
        assert "blur" in found.message
    if low is not None:
        assert found.spec.threshold == low


def test_a_gate_without_a_threshold_has_no_limit():
    assert manifest.SCORE.limit == 0.4
    with pytest.raises(ValueError, match="deidentified"):
        _ = blurred_video.DEIDENTIFIED.limit
