import numpy as np
import pytest

from ego_assets.gates.clip_quality import FLAG_GATES, GATES, judge_quality, judge_unreadable
from ego_assets.quality.assessment import BlurSamples, ExposureSamples, QualityConfig, QualityReport
from ego_assets.quality.framing import TileDetail, ViewSamples
from ego_assets.schema.errors import MediaError
from ego_assets.schema.gates import GateOutcome


def view(seconds=20, **columns):
    """Seconds of a camera that is worn, pointed 20 degrees down, and turned to and fro."""
    turned_deg = 12.0 * np.tile([1, -1], seconds)[:seconds]
    values = {
        "timestamps_ns": np.arange(seconds) * 10**9, "shake": np.full(seconds, 0.001),
        "reach": np.full(seconds, 0.1), "speed": np.full(seconds, 0.2),
        "slide": 0.6 * np.radians(turned_deg) * np.cos(np.radians(20)),
        "turn_deg": turned_deg * np.sin(np.radians(20)), "spin_deg": np.full(seconds, 5.0),
        "lost_share": np.zeros(seconds), "flat_share": np.zeros(seconds), "mean_luma": np.full(seconds, 100.0),
    }  # fmt: skip
    for name, change in columns.items():
        values[name] = np.array(values[name], float)
        values[name][change[0]] = change[1]
    return ViewSamples(**values)


def tiles(*, soft=(), **changes):
    detail = np.full((9, 16), 10.0)
    for row, column in soft:
        detail[row, column] = 2.0
    values = {
        "detail": detail,
        "brightest": np.full((9, 16), 120.0),
        "looks": 20,
        "travel_x": 1.0,
        "travel_y": 0.5,
    }
    return TileDetail(**{**values, **changes})


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
        "view": view(), "tiles": tiles(),
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


def stretch(first, after):
    return slice(first, after)


@pytest.mark.parametrize(("shaking", "outcome"), [(6, "passed"), (7, "warned")])
def test_more_than_thirty_percent_of_the_seconds_may_not_shake(shaking, outcome):
    found = verdict("shake", view=view(shake=(stretch(2, 2 + shaking), 0.0031)))
    assert found.outcome.value == outcome
    assert found.value == pytest.approx(shaking / 20)
    assert ("from 2 s to 9 s" in found.message) is (outcome == "warned")


def test_shake_is_not_judged_where_it_cannot_be_seen():
    slow = verdict("shake", rate_hz=10.0, view=view(shake=(stretch(0, 20), np.nan)))
    assert slow.outcome is GateOutcome.NOT_EVALUATED
    assert "10.0 frames a second" in slow.message
    lost = verdict("shake", view=view(shake=(stretch(0, 11), np.nan)))
    assert lost.outcome is GateOutcome.NOT_EVALUATED
    assert "9 of 20 seconds" in lost.message


def test_a_covered_lens_is_told_with_its_time():
    blink = verdict("lens_covered", view=view(flat_share=(stretch(5, 6), 1.0)))
    assert blink.outcome is GateOutcome.PASSED
    found = verdict("lens_covered", view=view(flat_share=(stretch(5, 9), 1.0)))
    assert (found.outcome.value, found.value) == ("warned", 4.0)
    assert "from 5 s to 9 s" in found.message
    assert not found.blocks


def test_a_black_clip_does_not_say_whether_the_lens_is_covered():
    dark = view(flat_share=(stretch(0, 20), 1.0), mean_luma=(stretch(0, 20), 4.0))
    found = verdict("lens_covered", view=dark)
    assert found.outcome is GateOutcome.NOT_EVALUATED
    assert "20 of 20 seconds" in found.message
    in_light = view(flat_share=(stretch(5, 9), 1.0), mean_luma=(stretch(5, 9), 4.0))
    assert verdict("lens_covered", view=in_light).outcome is GateOutcome.WARNED


@pytest.mark.parametrize(
    ("down_deg", "outcome", "said"),
    [(20, "passed", "20 degrees down"), (70, "passed", "70 degrees down"), (-30, "passed", "30 degrees up"),
     (-50, "warned", "points at the ceiling"), (80, "warned", "points at the floor"),
     (88, "warned", "the floor or the ceiling"), (-88, "warned", "the floor or the ceiling")],
)  # fmt: skip
def test_a_camera_pointed_away_is_told(down_deg, outcome, said):
    turned_deg = 12.0 * np.tile([1, -1], 10)
    angle = np.radians(down_deg)
    seen = view(
        slide=(stretch(0, 20), 0.6 * np.radians(turned_deg) * np.cos(angle)),
        turn_deg=(stretch(0, 20), turned_deg * np.sin(angle)),
    )
    found = verdict("camera_tilt", view=seen)
    assert found.outcome.value == outcome
    assert said in found.message


def test_the_tilt_of_somebody_who_does_not_turn_is_not_judged():
    still = view(slide=(stretch(0, 20), 0.01), turn_deg=(stretch(0, 20), 0.1))
    assert verdict("camera_tilt", view=still).outcome is GateOutcome.NOT_EVALUATED


def test_recordings_before_and_after_the_camera_was_worn_are_told():
    found = verdict("camera_worn", view=view(reach=(stretch(0, 5), 0.001)))
    assert (found.outcome.value, found.value) == ("warned", 5.0)
    assert "first 5 s" in found.message
    assert "last" not in found.message
    after = verdict("camera_worn", view=view(speed=(stretch(16, 20), 1.5)))
    assert (after.outcome.value, after.value) == ("warned", 4.0)
    assert "last 4 s" in after.message
    assert verdict("camera_worn", view=view(speed=(stretch(18, 20), 1.5))).outcome is GateOutcome.PASSED
    stand = verdict("camera_worn", view=view(reach=(stretch(0, 20), 0.001)))
    assert "20 of 20 s" in stand.message
    assert stand.value == 20


def test_a_short_or_dark_clip_does_not_say_when_the_camera_was_worn():
    assert verdict("camera_worn", view=view(5)).outcome is GateOutcome.NOT_EVALUATED
    lost = view(speed=(stretch(0, 15), np.nan), lost_share=(stretch(0, 15), 0.5))
    assert verdict("camera_worn", view=lost).outcome is GateOutcome.NOT_EVALUATED


def test_a_smudge_is_told_with_its_place():
    one = verdict("smudges", tiles=tiles(soft=[(4, 4)]))
    assert (one.outcome.value, one.value) == ("passed", 1.0)
    found = verdict("smudges", tiles=tiles(soft=[(7, 12), (7, 13), (8, 13), (2, 2)]))
    assert (found.outcome.value, found.value) == ("warned", 3.0)
    assert "lower right" in found.message
    assert (
        verdict("smudges", tiles=tiles(soft=[(4, 4), (4, 5)], travel_y=0.1)).outcome
        is GateOutcome.NOT_EVALUATED
    )


def test_the_black_rim_of_a_fisheye_lens_is_no_smudge():
    detail, brightest = np.full((9, 16), 10.0), np.full((9, 16), 120.0)
    detail[:, :3], brightest[:, :3] = 0.1, 2.0
    assert verdict("smudges", tiles=tiles(detail=detail, brightest=brightest)).outcome is GateOutcome.PASSED


def test_reports_of_the_first_format_leave_the_newer_gates_open():
    old = outcomes(judge_quality(report(view=ViewSamples.empty(), tiles=TileDetail.empty())))
    assert {name for name, outcome in old.items() if outcome == "not_evaluated"} == {
        "shake", "lens_covered", "camera_tilt", "camera_worn", "smudges",
    }  # fmt: skip
    assert "warned" not in old.values()
