"""Recall as people measured it: what counts, how sure it is, and when it is judged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.gates.recall import MIN_CLIPS, MIN_REGIONS, judge_recall
from ego_assets.privacy.coverage import wilson_interval
from ego_assets.privacy.recall import CoveredRegion, counts_by_kind, covered_regions, measure_recall
from ego_assets.privacy.report import tracks_table
from ego_assets.privacy.tracking import Track
from ego_assets.schema.gates import GateOutcome
from ego_assets.schema.recall import RecallEstimate, ReviewedFrame


def track(
    number: int, frames: Sequence[int], seen: Sequence[int], kind: str = "faces", left: float = 10
) -> Track:
    indices = np.array(frames, np.int64)
    return Track(
        track_id=number,
        kind=kind,
        frame_indices=indices,
        boxes_xyxy=np.tile(np.array([left, 10, left + 20, 40], np.float32), (indices.size, 1)),
        scores=np.ones(indices.size, np.float32),
        observed=np.isin(indices, seen),
    )


def frame(clip: str, number: int, covered: int = 0, missed: int = 0, kind: str = "faces") -> ReviewedFrame:
    return ReviewedFrame(
        clip_id=clip, frame_index=number, covered={kind: covered}, missed={kind: missed} if missed else {}
    )


def test_margins_in_time_are_shown_and_do_not_count() -> None:
    tracks = [track(1, range(10), [3, 6]), track(2, range(4, 8), [], kind="text")]
    found = covered_regions(tracks_table(tracks, np.arange(20, dtype=np.int64)), [0, 3, 5, 6, 7, 15])
    assert list(found) == [0, 3, 5, 6, 7, 15]
    counted = {number: counts_by_kind(regions) for number, regions in found.items()}
    assert counted == {
        0: {},
        3: {"faces": 1},
        5: {"faces": 1, "text": 1},
        6: {"faces": 1, "text": 1},
        7: {"text": 1},
        15: {},
    }
    [margin] = found[0]
    assert margin == CoveredRegion(
        track_id=1, kind="faces", box_xyxy=(10, 10, 30, 40), counted=False, group=1
    )


def test_what_a_person_ordered_over_a_found_region_counts_once() -> None:
    tracks = [
        track(1, range(5), range(5)),
        track(2, range(5), range(5), left=14),
        track(3, [0], [0], left=90),
    ]
    found = covered_regions(tracks_table(tracks, np.arange(5, dtype=np.int64)), [0, 1])
    assert [counts_by_kind(found[number])["faces"] for number in (0, 1)] == [2, 1]
    assert [region.group for region in found[0]] == [1, 1, 3]


def test_regions_in_a_row_are_one_thing_only_where_they_lie_over_the_first() -> None:
    tracks = [track(number, [0], [0], left=left) for number, left in ((1, 10), (2, 18), (3, 26))]
    tracks.append(track(4, [0], [0], kind="text"))
    [found] = covered_regions(tracks_table(tracks, np.arange(5, dtype=np.int64)), [0]).values()
    assert [(region.kind, region.group) for region in found] == [
        ("faces", 1),
        ("faces", 1),
        ("faces", 3),
        ("text", 4),
    ]
    assert counts_by_kind(found) == {"faces": 2, "text": 1}


def test_a_margin_over_a_counted_region_is_not_toggled_with_it() -> None:
    tracks = [track(1, range(5), range(5)), track(2, range(5), [4])]
    [found] = covered_regions(tracks_table(tracks, np.arange(5, dtype=np.int64)), [0]).values()
    assert [(region.group, region.counted) for region in found] == [(1, True), (2, False)]


def test_recall_is_the_covered_share_by_kind() -> None:
    frames = [frame("a", 1, covered=3), frame("a", 2, covered=1, missed=1), frame("b", 1)]
    frames.append(frame("b", 2, covered=1, kind="plates"))
    found = measure_recall(frames)
    faces, plates = found["faces"], found["plates"]
    assert (faces.covered, faces.missed, faces.recall) == (4, 1, 0.8)
    assert (faces.frames, faces.clips, faces.clips_with_regions) == (4, 2, 1)
    assert plates.recall == 1.0 and plates.clips_with_regions == 1
    assert "4 of 5 regions" in faces.described() and "0.800" in faces.described()


def test_without_regions_there_is_no_figure() -> None:
    assert measure_recall([])["faces"].recall is None
    found = measure_recall([frame("a", 1)])["faces"]
    assert (found.recall, found.low, found.frames) == (None, None, 1)
    assert "no region" in found.described()


def test_of_several_reviews_of_a_frame_the_strictest_counts() -> None:
    reviews = [frame("a", 1, covered=2), frame("a", 1, covered=2, missed=1), frame("a", 1, covered=3)]
    for order in (reviews, reviews[::-1]):
        found = measure_recall(order)["faces"]
        assert (found.covered, found.missed, found.frames) == (2, 1, 1)


def test_independent_regions_give_wilsons_interval() -> None:
    # One region per frame, one frame per clip: nothing is dependent.
    frames = [frame(f"clip{number}", 0, covered=number >= 10, missed=number < 10) for number in range(100)]
    found = measure_recall(frames)["faces"]
    expected = wilson_interval(90, 100)
    # The estimate of the variance between clips has one degree of freedom less.
    assert (found.low, found.high) == pytest.approx(expected, abs=0.001)


def test_misses_in_one_clip_say_less_than_misses_all_over() -> None:
    spread = [frame(f"clip{n % 10}", n, covered=n >= 10, missed=n < 10) for n in range(200)]
    heaped = [frame(f"clip{n // 20}", n, covered=n >= 10, missed=n < 10) for n in range(200)]
    one, other = measure_recall(spread)["faces"], measure_recall(heaped)["faces"]
    assert one.recall == other.recall == 0.95
    assert one.low is not None and other.low is not None and one.high is not None and other.high is not None
    assert other.low < one.low - 0.05 and other.high > one.high


def test_regions_of_one_frame_count_as_one_observation() -> None:
    alone = measure_recall([frame(f"clip{n}", 0, covered=1) for n in range(50)])["faces"]
    crowd = measure_recall([frame(f"clip{n}", 0, covered=20) for n in range(50)])["faces"]
    assert crowd.low == pytest.approx(alone.low) and crowd.regions == 20 * alone.regions


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 30), st.integers(0, 6), st.integers(0, 3)), max_size=60
    )
)
def test_the_interval_holds_the_estimate(counts: list[tuple[int, int, int, int]]) -> None:
    frames = [frame(f"clip{clip}", number, covered, missed) for clip, number, covered, missed in counts]
    for found in measure_recall(frames).values():
        assert (found.recall is None) == (found.regions == 0)
        if found.recall is not None:
            assert found.low is not None and found.high is not None
            assert 0 <= found.low <= found.recall <= found.high <= 1
            low, high = wilson_interval(found.covered, found.regions)
            assert found.low <= low + 1e-9 and found.high >= high - 1e-9, (
                "never surer than independent regions"
            )


# --- gate ---------------------------------------------------------------------------------------------


def faces(covered: int, missed: int, clips: int) -> dict[str, RecallEstimate]:
    low, high = wilson_interval(covered, covered + missed)
    return {
        "faces": RecallEstimate(
            kind="faces",
            covered=covered,
            missed=missed,
            frames=covered + missed,
            clips=clips,
            clips_with_regions=clips,
            low=low,
            high=high,
        )
    }


@pytest.mark.parametrize(
    ("covered", "missed", "clips", "outcome"),
    [
        (MIN_REGIONS - 1, 0, MIN_CLIPS, GateOutcome.NOT_EVALUATED),
        (MIN_REGIONS, 0, MIN_CLIPS - 1, GateOutcome.NOT_EVALUATED),
        (MIN_REGIONS, 0, MIN_CLIPS, GateOutcome.PASSED),
        (980, 20, 50, GateOutcome.PASSED),
        (979, 21, 50, GateOutcome.FAILED),
    ],
)
def test_faces_are_judged_once_enough_were_seen(
    covered: int, missed: int, clips: int, outcome: GateOutcome
) -> None:
    verdict = judge_recall(faces(covered, missed, clips))
    assert verdict.outcome is outcome
    assert (verdict.value is None) == (outcome is GateOutcome.NOT_EVALUATED)
    assert verdict.details["faces"]["missed"] == missed  # type: ignore[index]


def test_the_least_number_is_the_one_with_which_a_perfect_result_proves_the_threshold() -> None:
    assert wilson_interval(MIN_REGIONS, MIN_REGIONS)[0] > 0.98
    assert wilson_interval(188, 188)[0] < 0.98 < wilson_interval(189, 189)[0]
    assert "interval reaches below" in judge_recall(faces(980, 20, 50)).message
    assert "interval reaches below" not in judge_recall(faces(1000, 0, 50)).message


def test_nothing_reviewed_is_not_evaluated() -> None:
    for estimates in ({}, measure_recall([])):
        verdict = judge_recall(estimates)
        assert verdict.outcome is GateOutcome.NOT_EVALUATED and "Nobody has reviewed" in verdict.message
