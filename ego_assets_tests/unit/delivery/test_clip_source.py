"""What a delivered clip gives the writers of formats."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.delivery.clip_source import interval_value
from ego_assets_tests.delivered_clips import FRAME_NS, STRIDE, make_clip


def test_steps_join_what_belongs_to_one_frame() -> None:
    clip = make_clip(steps=4)
    steps = list(clip.steps())
    assert [step.index for step in steps] == [0, 1, 2, 3]
    assert [step.timestamp_ns for step in steps] == [index * STRIDE * FRAME_NS for index in range(4)]
    third = steps[2]
    assert (third.rgb, third.depth) == ("rgb/frame_000012.jpg", "depth/frame_000012.png")
    assert (third.mask, third.hands) == ("segmentation/frame_000012.png", "hand_object/frame_000012.json")
    assert [step.caption for step in steps] == [*["A hand holds an object."] * 2, *["It is put down."] * 2]
    assert [step.action for step in steps] == ["cooking", "cooking", None, None]


def test_a_layer_that_a_clip_lacks_is_none_on_every_step() -> None:
    [step] = make_clip(steps=1, layers=("frames",)).steps()
    assert (step.depth, step.confidence, step.mask, step.hands, step.caption, step.action) == (None,) * 6


def test_a_step_without_its_picture_is_an_error() -> None:
    with pytest.raises(ValueError, match="frame 0"):
        list(make_clip(steps=1, layers=("masks",)).steps())


@given(st.lists(st.integers(0, 100), min_size=2, max_size=12, unique=True), st.integers(-5, 105))
def test_the_interval_that_contains_a_moment_gives_the_value(edges: list[int], moment: int) -> None:
    ordered = sorted(edges)
    intervals = [
        {"start_ns": start, "end_ns": end, "text": f"{start}"}
        for start, end in zip(ordered[::2], ordered[1::2], strict=False)
    ]
    expected = [found["text"] for found in intervals if found["start_ns"] <= moment < found["end_ns"]]
    assert interval_value(intervals, moment, "text") == (expected[0] if expected else None)
