"""Gates of ``depth_maps``: what is judged, what cannot be, and how many maps may fall through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.gates.depth_maps import GATES, judge_depth, map_verdicts, refusal
from ego_assets.schema.camera import Scale
from ego_assets.schema.depth import DepthMeasurements, DepthStatus
from ego_assets.schema.gates import GateOutcome, GateResult
from ego_assets.schema.vocabulary import LocationType

PASSED, WARNED, FAILED, NOT_EVALUATED = (
    GateOutcome.PASSED,
    GateOutcome.WARNED,
    GateOutcome.FAILED,
    GateOutcome.NOT_EVALUATED,
)
NAN = float("nan")


def measured(
    count: int = 20,
    *,
    status: Sequence[DepthStatus] | DepthStatus = "estimated",
    valid: Sequence[float] | float = 0.95,
    maximum: Sequence[float] | float = 4.0,
    change: Sequence[float] | float = 0.05,
    moved: Sequence[float] | float = 0.0,
    shift: Sequence[float] | float = 0.0,
    is_metric: bool = True,
) -> DepthMeasurements:
    """Maps of a still camera in a room, changed as told."""

    def column(values: Sequence[float] | float) -> np.ndarray:
        return np.broadcast_to(np.asarray(values, np.float64), (count,)).copy()

    share = column(valid)
    return DepthMeasurements(
        frame_index=np.arange(count, dtype=np.int64) * 6,
        timestamps_ns=np.arange(count, dtype=np.int64) * 200_000_000,
        status=(status,) * count if isinstance(status, str) else tuple(status),
        is_metric=np.full(count, is_metric),
        segment=np.zeros(count, np.int64),
        measured_share=share * 0.75,
        completed_share=share * 0.25,
        median=np.where(share > 0, 1.5, np.nan),
        maximum=np.where(share > 0, column(maximum), np.nan),
        change=column(change),
        camera_motion=column(moved),
        picture_shift=column(shift),
    )


def judged(found: DepthMeasurements, *, is_dense: bool = True) -> dict[str, GateResult]:
    verdicts = judge_depth(found, is_dense=is_dense)
    assert [verdict.spec.name for verdict in verdicts] == [gate.name for gate in GATES]
    return {verdict.spec.name: verdict for verdict in verdicts}


def outcomes(found: DepthMeasurements, *, is_dense: bool = True) -> dict[str, GateOutcome]:
    return {name: verdict.outcome for name, verdict in judged(found, is_dense=is_dense).items()}


def spread(count: int, bad: int, *, good: float, wrong: float) -> list[float]:
    return [wrong] * bad + [good] * (count - bad)


def test_good_maps_pass_everything() -> None:
    assert set(outcomes(measured()).values()) == {PASSED}


def test_what_blocks_is_what_makes_maps_useless() -> None:
    assert {gate.name: gate.blocking for gate in GATES} == {
        "not_empty": True,
        "validity": False,
        "range": True,
        "stability": False,
    }


@pytest.mark.parametrize(("empty", "outcome"), [(0, PASSED), (5, PASSED), (6, FAILED), (20, FAILED)])
def test_a_quarter_of_the_maps_may_be_empty(empty: int, outcome: GateOutcome) -> None:
    verdict = judged(measured(valid=spread(20, empty, good=0.95, wrong=0.0)))["not_empty"]
    assert verdict.outcome is outcome
    assert verdict.value == pytest.approx(empty / 20)
    assert verdict.details["first_failing_frames"] == [6 * frame for frame in range(empty)]


def test_maps_that_failed_count_as_empty() -> None:
    found = measured(4, status=["failed", "failed", "estimated", "estimated"], valid=[0, 0, 0.9, 0.9])
    verdict = judged(found)["not_empty"]
    assert verdict.outcome is FAILED and verdict.details["failed_frames"] == 2


@pytest.mark.parametrize("is_dense", [True, False])
def test_a_camera_without_parallax_is_not_judged_at_all(is_dense: bool) -> None:
    found = measured(status="no_parallax", valid=0.0)
    verdicts = judged(found, is_dense=is_dense)
    assert {verdict.outcome for verdict in verdicts.values()} == {NOT_EVALUATED}
    assert all("20 of 20 frames have no parallax" in verdict.message for verdict in verdicts.values())
    assert refusal(list(verdicts.values()), is_dense=is_dense) == ""
    for verdict in map_verdicts(found, is_dense=is_dense).values():
        assert set(verdict) == {NOT_EVALUATED}


@pytest.mark.parametrize(("failed", "is_judged"), [(1, False), (5, False), (6, True), (20, True)])
def test_a_few_failures_in_a_static_clip_are_no_evidence(failed: int, is_judged: bool) -> None:
    status: list[DepthStatus] = [*["failed"] * failed, *["no_parallax"] * (20 - failed)]  # type: ignore[list-item]
    verdict = judged(measured(status=status, valid=0.0), is_dense=False)["not_empty"]
    assert verdict.outcome is (FAILED if is_judged else NOT_EVALUATED)
    assert f"{failed} " in verdict.message and "compared with others" in verdict.message


def test_lost_frames_are_judged_and_a_clip_of_them_is_tried_again() -> None:
    found = measured(status="failed", valid=0.0)
    verdicts = judge_depth(found, is_dense=False)
    assert "all zero" in refusal(verdicts, is_dense=False)
    assert set(map_verdicts(found, is_dense=False)["not_empty"]) == {FAILED}


def test_frames_without_parallax_are_left_out_and_told() -> None:
    status: list[DepthStatus] = ["estimated"] * 6 + ["no_parallax"] * 14
    found = measured(status=status, valid=[0.9] * 6 + [0.0] * 14)
    verdicts = judged(found, is_dense=False)
    assert verdicts["not_empty"].outcome is PASSED
    assert verdicts["validity"].outcome is WARNED
    assert "14 of 20" in verdicts["validity"].message
    assert verdicts["validity"].details["frames_without_parallax"] == 14
    per_map = map_verdicts(found, is_dense=False)["not_empty"]
    assert per_map == (PASSED,) * 6 + (NOT_EVALUATED,) * 14


@pytest.mark.parametrize(
    ("is_dense", "share", "outcome"),
    [
        (True, 0.85, PASSED),
        (True, 0.84, FAILED),
        (False, 0.84, PASSED),
        (False, 0.40, PASSED),
        (False, 0.39, WARNED),
    ],
)
def test_valid_pixels_are_asked_of_each_kind_of_backend(
    is_dense: bool, share: float, outcome: GateOutcome
) -> None:
    # Three quarters are measured; the sum of both parts is what counts.
    verdict = judged(measured(valid=share + 1e-9), is_dense=is_dense)["validity"]
    assert verdict.outcome is outcome
    assert verdict.details["mean_measured_share"] == pytest.approx(0.75 * share)
    assert verdict.details["mean_completed_share"] == pytest.approx(0.25 * share)
    found = map_verdicts(measured(valid=share + 1e-9), is_dense=is_dense)["validity"]
    assert set(found) == {outcome}


@pytest.mark.parametrize(("bad", "outcome"), [(2, PASSED), (3, FAILED)])
def test_a_tenth_of_the_maps_may_know_less(bad: int, outcome: GateOutcome) -> None:
    found = measured(valid=spread(20, bad, good=0.95, wrong=0.5))
    assert outcomes(found)["validity"] is outcome


@pytest.mark.parametrize(("bad", "outcome"), [(10, PASSED), (11, WARNED)])
def test_half_of_the_maps_from_motion_may_know_less(bad: int, outcome: GateOutcome) -> None:
    verdict = judged(measured(valid=spread(20, bad, good=0.6, wrong=0.3)), is_dense=False)["validity"]
    assert (verdict.outcome, verdict.spec.threshold) == (outcome, 0.5)


@pytest.mark.parametrize(
    ("maximum", "outcome"), [(0.49, FAILED), (0.5, PASSED), (20.0, PASSED), (20.1, FAILED), (400, FAILED)]
)
def test_the_farthest_point_lies_in_the_range_of_the_guide(maximum: float, outcome: GateOutcome) -> None:
    assert outcomes(measured(maximum=maximum))["range"] is outcome
    assert outcomes(measured(maximum=spread(20, 2, good=4.0, wrong=maximum)))["range"] is PASSED


def test_outdoors_things_may_be_farther_away() -> None:
    far = measured(maximum=60)
    for location, outcome in ((LocationType.OUTDOOR, PASSED), (LocationType.KITCHEN, FAILED)):
        verdicts = judge_depth(far, is_dense=True, location=location)
        assert {verdict.spec.name: verdict.outcome for verdict in verdicts}["range"] is outcome
        per_map = map_verdicts(far, is_dense=True, location=location)["range"]
        assert set(per_map) == {outcome}
    assert outcomes(far)["range"] is FAILED, "a place that is not stated counts as a room"
    too_far = judge_depth(measured(maximum=81), is_dense=True, location=LocationType.OUTDOOR)
    (message,) = [verdict.message for verdict in too_far if verdict.spec.name == "range"]
    assert "0.5-80 m" in message and "location_type" in message


def test_lengths_are_judged_in_metres_only() -> None:
    verdicts = judged(measured(maximum=400, change=9, is_metric=False))
    assert verdicts["range"].outcome is verdicts["stability"].outcome is NOT_EVALUATED
    assert "EGO_DEPTH_BASELINE_M" in verdicts["range"].message
    assert verdicts["not_empty"].outcome is verdicts["validity"].outcome is PASSED


@pytest.mark.parametrize(("change", "outcome"), [(0.29, PASSED), (0.3, WARNED), (2.0, WARNED)])
def test_maps_of_a_still_camera_hold_still(change: float, outcome: GateOutcome) -> None:
    assert outcomes(measured(change=change))["stability"] is outcome


@pytest.mark.parametrize(
    ("moved", "shift", "outcome"),
    [
        (0.0, 0.0, WARNED),
        (0.0, NAN, WARNED),
        (NAN, 0.0, WARNED),
        (0.1, 0.0, NOT_EVALUATED),
        (0.0, 0.02, NOT_EVALUATED),
        (0.1, NAN, NOT_EVALUATED),
        (NAN, NAN, NOT_EVALUATED),
    ],
)
def test_a_moving_camera_may_change_what_it_sees(moved: float, shift: float, outcome: GateOutcome) -> None:
    assert outcomes(measured(change=2.0, moved=moved, shift=shift))["stability"] is outcome


def test_only_neighbours_that_can_be_compared_are() -> None:
    found = measured(4, change=[NAN, 0.1, NAN, 0.1])
    verdict = judged(found)["stability"]
    assert verdict.outcome is PASSED and verdict.details["judged_frames"] == 2


def test_another_attempt_is_worth_while_where_the_backend_is_to_blame() -> None:
    def why(found: DepthMeasurements, is_dense: bool) -> str:
        return refusal(judge_depth(found, is_dense=is_dense), is_dense=is_dense)

    assert why(measured(), True) == ""
    assert "all zero" in why(measured(valid=0.0), False)
    assert "outside" in why(measured(maximum=90), False)
    assert "less than 85%" in why(measured(valid=0.5), True)
    # Depth from motion knows what the clip lets it know.
    assert why(measured(valid=0.2), False) == ""
    assert why(measured(change=5), True) == ""


@given(
    valid=st.lists(st.floats(0, 1), min_size=1, max_size=30),
    is_dense=st.booleans(),
    maximum=st.floats(0.01, 100),
    change=st.one_of(st.just(NAN), st.floats(0, 5)),
    is_metric=st.booleans(),
)
def test_the_clip_is_judged_by_its_maps(
    valid: list[float], is_dense: bool, maximum: float, change: float, is_metric: bool
) -> None:
    found = measured(len(valid), valid=valid, maximum=maximum, change=change, is_metric=is_metric)
    per_map = map_verdicts(found, is_dense=is_dense)
    for verdict in judge_depth(found, is_dense=is_dense):
        maps = [one for one in per_map[verdict.spec.name] if one is not NOT_EVALUATED]
        assert (verdict.outcome is NOT_EVALUATED) == (not maps)
        if maps:
            share = sum(one is not PASSED for one in maps) / len(maps)
            assert verdict.value == pytest.approx(share)
            assert (verdict.outcome is PASSED) == (share <= verdict.spec.limit)


def test_thresholds_state_the_share_of_maps() -> None:
    assert all(0 < gate.limit < 0.5 for gate in GATES)
    assert all(gate.source for gate in GATES)


def test_no_map_at_all_cannot_be_judged() -> None:
    assert set(outcomes(measured(0)).values()) == {NOT_EVALUATED}


def test_measurements_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"change: expected \[20\], got \[3\]"):
        replace(measured(), change=np.zeros(3))


def test_the_scale_is_metric_only_where_all_known_maps_are() -> None:
    found = measured(4, valid=[0.5, 0.5, 0.5, 0.0])
    assert replace(found, is_metric=np.array([True, True, True, False])).scale is Scale.METRIC
    assert replace(found, is_metric=np.array([True, True, False, True])).scale is Scale.UNKNOWN
    assert measured(valid=0.0).scale is Scale.UNKNOWN
