"""Steps of a clip, segments from probabilities, the document and the chart."""

from __future__ import annotations

import itertools
import json

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.labels.action_chart import action_chart
from ego_assets.labels.actions import (
    ACTION_LABELS,
    ActionSteps,
    action_segments,
    actions_document,
    chosen_labels,
)
from ego_assets.schema.documents import json_document
from ego_assets.schema.errors import ConfigurationError


def steps_of(count: int) -> ActionSteps:
    return ActionSteps(edges_ns=np.arange(count + 1, dtype=np.int64) * 1_000_000_000)


def likely(path: str, strength: float = 0.9) -> npt.NDArray[np.float32]:
    """Probabilities of labels a, b, c whose likeliest ones spell ``path``."""
    table = np.full((len(path), 3), (1 - strength) / 2, np.float32)
    table[np.arange(len(path)), ["abc".index(letter) for letter in path]] = strength
    return table


def spelled(path: str, strength: float = 0.9) -> str:
    segments = action_segments(likely(path, strength), steps=steps_of(len(path)), labels="abc")
    return "".join(segment.label * round((segment.end_ns - segment.start_ns) / 1e9) for segment in segments)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("aaaaaaaa", "aaaaaaaa"),
        ("aaaabaaa", "aaaaaaaa"),
        ("aaacbaaa", "aaaaaaaa"),
        ("aaaabbbbb", "aaaabbbbb"),
        ("aaabbbaaa", "aaabbbaaa"),
        ("ababababab", "aaaaaaaaaa"),
        ("b", "b"),
    ],
)
def test_single_seconds_are_smoothed_and_longer_ones_stay(path: str, expected: str) -> None:
    assert spelled(path) == expected


def test_doubtful_seconds_need_more_of_them_to_change_the_activity() -> None:
    assert spelled("aaaabbbaaaa", 0.5) == "aaaaaaaaaaa"
    assert spelled("aaaaabbbbbbbbbbbbaaaaa", 0.5) == "aaaaabbbbbbbbbbbbaaaaa"


@given(seed=st.integers(0, 10_000), count=st.integers(1, 40), labels=st.integers(1, 6))
def test_segments_always_cover_the_clip_and_differ_from_their_neighbours(
    seed: int, count: int, labels: int
) -> None:
    rng = np.random.default_rng(seed)
    table = rng.dirichlet(np.full(labels, 0.3), count).astype(np.float32)
    names = [f"label {number}" for number in range(labels)]
    segments = action_segments(table, steps=steps_of(count), labels=names)
    assert segments[0].start_ns == 0 and segments[-1].end_ns == count * 1_000_000_000
    for before, after in itertools.pairwise(segments):
        assert before.end_ns == after.start_ns and before.label != after.label
    for before, inner, after in zip(segments, segments[1:], segments[2:], strict=False):
        interrupts = before.label == after.label
        assert not interrupts or inner.end_ns - inner.start_ns >= 2_000_000_000
    for segment in segments:
        first, last = segment.start_ns // 1_000_000_000, segment.end_ns // 1_000_000_000
        assert segment.score == pytest.approx(table[first:last, names.index(segment.label)].mean(), abs=1e-6)


def test_activities_that_were_left_out_keep_their_probability() -> None:
    table = np.array([[0.7, 0.2, 0.1]] * 4, np.float32)
    (segment,) = action_segments(table[:, 1:], steps=steps_of(4), labels=["b", "c"])
    assert segment.label == "b" and segment.score == pytest.approx(0.2)


def test_a_table_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"probabilities: expected \[4, 3\], got \[4, 2\]"):
        action_segments(np.zeros((4, 2), np.float32), steps=steps_of(4), labels="abc")


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="score"):
        action_segments(np.full((2, 2), np.nan, np.float32), steps=steps_of(2), labels="ab")


# --- steps --------------------------------------------------------------------------------------------


@given(
    count=st.integers(1, 300),
    interval_ms=st.sampled_from([10, 33, 100, 500]),
    start_ns=st.sampled_from([0, 1, 12_345_678_901]),
)
def test_steps_last_about_a_second_and_cover_the_clip(count: int, interval_ms: int, start_ns: int) -> None:
    times = start_ns + np.arange(count, dtype=np.int64) * interval_ms * 1_000_000
    steps = ActionSteps.of(times)
    lengths = np.diff(steps.edges_ns)
    assert np.all(lengths[:-1] == 1_000_000_000)
    assert lengths.size == 1 or 500_000_000 <= lengths[-1] <= 1_500_000_000
    assert steps.start_ns == start_ns and steps.end_ns > times[-1]
    assert np.all((steps.times_ns > steps.edges_ns[:-1]) & (steps.times_ns < steps.edges_ns[1:]))


def test_repeated_time_stamps_do_not_shorten_the_last_frame() -> None:
    steps = ActionSteps.of(np.array([0, 0, 0, 40_000_000], np.int64))
    assert steps.end_ns == 80_000_000


def test_a_clip_without_frames_has_no_steps() -> None:
    with pytest.raises(ValueError, match="expected one frame or more"):
        ActionSteps.of(np.zeros(0, np.int64))


# --- labels -------------------------------------------------------------------------------------------


