import numpy as np
import pytest

from ego_assets.gates.clip_quality import FLAG_GATES, GATES, judge_quality, judge_unreadable
from ego_assets.quality.assessment import BlurSamples, ExposureSamples, QualityConfig, QualityReport
from ego_assets.schema.errors import MediaError
from ego_assets.schema.gates import GateOutcome


def report(*, blurred=0, blurred_working=None, dark=0, bright=0, samples=10, **changes):
    """A report in which the given numbers of sampled frames are bad."""
    at = np.arange(samples)
    blurred_working = blurred if blurred_working is None else blurred_working
    values = {
        "container": "mp4", "codec": "h264", "width": 640, "height": 360, "decoded_frame_count": 300,
        "listed_frame_count": 300, "expected_frame_count": 300, "gap_frame_count": 0, "duplicate_count": 0,
        "decode_errors": 0, "declared_duration_s": 10.0, "duration_s": 10.0, "declared_rate_hz": 30.0,
        "rate_hz": 30.0, "variable_rate": False, "config": QualityConfig(),
        "blur": BlurSamples(
            frame_index=at, timestamps_ns=at, native=np.where(at < blurred, 99.9, 100.0),
            working_scale=np.where(at < blurred_working, 99.9, 100.0),
        ),
        "exposure": ExposureSamples(
            frame_index=at, timestamps_ns=at, mean_luma=np.full(samples, 100.0),
            clipped_share=np.where(at >= samples - bright, 0.9, 0.0), bright_share=np.zeros(samples),
            dark_share=np.where(at < dark, 0.9, 0.0),
        ),
    }  # fmt: skip
    return QualityReport(**{**values, **changes})


def outcomes(verdicts):
    return {verdict.spec.name: verdict.outcome.value for verdict in verdicts}


def verdict(name, **changes):
    return next(found for found in judge_quality(report(**changes)) if found.spec.name == name)


def test_a_good_clip_passes_everything():
    assert set(outcomes(judge_quality(report())).values()) == {"passed"}


def test_every_gate_is_judged_once_in_order():
    names = [gate.name for gate in GATES]
    for verdicts in (
        judge_quality(report()),
        judge_quality(report(decoded_frame_count=0, samples=0)),
        judge_unreadable(MediaError("empty", "x.mp4 is empty.")),
    ):
        assert [found.spec.name for found in verdicts] == names
    assert set(FLAG_GATES) <= set(names)


@pytest.mark.parametrize(("blurred", "outcome"), [(3, "passed"), (4, "warned")])
def test_more_than_thirty_percent_blurred_is_flagged(blurred, outcome):
    found = verdict("blur", blurred=blurred)
    assert found.outcome.value == outcome
    assert found.value == pytest.approx(blurred / 10)
    assert not found.blocks


def test_the_advice_on_blur_depends_on_the_working_scale():
    assert "Wipe the lens" in verdict("blur", blurred=10).message
    resolution = verdict("blur", blurred=10, blurred_working=0)
    assert "Wipe" not in resolution.message
    assert resolution.outcome is GateOutcome.WARNED


@pytest.mark.parametrize(
    ("dark", "bright", "outcome", "advice"),
    [
        (2, 0, "passed", ""),
        (3, 0, "warned", "More light"),
        (0, 3, "warned", "windows"),
        (2, 1, "warned", "windows"),
    ],
)
def test_more_than_twenty_percent_badly_exposed_is_flagged(dark, bright, outcome, advice):
    found = verdict("exposure", dark=dark, bright=bright)
    assert found.outcome.value == outcome
    assert advice in found.message


@pytest.mark.parametrize(
    ("decoded", "outcome"), [(1000, "passed"), (995, "passed"), (994, "failed"), (1010, "passed")]
)
def test_half_a_percent_may_be_missing(decoded, outcome):
    found = verdict(
        "completeness", decoded_frame_count=decoded, expected_frame_count=1000, listed_frame_count=1000
    )
    assert found.outcome.value == outcome
    assert found.blocks is (outcome == "failed")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decode_errors": 4, "decoded_frame_count": 290}, "damaged"),
        ({"decoded_frame_count": 150}, "damaged"),
        ({"gap_frame_count": 30, "expected_frame_count": 330}, "left frames out"),
        (
            {"declared_duration_s": 36_000.0, "expected_frame_count": 1_080_000},
            "10 h 0 min, but holds 10.0 s",
        ),
    ],
)
def test_the_message_names_the_likely_cause(changes, said):
    assert said in verdict("completeness", **changes).message


@pytest.mark.parametrize(("frames", "said"), [(0, "Not one frame"), (1, "single frame")])
def test_clips_without_a_moving_picture_fail_to_parse(frames, said):
    found = verdict("parse", decoded_frame_count=frames)
    assert found.blocks
    assert said in found.message


def test_nothing_is_judged_where_nothing_was_decoded():
    judged = outcomes(judge_quality(report(decoded_frame_count=0, samples=0)))
    assert judged.pop("parse") == "failed"
    assert set(judged.values()) == {"not_evaluated"}


def test_an_unreadable_file_fails_to_parse_with_its_reason():
    verdicts = judge_unreadable(MediaError("empty", "x.mp4 is empty: copy it again."))
    assert verdicts[0].blocks
    assert verdicts[0].message == "x.mp4 is empty: copy it again."
    assert verdicts[0].details == {"error_code": "empty"}
    assert {found.outcome for found in verdicts[1:]} == {GateOutcome.NOT_EVALUATED}