def test_chosen_labels_keep_the_order_of_the_backend() -> None:
    assert chosen_labels((), ACTION_LABELS) == ACTION_LABELS
    assert chosen_labels(("idle", "walking", "idle"), ACTION_LABELS) == ("walking", "idle")


def test_an_unknown_label_is_refused_with_those_that_exist() -> None:
    with pytest.raises(
        ConfigurationError, match=r"'dancing'.*manipulating, carrying, walking, looking around, idle"
    ):
        chosen_labels(("idle", "dancing"), ACTION_LABELS)


# --- what people see ----------------------------------------------------------------------------------


def test_the_document_says_everything_in_seconds_and_nanoseconds() -> None:
    steps, table = steps_of(4), likely("aabb")
    segments = action_segments(table, steps=steps, labels="abc")
    document = json.loads(
        json_document(
            actions_document(table, segments, steps=steps, labels="abc", known_labels=5, has_hands=False)
        )
    )
    assert document["labels"] == ["a", "b", "c"] and document["rate_hz"] == 1
    assert document["hands"] is False and document["format"] == 1 and document["known_labels"] == 5
    assert [step["time_ns"] for step in document["steps"]] == steps.times_ns.tolist()
    assert document["steps"][0] == {"time_ns": 500_000_000, "a": 0.9, "b": 0.05, "c": 0.05}
    assert document["segments"] == [
        {"start_ns": 0, "end_ns": 2 * 10**9, "start_s": 0.0, "end_s": 2.0, "label": "a", "score": 0.9},
        {
            "start_ns": 2 * 10**9,
            "end_ns": 4 * 10**9,
            "start_s": 2.0,
            "end_s": 4.0,
            "label": "b",
            "score": 0.9,
        },
    ]


@pytest.mark.parametrize(("seconds", "labels"), [(1, 5), (7, 1), (90, 5), (3600, 5), (600, 40)])
def test_the_chart_is_small_and_shows_each_segment(seconds: int, labels: int) -> None:
    rng = np.random.default_rng(seconds)
    table = rng.dirichlet(np.full(labels, 0.2), seconds).astype(np.float32)
    names = [f"label {number}" for number in range(labels)]
    steps = steps_of(seconds)
    segments = action_segments(table, steps=steps, labels=names)
    chart = action_chart(segments, table, steps=steps, labels=names)
    assert len(chart) < 50_000
    picture = cv2.imdecode(np.frombuffer(chart, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None and picture.shape[1] == 960
    coloured = np.ptp(picture.astype(int), axis=2) > 60
    assert coloured.any(), "bars stand out from text and tint"


def test_segments_that_say_nothing_are_outlines() -> None:
    steps, table = steps_of(6), likely("aaaaaa", strength=0.4)
    segments = action_segments(table, steps=steps, labels="abc")

    def coloured(least_score: float) -> int:
        chart = action_chart(segments, table, steps=steps, labels="abc", least_score=least_score)
        picture = cv2.imdecode(np.frombuffer(chart, np.uint8), cv2.IMREAD_COLOR)
        return int((np.ptp(picture.astype(int), axis=2) > 100).sum())

    assert 0 < coloured(0.5) < coloured(0.3) / 4


def test_the_chart_of_a_fraction_of_a_second() -> None:
    steps = ActionSteps.of(np.array([7], np.int64))
    table = likely("a")
    chart = action_chart(action_segments(table, steps=steps, labels="abc"), table, steps=steps, labels="abc")
    assert cv2.imdecode(np.frombuffer(chart, np.uint8), cv2.IMREAD_COLOR) is not None


def bar_colours(names: list[str], path: list[int]) -> list[tuple[int, ...]]:
    """Colour of the bar in each row of the chart of a clip whose seconds have these labels."""
    table = np.full((len(path), len(names)), 0.1 / len(names), np.float32)
    table[np.arange(len(path)), path] = 0.9
    steps = steps_of(len(path))
    segments = action_segments(table, steps=steps, labels=names)
    picture = cv2.imdecode(
        np.frombuffer(action_chart(segments, table, steps=steps, labels=names), np.uint8), cv2.IMREAD_COLOR
    )
    rows = []
    for top in range(66, picture.shape[0] - 50, 34):
        # Bars are darker than tints and what is none of the activities; the line lies below the text in them.
        line = picture[top + 20, 150:]
        found, counts = np.unique(line[line.mean(axis=1) < 190], axis=0, return_counts=True)
        rows.append(tuple(found[counts.argmax()].tolist()) if len(counts) else ())
    return rows


def test_neighbouring_rows_differ_whichever_labels_are_shown() -> None:
    names = [f"label {number}" for number in range(30)]
    # Seven colours: these two would share one by their numbers.
    rows = bar_colours(names, [2] * 5 + [9] * 5)
    assert len(rows) == 2 and rows[0] and rows[1] and rows[0] != rows[1]


def test_the_chart_keeps_the_labels_with_the_most_time() -> None:
    names = [f"label {number}" for number in range(30)]
    path = [number for number in range(14) for _ in range(4)] + [29] * 20
    rows = bar_colours(names, path)
    assert len(rows) == 12 and all(rows), "every row has a bar"


def test_what_is_none_of_the_activities_is_grey() -> None:
    assert bar_colours(["cooking", "other"], [0] * 4 + [1] * 4)[1] == ()
